"""The bands find every hash within the distance, by arithmetic alone."""

import random

import pytest

from app.photo.perceptual_hash import BITS
from app.services.near_duplicates.bands import BANDS, MAX_DISTANCE, bands_of, near_bands, signed

CHANCE = random.Random(15)


def changed(value: int, bits: int) -> int:
    for place in CHANCE.sample(range(BITS), bits):
        value ^= 1 << place
    return value


def test_bands_hold_every_bit_once() -> None:
    value = CHANCE.getrandbits(BITS)
    together = 0
    for number, band in enumerate(bands_of(value)):
        for place in range(number, BITS, BANDS):
            together |= (band >> (place - number) // BANDS & 1) << place
    assert together == value


@pytest.mark.parametrize("distance", range(MAX_DISTANCE + 1))
def test_each_hash_within_the_distance_shares_a_band(distance: int) -> None:
    for _ in range(300):
        value = CHANCE.getrandbits(BITS)
        near = near_bands(value)
        other = bands_of(changed(value, distance))
        assert any(band in values for band, values in zip(other, near, strict=True))


def test_what_is_asked_for_is_bounded() -> None:
    near = near_bands(CHANCE.getrandbits(BITS))
    assert [len(values) for values in near] == [254, 232, 232]
    assert all(values == sorted(set(values)) for values in near)


@pytest.mark.parametrize(("value", "stored"), [(0, 0), (2**63 - 1, 2**63 - 1), (2**63, -(2**63)), (2**64 - 1, -1)])
def test_numbers_as_databases_hold_them(value: int, stored: int) -> None:
    assert signed(value) == stored
