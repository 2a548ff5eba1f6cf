"""The cache of classified images, the changes of its entries, and the leases of model calls."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.tables.columns import (
    LANGUAGE_MAX_LENGTH,
    TABLE_OPTIONS,
    Base,
    Confidence,
    CurrentTimestampOnUpdate,
    TinyInteger,
    UnsignedBigInteger,
    UnsignedInteger,
    UtcDateTime,
    current_timestamp,
)


class CachedImage(Base):
    """One classified image, shared by all users; the image itself is not kept."""

    __tablename__ = "image_classification_cache"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    image_hash: Mapped[str] = mapped_column(String(64), comment="SHA-256哈希值")
    category: Mapped[str] = mapped_column(String(50), comment="分类Key（8个预定义类别之一）")
    confidence: Mapped[Decimal] = mapped_column(Confidence, comment="置信度(0-1)")
    description: Mapped[str | None] = mapped_column(Text, comment="图片描述")
    model_used: Mapped[str] = mapped_column(String(MODEL_NAME_MAX_LENGTH), comment="使用的模型")
    model_response: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), comment="完整模型响应")
    hit_count: Mapped[int] = mapped_column(
        UnsignedInteger, server_default=text("'1'"), nullable=True, comment="缓存命中次数"
    )
    created_at: Mapped[datetime] = mapped_column(
        UtcDateTime, server_default=current_timestamp(), comment="首次创建时间"
    )
    last_hit_at: Mapped[datetime] = mapped_column(
        UtcDateTime, server_default=CurrentTimestampOnUpdate(), comment="最后命中时间"
    )
    cost_micros: Mapped[int] = mapped_column(
        UnsignedBigInteger, server_default=text("'0'"), comment="得到该结果的费用(CURRENCY的百万分之一)"
    )
    language: Mapped[str | None] = mapped_column(String(LANGUAGE_MAX_LENGTH), comment="描述的语言(zh/en)")

    __table_args__ = (
        Index("uk_image_hash", "image_hash", unique=True),
        Index("idx_created_at", "created_at"),
        Index("idx_category", "category"),
        Index("idx_hit_count", "hit_count"),
        {"comment": "图片分类全局缓存表", **TABLE_OPTIONS},
    )


class CacheDescription(Base):
    """What an entry says in another language than its own; no description: a model has none in this one."""

    __tablename__ = "cache_description"

    entry_id: Mapped[int] = mapped_column(
        UnsignedBigInteger,
        ForeignKey("image_classification_cache.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="缓存条目",
    )
    language: Mapped[str] = mapped_column(String(LANGUAGE_MAX_LENGTH), primary_key=True, comment="描述的语言(zh/en)")
    description: Mapped[str | None] = mapped_column(Text, comment="图片描述")
    model_used: Mapped[str] = mapped_column(String(MODEL_NAME_MAX_LENGTH), comment="使用的模型")
    cost_micros: Mapped[int] = mapped_column(UnsignedBigInteger, comment="得到该描述的费用(CURRENCY的百万分之一)")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="创建时间")

    __table_args__ = ({"comment": "缓存条目的其它语言描述", **TABLE_OPTIONS},)


class CacheChange(Base):
    """An entry that was changed: by hand, or a local model's by another; each process watches and forgets its copy."""

    __tablename__ = "cache_change"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    image_hash: Mapped[str] = mapped_column(String(64), comment="SHA-256哈希值")
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="修改时间")
    by_hand: Mapped[int] = mapped_column(TinyInteger, server_default=text("'1'"), comment="是否人工修改(0-否 1-是)")

    __table_args__ = (
        Index("idx_changed_at", "changed_at"),
        Index("idx_image_hash", "image_hash", "changed_at"),
        {"comment": "缓存人工修改记录", **TABLE_OPTIONS},
    )


class ModelCallLease(Base):
    """The right to ask the model about one photo: the process that inserts the row has it until the row is deleted.

    It ends too when the owner is stalled (app/database/heartbeat.py).
    """

    __tablename__ = "model_call_lease"

    image_hash: Mapped[str] = mapped_column(String(64), primary_key=True, comment="SHA-256哈希值")
    owner: Mapped[str] = mapped_column(String(32), comment="持有者进程ID")
    reserved_micros: Mapped[int] = mapped_column(
        UnsignedBigInteger, server_default=text("'0'"), comment="预留的费用(CURRENCY的百万分之一)"
    )
    api_key_id: Mapped[int | None] = mapped_column(UnsignedBigInteger, comment="API密钥ID")

    __table_args__ = ({"comment": "模型调用租约（同一图片只调用一次）", **TABLE_OPTIONS},)
