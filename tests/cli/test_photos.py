"""What the client makes of files before it asks."""

import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from app.cli.photos import MAX_EDGE, MAX_FILE_BYTES, CompressedPhoto, UnreadablePhoto, compress, find_photos
from app.config.settings import PROJECT_ROOT
from tests.support.documents import CLIENTS

GPS_IFD = 0x8825
ORIENTATION = 0x0112
ROTATED_LEFT = 6
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FIND = """
import sys
from pathlib import Path
from app.cli.photos import UnreadablePhoto, compress, find_photos

for path in find_photos([Path(sys.argv[1])]):
    try:
        compress(path)
        print(path.name)
    except UnreadablePhoto as error:
        print(f"{path.name}: {error}")
"""


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def opened(photo: CompressedPhoto) -> Image.Image:
    return Image.open(io.BytesIO(photo.jpeg))


def test_photos_are_found_in_order_once_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "2024/c.webp", ".hidden.jpg", ".cache/d.jpg", "2024/.old/e.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "2024" / "up").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in find_photos([tmp_path, tmp_path / "a.JPG"])]
    assert found == ["2024/c.webp", "a.JPG", "b.png"]


def test_what_may_not_be_read_is_told_and_does_not_stop_the_others(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.jpg")
    for name in ("closed", "listed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "b.jpg").write_bytes(b"")
    (tmp_path / "secret.jpg").touch()
    for name, mode in (("closed", 0), ("listed", 0o444), ("secret.jpg", 0)):
        (tmp_path / name).chmod(mode)
    # Root may read everything, unless it does without these rights.
    command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(  # noqa: S603 - ourselves
        [*command, sys.executable, "-c", FIND, tmp_path],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    (tmp_path / "closed").chmod(0o700)
    (tmp_path / "listed").chmod(0o700)
    assert done.stdout.splitlines() == [
        "a.jpg",
        "closed: the folder cannot be read",
        "secret.jpg: Permission denied",
    ], done.stderr


def test_a_photo_is_shrunk_turned_upright_and_stripped(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED_LEFT
    exif.get_ifd(GPS_IFD)[1] = "N"
    Image.new("RGB", (4000, 3000), "orange").save(
        path, exif=exif, comment=b"of Zhang San", xmp=b"<x:xmpmeta/>", icc_profile=b"profile", dpi=(300, 300)
    )
    photo = compress(path)
    with opened(photo) as image:
        assert image.size == (MAX_EDGE * 3 // 4, MAX_EDGE)
        assert set(image.info) == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert b"Zhang" not in photo.jpeg
    assert photo == compress(path)
    assert photo.original_bytes == path.stat().st_size


def test_transparent_parts_are_white_and_hide_what_is_below(tmp_path: Path) -> None:
    path = tmp_path / "sticker.png"
    Image.new("RGBA", (8, 8), (200, 0, 0, 0)).save(path)
    with opened(compress(path)) as image:
        assert image.getpixel((4, 4)) == (255, 255, 255)


def test_a_scan_of_sixteen_bits_is_not_white(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    Image.new("I;16", (8, 8), 0x8000).save(path)
    with opened(compress(path)) as image:
        assert image.getpixel((4, 4)) == pytest.approx((128, 128, 128), abs=2)


@pytest.mark.parametrize(
    ("name", "mode", "size", "options"),
    [
        ("landscape.jpg", "RGB", (1600, 1200), {"comment": b"private", "dpi": (300, 300)}),
        ("portrait.jpg", "RGB", (1600, 1200), {"exif": exif_of(ROTATED_LEFT)}),
        ("small.jpg", "RGB", (320, 240), {"quality": 95}),
        ("large.jpg", "RGB", (4400, 4200), {}),
        ("profile.jpg", "RGB", (1300, 900), {"icc_profile": PROFILE}),
        ("grey.jpg", "L", (1500, 900), {}),
        ("print.jpg", "CMYK", (300, 200), {}),
        ("sticker.png", "RGBA", (1200, 1100), {"icc_profile": PROFILE}),
        ("stamp.png", "LA", (1200, 1100), {}),
        ("scan.png", "I;16", (300, 200), {}),
        ("drawing.gif", "P", (300, 200), {}),
        ("web.webp", "RGBA", (1200, 300), {}),
    ],
)
def test_all_clients_in_python_make_the_same_bytes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    mode: str,
    size: tuple[int, int],
    options: dict[str, Any],
) -> None:
    image = Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 40)
    # Sixteen bits: the high byte is the picture.
    image = image.convert("I").point(lambda value: value * 256).convert(mode) if mode == "I;16" else image.convert(mode)
    if image.has_transparency_data:
        image.putalpha(Image.radial_gradient("L").resize(size))
    image.save(tmp_path / name, **options)
    photo = compress(tmp_path / name)
    with opened(photo) as sent:
        assert max(sent.size) == min(MAX_EDGE, max(size))
        assert (sent.width < sent.height) == (name == "portrait.jpg")
    monkeypatch.syspath_prepend(CLIENTS)
    for client in ("python.py", "signed.py"):
        example = runpy.run_path(str(CLIENTS / client))
        jpeg = example["compress_image"](tmp_path / name)
        assert jpeg == photo.jpeg
        assert example["perceptual_hash"](jpeg) == photo.perceptual_hash


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\xff\xd8\xff\xe0 no more"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadablePhoto):
        compress(path)


def test_what_would_never_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    Image.new("1", (30_000, 20_000)).save(tmp_path / "bomb.png")
    for name, reason in (("pipe.jpg", "not a file"), ("huge.jpg", "larger than 200 MB"), ("bomb.png", "many pixels")):
        with pytest.raises(UnreadablePhoto, match=reason):
            compress(tmp_path / name)
