"""Which hashes are near another one, by index: multi-index hashing.

The 64 bits are dealt out to three bands. Two hashes that differ in 8 bits at most differ in 2 at most in one of the
bands at least (three times 3 would be 9). So the look-up asks the index of each band for all values within 2 bits of
its own, some 700 in all, and finds every neighbour; the distance of what it finds is then counted. Norouzi, Punjani and
Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing" (2014), section 3.

Every third bit, not 21 neighbours: low frequencies of photos resemble each other, and are spread over the bands so.
With four bands fewer values were asked for, and ten times as many rows read (docs/quality.md).
"""

from functools import cache
from itertools import combinations

from app.photo.perceptual_hash import BITS

BANDS = 3
MAX_DISTANCE = 8
_RADIUS = MAX_DISTANCE // BANDS
_SIGN = 1 << (BITS - 1)


def bands_of(value: int) -> tuple[int, ...]:
    """Return the bands of a perceptual hash: band k has bits k, k + 3, k + 6 and so on, the lowest first."""
    return tuple(_gathered(value, band) for band in range(BANDS))


def near_bands(value: int) -> tuple[list[int], ...]:
    """Return for each band all values that a hash within MAX_DISTANCE may have in one of them, in rising order."""
    return tuple(
        sorted(band ^ flipped for flipped in _flips(len(range(number, BITS, BANDS))))
        for number, band in enumerate(bands_of(value))
    )


def signed(value: int) -> int:
    """Return 64 bits as every database's BIGINT has them."""
    return value - 2 * _SIGN if value & _SIGN else value


def _gathered(value: int, band: int) -> int:
    # As text: the bits of an int are not to be had faster in Python.
    return int(f"{value:0{BITS}b}"[::-1][band::BANDS][::-1], 2)


@cache
def _flips(bits: int) -> tuple[int, ...]:
    """All ways to change at most `_RADIUS` of so many bits."""
    return tuple(
        sum(1 << place for place in places)
        for changed in range(_RADIUS + 1)
        for places in combinations(range(bits), changed)
    )
