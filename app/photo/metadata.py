"""What of the metadata changes how a photo looks: its orientation and its colour profile. Nothing else is ever parsed.

A profile is not given to a colour engine, since it is as hostile as the rest of the file: four of its tags are read,
and the colours are converted by a table that is made from them.
"""

import struct
from collections.abc import Callable
from functools import lru_cache

from PIL import ImageFilter

UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_TYPE_SHORT = 3
_TYPE_LONG = 4
# Cameras write about twenty.
_MAX_ENTRIES = 500
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


def read_orientation(block: bytes) -> int:
    """Return the orientation, 1 to 8, of an EXIF block (with or without its `Exif` prefix); 1 when it has no valid one.

    The layout is that of a TIFF file (TIFF 6.0, section 2); the values are those of EXIF 2.32, section 4.6.4.
    """
    tiff = block.removeprefix(b"Exif\0\0")
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(f"{order}L", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * min(entries, _MAX_ENTRIES), 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _ORIENTATION_TAG and kind in {_TYPE_SHORT, _TYPE_LONG}:
                (value,) = struct.unpack_from(f"{order}{'H' if kind == _TYPE_SHORT else 'L'}", tiff, entry + 8)
                return value if 1 <= value <= 8 else UPRIGHT
    except struct.error:
        return UPRIGHT
    return UPRIGHT


# An RGB profile of cameras and screens has 500 to 4000 bytes; a larger one holds tables that are not read.
PROFILE_MAX_BYTES = 100_000
_MAX_TAGS = 100
_XYZ_TAGS = (b"rXYZ", b"gXYZ", b"bXYZ")
# Red, green and blue of sRGB in the connection space (D50), and back: http://www.brucelindbloom.com/Eqn_RGB_XYZ_Matrix.html
_SRGB = ((0.4360747, 0.2225045, 0.0139322), (0.3850649, 0.7168786, 0.0971045), (0.1430804, 0.0606169, 0.7141733))
_TO_SRGB = ((3.1338561, -1.6168667, -0.4906146), (-0.9787684, 1.9161415, 0.0334540), (0.0719453, -0.2289914, 1.4052427))
# Colorants that differ by less are rounded ones of sRGB.
_SAME_COLORANT = 0.01
_GRID = 17

Colorants = tuple[tuple[float, ...], ...]


def has_other_colours(profile: bytes) -> bool:
    """Say whether the colours of an RGB picture with this ICC profile are others than those of sRGB.

    Of a profile that is not of the usual kind (ICC.1:2022, section 8.3: three colorants and curves) it is not known.
    """
    colorants = _colorants(_tags(profile))
    if colorants is None:
        return False
    return any(
        abs(a - b) > _SAME_COLORANT
        for found, same in zip(colorants, _SRGB, strict=True)
        for a, b in zip(found, same, strict=True)
    )


@lru_cache(maxsize=8)
def to_srgb(profile: bytes) -> ImageFilter.Color3DLUT | None:
    """Return what converts an RGB picture of this ICC profile to sRGB, None where nothing is to be done or known.

    It takes about 20 ms to make.
    """
    tags = _tags(profile)
    colorants = _colorants(tags)
    if colorants is None or not has_other_colours(profile):
        return None
    try:
        curve = _curve(tags.get(b"rTRC", b""))
        linear = [curve(step / (_GRID - 1)) for step in range(_GRID)]
    except (struct.error, ValueError, ArithmeticError):
        return None

    def converted(red: float, green: float, blue: float) -> tuple[float, float, float]:
        light = [linear[round(value * (_GRID - 1))] for value in (red, green, blue)]
        xyz = [sum(light[i] * colorants[i][axis] for i in range(3)) for axis in range(3)]
        first, second, third = (sum(row[axis] * xyz[axis] for axis in range(3)) for row in _TO_SRGB)
        return _encoded(first), _encoded(second), _encoded(third)

    return ImageFilter.Color3DLUT.generate(_GRID, converted)


def _encoded(light: float) -> float:
    """Return the value of sRGB (IEC 61966-2-1) for an amount of light; colours out of its reach are cut off."""
    light = min(1.0, max(0.0, light))
    return 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """Return the tags of an RGB profile, none where it is not one (ICC.1:2022, section 7)."""
    if len(profile) > PROFILE_MAX_BYTES or profile[16:24] != b"RGB XYZ ":
        return {}
    count = int.from_bytes(profile[128:132])
    entries = (profile[at : at + 12] for at in range(132, 132 + 12 * min(count, _MAX_TAGS), 12))
    places = (struct.unpack(">4sLL", entry) for entry in entries if len(entry) == 12)
    return {name: profile[start : start + size] for name, start, size in places}


def _colorants(tags: dict[bytes, bytes]) -> Colorants | None:
    values = [tags.get(name, b"")[8:20] for name in _XYZ_TAGS]
    if any(len(value) < 12 for value in values):
        return None
    return tuple(tuple(number / 65536 for number in struct.unpack(">lll", value)) for value in values)


def _curve(tag: bytes) -> Callable[[float], float]:
    """Return the curve of a `curv` or `para` tag (ICC.1:2022, sections 10.6 and 10.18), from value to light."""
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        gamma, *rest = (v / 65536 for v in struct.unpack_from(">l" if kind == 0 else ">lllll", tag, 12))
        if kind == 0:
            return lambda value: value**gamma
        if kind != 3 or gamma <= 0:
            raise ValueError("of a kind that no camera writes")
        a, b, c, d = rest
        return lambda value: max(0.0, a * value + b) ** gamma if value >= d else c * value
    if tag[:4] != b"curv":
        raise ValueError("no curve")
    (count,) = struct.unpack_from(">L", tag, 8)
    if count <= 1:
        exponent = struct.unpack_from(">H", tag, 12)[0] / 256 if count else 1.0
        return lambda value: value**exponent
    points = struct.unpack_from(f">{min(count, 4096)}H", tag, 12)
    return lambda value: points[round(value * (len(points) - 1))] / 65535
