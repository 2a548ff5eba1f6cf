"""Whatever bytes come in, only a PhotoError or a JPEG comes out."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.photo import PhotoError, PhotoFormat, inspect_photo, prepare_photo
from tests.fakes import images

ALL = frozenset(PhotoFormat)
_NOISE = Image.merge("RGB", [Image.effect_noise((40, 30), 60)] * 3)

CHEAP = [
    images.encode(_NOISE, "JPEG"),
    images.encode(_NOISE, "JPEG", progressive=True),
    images.encode(_NOISE.convert("CMYK"), "JPEG"),
    images.gps_tagged(width=80, height=60),
    images.progressive_bomb(5, 64, 64, 3),
    images.encode(_NOISE, "PNG"),
    images.encode(_NOISE.quantize(16), "PNG", transparency=b"\x00\x80"),
    images.png_bomb(30, 20, interlaced=True),
    images.gps_tagged("PNG", 80, 60),
]
# Decoded in a process of their own, which takes 0.1 s each.
DEAR = [
    images.encode(_NOISE, "WEBP"),
    images.encode(_NOISE.convert("RGBA"), "WEBP", lossless=True),
    images.animated_webp(),
    images.encode(_NOISE.quantize(16), "GIF"),
    images.animated_gif(),
    images.encode(_NOISE, "BMP"),
    images.rle_bmp(64, 48),
    images.encode(_NOISE, "HEIF"),
    images.encode(images.quadrants(600, 200), "HEIF", tile_size=512),
    images.encode(_NOISE, "AVIF"),
]


@st.composite
def damaged(draw: st.DrawFn, photos: list[bytes]) -> bytes:
    """A valid file with bytes changed, put in or taken out; half of the changes are near the start."""
    photo = bytearray(draw(st.sampled_from(photos)))
    for _ in range(draw(st.integers(1, 6))):
        last = draw(st.sampled_from([min(400, len(photo)), len(photo)]))
        at = draw(st.integers(0, max(0, last - 1)))
        match draw(st.sampled_from(["change", "insert", "remove", "cut"])):
            case "change":
                photo[at : at + 1] = bytes([draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))])
            case "insert":
                photo[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "remove":
                del photo[at : at + draw(st.integers(1, 8))]
            case _:
                del photo[max(at, len(photo) // 2) :]
    return bytes(photo)


def check(data: bytes, max_edge: int) -> None:
    try:
        info = inspect_photo(data, allowed=ALL, max_pixels=2_000_000)
        prepared, width, height = prepare_photo(data, info, max_edge=max_edge, max_bytes=20_000)
    except PhotoError:
        return
    assert 0 < width * height <= 2_000_000
    assert prepared.startswith(b"\xff\xd8")
    assert prepared.endswith(b"\xff\xd9")
    assert len(prepared) <= 20_000


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(data=damaged(CHEAP), max_edge=st.sampled_from([16, 1024]))
def test_damaged_jpeg_and_png(data: bytes, max_edge: int) -> None:
    check(data, max_edge)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=damaged(DEAR), max_edge=st.sampled_from([16, 1024]))
def test_damaged_files_of_the_other_formats(data: bytes, max_edge: int) -> None:
    check(data, max_edge)


@settings(deadline=None, max_examples=300)
@given(data=damaged(DEAR + CHEAP))
def test_inspection_of_damaged_files(data: bytes) -> None:
    try:
        inspect_photo(data, allowed=ALL, max_pixels=2_000_000)
    except PhotoError:
        return


@settings(deadline=None, max_examples=300)
@given(photo=st.sampled_from(CHEAP), rest=st.binary(max_size=300))
def test_noise_behind_a_signature_of_jpeg_or_png(photo: bytes, rest: bytes) -> None:
    check(photo[:20] + rest, 1024)


@settings(deadline=None, max_examples=60)
@given(photo=st.sampled_from(DEAR), rest=st.binary(max_size=300))
def test_noise_behind_a_signature_of_the_other_formats(photo: bytes, rest: bytes) -> None:
    check(photo[:20] + rest, 1024)
