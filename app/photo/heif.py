"""HEIC and AVIF: boxes in boxes (ISO/IEC 14496-12, 23008-12). Only the size of the primary picture is read here.

The coded picture inside can be of another size, or many, which no header tells: hence decoding happens under limits
that the kernel enforces, in `app.photo.sandbox`.
"""

import struct
from collections.abc import Iterator

from app.photo.errors import CorruptPhoto, TooComplex, UnsupportedFormat

# A coded picture, or a grid of them as iPhones write it. Overlays, uncompressed pictures and the like come from no
# camera, and are how a small file asks for a lot of work.
_PRIMARY_TYPES = frozenset({b"hvc1", b"hev1", b"av01", b"grid"})

# The box with everything but the pixels is about 20 KB for the 200 tiles of an iPhone's 48 megapixels.
MAX_META_BYTES = 256_000
_MAX_TOP_LEVEL_BOXES = 100


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels of the primary picture, before rotation.

    Raises:
        CorruptPhoto: a box reaches beyond the end of the file, or the size is missing.
        TooComplex, UnsupportedFormat
    """
    try:
        return _read_size(data)
    except struct.error:
        raise CorruptPhoto from None


def _read_size(data: bytes) -> tuple[int, int]:
    meta = next(((start, end) for kind, start, end in _top_level(data) if kind == b"meta"), None)
    if meta is None:
        raise UnsupportedFormat("The file holds no still picture.")
    if meta[1] - meta[0] > MAX_META_BYTES:
        raise TooComplex
    boxes = {kind: (start, end) for kind, start, end in _children(data, meta[0] + 4, meta[1])}
    if not {b"pitm", b"iinf", b"iprp"} <= boxes.keys():
        raise CorruptPhoto
    primary = _unpack_id(data, boxes[b"pitm"][0] + 4, wide=data[boxes[b"pitm"][0]] > 0)
    types = dict(_item_types(data, *boxes[b"iinf"]))
    if types.get(primary) not in _PRIMARY_TYPES:
        raise UnsupportedFormat("This kind of HEIF picture is not accepted. Save it as an ordinary JPEG.")
    properties: list[tuple[bytes, int, int]] = []
    associations: list[int] = []
    for kind, start, end in _children(data, *boxes[b"iprp"]):
        if kind == b"ipco":
            properties = list(_children(data, start, end))
        elif kind == b"ipma":
            associations += _properties_of(data, start, end, primary)
    for index in associations:
        if 0 < index <= len(properties) and properties[index - 1][0] == b"ispe":
            width, height = struct.unpack_from(">LL", data, properties[index - 1][1] + 4)
            if width and height:
                return width, height
    raise CorruptPhoto


def _top_level(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return the outermost boxes; the picture may be followed by other bytes, which some phones append."""
    boxes = []
    try:
        for box in _children(data, 0, len(data), _MAX_TOP_LEVEL_BOXES):
            boxes.append(box)  # noqa: PERF402 - those read before an error count
    except (CorruptPhoto, struct.error):
        if not {b"meta", b"mdat"} <= {kind for kind, _, _ in boxes}:
            raise
    return boxes


def _children(data: bytes, at: int, end: int, most: int = MAX_META_BYTES) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of the content of each box in `data[at:end]`."""
    for _ in range(most):
        if at >= end:
            return
        size, kind = struct.unpack_from(">L4s", data, at)
        body = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        elif size == 0:
            size = end - at
        if at + size < body or at + size > end:
            raise CorruptPhoto
        yield kind, body, at + size
        at += size
    raise TooComplex


def _unpack_id(data: bytes, at: int, *, wide: bool) -> int:
    (identifier,) = struct.unpack_from(">L" if wide else ">H", data, at)
    return int(identifier)


def _item_types(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    first = start + (8 if data[start : start + 1] > b"\0" else 6)
    for kind, body, _ in _children(data, first, end):
        version = data[body : body + 1]
        if kind == b"infe" and version in {b"\x02", b"\x03"}:
            wide = version == b"\x03"
            (item_type,) = struct.unpack_from("4s", data, body + (10 if wide else 8))
            yield _unpack_id(data, body + 4, wide=wide), item_type


def _properties_of(data: bytes, start: int, end: int, item: int) -> list[int]:
    """Return the 1-based indices of the properties that an ipma box gives to an item."""
    version, flags, entries = struct.unpack_from(">B3sL", data, start)
    wide_index = bool(flags[2] & 1)
    at = start + 8
    for _ in range(min(entries, (end - at) // 3)):
        identifier = _unpack_id(data, at, wide=version > 0)
        at += 4 if version > 0 else 2
        (count,) = struct.unpack_from(">B", data, at)
        indices = struct.unpack_from(f">{count}{'H' if wide_index else 'B'}", data, at + 1)
        at += 1 + count * (2 if wide_index else 1)
        if identifier == item:
            # The highest bit says that the property is essential.
            return [index & (0x7FFF if wide_index else 0x7F) for index in indices]
    return []
