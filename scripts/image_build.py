"""Build the Dockerfile without a Docker engine: `python -m scripts.image_build`, as root on Debian or Ubuntu.

buildah runs the instructions in a chroot, so it works inside of a container, too. It fetches no image: in the place of
Docker Hub's Python stands Debian's own, installed by debootstrap under the name that the Dockerfile's FROM says. What
pip needs of this machine, its configuration and its authorities, is mounted and stays out of the image.

Everything is kept in IMAGE_BUILD_HOME (default ~/.cache/image-build), 5 GB; remove the folder to start afresh.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
TAG = "localhost/image-classifier:test"
DEBIAN_RELEASE = "bookworm"
DEBIAN_PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
# Seen by the instructions of the Dockerfile, where this machine has them.
PIP_NEEDS = ("/etc/pip.conf", "/etc/ssl/certs")


@dataclass(frozen=True, slots=True)
class Container:
    """A working container of buildah: its name, and its root as a folder of this machine."""

    name: str
    root: Path
    config: dict[str, Any]
    """The image's configuration as Docker has it: Cmd, Env, User, Healthcheck and so on."""

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return what runs `arguments` inside, on this machine's network, with the image's environment only.

        The container has its own /data, which lasts as long as it does.
        """
        return [_buildah(), "run", self.name, "--", *arguments]


def environment() -> dict[str, str]:
    """The variables for buildah: a chroot and plain folders need neither a daemon nor a kernel's overlay."""
    storage = image_build_home() / "storage.conf"
    return {
        **os.environ,
        "STORAGE_DRIVER": "vfs",
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_STORAGE_CONF": str(storage),
    }


def image_build_home() -> Path:
    """Return the folder of the base system and of all images, which is made where there is none."""
    home = Path(os.environ.get("IMAGE_BUILD_HOME") or "~/.cache/image-build").expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True)
    (home / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{home / "run"}"\ngraphroot = "{home / "graph"}"\n', encoding="utf-8"
    )
    return home


def build(tag: str = TAG) -> str:
    """Build the Dockerfile, after its base where that is not there yet; return the image's name.

    Raises:
        subprocess.CalledProcessError: a step failed; its output has been shown.
    """
    base = re.findall(r"^FROM ([^\s]+/[^\s]+)", (PROJECT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)[0]
    if not _run("images", "--quiet", "--filter", f"reference={base}"):
        make_base(base)
    mounts = [option for path in PIP_NEEDS if Path(path).exists() for option in ("--volume", f"{path}:{path}:ro")]
    command = [_buildah(), "bud", "--format", "docker", "--pull-never", "--layers=false", *mounts, "--tag", tag]
    subprocess.run([*command, str(PROJECT)], env=environment(), check=True)  # noqa: S603 - arguments of our own
    # The image that had this name before.
    _run("rmi", "--prune", "--force")
    return tag


def make_base(name: str) -> None:
    """Install a small Debian with its Python into a folder, and import it as the image `name`."""
    folder = image_build_home() / "base"
    if not folder.exists():
        # Moved when it is complete: a run that was killed leaves nothing that counts.
        unfinished = folder.with_name("base.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        options = ["--variant=minbase", f"--include={DEBIAN_PACKAGES}", DEBIAN_RELEASE, str(unfinished)]
        subprocess.run([_program("debootstrap"), *options], check=True, stdout=sys.stderr)  # noqa: S603 - as above
        # Docker's Python has another name for it, and lets pip remove itself.
        (unfinished / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        for mark in unfinished.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            mark.unlink()
        unfinished.rename(folder)
    container = _run("from", "scratch")
    _run("add", "--quiet", container, str(folder), "/")
    path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    _run("config", "--env", path, "--cmd", "python", container)
    _run("commit", "--quiet", "--rm", container, name)


@contextlib.contextmanager
def container_of(tag: str) -> Iterator[Container]:
    """A container of the image, removed at the end of the block."""
    name = _run("from", "--pull-never", tag)
    try:
        config = json.loads(_run("inspect", name))["Docker"]["config"]
        yield Container(name, Path(_run("mount", name)), config)
    finally:
        _run("rm", name)


def _run(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - arguments of our own
        [_buildah(), *arguments], env=environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


def _buildah() -> str:
    return _program("buildah")


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise SystemExit(f"{name} is needed: apt-get install {name}")
    return found


if __name__ == "__main__":
    print(build())
