"""What leaves is an upright JPEG without metadata; one that already fits is left as it is."""

import io
import zlib

import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from app.photo import CorruptPhoto, PhotoError, PhotoFormat, PreparedJpeg, inspect_photo, prepare_photo
from tests.fakes import images

ALL = frozenset(PhotoFormat)


def prepared_with_size(data: bytes, *, max_edge: int = 1024, max_bytes: int = 500_000) -> PreparedJpeg:
    info = inspect_photo(data, allowed=ALL, max_pixels=50_000_000)
    return prepare_photo(data, info, max_edge=max_edge, max_bytes=max_bytes)


def prepare(data: bytes, *, max_edge: int = 1024, max_bytes: int = 500_000) -> bytes:
    return prepared_with_size(data, max_edge=max_edge, max_bytes=max_bytes).jpeg


def opened(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
    image.load()
    assert image.getexif() == {}
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "adobe", "adobe_transform", "dpi"}
    assert jpeg.endswith(b"\xff\xd9")
    return image


def colour_at(jpeg: bytes, x: int, y: int) -> tuple[int, ...]:
    pixel = opened(jpeg).convert("RGB").getpixel((x, y))
    assert isinstance(pixel, tuple)
    return pixel


def assert_close(found: tuple[int, ...], wanted: tuple[int, ...], tolerance: int = 12) -> None:
    assert all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True)), (found, wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
def test_orientation_is_applied_exactly_once(name: str, orientation: int) -> None:
    image = opened(prepare(images.exif_rotated(orientation, name)))
    assert image.size == (64, 48)
    assert images.corners(image) == images.CORNERS


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_photos_are_turned_too(orientation: int) -> None:
    image = opened(prepare(images.exif_rotated(orientation, width=3000, height=2000), max_edge=300))
    assert image.size == (300, 200)
    assert images.corners(image) == images.CORNERS


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
def test_the_size_is_that_of_the_picture_as_stored(name: str) -> None:
    # The encoder of HEIC stores a crop beside other sizes than multiples of 64.
    for orientation, size in ((1, (256, 128)), (6, (128, 256)), (3, (256, 128)), (5, (128, 256))):
        photo = images.exif_rotated(orientation, name, width=256, height=128)
        prepared = prepared_with_size(photo, max_edge=64)
        assert (prepared.width, prepared.height) == size
        assert opened(prepared.jpeg).size == (64, 32)


def test_the_comment_of_a_gif_does_not_leave() -> None:
    photo = images.encode(images.quadrants(), "GIF", comment=images.GPS_TEXT)
    assert images.GPS_TEXT in photo
    assert images.GPS_TEXT not in prepare(photo)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
@pytest.mark.parametrize("max_edge", [1024, 100])
def test_no_metadata_leaves(name: str, max_edge: int) -> None:
    photo = images.gps_tagged(name)
    assert images.GPS_TEXT in photo
    prepared = prepare(photo, max_edge=max_edge)
    for trace in (images.GPS_TEXT, b"Exif", b"http://ns.adobe.com", b"Photoshop", b"ICC_PROFILE", b"MPF", b"SECRET"):
        assert trace not in prepared
    assert images.corners(opened(prepared)) == images.CORNERS


def test_a_jpeg_that_fits_is_not_decoded() -> None:
    photo = images.gps_tagged()
    prepared = prepare(photo)
    scan = photo.index(b"\xff\xda", photo.rindex(b"\xff\xc4"))
    end = photo.index(b"\xff\xd9", scan) + 2
    assert photo[scan:end] in prepared
    assert prepare(prepared) == prepared
    assert opened(prepared).tobytes() == JpegImageFile(io.BytesIO(photo)).convert("RGB").tobytes()


def test_a_grey_and_a_progressive_jpeg_that_fit_are_not_decoded() -> None:
    for photo in (images.encode(images.quadrants().convert("L"), "JPEG"), images.jpeg_photo(progressive=True)):
        assert prepare(photo) == photo


def test_a_thumbnail_in_the_jfif_segment_goes() -> None:
    photo = images.jpeg_photo()
    thumbnail = b"THUMBNAIL" * 3
    segment = images.jpeg_segment(0xE0, photo[6:18] + b"\x03\x03" + thumbnail)
    assert thumbnail not in prepare(photo[:2] + segment + photo[20:])
    assert thumbnail not in prepare(photo[:20] + images.jpeg_segment(0xE0, b"JFXX\0\x10" + thumbnail) + photo[20:])


def test_polyglots_end_at_the_end_marker() -> None:
    for photo in (images.jpeg_photo(), images.png_photo(), images.animated_gif(), images.jpeg_photo(4000, 3000)):
        prepared = prepare(images.zip_polyglot(photo))
        assert b"PK" not in prepared
        assert b"script" not in prepared
    html = images.png_photo() + b"<html><script>alert(1)</script></html>"
    assert b"<script>" not in prepare(html)


def test_large_photos_shrink() -> None:
    prepared = prepare(images.noisy_jpeg(3000, 2000, quality=95))
    assert opened(prepared).size == (1024, 683)
    assert len(prepared) <= 500_000


def test_too_many_bytes_cost_quality_then_pixels() -> None:
    photo = images.noisy_jpeg(900, 600, quality=98)
    assert len(photo) > 200_000
    better, worse = prepare(photo, max_bytes=200_000), prepare(photo, max_bytes=5_000)
    assert len(better) <= 200_000
    assert opened(better).size == (900, 600)
    assert len(worse) <= 5_000
    assert opened(worse).width < 900


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5), (65500, 8), (8, 65500)])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "BMP"])
def test_odd_sizes(name: str, size: tuple[int, int]) -> None:
    image = opened(prepare(images.encode(Image.new("RGB", size, images.RED), name)))
    scale = min(1, 1024 / max(size))
    assert image.size == tuple(max(1, round(edge * scale)) for edge in size)
    assert_close(colour_at(prepare(images.encode(Image.new("RGB", size, images.RED), name)), 0, 0), images.RED)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_modes(mode: str) -> None:
    if mode == "I;16":
        source = Image.frombytes("I;16", (64, 48), b"\x34\x80" * 64 * 48)
        wanted = (0x80, 0x80, 0x80)
    elif mode == "1":
        source, wanted = Image.new("1", (64, 48), 1), (255, 255, 255)
    elif mode in {"L", "LA"}:
        source, wanted = Image.new("L", (64, 48), 90).convert(mode), (90, 90, 90)
    elif mode == "P":
        source, wanted = Image.new("RGB", (64, 48), images.RED).quantize(4), images.RED
    else:
        source, wanted = Image.new(mode, (64, 48), images.RED), images.RED
    assert_close(colour_at(prepare(images.encode(source, "PNG")), 20, 20), wanted)


def test_16_bit_colour() -> None:
    assert opened(prepare(images.png_bomb(300, 200))).size == (300, 200)
    assert opened(prepare(images.png_bomb(300, 200, depth=16, colour=2, interlaced=True))).size == (300, 200)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "GIF", "AVIF", "HEIF"])
def test_transparency_is_white(name: str) -> None:
    source = Image.new("RGBA", (64, 48), (*images.RED, 255))
    source.paste((0, 0, 0, 0), (0, 0, 32, 48))
    options: dict[str, object] = {"lossless": True} if name == "WEBP" else {}
    prepared = prepare(images.encode(source, name, **options))
    assert_close(colour_at(prepared, 8, 24), (255, 255, 255))
    assert_close(colour_at(prepared, 56, 24), images.RED, tolerance=20)


def test_transparent_palette_and_colour_key() -> None:
    palette = Image.new("P", (64, 48), 0)
    palette.putpalette([0, 0, 0, *images.RED])
    palette.paste(1, (32, 0, 64, 48))
    for transparency in (0, b"\x00\xff"):
        prepared = prepare(images.encode(palette, "PNG", transparency=transparency))
        assert_close(colour_at(prepared, 8, 24), (255, 255, 255))
        assert_close(colour_at(prepared, 56, 24), images.RED)
    keyed = Image.new("RGB", (64, 48), (1, 2, 3))
    assert_close(colour_at(prepare(images.encode(keyed, "PNG", transparency=(1, 2, 3))), 8, 8), (255, 255, 255))


@pytest.mark.parametrize("max_edge", [1024, 500])
def test_cmyk_becomes_rgb(max_edge: int) -> None:
    photo = images.encode(Image.new("RGB", (1000, 800), images.RED).convert("CMYK"), "JPEG")
    assert b"Adobe" in photo
    prepared = prepare(photo, max_edge=max_edge)
    assert opened(prepared).mode == "RGB"
    assert_close(colour_at(prepared, 100, 100), images.RED)


def test_rgb_jpeg_becomes_ycbcr() -> None:
    photo = images.encode(Image.new("RGB", (64, 48), images.RED), "JPEG", keep_rgb=True)
    prepared = prepare(photo)
    assert prepared != photo
    assert_close(colour_at(prepared, 10, 10), images.RED)


@pytest.mark.parametrize("photo", [images.animated_gif(), images.animated_webp()])
def test_of_an_animation_the_first_frame(photo: bytes) -> None:
    assert_close(colour_at(prepare(photo), 30, 20), images.RED)


def test_first_frame_of_an_animated_png_and_avif() -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in (images.RED, images.GREEN)]
    for name in ("PNG", "AVIF"):
        photo = images.encode(frames[0], name, save_all=True, append_images=frames[1:])
        assert_close(colour_at(prepare(photo), 30, 20), images.RED)


def test_heic_with_10_bits() -> None:
    assert_close(colour_at(prepare(images.heic_10_bit(64, 48)), 30, 20), (128, 0, 0))


@pytest.mark.parametrize("depth", [1, 4, 8, 24, 32])
def test_bmp_depths(depth: int) -> None:
    mode = {1: "1", 4: "P", 8: "P", 24: "RGB", 32: "RGBA"}[depth]
    photo = images.rle_bmp(64, 48) if depth == 4 else images.encode(images.quadrants().convert(mode), "BMP")
    assert opened(prepare(photo)).size == (64, 48)


def test_heic_in_a_grid() -> None:
    photo = images.encode(images.quadrants(1100, 600), "HEIF", tile_size=512, enc_params={"preset": "ultrafast"})
    assert b"grid" in photo
    assert images.corners(opened(prepare(photo))) == images.CORNERS


@pytest.mark.parametrize("keep", [0.1, 0.6, 0.99])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "HEIF", "AVIF"])
@pytest.mark.parametrize("size", [(200, 150), (1100, 120)])
def test_cut_off_files_are_corrupt(name: str, keep: float, size: tuple[int, int]) -> None:
    noise = Image.merge("RGB", [Image.effect_noise(size, 40)] * 3)
    with pytest.raises(CorruptPhoto):
        prepare(images.truncated(images.encode(noise, name), keep))


def test_a_progressive_jpeg_that_is_cut_off_is_corrupt() -> None:
    with pytest.raises(CorruptPhoto):
        prepare(images.truncated(images.noisy_jpeg(500, 400, progressive=True), 0.9))


@pytest.mark.parametrize("photo", [images.animated_gif(), images.animated_webp()])
def test_an_animation_that_is_cut_off_after_its_first_frame_is_corrupt(photo: bytes) -> None:
    for end in (-1, -20):
        with pytest.raises(CorruptPhoto):
            prepare(photo[:end])


def test_a_heic_is_corrupt_when_only_its_thumbnail_or_only_the_rest_is_whole() -> None:
    noise = Image.merge("RGB", [Image.effect_noise((1100, 600), 40)] * 3)
    photo = images.encode(noise, "HEIF", thumbnails=[400])
    assert opened(prepare(photo, max_edge=200)).size == (200, 109)
    # The picture comes first. Its first four bytes are the length of its first unit.
    picture = photo.index(b"mdat") + 4
    for damaged in (photo[:picture] + b"\xff" * 4 + photo[picture + 4 :], photo[:-1]):
        with pytest.raises(CorruptPhoto):
            prepare(damaged, max_edge=200)


def test_gif_frame_beyond_its_screen_counts() -> None:
    prepared = prepared_with_size(images.gif_size_lie(1, 1))
    assert (prepared.width, prepared.height) == opened(prepared.jpeg).size == (64, 48)


def test_gif_with_endless_comments() -> None:
    gif = images.animated_gif()
    screen = 13 + (3 << ((gif[10] & 7) + 1) if gif[10] & 0x80 else 0)
    photo = gif[:screen] + b"!\xfe" + b"\x01x" * 50_000 + b"\0" + gif[screen:]
    assert_close(colour_at(prepare(photo), 30, 20), images.RED)


@pytest.mark.parametrize(
    "photo",
    [
        images.heic_size_lie(100, 100),
        images.rle_bmp(64, 48, complete=False),
        images.png_photo()[:33] + images.png_chunk(b"ABCD", b"unknown and needed") + images.png_photo()[33:],
        images.png_photo()[:50] + b"\x00" + images.png_photo()[51:],
    ],
)
def test_damaged_files_are_corrupt(photo: bytes) -> None:
    with pytest.raises(CorruptPhoto):
        prepare(photo)


@pytest.mark.parametrize(
    "photo",
    [
        images.png_with_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000))),
        images.png_with_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(50_000_000))),
        images.png_with_chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(100)),
        images.jpeg_photo()[:2]
        + images.jpeg_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 5000)
        + images.jpeg_photo()[2:],
        images.jpeg_photo()[:2] + images.jpeg_segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff") + images.jpeg_photo()[2:],
        images.jpeg_photo()[:2] + images.jpeg_segment(0xE2, b"ICC_PROFILE\0\x01\xff") * 300 + images.jpeg_photo()[2:],
    ],
)
def test_metadata_bombs_do_nothing(photo: bytes) -> None:
    opened(prepare(photo))


def test_nothing_hides_behind_a_table() -> None:
    photo = images.jpeg_photo()
    table = photo.index(b"\xff\xdb")
    longer = photo[:table] + images.jpeg_segment(0xDB, b"\0" + b"\x01" * 64 + b"HIDDEN" * 10) + photo[table:]
    with pytest.raises(PhotoError):
        prepare(longer)
