"""Wide-gamut pictures keep their colours: they are converted to sRGB, since their profile does not leave."""

import io
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from app.photo import PhotoFormat, inspect_photo, prepare_photo
from app.photo.metadata import has_other_colours, to_srgb
from tests.fakes import images

ALL = frozenset(PhotoFormat)

# Colorants (D50) of Display P3 and Adobe RGB as their profiles state them.
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
SRGB_CURVE = b"para\0\0\0\0" + struct.pack(
    ">HHlllll", 3, 0, *(round(v * 65536) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)
GAMMA_CURVE = b"curv\0\0\0\0" + struct.pack(">LH", 1, 0x0233)
TABLE_CURVE = (
    b"curv\0\0\0\0"
    + struct.pack(">L", 256)
    + struct.pack(">256H", *(round(65535 * (i / 255) ** 2.2) for i in range(256)))
)


def profile(colorants: tuple[tuple[float, ...], ...], curve: bytes = SRGB_CURVE) -> bytes:
    """Return an ICC profile as cameras write it: three colorants and one curve for all."""
    values = {
        name: b"XYZ \0\0\0\0" + struct.pack(">lll", *(round(v * 65536) for v in row))
        for name, row in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)
    }
    values[b"wtpt"] = b"XYZ \0\0\0\0" + struct.pack(">lll", 63190, 65536, 54061)
    values |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, at = struct.pack(">L", len(values)), b"", 132 + 12 * len(values)
    for name, value in values.items():
        table += struct.pack(">4sLL", name, at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = bytearray(128)
    header[8:12], header[12:24], header[36:40] = b"\x04\0\0\0", b"mntrRGB XYZ ", b"acsp"
    header[68:80] = struct.pack(">lll", 63190, 65536, 54061)
    header[:4] = struct.pack(">L", 128 + len(table) + len(body))
    return bytes(header) + table + body


def shown(data: bytes, *, max_edge: int = 1024) -> tuple[int, ...]:
    info = inspect_photo(data, allowed=ALL, max_pixels=10**7)
    jpeg = prepare_photo(data, info, max_edge=max_edge, max_bytes=500_000).jpeg
    assert b"ICC_PROFILE" not in jpeg
    pixel = Image.open(io.BytesIO(jpeg)).convert("RGB").getpixel((30, 20))
    assert isinstance(pixel, tuple)
    return pixel


def expected(colour: tuple[int, int, int], icc: bytes) -> tuple[int, ...]:
    """Return the colour in sRGB, as LittleCMS sees it."""
    image = Image.new("RGB", (8, 8), colour)
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, source, target, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert converted is not None
    pixel = converted.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


COLOURS = [(180, 60, 60), (60, 160, 90), (70, 90, 200), (128, 128, 128), (230, 200, 40), (20, 30, 25), (255, 255, 255)]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    "icc",
    [profile(DISPLAY_P3), profile(ADOBE_RGB, GAMMA_CURVE), profile(DISPLAY_P3, TABLE_CURVE)],
    ids=["Display P3", "Adobe RGB", "a table"],
)
def test_colours_are_converted(colour: tuple[int, int, int], icc: bytes) -> None:
    photo = images.encode(Image.new("RGB", (64, 48), colour), "JPEG", icc_profile=icc, quality=95)
    found, wanted = shown(photo), expected(colour, icc)
    assert all(abs(a - b) <= 5 for a, b in zip(found, wanted, strict=True)), (found, wanted)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
@pytest.mark.parametrize("size", [(64, 48), (1600, 1200)])
def test_in_every_format(name: str, size: tuple[int, int]) -> None:
    icc, colour = profile(DISPLAY_P3), (180, 60, 60)
    found = shown(images.encode(Image.new("RGB", size, colour), name, icc_profile=icc))
    wanted = expected(colour, icc)
    assert all(abs(a - b) <= 10 for a, b in zip(found, wanted, strict=True)), (found, wanted)


def test_a_small_jpeg_in_srgb_is_not_decoded_for_its_profile() -> None:
    for icc in (profile(SRGB), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        photo = images.encode(images.quadrants(), "JPEG", icc_profile=icc)
        assert inspect_photo(photo, allowed=ALL, max_pixels=10**6).is_plain
        assert to_srgb(icc) is None


@pytest.mark.parametrize(
    "icc",
    [
        b"",
        b"x" * 500,
        profile(DISPLAY_P3)[:140],
        profile(DISPLAY_P3)[:250],
        profile(DISPLAY_P3, b"curv"),
        profile(DISPLAY_P3, b"para\0\0\0\0\0\7\0\0" + bytes(40)),
        profile(DISPLAY_P3, b"para\0\0\0\0\0\0\0\0" + struct.pack(">l", -65536)),
        profile(DISPLAY_P3, b"para\0\0\0\0\0\3\0\0" + struct.pack(">lllll", 2**31 - 1, 2**31 - 1, 0, 0, 0)),
        profile(DISPLAY_P3) + bytes(200_000),
        profile(DISPLAY_P3).replace(b"RGB XYZ ", b"CMYKLab "),
    ],
)
def test_a_profile_that_cannot_be_read_changes_nothing(icc: bytes) -> None:
    assert to_srgb(icc) is None
    photo = images.encode(Image.new("RGB", (64, 48), (180, 60, 60)), "PNG")
    chunk = images.png_chunk(b"iCCP", b"x\0\0" + zlib.compress(icc))
    found = shown(photo[:33] + chunk + photo[33:])
    assert all(abs(a - b) <= 5 for a, b in zip(found, (180, 60, 60), strict=True))


@given(st.binary(max_size=300))
def test_any_bytes_can_be_a_profile(noise: bytes) -> None:
    whole = profile(DISPLAY_P3)
    for icc in (noise, whole[:128] + noise, whole[: 128 + len(noise)] + noise):
        has_other_colours(icc)
        to_srgb(icc)
