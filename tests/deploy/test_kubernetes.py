"""The manifests: kustomize builds them, the API server would take them, and what they name exists in the service."""

import importlib.util
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from app.config.model import ModelSettings
from app.config.settings import PROJECT_ROOT, Settings, load_settings
from app.database.migrate import WAIT_FOR_DATABASE_SECONDS
from app.main import create_app
from app.photo.sandbox import MEMORY_BYTES as DECODER_BYTES
from app.resources import MAX_DECODERS
from app.runtime.capacity import pool_limits, worker_bytes
from app.runtime.fair_queue import EXTRA_THREADS
from app.services.cache.tiers import STALE_MAX_SECONDS
from app.services.health import DATABASE_CHECK_TIMEOUT_SECONDS
from tests.support.deploy_tools import DEPLOY, run_program, yaml_documents

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION = FOLDER / "kustomization.yaml"
EXAMPLE = FOLDER / "secret.example.yaml"
# autoscaling/v2 and policy/v1 are in all that are still supported anywhere.
VERSIONS = ["1.27", "1.30", kubernetes_validate.latest_version()]
# Of MySQL's 151, some are for people and migrations (docs/configuration.md).
MYSQL_CONNECTIONS = 140


@pytest.fixture(scope="module")
def built() -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    done = run_program("kubectl", "kubernetes-client", "kustomize", FOLDER)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def one(built: list[dict[str, Any]], kind: str, name: str = "image-classifier") -> dict[str, Any]:
    [found] = [each for each in built if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pods(built: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["spec"]["template"]["spec"] for each in built if "template" in each.get("spec", {})]


def containers(built: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for pod in pods(built) for each in [*pod.get("initContainers", []), *pod["containers"]]]


def configuration() -> dict[str, str]:
    """The settings that are no secrets."""
    [generator] = yaml_documents(KUSTOMIZATION)[0]["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generator["literals"])


def deployed_environment(monkeypatch: pytest.MonkeyPatch, folder: Path, **changes: str) -> Settings:
    """Settings of a pod whose secret has been filled in."""
    secrets = dict.fromkeys(yaml_documents(EXAMPLE)[0]["stringData"], "0123456789abcdef" * 2)
    secrets["REDIS_URL"] = "redis://:password@redis.example.com:6379/0"
    monkeypatch.chdir(folder)
    for name, value in {**configuration(), **secrets, **changes}.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.mark.parametrize("version", VERSIONS)
def test_they_are_valid(built: list[dict[str, Any]], version: str) -> None:
    for document in [*built, *yaml_documents(EXAMPLE)]:
        kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_would_be_found(built: list[dict[str, Any]]) -> None:
    wrong = {**one(built, "Service"), "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_kustomization_names_every_file() -> None:
    named = yaml_documents(KUSTOMIZATION)[0]["resources"]
    assert set(named) == {path.name for path in FOLDER.iterdir()} - {KUSTOMIZATION.name, EXAMPLE.name, "secret.yaml"}


def test_containers_may_do_little_and_have_limits(built: list[dict[str, Any]]) -> None:
    assert len(containers(built)) == 5
    for container in containers(built):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
    for pod in pods(built):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_pods_have_room_for_the_worst_photos(
    built: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kubernetes kills a container as a whole when its memory is used up, and with it all that is under way."""
    for name in ("image-classifier", "image-classifier-worker"):
        [container] = one(built, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        changes = {each["name"]: each["value"] for each in container.get("env", [])}
        settings = deployed_environment(monkeypatch, tmp_path, **changes)
        needed = (settings.workers or 1) * (worker_bytes(settings) + (MAX_DECODERS + EXTRA_THREADS) * DECODER_BYTES)
        limit = container["resources"]["limits"]["memory"]
        assert limit.endswith("Gi")
        assert int(limit.removesuffix("Gi")) * 1024**3 >= needed


def test_a_database_that_is_away_takes_no_pod_out_of_service_while_memory_answers(
    built: list[dict[str, Any]],
) -> None:
    [api] = one(built, "Deployment")["spec"]["template"]["spec"]["containers"]
    probe = api["readinessProbe"]
    assert probe["timeoutSeconds"] > DATABASE_CHECK_TIMEOUT_SECONDS
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) >= STALE_MAX_SECONDS


@pytest.mark.parametrize("name", ["image-classifier", "image-classifier-worker"])
def test_a_start_that_takes_its_time_is_not_cut_off(built: list[dict[str, Any]], name: str) -> None:
    """As docker-compose.yml has it: the database is waited for, and an upgrade may sum up a long log."""
    [compose] = yaml_documents(PROJECT_ROOT / "docker-compose.yml")
    patience = int(compose["services"]["api"]["healthcheck"]["start_period"].removesuffix("s"))
    assert patience > WAIT_FOR_DATABASE_SECONDS
    [container] = one(built, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= patience


def test_a_worker_that_hangs_is_replaced(built: list[dict[str, Any]]) -> None:
    [worker] = one(built, "Deployment", "image-classifier-worker")["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe"):
        assert worker[probe]["exec"]["command"] == ["python", "-m", "app.runtime.healthcheck", "worker"]
    # Its heartbeat is written where a read-only file system lets it.
    assert {"name": "tmp", "mountPath": "/tmp"} in worker["volumeMounts"]  # noqa: S108 - in the container


def test_their_settings_are_the_services(
    built: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = deployed_environment(monkeypatch, tmp_path)
    assert settings.environment.value == "production"
    assert settings.database.host == "mysql.example.com"
    assert settings.database.migrate_on_start is False
    assert settings.upload_dir.as_posix().startswith("/data/")
    documented = (DEPLOY.parent / ".env.example").read_text()
    names = [*configuration(), *yaml_documents(EXAMPLE)[0]["stringData"]]
    assert [name for name in names if f"# {name}=" not in documented] == []


def test_all_pods_together_leave_connections_for_people(
    built: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    total = 0
    counts = {"image-classifier": one(built, "HorizontalPodAutoscaler")["spec"]["maxReplicas"]}
    counts["image-classifier-worker"] = one(built, "Deployment", "image-classifier-worker")["spec"]["replicas"]
    for name, count in counts.items():
        deployment = one(built, "Deployment", name)["spec"]
        changes = {
            each["name"]: each["value"] for each in deployment["template"]["spec"]["containers"][0].get("env", [])
        }
        settings = deployed_environment(monkeypatch, tmp_path, **changes)
        # It would raise if the share of a process were too small.
        pool_limits(settings)
        pods_at_once = count + deployment["strategy"]["rollingUpdate"]["maxSurge"]
        total += pods_at_once * settings.database.max_connections_total
    assert total <= MYSQL_CONNECTIONS


def test_what_the_pods_run_and_are_asked_exists(built: list[dict[str, Any]]) -> None:
    paths = create_app(Settings()).openapi()["paths"]
    [api] = one(built, "Deployment")["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert "get" in paths[api[probe]["httpGet"]["path"]]
    commands = [each["command"] for each in containers(built) if "command" in each]
    assert {tuple(command[:2]) for command in commands} == {("python", "-m")}
    for command in commands:
        # What `python -m` runs: a module, or a package with a __main__.
        spec = importlib.util.find_spec(command[2])
        assert spec is not None
        if spec.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{command[2]}.__main__") is not None


def test_pods_may_finish_what_is_under_way(built: list[dict[str, Any]]) -> None:
    slowest = ModelSettings.model_validate({"timeout_seconds": 100, "max_retries": 10}).total_timeout_seconds
    api, worker = (one(built, "Deployment", name) for name in ("image-classifier", "image-classifier-worker"))
    # gunicorn's graceful_timeout (gunicorn_config.py), and preStop before it.
    assert api["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= slowest + 15 + 5
    assert worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= slowest + 15


def test_who_selects_pods_finds_them(built: list[dict[str, Any]]) -> None:
    labels = one(built, "Deployment")["spec"]["template"]["metadata"]["labels"]
    worker = one(built, "Deployment", "image-classifier-worker")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        one(built, "Service")["spec"]["selector"],
        one(built, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(built, "NetworkPolicy", "image-classifier-api")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= worker.items()
    selector = one(built, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert selector.items() <= labels.items() & worker.items()
