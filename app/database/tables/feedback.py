"""What users say of answers, and what was done by hand to the entries of the cache."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.tables.columns import TABLE_OPTIONS, Base, TinyInteger, UnsignedBigInteger, UtcDateTime

COMMENT_MAX_LENGTH = 500


class FeedbackVote(Base):
    """What one user says that one photo shows; who it is stands here only as SHA-256 (app/services/feedback/voter.py).

    It names no row of the cache: a photo that is asked about again is the same photo.
    """

    __tablename__ = "feedback"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    image_hash: Mapped[str] = mapped_column(String(64), comment="SHA-256哈希值")
    voter: Mapped[str] = mapped_column(String(64), comment="投票者(SHA-256)")
    counted_as: Mapped[str] = mapped_column(String(64), comment="按谁计数(SHA-256)")
    network: Mapped[str | None] = mapped_column(String(64), comment="匿名者的网络(SHA-256)")
    user_hash: Mapped[str | None] = mapped_column(String(64), comment="用户ID的SHA-256")
    category: Mapped[str] = mapped_column(String(50), comment="用户认为的分类")
    comment: Mapped[str | None] = mapped_column(String(COMMENT_MAX_LENGTH), comment="备注")
    answered_category: Mapped[str] = mapped_column(String(50), comment="当时回答的分类")
    answered_model: Mapped[str] = mapped_column(String(MODEL_NAME_MAX_LENGTH), comment="当时回答的模型")
    is_dismissed: Mapped[int] = mapped_column(
        TinyInteger, server_default=text("'0'"), comment="是否被运维驳回(0-否 1-是)"
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="最近一次提交时间")

    __table_args__ = (
        Index("uk_image_voter", "image_hash", "voter", unique=True),
        Index("idx_user_hash", "user_hash"),
        Index("idx_created_at", "created_at"),
        {"comment": "用户反馈", **TABLE_OPTIONS},
    )


class CacheHistory(Base):
    """One change of an entry by people: the entry before it, and after it; null where there was none."""

    __tablename__ = "cache_history"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    image_hash: Mapped[str] = mapped_column(String(64), comment="SHA-256哈希值")
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="修改时间")
    action: Mapped[str] = mapped_column(String(16), comment="操作")
    actor: Mapped[str] = mapped_column(String(128), comment="操作者")
    entry_before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), comment="修改前")
    entry_after: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), comment="修改后")
    undone_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="撤销时间")

    __table_args__ = (
        Index("idx_image_hash", "image_hash", "id"),
        Index("idx_action", "action", "changed_at"),
        {"comment": "缓存条目的人工修改历史", **TABLE_OPTIONS},
    )
