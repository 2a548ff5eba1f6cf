"""The pictures of the accounts and the files that hold them. What belongs to a user goes with it, by foreign keys."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables.columns import (
    ACCOUNT_OPTIONS,
    Base,
    Milliseconds,
    TinyUnsignedInteger,
    UnsignedBigInteger,
    UnsignedInteger,
    UtcDateTime,
    current_timestamp,
)


class StoredFile(Base):
    """A file of the storage; equal pictures of several people share it.

    Its name there is made of `sha256` and `version`. A version is never used twice, so removing the file of a row that
    is gone cannot hit the file of a later row for the same picture.
    """

    __tablename__ = "stored_file"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True, comment="SHA-256哈希值")
    version: Mapped[str] = mapped_column(String(16), comment="文件版本(文件名的一部分)")
    size_bytes: Mapped[int] = mapped_column(UnsignedBigInteger, comment="文件大小(字节)")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="创建时间")

    __table_args__ = ({"comment": "存储的文件", **ACCOUNT_OPTIONS},)


class LibraryState(Base):
    """The one row of what is known of the library as a whole.

    `library_id` stands in the storage too: files are swept only where both agree.
    """

    __tablename__ = "library_state"

    id: Mapped[int] = mapped_column(TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="固定为1")
    library_id: Mapped[str] = mapped_column(String(32), comment="图片库ID(与存储中的标记一致)")
    swept_at: Mapped[datetime] = mapped_column(Milliseconds, comment="最近一次清理的开始时间")

    __table_args__ = ({"comment": "图片库状态", **ACCOUNT_OPTIONS},)


class LibraryImage(Base):
    """One picture in an account's library. `filename` is what its owner calls it, and never a path of ours."""

    __tablename__ = "library_image"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(UnsignedBigInteger, ForeignKey("users.id", ondelete="CASCADE"), comment="用户")
    sha256: Mapped[str] = mapped_column(String(64), ForeignKey("stored_file.sha256"), comment="SHA-256哈希值")
    filename: Mapped[str] = mapped_column(String(255), comment="原文件名")
    format: Mapped[str] = mapped_column(String(8), comment="格式")
    width: Mapped[int] = mapped_column(UnsignedInteger, comment="宽(像素)")
    height: Mapped[int] = mapped_column(UnsignedInteger, comment="高(像素)")
    size_bytes: Mapped[int] = mapped_column(UnsignedBigInteger, comment="文件大小(字节)")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="上传时间")

    __table_args__ = (
        # With the size, so that a quota is summed up from the index alone.
        Index("idx_user_id", "user_id", "id", "size_bytes"),
        Index("idx_sha256", "sha256"),
        {"comment": "用户图片", **ACCOUNT_OPTIONS},
    )
