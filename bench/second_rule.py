"""`python -m bench.second_rule FOLDER`: whether a second rule for similar photos would pay; it is not in the service.

The rule: perceptual hashes within 14 bits, and a cosine of 0.85 or more between the features of the local network.
FOLDER and the changes are those of `bench.similar_photos`, and some small crops more. The tables say what share of the
changed photos each rule finds, how many different photos it takes for the same, and what a look-up would read of five
million.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from app.categories import Category
from app.clients.local.features import FloatArray, network_input, open_photo
from app.clients.local.network import load_networks
from app.photo import PhotoFormat, perceptual_hash
from app.photo.perceptual_hash import BITS
from app.services.cache.aliases import NEVER_REPEATED
from app.services.near_duplicates.bands import MAX_DISTANCE
from bench.report import render_table
from bench.similar_photos import EDGE, as_jpeg, changed, encoded, labelled, shrunk

FURTHER_DISTANCE = 14
MIN_COSINE = 0.85
ENTRIES = 5_000_000
# Of bands; the service has three.
BAND_NUMBERS = (2, 3, 4, 5)


class Change(NamedTuple):
    """What a changed photo has in common with the photo as it was; `cosine` only where a rule would ask for it."""

    way: str
    distance: int
    cosine: float

    @property
    def is_found(self) -> bool:
        """By either rule."""
        return self.distance <= MAX_DISTANCE or (self.distance <= FURTHER_DISTANCE and self.cosine >= MIN_COSINE)


class Looked(NamedTuple):
    """A labelled photo: its perceptual hash, its features (of length 1), and what became of it by each change."""

    category: Category
    value: int | None
    features: FloatArray
    changes: list[Change]


def main(arguments: list[str] | None = None) -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.second_rule", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    photos = [look_at(path) for path in labelled(parser.parse_args(arguments).folder)]
    print(render_recall(photos) + "\n")
    print(render_pairs(photos) + "\n")
    print(render_rows([photo.value for photo in photos if photo.value is not None]))
    return 0


def look_at(path: Path) -> Looked:
    """Change one photo in all ways, and compare what comes of it."""
    first = shrunk(path, EDGE)
    data = encoded(first)
    value, features = perceptual_hash(data), features_of(data)
    changes = []
    for way, file, photo_format in (*changed(first), *small_crops(first)):
        other = as_jpeg(file, photo_format)
        near = perceptual_hash(other)
        distance = BITS if near is None or value is None else (near ^ value).bit_count()
        is_asked = MAX_DISTANCE < distance <= FURTHER_DISTANCE
        changes.append(Change(way, distance, float(features @ features_of(other)) if is_asked else 0))
    return Looked(Category(path.parent.name), value, features, changes)


def small_crops(first: Image.Image) -> Iterator[tuple[str, bytes, PhotoFormat]]:
    """Crops that `bench.similar_photos` does not make: larger ones, and of one side only."""
    width, height = first.size
    for share in (0.08, 0.10):
        x, y = round(width * share), round(height * share)
        yield f"{share:.0%} cut off each side", encoded(first.crop((x, y, width - x, height - y))), PhotoFormat.JPEG
    for share in (0.05, 0.10):
        cut = first.crop((0, 0, width, height - round(height * share)))
        yield f"{share:.0%} cut off the bottom", encoded(cut), PhotoFormat.JPEG


def features_of(jpeg: bytes) -> FloatArray:
    """The features of the whole picture, of length 1: their product is the cosine."""
    picture = open_photo(jpeg)
    whole = network_input(picture, (0, 0, *picture.size))
    features: FloatArray = load_networks().image.run(["features"], {"input": whole})[0][0]
    return features / np.linalg.norm(features)


def render_recall(photos: Sequence[Looked]) -> str:
    """A row for each change: what share of the photos is found by the rule of today, by both, and within 14 bits."""
    ways: Mapping[str, list[Change]] = defaultdict(list)
    for photo in photos:
        for change in photo.changes:
            ways[change.way].append(change)
    rows = []
    for way, changes in ways.items():
        found = (
            sum(change.distance <= MAX_DISTANCE for change in changes),
            sum(change.is_found for change in changes),
            sum(change.distance <= FURTHER_DISTANCE for change in changes),
        )
        rows.append([way, str(len(changes)), *(f"{number / len(changes):.3f}" for number in found)])
    columns = ("change", "photos", f"within {MAX_DISTANCE}", "or by the second rule", f"within {FURTHER_DISTANCE}")
    return render_table(columns, 1, rows)


def render_pairs(photos: Sequence[Looked]) -> str:
    """Pairs of different photos that each rule takes for the same."""
    counts: Mapping[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for one, other in combinations([photo for photo in photos if photo.value is not None], 2):
        distance = ((one.value or 0) ^ (other.value or 0)).bit_count()
        is_like = float(one.features @ other.features) >= MIN_COSINE
        is_document = NEVER_REPEATED in {one.category, other.category}
        for rule, holds in (
            (f"within {MAX_DISTANCE}", distance <= MAX_DISTANCE),
            ("second rule", MAX_DISTANCE < distance <= FURTHER_DISTANCE and is_like),
            (f"within {FURTHER_DISTANCE}", distance <= FURTHER_DISTANCE),
            (f"cosine {MIN_COSINE} alone", is_like),
        ):
            of_two = not is_document and one.category is not other.category
            for column, counted in enumerate((True, not is_document, of_two)):
                counts[rule][column] += holds and counted
    rows = [[rule, *map(str, numbers)] for rule, numbers in counts.items()]
    return render_table(("rule", "pairs", "without identity documents", "of them of two categories"), 1, rows)


def render_rows(values: Sequence[int]) -> str:
    """What an exact look-up by bands asks an index for, and how many rows it reads: of random hashes, and of these."""
    rows = []
    for limit in (MAX_DISTANCE, FURTHER_DISTANCE):
        for bands in BAND_NUMBERS:
            # Each radius plus one adds up to more than the limit: two near hashes are as near in one band at least.
            radii = [(limit + 1 - bands + band) // bands for band in range(bands)]
            masks = [sum(1 << bit for bit in range(band, BITS, bands)) for band in range(bands)]
            asked = by_chance = like_these = 0.0
            for mask, radius in zip(masks, radii, strict=True):
                near = sum(comb(mask.bit_count(), flipped) for flipped in range(radius + 1))
                asked += near
                by_chance += near / 2 ** mask.bit_count()
                read = sum(((one ^ other) & mask).bit_count() <= radius for one, other in combinations(values, 2))
                like_these += read / comb(len(values), 2)
            numbers = (asked, by_chance * ENTRIES, like_these * ENTRIES)
            rows.append([str(limit), str(bands), *(f"{number:,.0f}".replace(",", " ") for number in numbers)])
    columns = ("within", "bands", "values asked for", "rows read, random hashes", "rows read, hashes of photos")
    return render_table(columns, 0, rows)


if __name__ == "__main__":
    sys.exit(main())
