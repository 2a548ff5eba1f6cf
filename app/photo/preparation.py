"""The JPEG that a model is shown. A photo that already fits is not decoded; its metadata is cut out between markers."""

from app.photo import jpeg, png
from app.photo.decoding import PreparedJpeg, decode_to_jpeg
from app.photo.errors import CorruptPhoto, PhotoError, TooComplex
from app.photo.formats import PhotoFormat, PhotoInfo
from app.photo.metadata import UPRIGHT
from app.photo.sandbox import decode_in_sandbox


def is_ready(data: bytes, info: PhotoInfo, *, max_edge: int, max_bytes: int, min_edge: int = 1) -> bool:
    """Whether `prepare_photo` will not decode this photo: it takes 0.7 ms for a megabyte then, and 10 for the worst."""
    if not info.is_plain or info.size is None:
        return False
    return min_edge <= min(info.size) and max(info.size) <= max_edge and len(data) <= max_bytes


def prepare_photo(
    data: bytes, info: PhotoInfo, *, max_edge: int, max_bytes: int, min_edge: int = 1, niceness: int = 0
) -> PreparedJpeg:
    """Return a JPEG of the photo: upright, without any metadata, transparent parts white, of an animation the start.

    This takes up to 2 s of CPU, unless the photo `is_ready`: call it in a thread.

    Args:
        data: the file, as given to `inspect_photo`.
        info: what `inspect_photo` returned for it.
        max_edge: pixels of the long side, at most; a smaller photo is not enlarged for it.
        max_bytes: size of the JPEG, at most.
        min_edge: pixels of the short side, at least. If more than 1, the JPEG is for a model: a photo that is too small
            for it is enlarged, and one that would be too narrow to be read is cut into strips side by side.
        niceness: how far a process of its own steps back behind others, from 0 to 19.

    Raises:
        CorruptPhoto: the picture is damaged or cut off.
        TooManyPixels: its size was not known before, and is more than `info.max_pixels`.
        TooComplex: decoding it would cost too much, or was stopped because it did.
        NotInTime: the machine is too busy.
        UnsupportedFormat: a variant of the format that no camera makes.
    """
    try:
        if info.format is PhotoFormat.JPEG:
            clean = jpeg.clean(data)
            if info.size is not None and is_ready(
                clean, info, max_edge=max_edge, max_bytes=max_bytes, min_edge=min_edge
            ):
                return PreparedJpeg(clean, *info.size)
            header = None if info.is_plain else jpeg.read_header(data)
            orientation, profile = (UPRIGHT, b"") if header is None else (header.orientation, header.profile)
        elif info.format is PhotoFormat.PNG:
            clean, orientation, profile = png.clean(data)
        else:
            return decode_in_sandbox(
                data,
                info.format,
                max_pixels=info.max_pixels,
                max_edge=max_edge,
                max_bytes=max_bytes,
                min_edge=min_edge,
                niceness=niceness,
            )
        return decode_to_jpeg(
            clean,
            info.format,
            orientation=orientation,
            profile=profile,
            max_pixels=info.max_pixels,
            max_edge=max_edge,
            max_bytes=max_bytes,
            min_edge=min_edge,
        )
    except PhotoError:
        raise
    except MemoryError:
        raise TooComplex from None
    except Exception as error:
        # Pillow raises anything on hostile bytes: struct.error, SyntaxError, OverflowError, EOFError, ...
        raise CorruptPhoto from error
