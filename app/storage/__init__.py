"""Where files of the library lie: a small interface, the local folder, and S3.

Nothing here knows users or rows. A name is given out once: the file of a name is written whole, never changed, and
never written again after it was removed.
"""

from pathlib import Path

from app.config.addresses import Bucket
from app.storage.base import FileMissingError, Storage, StorageError
from app.storage.local import LocalStorage
from app.storage.s3 import S3Storage

__all__ = ["FileMissingError", "LocalStorage", "S3Storage", "Storage", "StorageError", "open_storage"]


def open_storage(folder: Path, bucket: Bucket | None) -> Storage:
    """Return the storage in the bucket, or else in the folder.

    Raises:
        StorageError: it cannot be used; the text says what to check.
    """
    if bucket is None:
        return LocalStorage(folder)
    return S3Storage(bucket.name, prefix=bucket.prefix, endpoint=bucket.endpoint)
