"""The units, as systemd itself judges them: no word it does not know, and hardly anything that a service may do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.config.model import ModelSettings
from app.config.settings import PROJECT_ROOT, load_settings
from tests.support.deploy_tools import DEPLOY, run_program

FOLDER = DEPLOY / "systemd"
SERVICES = sorted(path.name for path in FOLDER.glob("*.service"))
INSTALLED_IN = "/opt/image-classifier"
# Of 100; what systemd-analyze calls "exposure" is a tenth of it. A service without any protection has 96.
MOST_EXPOSURE = 15
HARDENING = re.compile(
    r"^(?:Protect|Private|Restrict|SystemCall|Capability|Ambient|NoNew|MemoryDeny|Lock|Remove|UMask)"
)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as they would stand on a machine on which our programs are in this folder."""
    for path in [*FOLDER.glob("*.service"), *FOLDER.glob("*.timer")]:
        text = path.read_text().replace(f"{INSTALLED_IN}/.venv/bin", str(Path(sys.executable).parent))
        (tmp_path / path.name).write_text(text.replace(INSTALLED_IN, str(PROJECT_ROOT)))
    return tmp_path


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_program("systemd-analyze", "systemd", *arguments)


def lines(unit: str) -> list[str]:
    return (FOLDER / unit).read_text().splitlines()


def test_systemd_finds_nothing_to_say_about_them(units: Path) -> None:
    done = systemd_analyze("verify", "--man=no", *sorted(units.iterdir()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_word_that_systemd_does_not_know_would_be_found(units: Path) -> None:
    unit = units / "image-classifier.service"
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSytem=strict"))
    assert "ProtectSytem" in systemd_analyze("verify", "--man=no", unit).stderr


@pytest.mark.parametrize("name", SERVICES)
def test_they_may_do_little(units: Path, name: str) -> None:
    done = systemd_analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE}", units / name)
    assert done.returncode == 0, done.stdout[-1000:]


def test_api_and_worker_are_hardened_alike() -> None:
    api, worker = (
        [line for line in lines(name) if HARDENING.match(line)]
        for name in ("image-classifier.service", "image-classifier-worker.service")
    )
    assert len(api) > 20
    assert api == worker


@pytest.mark.parametrize("name", ["image-classifier.service", "image-classifier-worker.service"])
def test_systemd_waits_longer_than_the_service_takes_to_end(name: str) -> None:
    """gunicorn's graceful_timeout with the slowest settings that are allowed (gunicorn_config.py)."""
    slowest = ModelSettings.model_validate({"timeout_seconds": 100, "max_retries": 10}).total_timeout_seconds
    [stop] = [line for line in lines(name) if line.startswith("TimeoutStopSec=")]
    assert int(stop.partition("=")[2]) >= slowest + 15 + 5


def test_a_backup_does_not_go_to_the_disk_below_a_missing_mount(units: Path) -> None:
    """And where its folder is missing, the script says so; systemd would only name a number."""
    unit = units / "image-classifier-backup.service"
    text = unit.read_text()
    [folder] = re.findall(r"BACKUP_DIR=(\S+)", text)
    assert f"RequiresMountsFor={folder}\n" in text
    assert f"ReadWritePaths=-{folder}\n" in text
    # It means nothing in the wrong section, of which systemd would tell.
    assert "RequiresMountsFor" not in systemd_analyze("verify", "--man=no", unit).stderr


@pytest.mark.parametrize(("timeout", "expected"), [("30", 0), ("soon", 1)])
def test_a_reload_begins_with_a_look_whether_the_new_would_start(units: Path, timeout: str, expected: int) -> None:
    """gunicorn would only say in its log that it goes on with the old ones."""
    commands = re.findall(r"^ExecReload=(.*)$", (units / "image-classifier.service").read_text(), re.MULTILINE)
    assert [command.rpartition("/")[2].split()[0] for command in commands] == ["gunicorn", "kill"]
    done = subprocess.run(  # noqa: S603 - the unit's own command
        commands[0].split(),
        cwd=PROJECT_ROOT,
        env={"PATH": os.environ["PATH"], "LLM_TIMEOUT": timeout},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == expected, done.stderr


def test_the_example_of_the_environment_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its empty values filled in, the service takes it, as systemd reads it: all behind = is the value."""
    monkeypatch.chdir(tmp_path)
    text = (FOLDER / "environment.example").read_text()
    for line in text.splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            assert "#" not in value
            monkeypatch.setenv(name, value or "0123456789abcdef" * 2)
    settings = load_settings()
    assert settings.environment.value == "production"
    assert settings.database_url.render_as_string().startswith("mysql+aiomysql://image_classifier:***@127.0.0.1")
