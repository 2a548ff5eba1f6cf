"""docker-compose.yml as Docker Compose itself understands it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.config.database import DatabaseSettings
from app.config.model import ModelSettings
from app.config.settings import PROJECT_ROOT, Settings
from app.runtime.capacity import pool_limits

COMPOSE = str(Path(sys.executable).with_name("docker-compose"))
EXAMPLE = PROJECT_ROOT / ".env.example"
SECRETS = {"MYSQL_PASSWORD": "a#pass'$word", "MYSQL_ROOT_PASSWORD": "another", "SECRET_KEY": "k" * 64}
# What .env says of it must not count: the containers stand where they stand.
FIXED = {"MYSQL_HOST": "elsewhere", "APP_PORT": "9000", "DATA_DIR": "/somewhere", "TASK_WORKERS": "inside"}


def compose(folder: Path, *arguments: str, profile: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Docker Compose in a copy of the project's folder that has this .env; no engine is needed for it."""
    shutil.copy(PROJECT_ROOT / "docker-compose.yml", folder)
    options = ["--profile", profile] if profile else []
    return subprocess.run(  # noqa: S603 - the program is the development environment's
        [COMPOSE, *options, "config", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def env_file(folder: Path, values: dict[str, str]) -> None:
    """Make .env of .env.example as its first line says: values are put in, comments stay behind them."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for name, value in values.items():
        [number] = [number for number, line in enumerate(lines) if line.startswith(f"# {name}=")]
        comment = lines[number].partition(" # ")[2]
        # Single quotes keep "$" and "#" as they are; a single quote itself needs a backslash.
        escaped = value.replace("'", "\\'")
        lines[number] = f"{name}='{escaped}'   # {comment}"
    (folder / ".env").write_text("\n".join(lines), encoding="utf-8")


def services(folder: Path, profile: str | None = None) -> dict[str, Any]:
    """The services, every variable filled in."""
    answer = compose(folder, "--format", "json", profile=profile)
    assert answer.returncode == 0, answer.stderr
    assert "level=warning" not in answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)["services"]
    return found


@pytest.mark.parametrize("missing", SECRETS)
def test_a_missing_secret_is_named(missing: str, tmp_path: Path) -> None:
    env_file(tmp_path, {name: value for name, value in SECRETS.items() if name != missing})
    answer = compose(tmp_path, "--quiet")
    assert answer.returncode != 0
    assert f"set {missing} in .env" in answer.stderr


def test_three_secrets_are_enough(tmp_path: Path) -> None:
    env_file(tmp_path, SECRETS)
    assert set(services(tmp_path)) == {"api", "worker", "mysql", "redis", "nginx"}
    assert set(services(tmp_path, "monitoring")) - set(services(tmp_path)) == {"prometheus", "grafana"}


def test_settings_reach_those_whom_they_concern(tmp_path: Path) -> None:
    model = {"LLM_PROVIDER": "openai", "LLM_API_KEY": "sk-$ecret#1", "LLM_MODEL": "gpt-5-mini", "LLM_TIMEOUT": "12"}
    env_file(tmp_path, {**SECRETS, **model, **FIXED})
    found = services(tmp_path)
    # JSON for another round through Compose: "$" is doubled.
    said = {name: plain(each["environment"]) for name, each in found.items() if each.get("environment")}
    for name in ("api", "worker"):
        assert said[name].items() >= {**model, "MYSQL_PASSWORD": SECRETS["MYSQL_PASSWORD"]}.items()
        assert said[name]["MYSQL_ROOT_PASSWORD"] == ""
        assert all(said[name][variable] != value for variable, value in FIXED.items())
        assert (said[name]["ENV"], said[name]["TASK_WORKERS"]) == ("production", "outside")
        assert said[name]["LLM_API_KEY"] == model["LLM_API_KEY"]
    assert said["worker"] == {**said["api"], "WORKER_METRICS_PORT": "9101"}
    assert set(said) == {"api", "worker", "mysql"}
    assert said["mysql"]["MYSQL_PASSWORD"] == said["api"]["MYSQL_PASSWORD"]
    assert "SECRET_KEY" not in said["mysql"]


def plain(environment: dict[str, str | None]) -> dict[str, str]:
    return {name: (value or "").replace("$$", "$") for name, value in environment.items()}


def test_every_service_is_watched_confined_and_comes_back(tmp_path: Path) -> None:
    env_file(tmp_path, SECRETS)
    for name, service in services(tmp_path, "monitoring").items():
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert ":latest" not in service["image"] or "build" in service, name


def test_only_nginx_can_be_reached_from_outside(tmp_path: Path) -> None:
    env_file(tmp_path, {**SECRETS, "HTTP_PORT": "8080"})
    published = {
        (name, port.get("host_ip", ""), port["published"])
        for name, service in services(tmp_path, "monitoring").items()
        for port in service.get("ports", ())
    }
    assert published == {
        ("nginx", "", "8080"),
        ("nginx", "", "443"),
        ("prometheus", "127.0.0.1", "9090"),
        ("grafana", "127.0.0.1", "3000"),
    }


def test_the_database_has_no_way_out(tmp_path: Path) -> None:
    env_file(tmp_path, SECRETS)
    whole = json.loads(compose(tmp_path, "--format", "json").stdout)
    assert whole["networks"]["back"]["internal"] is True
    found = {name: set(service["networks"]) for name, service in whole["services"].items()}
    assert found == {
        "api": {"front", "back"},
        "worker": {"front", "back"},
        "mysql": {"back"},
        "redis": {"back"},
        "nginx": {"front"},
    }


def test_they_start_in_order(tmp_path: Path) -> None:
    env_file(tmp_path, SECRETS)
    order = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in services(tmp_path).items()
    }
    assert order == {
        "api": {"mysql": "service_healthy", "redis": "service_healthy"},
        "worker": {"api": "service_healthy"},
        "nginx": {"api": "service_healthy"},
        "mysql": {},
        "redis": {},
    }


def test_nginx_goes_on_while_the_service_is_replaced(tmp_path: Path) -> None:
    env_file(tmp_path, SECRETS)
    nginx = services(tmp_path)["nginx"]
    # Compose would stop it first, with what is under way.
    assert "restart" not in nginx["depends_on"]["api"]
    # So it asks Docker where the service is, and Docker no further server: test_nginx_names.py.
    assert "resolver 127.0.0.11 " in (PROJECT_ROOT / "nginx.conf").read_text(encoding="utf-8")
    assert nginx["dns_opt"] == ["ndots:1"]


@pytest.mark.parametrize("name", ["api", "worker"])
def test_nobody_is_stopped_before_the_work_is_done(name: str, tmp_path: Path) -> None:
    """Docker kills after this time; what takes longest is the slowest model, whose call is paid for."""
    env_file(tmp_path, SECRETS)
    minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(\d+)s", services(tmp_path)[name]["stop_grace_period"]).groups("0")  # type: ignore[union-attr]
    slowest = ModelSettings.model_validate({"timeout_seconds": 100, "max_retries": 10}).total_timeout_seconds
    # gunicorn_config.py adds 15 to it.
    assert 60 * int(minutes) + int(seconds) > slowest + 15


def test_every_mounted_file_is_in_the_project(tmp_path: Path) -> None:
    env_file(tmp_path, SECRETS)
    mounted = {
        Path(volume["source"]).relative_to(tmp_path).as_posix()
        for service in services(tmp_path).values()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind"
    }
    assert mounted == {"nginx.conf", "deploy/nginx", "ssl"}
    assert (PROJECT_ROOT / "nginx.conf").is_file()
    assert {path.name for path in (PROJECT_ROOT / "deploy/nginx").iterdir()} == {"service.conf", "tls.conf"}
    # It would be root's if Docker made it.
    assert (PROJECT_ROOT / "ssl").is_dir()


def test_no_key_gets_into_git() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "ssl/site/key.pem", "ssl/key.pem"],  # noqa: S607 - whichever it is
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ignored.stdout.split() == ["ssl/site/key.pem", "ssl/key.pem"]


def test_mysql_has_connections_for_two_services_and_six_workers(tmp_path: Path) -> None:
    env_file(tmp_path, SECRETS)
    [allowed] = [
        int(option.partition("=")[2])
        for option in services(tmp_path)["mysql"]["command"]
        if option.startswith("--max-connections=")
    ]
    settings = Settings(database=DatabaseSettings(host="mysql"))
    worker = sum(pool_limits(settings, processes=1))
    needed = 2 * settings.database.max_connections_total + 6 * worker
    # Some are for people, the health check and migrations.
    assert needed + 10 <= allowed


def test_what_only_compose_reads_is_in_env_example() -> None:
    variables = set(re.findall(r"\$\{([A-Z_]+)", (PROJECT_ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    ours, _, docker = EXAMPLE.read_text(encoding="utf-8").partition("# ===== Docker only =====")
    shown = set(re.findall(r"^# ([A-Z_]+)=", docker, re.MULTILINE))
    assert shown == {"MYSQL_ROOT_PASSWORD", "HTTP_PORT", "HTTPS_PORT"}
    assert shown < variables
    assert all(f"\n# {name}=" in ours for name in variables - shown)
