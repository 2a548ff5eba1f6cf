"""No photo that is accepted costs over 2 s of CPU or 500 MB, measured in a fresh process; dearer ones are cut off.

A slower machine's seconds are worth less: they are divided by how much slower it is at a fixed piece of work.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.photo import (
    NotInTime,
    PhotoError,
    PhotoFormat,
    PreparedJpeg,
    TooComplex,
    inspect_photo,
    prepare_photo,
    sandbox,
)
from app.photo.decoding import decode_to_jpeg
from app.photo.sandbox import decode_in_sandbox
from tests.fakes import images

ROOT = Path(__file__).resolve().parents[2]
CPU_SECONDS = 2.0
MEMORY_BYTES = 500_000_000

# Prints what preparing the photo on standard input has cost this process and, in its stead, the sandbox.
_PROBE = """
import json, resource, sys, time, zlib
# CPU seconds are those of the machine that the limits were measured on, where this takes 0.033 of them.
# In pieces of 8 MB, freed before anything else is loaded: the peak of memory is not theirs.
packed, began = zlib.compress(bytes(range(256)) * 31_250, 1), time.process_time()
for _ in range(4):
    zlib.decompress(packed)
slowness = max(1.0, (time.process_time() - began) / 0.033)
from app.photo import PhotoError, PhotoFormat, inspect_photo, prepare_photo
data = sys.stdin.buffer.read()
def usage():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # Linux counts what the parent had before exec into ru_maxrss, but not into VmHWM.
    own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return sum(u.ru_utime + u.ru_stime for u in both), own * 1024, both[1].ru_maxrss * 1024
cpu_before, memory_before, _ = usage()
try:
    info = inspect_photo(data, allowed=frozenset(PhotoFormat), max_pixels=50_000_000)
    outcome = str(len(prepare_photo(data, info, max_edge=1024, max_bytes=500_000).jpeg))
except PhotoError as error:
    outcome = type(error).__name__
cpu, own, child = usage()
cpu = (cpu - cpu_before) / slowness
print(json.dumps({"outcome": outcome, "cpu": cpu, "own": own - memory_before, "child": child}))
"""


def cost_of(photo: bytes) -> dict[str, Any]:
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _PROBE], input=photo, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=60
    )
    cost: dict[str, Any] = json.loads(done.stdout)
    return cost


def smooth(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.merge("RGB", [Image.radial_gradient("L")] * 3).resize((width, height)).convert(mode)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux measures and limits memory as needed here")

WORST_ACCEPTED = {
    "baseline JPEG, 50 megapixels": lambda: images.encode(smooth(8000, 6200), "JPEG", quality=95, subsampling=0),
    "progressive JPEG, 50 megapixels": lambda: images.encode(smooth(8000, 6200), "JPEG", progressive=True),
    "progressive JPEG, four components": lambda: images.progressive_bomb(11, 7000, 7000, 4),
    "progressive JPEG, many scans": lambda: images.progressive_bomb(14, 7000, 7000),
    "progressive JPEG, small, most scans": lambda: images.progressive_bomb(99, 2600, 2600),
    "PNG, RGB": lambda: images.png_bomb(5470, 5470, depth=8, colour=2),
    "PNG, 16-bit RGBA": lambda: images.png_bomb(3350, 3350, interlaced=True),
    "PNG, grey and alpha": lambda: images.png_bomb(6700, 6700, depth=8, colour=4, interlaced=True),
    "PNG, RGBA": lambda: images.png_bomb(4740, 4740, depth=8, colour=6),
    "PNG, palette": lambda: images.png_bomb(7050, 7050, depth=8, colour=3),
    "PNG, one row": lambda: images.png_bomb(29_990_000, 1, depth=8, colour=2),
    "WebP, lossless": lambda: images.encode(smooth(4880, 4880, "RGBA"), "WEBP", lossless=True, method=0, quality=0),
    "WebP, canvas": lambda: images.webp_canvas_bomb(4890, 4890) + bytes(12_000),
    "GIF, 50 megapixels": lambda: images.encode(Image.radial_gradient("L").resize((7050, 7050)), "GIF"),
    "BMP, run lengths": lambda: images.rle_bmp(4890, 4890),
    "BMP, one bit": lambda: images.encode(Image.radial_gradient("L").resize((7050, 7050)).convert("1"), "BMP"),
}


@pytest.mark.parametrize("name", WORST_ACCEPTED)
def test_the_worst_accepted_photos_stay_below_the_limits(name: str) -> None:
    cost = cost_of(WORST_ACCEPTED[name]())
    assert cost["outcome"].isdigit(), cost
    assert cost["cpu"] < CPU_SECONDS, cost
    assert cost["own"] + cost["child"] < MEMORY_BYTES, cost


@pytest.mark.parametrize("name", ["HEIF", "AVIF"])
def test_phone_photos_that_need_the_sandbox_are_read_within_the_limits(name: str) -> None:
    options = {"enc_params": {"preset": "ultrafast"}} if name == "HEIF" else {"speed": 10}
    cost = cost_of(images.encode(Image.new("RGB", (4000, 3000), images.RED), name, **options))
    assert cost["outcome"].isdigit(), cost
    assert cost["cpu"] < CPU_SECONDS, cost
    assert cost["own"] + cost["child"] < MEMORY_BYTES, cost


@pytest.mark.parametrize(("reference_seconds", "error"), [(1000.0, TooComplex), (1e-9, NotInTime)])
def test_a_decoder_that_takes_too_much_cpu_is_stopped(
    monkeypatch: pytest.MonkeyPatch, reference_seconds: float, error: type[PhotoError]
) -> None:
    """It is the photo's fault, unless the core is far slower than that on which the limit was measured."""
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 1)
    monkeypatch.setattr(sandbox, "REFERENCE_SECONDS", reference_seconds)
    dear = images.rle_bmp(2000, 2000, idle_steps=20_000_000)
    with pytest.raises(error):
        decode_in_sandbox(dear, PhotoFormat.BMP, max_pixels=10**10, max_edge=1024, max_bytes=500_000)


def test_a_machine_without_room_is_not_the_photos_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 0.001)
    with pytest.raises(NotInTime):
        decode_in_sandbox(
            images.encode(images.quadrants(), "BMP"), PhotoFormat.BMP, max_pixels=10**6, max_edge=1024, max_bytes=10**6
        )


def test_a_phones_dearest_photo_is_read_on_a_busy_machine() -> None:
    """10 bits a colour, 12 megapixels: the limit on CPU has room for it at three times what it takes an idle core."""
    photo = images.noisy_heic_10_bit(4000, 3000)
    cost = cost_of(photo)
    assert cost["outcome"].isdigit(), cost
    assert 3 * cost["cpu"] < sandbox.CPU_SECONDS, cost


# Of a single colour, as a blank sky or a screenshot may be: what phones and screens make passes in every format.
@pytest.mark.parametrize("size", [(4032, 3024), (1170, 2532), (3840, 2160)])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "WEBP, lossless", "HEIF", "AVIF"])
def test_a_blank_photo_passes(name: str, size: tuple[int, int]) -> None:
    assert prepared(blank(name, size)).jpeg


@pytest.mark.parametrize("name", ["GIF", "WEBP, lossless", "HEIF", "AVIF"])
def test_megapixels_out_of_next_to_nothing_are_refused(name: str) -> None:
    photo = blank(name, (4890, 4890))
    assert len(photo) < 12_000 or name == "GIF"
    # As many as there are in the file, which a client may follow with whatever it likes.
    data = photo if name != "GIF" else images.gif_size_lie(7000, 7000)
    with pytest.raises(TooComplex):
        prepared(data)


def prepared(data: bytes) -> PreparedJpeg:
    info = inspect_photo(data, allowed=frozenset(PhotoFormat), max_pixels=50_000_000)
    return prepare_photo(data, info, max_edge=1024, max_bytes=500_000)


def blank(name: str, size: tuple[int, int]) -> bytes:
    options: dict[str, dict[str, object]] = {
        "WEBP, lossless": {"lossless": True, "quality": 0, "method": 0},
        "HEIF": {"enc_params": {"preset": "ultrafast"}},
        "AVIF": {"speed": 10},
    }
    return images.encode(Image.new("RGB", size, (135, 206, 235)), name.partition(",")[0], **options.get(name, {}))


def test_a_decoder_that_takes_too_much_memory_is_stopped() -> None:
    gif = images.animated_gif()
    screen = gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    with pytest.raises(TooComplex):
        decode_in_sandbox(
            screen,
            PhotoFormat.GIF,
            max_pixels=10**10,
            max_edge=1024,
            max_bytes=500_000,
        )


def test_the_size_of_a_webp_limits_nothing_else_in_its_process() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode = partial(
        decode_to_jpeg, photo_format=PhotoFormat.WEBP, max_pixels=50_000_000, max_edge=64, max_bytes=100_000
    )
    decode(images.encode(images.quadrants(64, 48), "WEBP"))
    with pytest.raises(TooComplex):
        decode(images.webp_canvas_bomb(7000, 7000))
    assert before == Image.MAX_IMAGE_PIXELS
