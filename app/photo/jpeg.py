"""JPEG: the file is walked marker by marker (ITU-T T.81, annex B), and only what a decoder needs comes out again.

The walk refuses what cannot be decoded, adds up what decoding will cost, and knows a file that was cut off.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from app.photo.errors import CorruptPhoto, TooComplex, UnsupportedFormat
from app.photo.metadata import UPRIGHT, read_orientation

_SOF_DECODABLE = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive Huffman coding
_SOF_OTHER = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE})
_PROGRESSIVE = 0xC2
_DHT, _SOI, _EOI, _SOS, _DQT, _DRI = 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD
_APP0, _APP1, _APP2, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_NEEDED_TO_DECODE = frozenset({*_SOF_DECODABLE, _DHT, _DQT, _DRI, _SOS})
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_MARKER_AFTER_SCAN = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")

# 10 MB of extended XMP or of a profile in segments of 64 KB are 160, tables a few dozen; honest files have no more.
MAX_SEGMENTS = 4000
# Blocks of 8x8 samples, counted once for each scan that visits them. The dearest scan known, a refinement of all 63 AC
# coefficients that are all zero, takes 47 ns a block, 0.6 s in all at the limit; 50 megapixels as
# cameras and web tools write them (10 scans, 4:2:0) are 6.1 million, half the limit.
MAX_BLOCK_SCANS = 12_000_000
# Encoders write about ten; a file with more than this is not a photo.
MAX_SCANS = 100


class Segment(NamedTuple):
    """One segment: marker and length from `start`, payload from `body` to `end`, then (SOS) a scan to `scan_end`."""

    marker: int
    start: int
    body: int
    end: int
    scan_end: int


class Component(NamedTuple):
    """One of the colours: how often it is sampled, and the number of its quantization table."""

    identifier: int
    horizontal: int
    vertical: int
    table: int


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What comes before the first scan; `orientation` is the EXIF value, 1 to 8. Sizes are in pixels.

    `has_all_tables` is false where Huffman tables are left out, as in frames of MJPEG: libjpeg and browsers then take
    the usual ones, other decoders give up. `profile` is the colour profile, empty where there is none.
    """

    width: int
    height: int
    progressive: bool
    components: tuple[Component, ...]
    orientation: int
    is_ycbcr_or_grey: bool
    has_all_tables: bool
    profile: bytes
    first_scan: Segment


def read_header(data: bytes) -> JpegHeader:
    """Read a JPEG up to its first scan.

    Raises:
        CorruptPhoto, TooComplex, UnsupportedFormat: it cannot be decoded, whatever the pixels are.
    """
    frame: Segment | None = None
    orientation: int | None = None
    has_jfif, adobe_transform = False, None
    quantization: set[int] = set()
    huffman: set[int] = set()
    profile: dict[int, bytes] = {}
    for segment in _segments(data, header_only=True):
        payload = data[segment.body : segment.end]
        if segment.marker in _SOF_DECODABLE:
            frame = segment
        elif segment.marker == _DQT:
            quantization.update(_tables(segment.marker, payload))
        elif segment.marker == _DHT:
            huffman.update(_tables(segment.marker, payload))
        elif segment.marker == _APP1 and orientation is None and payload.startswith(b"Exif\0\0"):
            orientation = read_orientation(payload)
        elif segment.marker == _APP2 and payload.startswith(b"ICC_PROFILE\0") and len(payload) > 14:
            # In parts that are numbered from 1 (ICC.1:2022, annex B.4).
            profile[payload[12]] = payload[14:]
        elif segment.marker == _APP0 and payload.startswith(b"JFIF\0"):
            has_jfif = True
        elif segment.marker == _APP14 and payload.startswith(b"Adobe") and len(payload) >= 12:
            adobe_transform = payload[11]
        elif segment.marker == _SOS:
            if frame is None:
                break
            width, height, components = _read_frame(data[frame.body : frame.end])
            _check_quantization(components, payload, quantization)
            return JpegHeader(
                width=width,
                height=height,
                progressive=frame.marker == _PROGRESSIVE,
                components=components,
                orientation=UPRIGHT if orientation is None else orientation,
                is_ycbcr_or_grey=_is_ycbcr_or_grey(components, has_jfif, adobe_transform),
                has_all_tables=frame.marker == _PROGRESSIVE or _huffman_tables(payload) <= huffman,
                profile=b"".join(part for _, part in sorted(profile.items())),
                first_scan=segment,
            )
    raise CorruptPhoto


def check_scans(data: bytes, header: JpegHeader) -> None:
    """Refuse a JPEG that is cut off, and one whose scans are more than MAX_SCANS or together visit more than
    MAX_BLOCK_SCANS blocks.

    Only the many scans of a progressive file have to be found in its data; for the usual single scan it is enough
    that there is an end.
    """
    single_scan = not header.progressive and _scan_components(data, header.first_scan) == len(header.components)
    if single_scan:
        if _blocks(header, data, header.first_scan) > MAX_BLOCK_SCANS:
            raise TooComplex
        if data.rfind(b"\xff\xd9", header.first_scan.end) < 0:
            raise CorruptPhoto
        return
    scans = block_scans = 0
    for segment in _segments(data):
        if segment.marker == _SOS:
            scans += 1
            block_scans += _blocks(header, data, segment)
            if block_scans > MAX_BLOCK_SCANS or scans > MAX_SCANS:
                raise TooComplex


def clean(data: bytes) -> bytes:
    """Return the JPEG without anything that decoding does not need: no EXIF, XMP, IPTC, profile, comment, thumbnail,
    second picture, nor bytes after the end marker. What says how the colours are coded (JFIF, Adobe) stays.

    Raises:
        CorruptPhoto: it is cut off or malformed.
        TooComplex, UnsupportedFormat: as `read_header`.
    """
    parts = [b"\xff\xd8"]
    for segment in _segments(data):
        payload = data[segment.body : segment.end]
        if segment.marker in _NEEDED_TO_DECODE:
            _check_payload(segment.marker, payload)
            parts.append(data[segment.start : segment.scan_end])
        elif segment.marker == _APP0 and payload.startswith(b"JFIF\0") and len(payload) >= 14:
            # Density in bytes 7 to 11; bytes 12 and 13 are the size of a thumbnail, which goes.
            parts.append(b"\xff\xe0\x00\x10" + payload[:12] + b"\0\0")
        elif segment.marker == _APP14 and payload.startswith(b"Adobe") and len(payload) >= 12:
            parts.append(b"\xff\xee\x00\x0e" + payload[:12])
    parts.append(b"\xff\xd9")
    return b"".join(parts)


def _segments(data: bytes, *, header_only: bool = False) -> Iterator[Segment]:
    """Yield the segments up to the end marker, tolerating what libjpeg tolerates between them (fill bytes, padding).

    With `header_only` the first scan is the last segment, and taken to reach to the end of the file: finding where a
    scan ends takes 0.4 ms per megabyte.
    """
    at, seen_frame = 2, False
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None:
            raise CorruptPhoto
        marker, start, body = found[1][0], found.start(), found.end() + 2
        if marker == _EOI:
            return
        if 0xD0 <= marker < _SOI:
            at = found.end()
            continue
        if marker in _SOF_OTHER:
            raise UnsupportedFormat(
                "This kind of JPEG (arithmetic, lossless or hierarchical) is not accepted. Save it as an ordinary JPEG."
            )
        is_frame = marker in _SOF_DECODABLE
        if marker < 0xC0 or marker == _SOI or (is_frame and seen_frame) or (marker == _SOS and not seen_frame):
            raise CorruptPhoto
        seen_frame = seen_frame or is_frame
        end = body - 2 + int.from_bytes(data[body - 2 : body])
        if end < body or end > len(data):
            raise CorruptPhoto
        at = end
        if marker == _SOS and header_only:
            yield Segment(marker, start, body, end, len(data))
            return
        if marker == _SOS:
            next_marker = _MARKER_AFTER_SCAN.search(data, end)
            if next_marker is None:
                raise CorruptPhoto
            at = next_marker.start()
        yield Segment(marker, start, body, end, at)
    raise TooComplex


def _read_frame(payload: bytes) -> tuple[int, int, tuple[Component, ...]]:
    if len(payload) < 6 or len(payload) != 6 + 3 * payload[5]:
        raise CorruptPhoto
    precision, height, width, count = struct.unpack_from(">BHHB", payload)
    if precision != 8:
        raise UnsupportedFormat("This JPEG has more than 8 bits per colour. Save it as an ordinary JPEG.")
    if count not in {1, 3, 4}:
        raise CorruptPhoto
    # A height of zero is allowed when a DNL marker follows the first scan, but no decoder in use follows it.
    if width == 0 or height == 0:
        raise CorruptPhoto
    components = tuple(
        Component(payload[i], payload[i + 1] >> 4, payload[i + 1] & 15, payload[i + 2])
        for i in range(6, len(payload), 3)
    )
    if any(not 1 <= part.horizontal <= 4 or not 1 <= part.vertical <= 4 for part in components):
        raise CorruptPhoto
    return width, height, components


def _is_ycbcr_or_grey(components: tuple[Component, ...], has_jfif: bool, adobe_transform: int | None) -> bool:
    """Guess as libjpeg does (jdapimin.c, default_decompress_parms), since every decoder that follows will."""
    if len(components) == 1:
        return True
    if len(components) != 3:
        return False
    if has_jfif:
        return True
    if adobe_transform is not None:
        return adobe_transform == 1
    return bytes(part.identifier for part in components) != b"RGB"


def _tables(marker: int, payload: bytes) -> Iterator[int]:
    """Yield the numbers of the tables in a DQT or DHT segment; in DHT, the class (0: DC, 1: AC) is the high half.

    Raises:
        CorruptPhoto: a table is longer than what it holds, or its Huffman codes cannot be (T.81, annex C).
    """
    _check_payload(marker, payload)
    at = 0
    while at < len(payload):
        yield payload[at] & 15 if marker == _DQT else payload[at]
        if marker == _DQT:
            at += 129 if payload[at] >> 4 else 65
            continue
        counts = payload[at + 1 : at + 17]
        code = 0
        for length, count in enumerate(counts, start=1):
            code += count
            # No code is all ones.
            if count and code >= 1 << length:
                raise CorruptPhoto
            code <<= 1
        at += 17 + sum(counts)


def _check_quantization(components: tuple[Component, ...], scan: bytes, tables: set[int]) -> None:
    """Refuse a first scan whose colours have no quantization table: no decoder can show it."""
    chosen = scan[1 : 1 + 2 * scan[0] : 2] if scan else b""
    if any(part.table not in tables for part in components if part.identifier in chosen):
        raise CorruptPhoto


def _huffman_tables(scan: bytes) -> set[int]:
    """Return the numbers of the tables that the first scan of a sequential JPEG uses, as `_tables` yields them."""
    chosen = scan[2 : 2 + 2 * scan[0] : 2] if scan else b""
    return {table >> 4 for table in chosen} | {0x10 | table & 15 for table in chosen}


def _scan_components(data: bytes, scan: Segment) -> int:
    return data[scan.body] if scan.end > scan.body else 0


def _blocks(header: JpegHeader, data: bytes, scan: Segment) -> int:
    """Return how many 8x8 blocks a scan visits, and refuse a scan too short to hold the bits that they need."""
    count = _scan_components(data, scan)
    if scan.end - scan.body != 4 + 2 * count:
        raise CorruptPhoto
    chosen = data[scan.body + 1 : scan.body + 1 + 2 * count : 2]
    most_horizontal = max(part.horizontal for part in header.components)
    most_vertical = max(part.vertical for part in header.components)
    blocks = 0
    for part in header.components:
        if part.identifier in chosen:
            across = -(-header.width * part.horizontal // (8 * most_horizontal))
            down = -(-header.height * part.vertical // (8 * most_vertical))
            blocks += across * down
    # A sequential scan spends at least one bit on the DC and one on the end of a block, a progressive DC scan one bit;
    # a progressive AC scan can pass over 32767 blocks with a few bits.
    bits_per_block = 2 if not header.progressive else int(data[scan.end - 3] == 0)
    if blocks * bits_per_block > 8 * (scan.scan_end - scan.end):
        raise CorruptPhoto
    return blocks


def _check_payload(marker: int, payload: bytes) -> None:
    """Refuse tables that are longer than what they hold, so that nothing travels behind them."""
    at = 0
    if marker == _DRI:
        at = 2
    elif marker == _DQT:
        while at < len(payload):
            at += 129 if payload[at] >> 4 else 65
    elif marker == _DHT:
        while at < len(payload):
            at += 17 + sum(payload[at + 1 : at + 17])
    elif marker == _SOS:
        at = 4 + 2 * payload[0] if payload else 1
    else:
        at = 6 + 3 * payload[5] if len(payload) > 5 else 6
    if at != len(payload):
        raise CorruptPhoto
