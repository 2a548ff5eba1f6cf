"""Pictures for tests, friendly and hostile, made on the spot: small functions that return the bytes of a file."""

import io
import random
import struct
import zipfile
import zlib
from functools import cache

import pillow_heif
from PIL import Image, TiffImagePlugin

Colour = tuple[int, int, int]

RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 30), (30, 30, 220), (230, 220, 30)
CORNERS = (RED, GREEN, BLUE, YELLOW)
"""Colours of `quadrants`, in reading order."""

GPS_TEXT = b"SECRET-GPS-52.5200N-13.4050E"
"""Found in every metadata field that `gps_tagged` writes."""

_ORIENTATION, _GPS, _MAKE, _DESCRIPTION = 0x0112, 0x8825, 0x010F, 0x010E

# How each EXIF orientation is undone; storing a picture takes the inverse.
_STORE = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def quadrants(width: int = 64, height: int = 48) -> Image.Image:
    """Return a picture whose four corners tell which way up it is."""
    image = Image.new("RGB", (width, height))
    half_width, half_height = width // 2, height // 2
    for index, colour in enumerate(CORNERS):
        left, top = index % 2 * half_width, index // 2 * half_height
        image.paste(colour, (left, top, width if index % 2 else half_width, height if index > 1 else half_height))
    return image


def corners(image: Image.Image) -> tuple[Colour, ...]:
    """Return, for each corner in reading order, which of CORNERS it is closest to."""
    rgb = image.convert("RGB")
    across, down = (rgb.width // 4, rgb.width * 3 // 4), (rgb.height // 4, rgb.height * 3 // 4)
    found = []
    for y in down:
        for x in across:
            pixel = rgb.getpixel((x, y))
            assert isinstance(pixel, tuple)
            found.append(min(CORNERS, key=lambda c: sum((a - b) ** 2 for a, b in zip(c, pixel, strict=True))))
    return tuple(found)


def encode(image: Image.Image, name: str, **options: object) -> bytes:
    """Return a picture as a file; `name` is Pillow's name of the format, or HEIF."""
    buffer = io.BytesIO()
    if name == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, name, **options)
    return buffer.getvalue()


def jpeg_photo(width: int = 640, height: int = 480, colour: Colour = RED, **options: object) -> bytes:
    return encode(Image.new("RGB", (width, height), colour), "JPEG", **options)


def noisy_jpeg(width: int, height: int, **options: object) -> bytes:
    return encode(Image.effect_noise((width, height), 80).convert("RGB"), "JPEG", **options)


def png_photo(width: int = 640, height: int = 480, colour: Colour = RED) -> bytes:
    return encode(Image.new("RGB", (width, height), colour), "PNG")


@cache
def heic_photo(width: int = 640, height: int = 480, colour: Colour = RED, **options: object) -> bytes:
    return encode(Image.new("RGB", (width, height), colour), "HEIF", **options)


def heic_10_bit(width: int, height: int) -> bytes:
    """Return a HEIC with 10 bits per colour, as HDR cameras make them: half red throughout."""
    pixel = struct.pack("<3H", 0x8000, 0, 0)
    buffer = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (width, height), pixel * width * height).save(buffer)
    return buffer.getvalue()


def noisy_heic_10_bit(width: int, height: int) -> bytes:
    """Return a HEIC with 10 bits per colour and as much in it as a camera's: 4 MB for 12 megapixels."""
    picture = Image.radial_gradient("L").resize((width, height))
    grey = Image.blend(picture, Image.effect_noise((width, height), 20), 0.3).tobytes()
    pixels = bytearray(6 * width * height)
    for colour in range(3):
        pixels[2 * colour + 1 :: 6] = grey
    buffer = io.BytesIO()
    heic = pillow_heif.from_bytes("RGB;16", (width, height), bytes(pixels))
    heic.save(buffer, quality=60, enc_params={"preset": "ultrafast"}, chroma="420")
    return buffer.getvalue()


@cache
def avif_photo(width: int = 640, height: int = 480, colour: Colour = RED, **options: object) -> bytes:
    return encode(Image.new("RGB", (width, height), colour), "AVIF", **options)


def animated_gif(width: int = 64, height: int = 48, frames: tuple[Colour, ...] = (RED, GREEN, BLUE)) -> bytes:
    first, *others = [Image.new("RGB", (width, height), colour) for colour in frames]
    return encode(first, "GIF", save_all=True, append_images=others, duration=100)


def animated_webp(width: int = 64, height: int = 48, frames: tuple[Colour, ...] = (RED, GREEN, BLUE)) -> bytes:
    first, *others = [Image.new("RGB", (width, height), colour) for colour in frames]
    return encode(first, "WEBP", save_all=True, append_images=others, duration=100)


def exif_rotated(orientation: int, name: str = "JPEG", width: int = 64, height: int = 48) -> bytes:
    """Return `quadrants`, stored turned, with the EXIF orientation (1 to 8) that brings it upright."""
    transposition = _STORE[orientation]
    stored = quadrants(width, height)
    if transposition is not None:
        stored = stored.transpose(transposition)
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    options = {"lossless": True} if name == "WEBP" else {}
    return encode(stored, name, exif=exif.tobytes(), **options)


def gps_tagged(name: str = "JPEG", width: int = 640, height: int = 480) -> bytes:
    """Return a photo with GPS_TEXT in EXIF, XMP and, for JPEG, in a comment, IPTC, a profile and behind its end."""
    exif = Image.Exif()
    exif[_MAKE] = exif[_DESCRIPTION] = GPS_TEXT.decode()
    exif[_GPS] = {1: "N", 2: tuple(TiffImagePlugin.IFDRational(n) for n in (52, 31, 12)), 29: GPS_TEXT.decode()}
    options: dict[str, object] = {"exif": exif.tobytes()}
    if name in {"JPEG", "WEBP", "AVIF"}:
        options["xmp"] = b"<x:xmpmeta>" + GPS_TEXT + b"</x:xmpmeta>"
    if name in {"JPEG", "PNG", "WEBP"}:
        options["icc_profile"] = GPS_TEXT * 8
    photo = encode(quadrants(width, height), name, **options)
    if name != "JPEG":
        return photo
    extra = jpeg_segment(0xFE, GPS_TEXT) + jpeg_segment(0xED, b"Photoshop 3.0\0" + GPS_TEXT)
    extra += jpeg_segment(0xE2, b"MPF\0" + GPS_TEXT) + jpeg_segment(0xE5, GPS_TEXT)
    return photo[:2] + extra + photo[2:] + GPS_TEXT


def truncated(data: bytes, keep: float = 0.6) -> bytes:
    """Return the first part of a file, as after a broken upload."""
    return data[: int(len(data) * keep)]


def zip_polyglot(photo: bytes) -> bytes:
    """Return a photo that is a ZIP archive too."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("payload.html", "<script>alert(1)</script>")
    return photo + archive.getvalue()


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_header_lie(width: int, height: int) -> bytes:
    """Return a JPEG of a few hundred bytes whose header claims this size."""
    photo = jpeg_photo(8, 8)
    frame = photo.index(b"\xff\xc0") + 5
    return photo[:frame] + struct.pack(">HH", height, width) + photo[frame + 4 :]


def jpeg_frame_type(marker: int, precision: int = 8) -> bytes:
    """Return a JPEG whose frame header is of another type (0xC9 is arithmetic coding, 0xC3 lossless)."""
    photo = jpeg_photo(64, 64)
    frame = photo.index(b"\xff\xc0")
    header = bytes([0xFF, marker]) + photo[frame + 2 : frame + 4] + bytes([precision])
    return photo[:frame] + header + photo[frame + 5 :]


def progressive_bomb(scans: int, width: int, height: int, components: int = 1) -> bytes:
    """Return a valid progressive JPEG with this many AC refinement scans, each a few dozen bytes and slow to decode."""
    blocks = -(-width // 8) * -(-height // 8)
    parts = [
        b"\xff\xd8",
        jpeg_segment(0xDB, b"\0" + b"\x01" * 64),
        jpeg_segment(
            0xC2,
            struct.pack(">BHHB", 8, height, width, components)
            + b"".join(bytes([index + 1, 0x11, 0]) for index in range(components)),
        ),
        # One code of one bit each: a DC difference of zero, and "the next 16384 blocks have no more coefficients".
        jpeg_segment(0xC4, b"\x00\x01" + bytes(15) + b"\x00"),
        jpeg_segment(0xC4, b"\x10\x01" + bytes(15) + b"\xe0"),
        jpeg_segment(
            0xDA,
            bytes([components]) + b"".join(bytes([index + 1, 0]) for index in range(components)) + b"\x00\x00\x01",
        ),
        bytes(blocks * components // 8 + 1),
    ]
    for scan in range(scans):
        precision = 0x02 if scan < components else 0x21
        parts.append(jpeg_segment(0xDA, bytes([1, scan % components + 1, 0, 1, 63, precision])))
        parts.append(bytes(-(-blocks // 16384) * 15 // 8 + 1))
    return b"".join([*parts, b"\xff\xd9"])


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def png_bomb(width: int, height: int, *, depth: int = 16, colour: int = 6, interlaced: bool = False) -> bytes:
    """Return a valid PNG of this size in a few kilobytes per megapixel, in the filter that is slowest to undo (Paeth).

    Each row repeats one piece of noise, so that it compresses well and no branch can be predicted.
    """
    row_bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    # Seeded, so that the size is the same each time; a row must fit twice into deflate's window of 32 KB to compress.
    noise = random.Random(1).randbytes(4096)
    compressor = zlib.compressobj(1)
    parts = []
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    for left, top, step_x, step_y in adam7 if interlaced else ((0, 0, 1, 1),):
        across, down = -(-(width - left) // step_x), -(-(height - top) // step_y)
        size = (across * row_bits + 7) // 8
        row = b"\x04" + (noise * (size // len(noise) + 1))[:size]
        parts += [compressor.compress(row) for _ in range(down if across > 0 else 0)]
    parts.append(compressor.flush())
    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    palette = png_chunk(b"PLTE", bytes(3 * 2**depth)) + png_chunk(b"tRNS", bytes(2**depth)) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + palette
        + png_chunk(b"IDAT", b"".join(parts))
        + png_chunk(b"IEND", b"")
    )


def png_header_lie(width: int, height: int) -> bytes:
    """Return a PNG of about a hundred bytes whose header claims this size."""
    photo = png_photo(8, 8)
    header = struct.pack(">LL", width, height) + photo[24:29]
    return photo[:8] + png_chunk(b"IHDR", header) + photo[33:]


def png_with_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a photo with one more chunk before its pixels."""
    photo = quadrants()
    data = encode(photo, "PNG")
    return data[:33] + png_chunk(kind, content) + data[33:]


def webp_canvas_bomb(width: int, height: int) -> bytes:
    """Return an animation of one small frame on a canvas of this size."""
    small = encode(Image.new("RGB", (16, 16), RED), "WEBP", lossless=True)[12:]
    frame = bytes(6) + struct.pack("<L", 15)[:3] + struct.pack("<L", 15)[:3] + b"\x64\0\0\0" + small
    canvas = b"\x02\0\0\0" + struct.pack("<L", width - 1)[:3] + struct.pack("<L", height - 1)[:3]
    chunks = b"VP8X\x0a\0\0\0" + canvas + b"ANIM\x06\0\0\0" + bytes(6)
    chunks += b"ANMF" + struct.pack("<L", len(frame)) + frame
    return b"RIFF" + struct.pack("<L", len(chunks) + 4) + b"WEBP" + chunks


def rle_bmp(width: int, height: int, *, complete: bool = True, idle_steps: int = 0) -> bytes:
    """Return a run-length encoded BMP with 4 bits a pixel, which Pillow decodes in Python, pixel by pixel.

    Each of `idle_steps` is a move to where it is already (four bytes).
    """
    row = b"".join(bytes([min(255, width - left), 0x12]) for left in range(0, width, 255)) + b"\0\0"
    body = b"\0\x02\0\0" * idle_steps + row * (height if complete else height // 2) + b"\0\x01"
    offset = 14 + 40 + 64
    header = struct.pack("<LllHHLLllLL", 40, width, height, 1, 4, 2, len(body), 0, 0, 16, 0)
    palette = b"".join(bytes([16 * i, 0, 255 - 16 * i, 0]) for i in range(16))
    return b"BM" + struct.pack("<LHHL", offset + len(body), 0, 0, offset) + header + palette + body


def heic_size_lie(width: int, height: int) -> bytes:
    """Return a HEIC whose container claims this size, while the coded picture is 640 by 480."""
    return _size_property(heic_photo(), width, height)


def avif_size_lie(width: int, height: int) -> bytes:
    """Return an AVIF whose container claims this size, while the coded picture is 640 by 480."""
    return _size_property(avif_photo(), width, height)


def _size_property(photo: bytes, width: int, height: int) -> bytes:
    size = photo.index(b"ispe") + 8
    return photo[:size] + struct.pack(">LL", width, height) + photo[size + 8 :]


def gif_size_lie(width: int, height: int) -> bytes:
    """Return a GIF whose screen claims this size, while its frames are 64 by 48."""
    photo = animated_gif()
    return photo[:6] + struct.pack("<HH", width, height) + photo[10:]


def bmp_header(offset: int, layout: str, *values: int) -> bytes:
    """Return a BMP of 64 by 48 in whose header these values stand from this offset on, packed as `struct` does."""
    photo = bytearray(encode(quadrants(), "BMP"))
    struct.pack_into(layout, photo, offset, *values)
    return bytes(photo)


def heic_overlay() -> bytes:
    """Return a HEIC whose primary item calls itself an overlay of other pictures."""
    return heic_photo().replace(b"hvc1", b"iovl")
