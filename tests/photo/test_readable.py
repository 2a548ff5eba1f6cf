"""What a model is shown can be taken and read: not too small, not too narrow, and whole for every decoder."""

import io

import pytest
from PIL import Image, ImageDraw

from app.photo import CorruptPhoto, PhotoFormat, inspect_photo, prepare_photo
from tests.fakes import images

ALL = frozenset(PhotoFormat)


def shown(data: bytes, *, max_edge: int = 1024, max_bytes: int = 500_000) -> Image.Image:
    """Return the photo as a model is shown it."""
    info = inspect_photo(data, allowed=ALL, max_pixels=50_000_000)
    jpeg = prepare_photo(data, info, max_edge=max_edge, max_bytes=max_bytes, min_edge=32).jpeg
    assert len(jpeg) <= max_bytes
    image = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
    image.load()
    return image.convert("RGB")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((20, 20), (32, 32)),
        ((1, 1), (32, 32)),
        ((31, 310), (32, 320)),
        ((16, 640), (26, 1024)),
        ((1, 1000), (32, 1024)),
        ((640, 32), (640, 32)),
    ],
)
def test_small_pictures_are_enlarged_and_then_padded(
    name: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image = shown(images.encode(Image.new("RGB", size, images.RED), name))
    assert image.size == (max(32, expected[0]), expected[1])
    if size != (1, 1000):
        # A line of one pixel fades on white.
        red, green, _ = image.getpixel((image.width // 2, image.height // 2))  # type: ignore[misc]
        assert red > 200
        assert green < 90


def long_screenshot(width: int, height: int, fields: int) -> Image.Image:
    """A page of coloured fields, one below the other, each as high as the picture is wide."""
    image = Image.new("RGB", (width, height), (200, 200, 200))
    draw = ImageDraw.Draw(image)
    for number in range(fields):
        top = number * height // fields
        draw.rectangle((0, top, width, top + width // 2), fill=(255, 0, 0) if number % 2 else (0, 0, 255))
    return image


def test_a_long_screenshot_stays_wide_enough_to_be_read() -> None:
    """As `../shared/cases/long_400x20000`: squeezed to the long side it would be 20 pixels wide."""
    image = shown(images.encode(long_screenshot(400, 20_000, 50), "JPEG"))
    assert max(image.size) <= 1024
    assert min(image.size) > 900
    # A strip of 400 pixels is 140 wide now, not 20, and all of the page is there.
    strips = [image.getpixel((70 + number * 147, 5)) for number in range(7)]
    assert all(isinstance(pixel, tuple) and min(pixel) < 250 for pixel in strips)


@pytest.mark.parametrize("size", [(20_000, 400), (400, 20_000)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_long_pictures_in_any_direction(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = shown(images.encode(Image.new("RGB", size, images.RED), "JPEG", exif=exif))
    assert max(image.size) <= 1024
    assert min(image.size) > 900


@pytest.mark.parametrize("size", [(65_500, 8), (8, 65_500), (1, 3000), (3000, 1), (300, 60_000)])
def test_the_longest_pictures(size: tuple[int, int]) -> None:
    image = shown(images.encode(Image.new("RGB", size, images.RED), "PNG"))
    assert 32 <= min(image.size) <= max(image.size) <= 1024


@pytest.mark.parametrize("size", [(1000, 8000), (4000, 500), (1080, 2400)])
def test_ordinary_pictures_are_not_cut(size: tuple[int, int]) -> None:
    image = shown(images.encode(Image.new("RGB", size, images.RED), "JPEG"))
    assert image.size == tuple(round(edge * 1024 / max(size)) for edge in size)


def test_few_bytes_do_not_make_it_too_small() -> None:
    info = inspect_photo(photo := images.noisy_jpeg(900, 40, quality=98), allowed=ALL, max_pixels=10**6)
    jpeg = prepare_photo(photo, info, max_edge=1024, max_bytes=400, min_edge=32).jpeg
    assert Image.open(io.BytesIO(jpeg)).height == 32


def test_a_thumbnail_stays_as_it_is() -> None:
    photo = images.encode(Image.new("RGB", (20, 4000), images.RED), "PNG")
    info = inspect_photo(photo, allowed=ALL, max_pixels=10**6)
    assert Image.open(io.BytesIO(prepare_photo(photo, info, max_edge=200, max_bytes=9999).jpeg)).size == (1, 200)


def without(photo: bytes, marker: int, *, but_first: bool = False) -> bytes:
    """Return a JPEG without its segments of this kind before the scan."""
    kept, at, seen = [photo[:2]], 2, 0
    while photo[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(photo[at + 2 : at + 4])
        seen += photo[at + 1] == marker
        if photo[at + 1] != marker or (but_first and seen == 1):
            kept.append(photo[at:end])
        at = end
    return b"".join([*kept, photo[at:]])


PLAIN = images.jpeg_photo(320, 240)
DHT, DQT = 0xC4, 0xDB
DECODABLE_BY_NOBODY = {
    "no DQT": without(PLAIN, DQT),
    "only the first DQT": without(PLAIN, DQT, but_first=True),
    "a DHT of 255 codes of length 1": without(PLAIN, DHT)[:2]
    + images.jpeg_segment(DHT, b"\x00\xff" + bytes(15) + bytes(255))
    + without(PLAIN, DHT)[2:],
    "a DHT of 2 codes of length 1": PLAIN[:2]
    + images.jpeg_segment(DHT, b"\x00\x02" + bytes(15) + bytes(2))
    + PLAIN[2:],
    "a DHT that is cut off": PLAIN[:2] + images.jpeg_segment(DHT, b"\x00\x01") + PLAIN[2:],
    "no scan": PLAIN[: PLAIN.index(b"\xff\xda")] + b"\xff\xd9",
    "nothing in the scan": PLAIN[: PLAIN.index(b"\xff\xda") + 14] + b"\xff\xd9",
}


@pytest.mark.parametrize("name", DECODABLE_BY_NOBODY)
def test_a_jpeg_that_no_decoder_can_show_is_refused(name: str) -> None:
    """As `../shared/cases/corrupt_plain`: it would not be decoded here, and the model would be asked about it."""
    photo = DECODABLE_BY_NOBODY[name]
    with pytest.raises(CorruptPhoto):
        inspect_photo(photo, allowed=ALL, max_pixels=10**6)


@pytest.mark.parametrize("but_first", [False, True])
def test_a_jpeg_with_the_usual_huffman_tables_left_out_gets_them(*, but_first: bool) -> None:
    """As frames of MJPEG: our decoder and browsers know them, the model's may not."""
    photo = without(PLAIN, DHT, but_first=but_first)
    info = inspect_photo(photo, allowed=ALL, max_pixels=10**6)
    jpeg = prepare_photo(photo, info, max_edge=1024, max_bytes=500_000, min_edge=32).jpeg
    assert jpeg.count(b"\xff\xc4") == PLAIN.count(b"\xff\xc4")
    assert shown(jpeg).size == (320, 240)


@pytest.mark.parametrize("options", [{"optimize": True}, {"progressive": True}, {"quality": 100}, {"subsampling": 0}])
def test_what_encoders_write_passes(options: dict[str, object]) -> None:
    photo = images.noisy_jpeg(300, 200, **options)
    info = inspect_photo(photo, allowed=ALL, max_pixels=10**6)
    assert info.is_plain
