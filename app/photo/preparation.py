"""The JPEG that a model is shown. A photo that already fits is not decoded; its metadata is cut out between markers."""

from app.photo import gif, jpeg, png, webp
from app.photo.decoding import decode_to_jpeg
from app.photo.errors import CorruptPhoto, PhotoError, TooComplex
from app.photo.exif import UPRIGHT
from app.photo.formats import PhotoFormat, PhotoInfo
from app.photo.sandbox import decode_in_sandbox

_IN_THIS_PROCESS = frozenset({PhotoFormat.JPEG, PhotoFormat.PNG})


def is_ready(data: bytes, info: PhotoInfo, *, max_edge: int, max_bytes: int) -> bool:
    """Whether `prepare_photo` will not decode this photo: it takes 0.7 ms for a megabyte then, and 10 for the worst."""
    return info.is_plain and len(data) <= max_bytes and max(info.width, info.height) <= max_edge


def prepare_photo(data: bytes, info: PhotoInfo, *, max_edge: int, max_bytes: int) -> bytes:
    """Return a JPEG of the photo: upright, without any metadata, transparent parts white, of an animation the start.

    This takes up to 2 s of CPU, unless the photo `is_ready`: call it in a thread.

    Args:
        data: the file, as given to `inspect_photo`.
        info: what `inspect_photo` returned for it.
        max_edge: pixels of the long side, at most; a smaller photo is not enlarged.
        max_bytes: size of the JPEG, at most.

    Raises:
        CorruptPhoto: the picture is damaged or cut off.
        TooComplex: decoding it was stopped because it cost too much.
        UnsupportedFormat: a variant of the format that no camera makes.
    """
    try:
        clean, orientation = _clean(data, info)
        if info.is_plain and len(clean) <= max_bytes and max(info.width, info.height) <= max_edge:
            return clean
        decode = decode_to_jpeg if info.format in _IN_THIS_PROCESS else decode_in_sandbox
        return decode(
            clean,
            info.format,
            orientation=orientation,
            max_pixels=info.width * info.height,
            max_edge=max_edge,
            max_bytes=max_bytes,
        )
    except PhotoError:
        raise
    except MemoryError:
        raise TooComplex from None
    except Exception as error:
        # Pillow raises anything on hostile bytes: struct.error, SyntaxError, OverflowError, EOFError, ...
        raise CorruptPhoto from error


def _clean(data: bytes, info: PhotoInfo) -> tuple[bytes, int]:
    """Return the file without what decoding does not need, and the orientation that is left to apply."""
    orientation = UPRIGHT
    match info.format:
        case PhotoFormat.JPEG:
            clean = jpeg.clean(data)
            if not info.is_plain:
                orientation = jpeg.read_header(data).orientation
        case PhotoFormat.PNG:
            clean, orientation = png.clean(data)
        case PhotoFormat.WEBP:
            clean, orientation = webp.clean(data)
        case PhotoFormat.GIF:
            clean = gif.clean(data)
        case PhotoFormat.HEIC | PhotoFormat.AVIF:
            # The decoders go by the main brand alone, and some phones put their own there.
            clean = data[:8] + (b"heic" if info.format is PhotoFormat.HEIC else b"avif") + data[12:]
        case PhotoFormat.BMP:
            clean = data
    return clean, orientation
