"""Format and size come from the bytes; what cannot be decoded is refused before anything is decoded."""

import pytest

from app.photo import (
    CorruptPhoto,
    PhotoError,
    PhotoFormat,
    TooComplex,
    TooManyPixels,
    UnsupportedFormat,
    inspect_photo,
    prepare_photo,
)
from app.photo.formats import sniff
from tests.fakes import images

ALL = frozenset(PhotoFormat)
MAX_PIXELS = 50_000_000

FILES = {
    PhotoFormat.JPEG: images.jpeg_photo(),
    PhotoFormat.PNG: images.png_photo(),
    PhotoFormat.WEBP: images.encode(images.quadrants(640, 480), "WEBP"),
    PhotoFormat.GIF: images.animated_gif(640, 480),
    PhotoFormat.BMP: images.encode(images.quadrants(640, 480), "BMP"),
    PhotoFormat.HEIC: images.heic_photo(),
    PhotoFormat.AVIF: images.avif_photo(),
}


def size_of(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    info = inspect_photo(data, allowed=ALL, max_pixels=max_pixels)
    return info.size or prepare_photo(data, info, max_edge=100, max_bytes=50_000)[1:]


@pytest.mark.parametrize("photo_format", list(PhotoFormat))
def test_reads_format_and_size(photo_format: PhotoFormat) -> None:
    info = inspect_photo(FILES[photo_format], allowed=ALL, max_pixels=MAX_PIXELS)
    assert info.format is photo_format
    assert info.size == ((640, 480) if photo_format in {PhotoFormat.JPEG, PhotoFormat.PNG} else None)
    assert size_of(FILES[photo_format]) == (640, 480)


@pytest.mark.parametrize("photo_format", list(PhotoFormat))
def test_refuses_formats_that_are_not_allowed(photo_format: PhotoFormat) -> None:
    with pytest.raises(UnsupportedFormat, match="accepted image formats"):
        inspect_photo(FILES[photo_format], allowed=ALL - {photo_format}, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("photo_format", list(PhotoFormat))
def test_counts_pixels(photo_format: PhotoFormat) -> None:
    assert size_of(FILES[photo_format], max_pixels=640 * 480) == (640, 480)
    with pytest.raises(TooManyPixels):
        size_of(FILES[photo_format], max_pixels=640 * 480 - 1)


def test_counts_an_odd_number_of_pixels() -> None:
    webp = images.encode(images.quadrants(99, 101), "WEBP")
    assert size_of(webp, max_pixels=99 * 101) == (99, 101)
    with pytest.raises(TooManyPixels):
        size_of(webp, max_pixels=99 * 101 - 1)


@pytest.mark.parametrize(
    ("name", "photo_format"),
    [("jpeg", PhotoFormat.JPEG), ("JPG", PhotoFormat.JPEG), (".heif", PhotoFormat.HEIC), (" png ", PhotoFormat.PNG)],
)
def test_names_of_formats(name: str, photo_format: PhotoFormat) -> None:
    assert PhotoFormat.from_name(name) is photo_format


def test_unknown_name_of_a_format() -> None:
    with pytest.raises(ValueError, match="tiff"):
        PhotoFormat.from_name("tiff")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"II*\0" + bytes(50),
        b"BM" + bytes(50),
        b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(50),
        b"RIFF\x24\0\0\0WAVEfmt " + bytes(30),
        b"\xff\x0a" + bytes(30),
    ],
)
def test_refuses_what_is_not_a_photo(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat):
        inspect_photo(data, allowed=ALL, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("brand", [b"mif1", b"MiHE"])
def test_a_phones_own_brand_is_looked_up_among_the_compatible_ones(brand: bytes) -> None:
    heic = FILES[PhotoFormat.HEIC]
    photo = heic[:8] + brand + heic[12:]
    assert inspect_photo(photo, allowed=ALL, max_pixels=MAX_PIXELS).format is PhotoFormat.HEIC
    assert size_of(photo) == (640, 480)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (images.jpeg_header_lie(65535, 65535), TooManyPixels),
        (images.jpeg_header_lie(7000, 7000), CorruptPhoto),
        (images.jpeg_header_lie(0, 64), CorruptPhoto),
        (images.jpeg_header_lie(64, 0), CorruptPhoto),
        (images.jpeg_frame_type(0xC9), UnsupportedFormat),
        (images.jpeg_frame_type(0xCA), UnsupportedFormat),
        (images.jpeg_frame_type(0xC3), UnsupportedFormat),
        (images.jpeg_frame_type(0xC1, precision=12), UnsupportedFormat),
        (images.progressive_bomb(99, 8000, 6000), TooComplex),
        (images.progressive_bomb(500, 400, 300), TooComplex),
        (b"\xff\xd8" + images.jpeg_segment(0xE1, b"") * 100_000 + images.jpeg_photo()[2:], TooComplex),
        (b"\xff\xd8\xff", CorruptPhoto),
        (b"\xff\xd8" + b"\xff" * 100_000, CorruptPhoto),
        (images.png_header_lie(65535, 65535), TooManyPixels),
        (images.png_header_lie(5000, 5000), CorruptPhoto),
        (images.png_header_lie(0, 64), CorruptPhoto),
        (images.png_header_lie(2**31, 1), CorruptPhoto),
        (images.png_bomb(6200, 6200, depth=8), TooComplex),
        (images.png_photo()[:33] + images.png_chunk(b"tEXt", b"") * 30_000 + images.png_photo()[33:], TooComplex),
    ],
)
def test_refuses_hostile_files_by_their_structure(data: bytes, error: type[PhotoError]) -> None:
    with pytest.raises(error):
        inspect_photo(data, allowed=ALL, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (images.webp_canvas_bomb(16383, 16383), TooManyPixels),
        (images.webp_canvas_bomb(7000, 7000), TooComplex),
        (images.gif_size_lie(65535, 65535), TooManyPixels),
        (images.gif_size_lie(8000, 8000), TooManyPixels),
        (images.bmp_header(18, "<ll", 8000, 8000), TooManyPixels),
        (images.bmp_header(18, "<ll", 7000, 7000), CorruptPhoto),
        (images.bmp_header(18, "<ll", 0, 48), CorruptPhoto),
        (images.bmp_header(18, "<ll", 64, 0), CorruptPhoto),
        (images.bmp_header(28, "<H", 2), UnsupportedFormat),
        (images.bmp_header(30, "<L", 4), UnsupportedFormat),
        (images.rle_bmp(7000, 7000), TooComplex),
        (images.heic_size_lie(65535, 65535), TooManyPixels),
        (images.heic_size_lie(8000, 8000), TooManyPixels),
        (images.heic_size_lie(0, 0), CorruptPhoto),
        (images.heic_overlay(), UnsupportedFormat),
        (images.heic_photo().replace(b"meta", b"moov", 1), UnsupportedFormat),
        (images.avif_size_lie(65535, 65535), TooManyPixels),
        (images.avif_size_lie(8000, 8000), TooManyPixels),
        (images.avif_size_lie(0, 0), CorruptPhoto),
        (images.avif_photo().replace(b"av01", b"iovl"), UnsupportedFormat),
    ],
)
def test_the_process_that_decodes_refuses_hostile_files(data: bytes, error: type[PhotoError]) -> None:
    """By their headers: what lies about its size would otherwise turn out to be corrupt."""

    def refuse() -> None:
        # An absurd size is refused before a process is started.
        info = inspect_photo(data, allowed=ALL, max_pixels=MAX_PIXELS)
        prepare_photo(data, info, max_edge=1024, max_bytes=500_000)

    with pytest.raises(error) as raised:
        refuse()
    if error is UnsupportedFormat:
        photo_format = sniff(data)
        assert photo_format is not None
        assert str(raised.value).startswith(f"This kind of {photo_format.name} is not accepted.")


def test_messages_are_sentences_and_name_no_content() -> None:
    for error in (PhotoError, UnsupportedFormat, CorruptPhoto, TooManyPixels, TooComplex):
        assert str(error()).endswith(".")
