"""Arithmetic of the statistics: in decimals, so that every database and every figure rounds alike."""

from decimal import ROUND_HALF_UP, Decimal


def ratio(numerator: Decimal | int, denominator: int, *, digits: int = 2) -> float:
    """The quotient, rounded half up as MySQL's ROUND does; 0 where there is nothing to divide by."""
    if denominator == 0:
        return 0.0
    quotient = Decimal(numerator) / Decimal(denominator)
    return float(quotient.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP))


def money(micros: int) -> float:
    """An amount in the currency, of millionths of it: the float that prints as the exact amount does."""
    return float(Decimal(micros).scaleb(-6))


def percent(part: int, whole: int) -> float:
    """`part` of `whole` in percent, rounded as `ratio` does."""
    return ratio(Decimal(part) * 100, whole)
