"""A decoder in a process of its own, under limits that the kernel enforces, whatever the file says or asks for.

It is used for every format but JPEG and PNG. Those two are nearly all photos, what they cost is known from their
headers, and Pillow lets other threads run while it decodes them. The rest can ask for more than they say (HEIC and
AVIF carry whole video streams), are decoded in Python (BMP) or while all other threads stand still (WebP, AVIF), and
a native decoder that crashes here does not take the service with it. Nor does one that is taken over: before it sees a
byte of the file, the process has given up files, network, other processes and signals (`app/photo/confinement.py`).
"""

import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

# The later ones are imported by Pillow only when it needs them, and by then no file can be opened.
from PIL import Image, ImageOps, ImagePalette, ImageSequence, TiffImagePlugin

from app.photo.confinement import confine
from app.photo.decoding import PreparedJpeg, decode_to_jpeg
from app.photo.errors import CorruptPhoto, NotInTime, PhotoError, TooComplex, TooManyPixels, UnsupportedFormat
from app.photo.formats import PhotoFormat

# The dearest photos that phones make take 1.7 s (HEIC, 48 megapixels) on an idle core of the machine that everything
# here was measured on, where 0.06 s of that is the start of the process. The rest is for slower and busier cores: one
# whose other half is busy, too, takes up to twice as long.
CPU_SECONDS = 10
MEMORY_BYTES = 500_000_000
# A machine so busy that this is not enough has no room for the photo.
WALL_SECONDS = 30.0
# A process that steps back furthest.
MAX_NICENESS = 19
# What `_slowness` takes on that machine; from this factor on, the CPU limit was the core's fault, not the photo's.
REFERENCE_SECONDS = 0.0083
SLOW = 3.0

_EXIT_CODES: dict[type[PhotoError], int] = {CorruptPhoto: 3, TooComplex: 4, TooManyPixels: 5, UnsupportedFormat: 6}
# Width and height of the photo; the JPEG follows.
_SIZE = struct.Struct(">LL")
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from app.photo.sandbox import main; main(sys.argv[2:])"
_PROBE = "probe"
_ROOT = Path(__file__).resolve().parents[2]
_LOADED = (ImageOps, ImagePalette, ImageSequence, TiffImagePlugin)


def decode_in_sandbox(
    data: bytes,
    photo_format: PhotoFormat,
    *,
    max_pixels: int,
    max_edge: int,
    max_bytes: int,
    min_edge: int = 1,
    niceness: int = 0,
) -> PreparedJpeg:
    """Do what `decode_to_jpeg` does in another process, with bounds on CPU and memory.

    Args:
        niceness: how far it steps back behind other processes, 0 to 19.

    Raises:
        TooComplex: the limits were not enough.
        NotInTime: they might have been, on a machine that is less busy.
        TooManyPixels, UnsupportedFormat: as `decode_to_jpeg`.
        CorruptPhoto: the decoder gave up.
    """
    numbers = (max_pixels, max_edge, max_bytes, min_edge, CPU_SECONDS, min(niceness, MAX_NICENESS))
    try:
        done = _run([photo_format.value, *map(str, numbers)], data)
    except (subprocess.TimeoutExpired, OSError):
        # An OSError: there is no room for one more process.
        raise NotInTime from None
    if done.returncode == 0 and len(done.stdout) > _SIZE.size:
        return PreparedJpeg(done.stdout[_SIZE.size :], *_SIZE.unpack_from(done.stdout))
    if done.returncode == -signal.SIGKILL:
        # The kernel was short of memory.
        raise NotInTime
    if done.returncode == -signal.SIGXCPU:
        raise NotInTime if _slowness() > SLOW else TooComplex
    if done.returncode == _EXIT_CODES[UnsupportedFormat]:
        raise UnsupportedFormat(
            "This kind of {format} is not accepted. Save it as an ordinary JPEG.", values={"format": photo_format.name}
        )
    raise next((error for error, code in _EXIT_CODES.items() if code == done.returncode), CorruptPhoto)


def describe_sandbox() -> str:
    """Return in a sentence what holds on this machine, as a process like that of the decoder finds it.

    Raises:
        OSError, ValueError, subprocess.TimeoutExpired: it could not be found out.
    """
    found = json.loads(_run([_PROBE], b"").stdout)
    can = f"can still {', '.join(found['can'])}" if found["can"] else "opens no file or socket and sends no signal"
    return f"photos are decoded in a process confined by {', '.join(found['layers'])}; it {can}"


def main(arguments: list[str]) -> None:
    """Run in the child: the picture comes on standard input, size and JPEG go to standard output."""
    if arguments == [_PROBE]:
        _probe()
    photo_format = PhotoFormat(arguments[0])
    max_pixels, max_edge, max_bytes, min_edge, cpu_seconds, niceness = map(int, arguments[1:])
    os.nice(niceness)
    _load_library(photo_format)
    Image.preinit()
    _set_limits(cpu_seconds)
    confine()
    try:
        jpeg, width, height = decode_to_jpeg(
            sys.stdin.buffer.read(),
            photo_format,
            max_pixels=max_pixels,
            max_edge=max_edge,
            max_bytes=max_bytes,
            min_edge=min_edge,
        )
    except PhotoError as error:
        os._exit(_EXIT_CODES[type(error)])
    except MemoryError:
        os._exit(_EXIT_CODES[TooComplex])
    except Exception:  # noqa: BLE001 - decoders raise anything on hostile bytes; the parent names it
        os._exit(_EXIT_CODES[CorruptPhoto])
    sys.stdout.buffer.write(_SIZE.pack(width, height) + jpeg)
    sys.stdout.buffer.flush()
    os._exit(0)


def _load_library(photo_format: PhotoFormat) -> None:
    """Load the native library of the format: it is a file, and by the time it is needed none can be opened."""
    match photo_format:
        case PhotoFormat.HEIC:
            import pillow_heif  # noqa: F401
        case PhotoFormat.WEBP:
            from PIL import WebPImagePlugin  # noqa: F401
        case PhotoFormat.AVIF:
            from PIL import AvifImagePlugin

            AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _run(arguments: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    # Nothing of our environment goes along: it holds secrets, and the decoder reads hostile bytes.
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return subprocess.run(  # noqa: S603 - our own interpreter and program, no shell
        [sys.executable, "-I", "-W", "ignore", "-c", _PROGRAM, str(_ROOT), *arguments],
        input=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=WALL_SECONDS,
        env=environment,
        check=False,
    )


def _set_limits(cpu_seconds: int) -> None:
    # The soft CPU limit ends the process with SIGXCPU; the hard one with SIGKILL, should anything have caught that.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not leave the photo on the disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":  # elsewhere the kernel has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _slowness() -> float:
    """Return how many times as much CPU a fixed piece of work takes as it did where the limits were measured."""
    packed = zlib.compress(bytes(range(256)) * 31_250, 1)
    began = time.thread_time()
    zlib.decompress(packed)
    return (time.thread_time() - began) / REFERENCE_SECONDS


def _probe() -> None:
    import socket

    parent = os.getppid()
    layers = confine()
    attempts: dict[str, Callable[[], object]] = {
        "open files": lambda: os.open(__file__, os.O_RDONLY),
        "open sockets": socket.socket,
        "signal its parent": lambda: os.kill(parent, 0),
        "start processes": os.fork,
    }
    can = []
    for name, attempt in attempts.items():
        try:
            found = attempt()
        except OSError:
            continue
        if name == "start processes" and found == 0:
            os._exit(0)
        can.append(name)
    sys.stdout.write(json.dumps({"layers": layers, "can": can}))
    sys.stdout.flush()
    os._exit(0)
