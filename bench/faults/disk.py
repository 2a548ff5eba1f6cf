"""A small disk of its own for one folder, which can be filled and emptied: a tmpfs, which only root can mount."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

BALLAST = "ballast"
CHUNK = bytes(64 * 1024)


class NoDiskError(Exception):
    """A disk cannot be mounted here; the text says why."""


def small_disk(folder: str, megabytes: float) -> Callable[[Path], AbstractContextManager[None]]:
    """Return what mounts a disk of this size at `folder` below a site's own, for the length of a block.

    The block raises NoDiskError where it cannot be mounted.
    """

    @contextmanager
    def mounted(site_folder: Path) -> Iterator[None]:
        target = site_folder / folder
        target.mkdir(parents=True, exist_ok=True)
        size = f"size={round(megabytes * 1024)}k"
        try:
            _run("mount", "-t", "tmpfs", "-o", size, "faults", str(target))
        except (OSError, subprocess.CalledProcessError):
            raise NoDiskError("only root can mount the disk that it fills") from None
        try:
            yield
        finally:
            # Lazily: a process of the site may be about to end only now.
            _run("umount", "--lazy", str(target))

    return mounted


def fill(folder: Path) -> None:
    """Take all the room that is left on the disk of `folder`, to the last byte."""
    with (folder / BALLAST).open("wb", buffering=0) as ballast:
        for chunk in (CHUNK, CHUNK[:1024], CHUNK[:1]):
            try:
                while ballast.write(chunk):
                    pass
            except OSError:
                continue


def empty(folder: Path) -> None:
    """Give that room back."""
    (folder / BALLAST).unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - mount and umount, with arguments of our own
