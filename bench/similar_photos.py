"""`python -m bench.similar_photos FOLDER`: how many changed photos are found again, and how many wrong ones.

FOLDER has a folder of photos for each category, named by its key. Each photo is compressed as a client does, changed in
the ways of one table, compressed again by Pillow, by Chromium's canvas and by sharp (libvips), and compared with the
first by their perceptual hashes, as the service would. A second table compares all different photos with each other.
"""

import argparse
import asyncio
import base64
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageOps

from app.categories import Category
from app.config.settings import PROJECT_ROOT
from app.photo import PhotoFormat, perceptual_hash
from app.photo.decoding import decode_to_jpeg
from app.services.cache.aliases import MAX_DISTANCE_OF_SAME, NEVER_REPEATED
from app.services.near_duplicates.bands import MAX_DISTANCE
from bench.report import render_table
from tests.servers.browser import running_browser

CLIENT = PROJECT_ROOT / "app" / "web" / "assets" / "image-classifier.js"
EDGE, QUALITY = 1024, 80
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SHOWN_DISTANCES = (0, 2, 4, 6, 8, 10, 12, 14, 16)
WAYS_OF_SHARP = ("sharp, JPEG 1024", "sharp, JPEG 640", "sharp, WebP 1024")
_SHARP = """
const sharp = require("sharp");
const { files, folder } = JSON.parse(require("fs").readFileSync(0));
(async () => {
  for (const [number, file] of files.entries()) {
    const fit = { fit: "inside", withoutEnlargement: true };
    const of = (edge) => sharp(file).rotate().resize(edge, edge, fit).flatten({ background: "white" });
    await of(1024).jpeg({ quality: 80 }).toFile(`${folder}/${number}.0`);
    await of(640).jpeg({ quality: 80 }).toFile(`${folder}/${number}.1`);
    await of(1024).webp({ quality: 80 }).toFile(`${folder}/${number}.2`);
  }
})();
"""
_CANVAS = """async ([client, photo]) => {
  const { compressPhoto } = await import(`data:text/javascript;base64,${client}`);
  const bytes = Uint8Array.from(atob(photo), (character) => character.charCodeAt(0));
  const jpeg = new Uint8Array(await (await compressPhoto(new Blob([bytes]))).arrayBuffer());
  return btoa(Array.from(jpeg, (byte) => String.fromCharCode(byte)).join(""));
}"""


class Photo(NamedTuple):
    """A labelled photo, and the perceptual hash of what a client makes of it."""

    path: Path
    category: Category
    value: int | None


def main(arguments: list[str] | None = None) -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.similar_photos")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sharp", type=Path, help="a folder in which `npm install sharp` was run")
    options = parser.parse_args(arguments)
    photos = []
    distances: dict[str, list[int | None]] = defaultdict(list)
    for path in labelled(options.folder):
        first = shrunk(path, EDGE)
        photo = Photo(path, Category(path.parent.name), perceptual_hash(encoded(first)))
        photos.append(photo)
        for way, data, photo_format in changed(first):
            distances[way].append(distance(photo, data, photo_format))
    asyncio.run(compress_in_browser(photos, distances))
    if options.sharp is not None:
        compress_by_sharp(photos, distances, options.sharp)
    print(render_recall(distances))
    print(render_pairs(photos))
    return 0


def labelled(folder: Path) -> list[Path]:
    """The photos in the folders of the categories."""
    return sorted(path for category in Category for path in (folder / category).glob("*") if path.suffix in SUFFIXES)


def shrunk(path: Path, edge: int) -> Image.Image:
    """The upright picture as the Python client makes it small."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * edge, 2 * edge))
        picture = ImageOps.exif_transpose(image)
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    picture = picture.convert("RGB")
    picture.thumbnail((edge, edge))
    return picture


def encoded(picture: Image.Image, quality: int = QUALITY, name: str = "JPEG") -> bytes:
    """The picture as a file."""
    file = BytesIO()
    picture.save(file, name, quality=quality)
    return file.getvalue()


def changed(first: Image.Image) -> Iterator[tuple[str, bytes, PhotoFormat]]:
    """Each change by Pillow: its name, the file, and its format."""
    for quality in (40, 60, 75, 90):
        yield f"JPEG quality {quality}", encoded(first, quality), PhotoFormat.JPEG
    for edge in (768, 640, 512):
        small = first.copy()
        small.thumbnail((edge, edge))
        yield f"long edge {edge}", encoded(small), PhotoFormat.JPEG
    yield "WebP quality 80", encoded(first, name="WEBP"), PhotoFormat.WEBP
    for factor in (0.8, 1.2):
        brighter = ImageEnhance.Brightness(first).enhance(factor)
        yield f"brightness {factor:.0%}", encoded(brighter), PhotoFormat.JPEG
    for share in (0.01, 0.03, 0.05):
        width, height = first.size
        x, y = round(width * share), round(height * share)
        cut = first.crop((x, y, width - x, height - y))
        yield f"{share:.0%} cut off each side", encoded(cut), PhotoFormat.JPEG


def distance(photo: Photo, data: bytes, photo_format: PhotoFormat) -> int | None:
    """How far a file is from the photo as it was first; None where one of them has no perceptual hash."""
    value = perceptual_hash(as_jpeg(data, photo_format))
    return None if value is None or photo.value is None else (value ^ photo.value).bit_count()


def as_jpeg(data: bytes, photo_format: PhotoFormat) -> bytes:
    """A file as the service makes it ready for a model; a JPEG is left as it is."""
    if photo_format is PhotoFormat.JPEG:
        return data
    return decode_to_jpeg(data, photo_format, max_pixels=50_000_000, max_edge=EDGE, max_bytes=500_000).jpeg


async def compress_in_browser(photos: Sequence[Photo], distances: Mapping[str, list[int | None]]) -> None:
    """Have the browser client compress each file, and what Pillow has made 640 pixels long."""
    client = base64.b64encode(CLIENT.read_bytes()).decode()
    async with running_browser() as browser:
        page = await browser.new_page()
        for photo in photos:
            for way, data in (
                ("Chromium's canvas, JPEG 1024", photo.path.read_bytes()),
                ("Chromium's canvas of a JPEG 640", encoded(shrunk(photo.path, 640))),
            ):
                jpeg = await page.evaluate(_CANVAS, [client, base64.b64encode(data).decode()])
                distances[way].append(distance(photo, base64.b64decode(jpeg), PhotoFormat.JPEG))


def compress_by_sharp(photos: Sequence[Photo], distances: Mapping[str, list[int | None]], folder: Path) -> None:
    """Have sharp compress each file."""
    with tempfile.TemporaryDirectory() as made:
        files = [str(photo.path.resolve()) for photo in photos]
        question = json.dumps({"files": files, "folder": made})
        subprocess.run(["node", "-e", _SHARP], input=question, text=True, cwd=folder, check=True)  # noqa: S603, S607 - the developer's own
        for number, photo in enumerate(photos):
            for place, way in enumerate(WAYS_OF_SHARP):
                photo_format = PhotoFormat.WEBP if "WebP" in way else PhotoFormat.JPEG
                distances[way].append(distance(photo, Path(made, f"{number}.{place}").read_bytes(), photo_format))


def render_recall(distances: Mapping[str, Sequence[int | None]]) -> str:
    """A row for each change: what share of the photos is found, and with its description."""
    rows = []
    for way, all_found in distances.items():
        found = [MAX_DISTANCE + 100 if each is None else each for each in all_found]
        low, high = interval(sum(each <= MAX_DISTANCE for each in found), len(found))
        shares = [sum(each <= limit for each in found) / len(found) for limit in (MAX_DISTANCE_OF_SAME, MAX_DISTANCE)]
        rows.append([way, str(len(found)), *(f"{share:.3f}" for share in shares), f"{low:.3f} to {high:.3f}"])
    columns = ("change", "photos", f"within {MAX_DISTANCE_OF_SAME}", f"within {MAX_DISTANCE}", "95 % interval")
    return render_table(columns, 1, rows)


def render_pairs(photos: Sequence[Photo]) -> str:
    """Pairs of different photos by distance: of all, without identity documents, and of different categories."""
    pairs, allowed, wrong = Counter[int](), Counter[int](), Counter[int]()
    hashed = [photo for photo in photos if photo.value is not None]
    for number, one in enumerate(hashed):
        for other in hashed[:number]:
            apart = ((one.value or 0) ^ (other.value or 0)).bit_count()
            pairs[apart] += 1
            if NEVER_REPEATED not in {one.category, other.category}:
                allowed[apart] += 1
                wrong[apart] += one.category is not other.category
                if apart <= MAX_DISTANCE:
                    print(f"near: {one.path.name} {other.path.name} {apart}", file=sys.stderr)
    rows = [
        [
            f"{limit} or less",
            *(str(sum(n for apart, n in each.items() if apart <= limit)) for each in (pairs, allowed, wrong)),
        ]
        for limit in SHOWN_DISTANCES
    ]
    rows.append(["any", *(str(each.total()) for each in (pairs, allowed, wrong))])
    return render_table(("distance", "pairs", "without identity documents", "of them of two categories"), 1, rows)


def interval(hits: int, whole: int) -> tuple[float, float]:
    """Wilson's interval of a share, 95 %: Wilson, "Probable Inference" (1927)."""
    z, share = 1.96, hits / whole
    centre = (share + z * z / (2 * whole)) / (1 + z * z / whole)
    reach = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole)) / (1 + z * z / whole)
    return centre - reach, min(1.0, centre + reach)


if __name__ == "__main__":
    sys.exit(main())
