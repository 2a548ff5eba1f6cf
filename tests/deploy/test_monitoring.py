"""Alerts and dashboard: promtool takes them, each alert fires and rests when it should, and every metric exists."""

import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.config.settings import PROJECT_ROOT
from tests.fakes.images import jpeg_photo
from tests.servers.processes import answers_http, free_port, start_process
from tests.support.deploy_tools import DEPLOY, run_program, yaml_documents

PROMETHEUS = DEPLOY / "prometheus"
GRAFANA = DEPLOY / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "image-classifier.json").read_text())
GROUPS = yaml_documents(PROMETHEUS / "rules.yml")[0]["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
# Prometheus makes these itself.
OF_PROMETHEUS = {"up", "ALERTS"}
GRID_COLUMNS = 24
# What Prometheus adds to every series when it scrapes it.
SCRAPED_LABELS = {"job", "instance"}


def promtool(*arguments: str | Path, cwd: Path | None = None) -> str:
    done = run_program("promtool", "prometheus", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> Iterator[str]:
    """Every PromQL of the dashboard, with Grafana's variables filled in."""
    texts = [target["expr"] for panel in panels() for target in panel["targets"]]
    texts += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    for variable in DASHBOARD["templating"]["list"]:
        found = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
        assert found is not None
        texts.append(found[1])
    for text in texts:
        yield text.replace("$__rate_interval", "5m").replace("$instance", ".*")


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that a PromQL names, with the labels it is asked for."""
    for name, labels in re.findall(
        r"\b((?:\w+:)*image_classifier\w*(?::\w+)*|up|ALERTS)\b(?:\{([^}]*)\})?", expression
    ):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", labels))


def test_prometheus_takes_configuration_and_rules() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_task_workers_show_their_figures_where_prometheus_looks() -> None:
    [scraping] = yaml_documents(PROMETHEUS / "prometheus.yml")[0]["scrape_configs"]
    [port] = [str(each["port"]) for each in scraping["dns_sd_configs"] if each["names"] == ["worker"]]
    compose = yaml_documents(PROJECT_ROOT / "docker-compose.yml")[0]["services"]["worker"]
    assert compose["environment"]["WORKER_METRICS_PORT"] == port
    unit = (DEPLOY / "systemd/image-classifier-worker.service").read_text()
    assert f"\nEnvironment=WORKER_METRICS_PORT={port}\n" in unit
    pod = yaml_documents(DEPLOY / "kubernetes/worker.yaml")[0]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    assert {"name": "WORKER_METRICS_PORT", "value": port} in container["env"]
    assert [str(each["containerPort"]) for each in container["ports"]] == [port]
    assert pod["metadata"]["annotations"] == {"prometheus.io/scrape": "true", "prometheus.io/port": port}
    policies = yaml_documents(DEPLOY / "kubernetes/network-policy.yaml")
    [policy] = [each["spec"] for each in policies if each["metadata"]["name"] == "image-classifier-worker"]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": int(port)}]}]


def test_the_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", "rules_test.yml", cwd=PROMETHEUS)


def test_each_alert_is_tested_to_fire_and_to_rest() -> None:
    ends = defaultdict(set)
    for case in yaml_documents(PROMETHEUS / "rules_test.yml")[0]["tests"]:
        for check in case["alert_rule_test"]:
            ends[check["alertname"]].add(bool(check["exp_alerts"]))
    assert ends == {alert: {True, False} for alert in ALERTS}


def test_the_documentation_says_what_to_do_about_each_alert() -> None:
    explained = re.findall(
        r"^\| `(ImageClassifier\w+)` \|", (PROJECT_ROOT / "docs/operations.md").read_text(), re.MULTILINE
    )
    assert explained == ALERTS


def test_prometheus_can_parse_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"x:{number}", "expr": text} for number, text in enumerate(dashboard_expressions())]
    assert len(rules) > 40
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yml")


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
async def test_every_metric_that_is_asked_for_is_exposed(api: httpx2.AsyncClient, service: httpx2.AsyncClient) -> None:
    """Its labels too, where the service has shown them after a miss, an upload and a hit."""
    photo = jpeg_photo()
    body = {"image_hash": hashlib.sha256(photo).hexdigest()}
    (await api.post("/classify/check-cache", json=body)).raise_for_status()
    (await api.post("/classify", files={"image": photo})).raise_for_status()
    (await api.post("/classify/check-cache", json=body)).raise_for_status()
    names, labels = set[str](), defaultdict[str, set[str]](set)
    for line in (await service.get("/metrics")).raise_for_status().text.splitlines():
        if declared := re.match(r"# TYPE (\S+) (\w+)", line):
            name, kind = declared.groups()
            names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
        elif shown := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            labels[shown[1]] |= set(re.findall(r'(\w+)="', shown[2] or "")) | SCRAPED_LABELS
    assert len(names) > 20
    unknown, without_label = set(), set()
    for text in [*dashboard_expressions(), *(rule["expr"] for rule in RULES)]:
        for name, asked in selectors(text):
            if name in RECORDED | OF_PROMETHEUS:
                continue
            if name not in names:
                unknown.add(name)
            elif name in labels and not asked <= labels[name]:
                without_label.add((name, *asked - labels[name]))
    assert (unknown, without_label) == (set(), set())


def test_a_service_that_nobody_has_asked_shows_every_series_that_is_asked_for(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """What is born with its first event is growth that Prometheus does not see."""
    port = free_port()
    with start_process(
        [sys.executable, "-m", "app"],
        ready=lambda: answers_http(port, "/api/v1/health/live"),
        env={**environment, "APP_PORT": str(port)},
        cwd=PROJECT_ROOT,
    ):
        text = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=120).raise_for_status().text
    shown = set(re.findall(r"^(\w+)", text, re.MULTILINE))
    asked = {
        name for text in [*dashboard_expressions(), *(rule["expr"] for rule in RULES)] for name, _ in selectors(text)
    }
    assert asked - RECORDED - OF_PROMETHEUS - shown == set()
    assert 'image_classifier_model_calls_total{model="test-vision",outcome="ok",provider="custom"} 0.0' in text
    for code in ("server_busy", "model_busy", "too_many_logins", "too_many_tasks", "too_many_streams"):
        assert f'image_classifier_refused_requests_total{{code="{code}"}} 0.0' in text


def test_money_is_shown_with_its_currency() -> None:
    of_money = [target for panel in panels() for target in panel["targets"] if "money" in target["expr"]]
    assert len(of_money) == 5
    for target in of_money:
        assert "sum by (currency)" in target["expr"]
        assert "{{currency}}" in target["legendFormat"]
    [rule] = [rule for rule in RULES if rule.get("record") == "job:image_classifier_money_spent:increase1d"]
    assert "sum by (job, currency)" in rule["expr"]
    [alert] = [rule for rule in RULES if "money" in rule["expr"] and "alert" in rule]
    assert "{{ $labels.currency }}" in alert["annotations"]["summary"]


def test_the_share_of_answers_is_shown_by_model_and_why_it_was_asked() -> None:
    [panel] = [each for each in panels() if "model_answers_total" in each["targets"][0]["expr"]]
    [target] = panel["targets"]
    assert "{{model}} ({{role}})" in target["legendFormat"]
    assert panel["fieldConfig"]["defaults"]["unit"] == "percentunit"


def test_the_dashboard_is_laid_out_without_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= GRID_COLUMNS for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["title"] for panel in DASHBOARD["panels"])


def test_the_dashboard_finds_its_data_source() -> None:
    provisioned = yaml_documents(GRAFANA / "provisioning/datasources/prometheus.yml")[0]["datasources"]
    uids = {panel["datasource"]["uid"] for panel in panels()}
    uids |= {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}
    uids |= {each["datasource"]["uid"] for key in ("annotations", "templating") for each in DASHBOARD[key]["list"]}
    assert uids == {source["uid"] for source in provisioned}
