"""Variables that look like settings and are none: named at the start, with the nearest setting and without values."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from app.config import unknown
from app.config.unknown import warn_of_unknown_variables
from tests.servers.processes import answers_http, free_port
from tests.support.running import running

SECRET = "hunter2-hunter2"
# What the service's users have in their shells, on build servers, in containers and in pods.
INNOCENT = {
    "PATH": "/usr/bin",
    "HOME": "/root",
    "HOST": "example",
    "USER": "me",
    "LOGNAME": "me",
    "PORT": "80",
    "DEBUG": "1",
    "IMAGE": "x",
    "TZ": "UTC",
    "OPENAI_API_KEY": SECRET,
    "HTTPS_PROXY": "http://proxy",
    "MYSQL_PWD": SECRET,
    "MYSQL_ROOT_PASSWORD": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "IMAGE_CLASSIFIER_SERVICE_HOST": "10.0.0.1",
    "IMAGE_CLASSIFIER_SERVICE_PORT": "8000",
    "MYSQL_SERVICE_HOST": "10.0.0.2",
    "MYSQL_SERVICE_PORT": "3306",
    "MYSQL_SERVICE_PORT_CLIENT": "3306",
    "MYSQL_PORT_3306_TCP": "tcp://10.0.0.2:3306",
    "MYSQL_PORT_3306_TCP_ADDR": "10.0.0.2",
    "CACHE_PORT": "tcp://10.0.0.3:6379",
}


@pytest.fixture(autouse=True)
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is logged at WARNING; each test begins in an empty folder, and with nothing told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unknown, "_told", set())
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}", level="WARNING")
    yield lines
    logger.remove(sink)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("LLM_APIKEY", "LLM_API_KEY"),
        ("llm_api_key", "LLM_API_KEY"),
        ("OPENAI_API_KEY", "LLM_API_KEY"),
        ("DB_HOST", "MYSQL_HOST"),
        ("DB_NAME", "MYSQL_DATABASE"),
        ("MYSQL_PASS", "MYSQL_PASSWORD"),
        ("DEBUG", "APP_DEBUG"),
        ("UPLOAD_FOLDER", "UPLOAD_DIR"),
    ],
)
def test_an_unknown_variable_of_the_file(name: str, nearest: str, told: list[str]) -> None:
    Path(".env").write_text(f"{name}={SECRET}\nLOG_LEVEL=INFO\nHTTP_PORT=80\nCOMPOSE_PROJECT_NAME=x\n")
    warn_of_unknown_variables()
    assert told == [f"{name} in .env is no setting of the service and has no effect; did you mean {nearest}?\n"]


@pytest.mark.parametrize(
    ("name", "nearest"), [("LLM_APIKEY", "LLM_API_KEY"), ("DATABASE_URI", "DATABASE_URL"), ("DB_HOST", "MYSQL_HOST")]
)
def test_one_of_the_environment_that_looks_like_ours(
    name: str, nearest: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, SECRET)
    warn_of_unknown_variables()
    [line] = told
    assert line.startswith(f"{name} in the environment is no setting")
    assert line.endswith(f"did you mean {nearest}?\n")


def test_what_other_programs_read_is_not_named(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in INNOCENT.items():
        monkeypatch.setenv(name, value)
    warn_of_unknown_variables()
    assert told == []


def test_a_name_like_no_other_is_sent_to_the_documentation(told: list[str]) -> None:
    Path(".env").write_text("ZZZ=1\nEMPTY=\n")
    warn_of_unknown_variables()
    assert told == [
        "ZZZ in .env is no setting of the service and has no effect; docs/configuration.md lists all settings.\n"
    ]


def test_a_key_pasted_over_several_lines_is_no_name(told: list[str]) -> None:
    Path(".env").write_text("SECRET_KEY=-----BEGIN\nMIIEvQhunter2hunter2w==\nhunter2hunter2\n")
    warn_of_unknown_variables()
    assert told == []


def test_gunicorn_says_it_once_for_all_workers(environment: dict[str, str]) -> None:
    port = free_port()
    variables = {"APP_PORT": str(port), "WEB_CONCURRENCY": "2", "LLM_APIKEY": SECRET, "LOG_LEVEL": "WARNING"}
    with running("gunicorn", port, environment | variables) as process:
        assert answers_http(port, "/health")
        output = process.output()
    assert output.count("LLM_APIKEY in the environment") == 1
    assert SECRET not in output
    # Lines at INFO, such as the access log's, are left out.
    assert " INFO " not in output
