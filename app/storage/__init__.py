"""Where files of the library lie: a small interface, the local folder, and S3.

Nothing here knows users or rows. A name is given out once: the file of a name is written whole, never changed, and
never written again after it was removed.
"""

from app.storage.base import FileMissingError, Storage, StorageError
from app.storage.local import LocalStorage

__all__ = ["FileMissingError", "LocalStorage", "Storage", "StorageError"]
