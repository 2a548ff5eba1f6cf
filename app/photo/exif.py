"""One number is read from EXIF, the orientation; nothing else of it is ever parsed, so it cannot do harm."""

import struct

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
