"""First answers, which a repeat of their request gets again."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables.columns import TABLE_OPTIONS, Base, Milliseconds, UnsignedBigInteger, comparison_key


class IdempotentAnswer(Base):
    """The answer to the first request with an Idempotency-Key.

    The row is part of the transaction that makes the answer count, and its primary key lets one request of several
    commit. It goes with the picture of a library that it is about, by a foreign key.
    """

    __tablename__ = "idempotent_answer"

    key_hash: Mapped[str] = mapped_column(String(64), primary_key=True, comment="调用方、路径与幂等键的SHA-256")
    fingerprint: Mapped[str] = mapped_column(String(64), comment="请求内容的SHA-256")
    request_id: Mapped[str] = mapped_column(String(64), comment="首次请求的ID")
    user_id: Mapped[str | None] = mapped_column(comparison_key(64), comment="用户ID/设备ID")
    image_id: Mapped[int | None] = mapped_column(
        UnsignedBigInteger, ForeignKey("library_image.id", ondelete="CASCADE"), comment="图片"
    )
    # 500 hits of a batch take 200 kB.
    body: Mapped[str] = mapped_column(
        Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), comment="首次应答的正文"
    )
    created_at: Mapped[datetime] = mapped_column(Milliseconds, comment="创建时间(UTC), 24小时后删除")

    __table_args__ = (
        Index("idx_created_at", "created_at"),
        Index("idx_user_id", "user_id"),
        Index("idx_image_id", "image_id"),
        {"comment": "带幂等键请求的首次应答", **TABLE_OPTIONS},
    )
