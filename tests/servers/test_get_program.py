"""Where a test's program comes from: the PATH, else Debian's packages for root, else a message. No network."""

import os
from pathlib import Path

import pytest

from scripts.mysql_programs import NoServerError
from tests.servers import programs
from tests.servers.programs import get_program

ADVICE = "The tests need sundial: apt-get install sun-tools (or brew install sun)"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH; for root."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("MYSQL_SERVER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return folder


def write_program(file: Path, *lines: str) -> None:
    file.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    file.chmod(0o755)


def get_sundial() -> str:
    return get_program("sundial", "sun-tools", elsewhere="brew install sun")


def test_the_path_comes_first(folder: Path) -> None:
    write_program(folder / "sundial")
    write_program(folder / "apt-get", "exit 1")
    assert get_sundial() == str(folder / "sundial")


def test_root_has_it_installed(folder: Path) -> None:
    write_program(
        folder / "apt-get",
        f'echo "$@" >> {folder}/calls',
        f'case "$*" in *install*) printf "#!/bin/sh\\n" > {folder}/sundial; chmod 755 {folder}/sundial;; esac',
    )
    assert get_sundial() == str(folder / "sundial")
    update, install = (folder / "calls").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" --no-install-recommends sun-tools")


def test_others_are_told_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(folder / "apt-get", f"touch {folder}/called")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NoServerError) as raised:
        get_sundial()
    assert str(raised.value) == ADVICE
    assert not (folder / "called").exists()


def test_without_apt_root_is_told_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(NoServerError) as raised:
        get_sundial()
    assert str(raised.value) == ADVICE


def test_what_apt_said_is_passed_on(folder: Path) -> None:
    write_program(folder / "apt-get", "echo 'E: Unable to locate package sun-tools' >&2", "exit 100")
    with pytest.raises(NoServerError) as raised:
        get_sundial()
    assert str(raised.value) == f"{ADVICE}. apt-get said: E: Unable to locate package sun-tools"


def test_an_installation_that_hangs_ends_with_the_same_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(folder / "apt-get", "exec sleep 60")
    monkeypatch.setattr(programs, "INSTALL_TIMEOUT_SECONDS", 0.3)
    with pytest.raises(NoServerError) as raised:
        get_sundial()
    assert str(raised.value) == f"{ADVICE}. apt-get said: nothing for 0.3 seconds"
