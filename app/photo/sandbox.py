"""A decoder in a process of its own, under limits that the kernel enforces, whatever the file says or asks for.

It is used for every format but JPEG and PNG. Those two are nearly all photos, what they cost is known from their
headers, and Pillow lets other threads run while it decodes them. The rest can ask for more than they say (HEIC and
AVIF carry whole video streams), are decoded in Python (BMP) or while all other threads stand still (WebP, AVIF), and
a native decoder that crashes here does not take the service with it.
"""

import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

from PIL import AvifImagePlugin

from app.photo.decoding import PreparedJpeg, decode_to_jpeg
from app.photo.errors import CorruptPhoto, PhotoError, TooComplex, TooManyPixels, UnsupportedFormat
from app.photo.formats import PhotoFormat

CPU_SECONDS = 2
MEMORY_BYTES = 500_000_000
# The largest photos that phones make, HEIC of 48 megapixels, take 1.7 s and 384 MB; those of 12 take 0.7 s and 147 MB.
# 0.06 s of that is the start of the process.
# A machine so busy that two seconds of CPU take longer than this has no room for the photo.
WALL_SECONDS = 20.0

_EXIT_CODES: dict[type[PhotoError], int] = {CorruptPhoto: 3, TooComplex: 4, TooManyPixels: 5, UnsupportedFormat: 6}
# Width and height of the photo; the JPEG follows.
_SIZE = struct.Struct(">LL")
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from app.photo.sandbox import main; main(sys.argv[2:])"
_ROOT = Path(__file__).resolve().parents[2]


def decode_in_sandbox(
    data: bytes, photo_format: PhotoFormat, *, max_pixels: int, max_edge: int, max_bytes: int
) -> PreparedJpeg:
    """Do what `decode_to_jpeg` does in another process, with at most 2 s of CPU and 500 MB of memory.

    Raises:
        TooComplex: the limits were not enough.
        TooManyPixels, UnsupportedFormat: as `decode_to_jpeg`.
        CorruptPhoto: the decoder gave up.
    """
    numbers = [str(number) for number in (max_pixels, max_edge, max_bytes)]
    # Nothing of our environment goes along: it holds secrets, and the decoder reads hostile bytes.
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and program, no shell
            [sys.executable, "-I", "-W", "ignore", "-c", _PROGRAM, str(_ROOT), photo_format.value, *numbers],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=WALL_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TooComplex from None
    if done.returncode == 0 and len(done.stdout) > _SIZE.size:
        return PreparedJpeg(done.stdout[_SIZE.size :], *_SIZE.unpack_from(done.stdout))
    if done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise TooComplex
    if done.returncode == _EXIT_CODES[UnsupportedFormat]:
        raise UnsupportedFormat(f"This kind of {photo_format.name} is not accepted. Save it as an ordinary JPEG.")
    raise next((error for error, code in _EXIT_CODES.items() if code == done.returncode), CorruptPhoto)


def main(arguments: list[str]) -> None:
    """Run in the child: the picture comes on standard input, size and JPEG go to standard output."""
    _set_limits()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    photo_format = PhotoFormat(arguments[0])
    max_pixels, max_edge, max_bytes = map(int, arguments[1:])
    try:
        jpeg, width, height = decode_to_jpeg(
            sys.stdin.buffer.read(), photo_format, max_pixels=max_pixels, max_edge=max_edge, max_bytes=max_bytes
        )
    except PhotoError as error:
        sys.exit(_EXIT_CODES[type(error)])
    except MemoryError:
        sys.exit(_EXIT_CODES[TooComplex])
    except Exception:  # noqa: BLE001 - decoders raise anything on hostile bytes; the parent names it
        sys.exit(_EXIT_CODES[CorruptPhoto])
    sys.stdout.buffer.write(_SIZE.pack(width, height) + jpeg)


def _set_limits() -> None:
    # The soft CPU limit ends the process with SIGXCPU; the hard one with SIGKILL, should anything have caught that.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not leave the photo on the disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":  # elsewhere the kernel has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
