"""The log of answered requests, and who was forgotten lately."""

from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import Computed, Date, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.tables.columns import (
    TABLE_OPTIONS,
    Base,
    Confidence,
    TinyInteger,
    UnsignedBigInteger,
    UnsignedInteger,
    UtcDateTime,
    comparison_key,
    current_timestamp,
)


class RequestLog(Base):
    """One answered request."""

    __tablename__ = "request_log"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    request_id: Mapped[str] = mapped_column(String(64), comment="请求唯一ID")
    user_id: Mapped[str | None] = mapped_column(comparison_key(64), comment="用户ID/设备ID")
    ip_address: Mapped[str | None] = mapped_column(String(45), comment="客户端IP地址")
    image_hash: Mapped[str] = mapped_column(String(64), comment="SHA-256哈希")
    image_size: Mapped[int | None] = mapped_column(UnsignedInteger, comment="图片大小(字节)")
    category: Mapped[str] = mapped_column(String(50), comment="分类Key（8个类别之一）")
    confidence: Mapped[Decimal] = mapped_column(Confidence, comment="置信度")
    from_cache: Mapped[int] = mapped_column(
        TinyInteger, server_default=text("'0'"), nullable=True, comment="是否来自缓存(0-否 1-是)"
    )
    processing_time_ms: Mapped[int | None] = mapped_column(UnsignedInteger, comment="处理耗时(毫秒)")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="创建时间")
    created_date: Mapped[date | None] = mapped_column(
        Date, Computed("DATE(created_at)", persisted=True), comment="日期(便于分区查询)"
    )
    model: Mapped[str | None] = mapped_column(String(MODEL_NAME_MAX_LENGTH), comment="给出该结果的模型")

    __table_args__ = (
        Index("uk_request_id", "request_id", unique=True),
        Index("idx_user_id", "user_id"),
        Index("idx_ip_address", "ip_address"),
        Index("idx_created_date", "created_date"),
        Index("idx_from_cache", "from_cache"),
        Index("idx_created_at", "created_at"),
        Index("idx_category", "category"),
        {"comment": "请求日志表-用于统计分析", **TABLE_OPTIONS},
    )


class ForgottenUser(Base):
    """A user who was forgotten within the last days (app/services/request_log/forgotten.py)."""

    __tablename__ = "forgotten_user"

    user_hash: Mapped[str] = mapped_column(String(64), primary_key=True, comment="用户ID的SHA-256")
    forgotten_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="遗忘时间")

    __table_args__ = ({"comment": "近期被遗忘的用户", **TABLE_OPTIONS},)
