"""GIF: the first picture is taken out of the file (GIF89a, appendix B); nothing after it and no extension is kept."""

import struct
from dataclasses import dataclass

from app.photo.errors import CorruptPhoto, TooComplex

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9
_TRANSPARENT, _HAS_TABLE = 0x01, 0x80

# Comments and application data before the first picture: an ICC or XMP block of 64 KB is 256 sub-blocks.
MAX_HEADER_SUB_BLOCKS = 10_000


@dataclass(frozen=True, slots=True)
class GifHeader:
    """The canvas that the first frame needs, in pixels, and where the parts of that frame are in the file."""

    width: int
    height: int
    tables_end: int
    image: int
    image_data: int
    transparent_index: int | None


def read_header(data: bytes) -> GifHeader:
    """Read a GIF up to the pixels of its first frame.

    Raises:
        CorruptPhoto, TooComplex
    """
    if len(data) < 13:
        raise CorruptPhoto
    screen_width, screen_height, flags = struct.unpack_from("<HHB", data, 6)
    at = tables_end = 13 + _table_bytes(flags)
    transparent_index: int | None = None
    sub_blocks = 0
    while data[at : at + 1] == bytes([_EXTENSION]):
        if data[at + 1 : at + 3] == bytes([_GRAPHIC_CONTROL, 4]) and len(data) > at + 6:
            transparent_index = data[at + 6] if data[at + 3] & _TRANSPARENT else None
        at, count = _skip_sub_blocks(data, at + 2, MAX_HEADER_SUB_BLOCKS - sub_blocks)
        sub_blocks += count
    if data[at : at + 1] != bytes([_IMAGE]) or len(data) < at + 11:
        raise CorruptPhoto
    left, top, width, height, image_flags = struct.unpack_from("<HHHHB", data, at + 1)
    if width == 0 or height == 0:
        raise CorruptPhoto
    return GifHeader(
        # A frame may stand beyond the screen that the header announces; viewers enlarge the screen.
        width=max(screen_width, left + width),
        height=max(screen_height, top + height),
        tables_end=tables_end,
        image=at,
        image_data=at + 10 + _table_bytes(image_flags),
        transparent_index=transparent_index,
    )


def clean(data: bytes) -> bytes:
    """Return a GIF of the first frame only. Raises CorruptPhoto when the file is cut off anywhere, and TooComplex."""
    header = read_header(data)
    frame_end, _ = _skip_sub_blocks(data, header.image_data + 1, len(data))
    _check_rest(data, frame_end)
    parts = [b"GIF89a", struct.pack("<HH", header.width, header.height), data[10 : header.tables_end]]
    if header.transparent_index is not None:
        parts.append(bytes([_EXTENSION, _GRAPHIC_CONTROL, 4, _TRANSPARENT, 0, 0, header.transparent_index, 0]))
    parts.append(data[header.image : frame_end])
    parts.append(bytes([_TRAILER]))
    return b"".join(parts)


def _check_rest(data: bytes, at: int) -> None:
    """Walk over the other frames to the trailer."""
    while data[at : at + 1] != bytes([_TRAILER]):
        if data[at : at + 1] == bytes([_EXTENSION]):
            at += 2
        elif data[at : at + 1] == bytes([_IMAGE]) and len(data) > at + 9:
            at += 11 + _table_bytes(data[at + 9])
        else:
            raise CorruptPhoto
        at, _ = _skip_sub_blocks(data, at, len(data))


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & _HAS_TABLE else 0


def _skip_sub_blocks(data: bytes, at: int, most: int) -> tuple[int, int]:
    """Return the position after a chain of sub-blocks, and how many there were."""
    size = len(data)
    count = 0
    while at < size:
        length = data[at]
        if length == 0:
            return at + 1, count
        at += 1 + length
        count += 1
        if count > most:
            raise TooComplex
    raise CorruptPhoto
