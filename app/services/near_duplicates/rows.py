"""The SQL of `perceptual_hash`: which entry may answer for a photo, and what is written with a new one."""

import sys
from typing import NamedTuple

from app.categories import Category
from app.database.pipeline import Rows
from app.database.statements import Statement, hamming_distance
from app.language.accept import Language
from app.services.cache.aliases import MAX_DISTANCE_OF_SAME, may_be_repeated
from app.services.cache.entry import CachedResult
from app.services.near_duplicates.bands import BANDS, MAX_DISTANCE, bands_of, near_bands, signed

# The more photos are known, the likelier is one that is near by chance: it is seldom of the same category.
MAX_NEIGHBOURS = 8


class Neighbour(NamedTuple):
    """The entry that answers for a photo: its row, the hash of its photo, and how many bits the two differ in.

    `entry` is what is answered: without a description where the pictures may not be the same.
    """

    entry_id: int
    image_hash: str
    distance: int
    entry: CachedResult


def insert_hash(image_hash: str, value: int) -> Statement:
    """Return what keeps the perceptual hash of an entry; nothing happens where there is none."""
    values = (signed(value), *bands_of(value))
    columns = ", ".join(f"band_{band}" for band in range(1, BANDS + 1))
    text = (
        f"INSERT INTO perceptual_hash (entry_id, hash, {columns})"  # noqa: S608 - placeholders
        f" SELECT id, {', '.join(['%s'] * len(values))} FROM image_classification_cache WHERE image_hash = %s"
    )
    return Statement(text, (*values, image_hash))


def select_neighbour(dialect: str, value: int, *, accepts_provisional: bool) -> Statement:
    """Return the look-up of the nearest entries within MAX_DISTANCE that may be repeated, the nearest first.

    Of several at one distance the oldest comes first, so that all processes take the same. `neighbour_in` reads them.
    """
    distance = hamming_distance(dialect, "hash", "%s")
    bands: list[str] = []
    parameters: list[object] = []
    for number, values in enumerate(near_bands(value), 1):
        # Written out: they are numbers of ours, and as parameters they would cost more than the query.
        near = ",".join(map(str, values))
        bands.append(
            f"SELECT entry_id, {distance} AS distance FROM perceptual_hash"  # noqa: S608 - numbers of ours
            f" WHERE band_{number} IN ({near}) AND {distance} <= {MAX_DISTANCE}"
        )
        parameters += [signed(value), signed(value)]
    condition, values_of_condition = may_be_repeated(accepts_provisional=accepts_provisional)
    columns = (
        "cached.id, cached.image_hash, near.distance, category, confidence, description, model_used, cost_micros,"
        " language"
    )
    text = (
        f"SELECT {columns} FROM ({' UNION '.join(bands)}) AS near"  # noqa: S608 - placeholders
        " JOIN image_classification_cache AS cached ON cached.id = near.entry_id"
        f" WHERE {condition} ORDER BY near.distance, cached.id LIMIT {MAX_NEIGHBOURS}"
    )
    return Statement(text, [*parameters, *values_of_condition])


def neighbour_in(rows: Rows) -> Neighbour | None:
    """Return the nearest of those that `select_neighbour` has found; None where they do not agree on the category."""
    if len({category for _, _, _, category, *_ in rows}) != 1:
        return None
    entry_id, image_hash, distance, category, confidence, description, model, cost_micros, language = rows[0]
    is_same = distance <= MAX_DISTANCE_OF_SAME
    entry = CachedResult(
        category=Category(category),
        confidence=float(confidence),
        description=description if is_same else None,
        model=sys.intern(model),
        cost_micros=cost_micros,
        language=Language(language) if is_same and language is not None else None,
    )
    return Neighbour(entry_id, image_hash, int(distance), entry)
