"""The tables, column for column as the specification's section 7 and appendix A draw them.

`sql/init.sql` and the migrations create the same; a test compares all three on a real MySQL server. On SQLite, where
an index name belongs to the whole database, the migrations put the table's name before it.
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Computed,
    Date,
    DateTime,
    Dialect,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.sql.functions import FunctionElement

UnsignedBigInteger = (
    BigInteger().with_variant(mysql.BIGINT(unsigned=True), "mysql", "mariadb").with_variant(Integer(), "sqlite")
)
UnsignedInteger = Integer().with_variant(mysql.INTEGER(unsigned=True), "mysql", "mariadb")
TinyInteger = SmallInteger().with_variant(mysql.TINYINT(display_width=1), "mysql", "mariadb")
TinyUnsignedInteger = SmallInteger().with_variant(mysql.TINYINT(unsigned=True), "mysql", "mariadb")
Confidence = Numeric(5, 4)
# A heartbeat is judged after three seconds: whole seconds would cut off a good part of it.
Milliseconds = DateTime().with_variant(mysql.DATETIME(fsp=3), "mysql", "mariadb")
TABLE_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_unicode_ci",
}


class UtcDateTime(TypeDecorator[datetime]):
    """DATETIME that holds UTC: aware values go in and come out, naive ones are refused."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time cannot be stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class CurrentTimestampOnUpdate(FunctionElement[datetime]):
    """Default that MySQL also applies at every change of the row; SQLite knows only the plain default."""

    inherit_cache = True


@compiles(CurrentTimestampOnUpdate)
def _current_timestamp(element: CurrentTimestampOnUpdate, compiler: Any, **options: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(CurrentTimestampOnUpdate, "mysql")
@compiles(CurrentTimestampOnUpdate, "mariadb")
def _current_timestamp_on_update(element: CurrentTimestampOnUpdate, compiler: Any, **options: Any) -> str:
    return "CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"


def current_timestamp() -> TextClause:
    """Server default of a creation time."""
    return text("CURRENT_TIMESTAMP")


class Base(DeclarativeBase):
    """Base of all tables."""


class CachedImage(Base):
    """One classified image, shared by all users; the image itself is not kept."""

    __tablename__ = "image_classification_cache"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    image_hash: Mapped[str] = mapped_column(String(64), comment="SHA-256哈希值")
    category: Mapped[str] = mapped_column(String(50), comment="分类Key（8个预定义类别之一）")
    confidence: Mapped[Decimal] = mapped_column(Confidence, comment="置信度(0-1)")
    description: Mapped[str | None] = mapped_column(Text, comment="图片描述")
    model_used: Mapped[str] = mapped_column(String(50), comment="使用的模型")
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

    __table_args__ = (
        Index("uk_image_hash", "image_hash", unique=True),
        Index("idx_created_at", "created_at"),
        Index("idx_category", "category"),
        Index("idx_hit_count", "hit_count"),
        {"comment": "图片分类全局缓存表", **TABLE_OPTIONS},
    )


class RequestLog(Base):
    """One answered request."""

    __tablename__ = "request_log"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    request_id: Mapped[str] = mapped_column(String(64), comment="请求唯一ID")
    user_id: Mapped[str | None] = mapped_column(String(64), comment="用户ID/设备ID")
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


class CacheChange(Base):
    """An entry that was changed: by hand, or a local model's by another; each process watches and forgets its copy."""

    __tablename__ = "cache_change"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    image_hash: Mapped[str] = mapped_column(String(64), comment="SHA-256哈希值")
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="修改时间")

    __table_args__ = (
        Index("idx_changed_at", "changed_at"),
        {"comment": "缓存人工修改记录", **TABLE_OPTIONS},
    )


class ProcessHeartbeat(Base):
    """A process renews its row while it owns what others may wait for, or waits itself (app/database/heartbeat.py)."""

    __tablename__ = "process_heartbeat"

    process_id: Mapped[str] = mapped_column(String(32), primary_key=True, comment="进程ID")
    beat_at: Mapped[datetime] = mapped_column(Milliseconds, comment="最近心跳时间")

    __table_args__ = ({"comment": "进程心跳", **TABLE_OPTIONS},)


class ModelCallLease(Base):
    """The right to ask the model about one photo: the process that inserts the row has it until the row is deleted.

    It ends too when the owner is stalled (app/database/heartbeat.py).
    """

    __tablename__ = "model_call_lease"

    image_hash: Mapped[str] = mapped_column(String(64), primary_key=True, comment="SHA-256哈希值")
    owner: Mapped[str] = mapped_column(String(32), comment="持有者进程ID")

    __table_args__ = ({"comment": "模型调用租约（同一图片只调用一次）", **TABLE_OPTIONS},)


class PeriodTotals(Base):
    """Sums over the requests of a quarter of an hour, by category.

    Every time zone's midnight is a quarter's beginning. `shard` keeps processes from waiting for each other's row: each
    adds to one of eight, and a reader sums over all.
    """

    __tablename__ = "stats_period"

    period_start: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True, comment="时段开始(UTC, 15分钟)")
    category: Mapped[str] = mapped_column(String(50), primary_key=True, comment="分类Key（8个类别之一）")
    shard: Mapped[int] = mapped_column(TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片")
    requests: Mapped[int] = mapped_column(UnsignedBigInteger, comment="请求数")
    hits: Mapped[int] = mapped_column(UnsignedBigInteger, comment="缓存命中数")
    timed_requests: Mapped[int] = mapped_column(UnsignedBigInteger, comment="有耗时记录的请求数")
    processing_time_ms: Mapped[int] = mapped_column(UnsignedBigInteger, comment="处理耗时之和(毫秒)")
    confidence_sum: Mapped[int] = mapped_column(UnsignedBigInteger, comment="置信度之和(万分之一)")

    __table_args__ = ({"comment": "分时段统计", **TABLE_OPTIONS},)


class UserTotals(Base):
    """Sums over all requests of one user."""

    __tablename__ = "stats_user"

    user_id: Mapped[str] = mapped_column(String(64), primary_key=True, comment="用户ID/设备ID")
    requests: Mapped[int] = mapped_column(UnsignedBigInteger, comment="请求数")
    hits: Mapped[int] = mapped_column(UnsignedBigInteger, comment="缓存命中数")
    first_request_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="首次请求时间")
    last_request_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="最后请求时间")

    __table_args__ = (
        Index("idx_requests", "requests", "user_id"),
        {"comment": "用户统计", **TABLE_OPTIONS},
    )


class Visitor(Base):
    """Who was seen on a day of STATS_TIMEZONE: the memory behind `VisitorCount`, kept as long as the log."""

    __tablename__ = "stats_visitor"

    day: Mapped[date] = mapped_column(Date, primary_key=True, comment="日期(统计时区)")
    kind: Mapped[str] = mapped_column(String(4), primary_key=True, comment="user或ip")
    visitor: Mapped[str] = mapped_column(String(64), primary_key=True, comment="用户ID或IP地址")

    __table_args__ = ({"comment": "每日访客", **TABLE_OPTIONS},)


class VisitorCount(Base):
    """How many different users and addresses were seen on a day of STATS_TIMEZONE; sharded as `PeriodTotals`."""

    __tablename__ = "stats_visitor_count"

    day: Mapped[date] = mapped_column(Date, primary_key=True, comment="日期(统计时区)")
    kind: Mapped[str] = mapped_column(String(4), primary_key=True, comment="user或ip")
    shard: Mapped[int] = mapped_column(TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片")
    visitors: Mapped[int] = mapped_column(UnsignedBigInteger, comment="人数")

    __table_args__ = ({"comment": "每日访客数", **TABLE_OPTIONS},)


class CacheTotals(Base):
    """The number of entries of the cache and the sum of their `hit_count`; sharded as `PeriodTotals`.

    Signed: a shard may remove what another has added.
    """

    __tablename__ = "stats_cache"

    shard: Mapped[int] = mapped_column(TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片")
    images: Mapped[int] = mapped_column(BigInteger, comment="图片数")
    hits: Mapped[int] = mapped_column(BigInteger, comment="命中次数之和")

    __table_args__ = ({"comment": "缓存统计", **TABLE_OPTIONS},)


class ErrorPeriod(Base):
    """How many answers failed for a reason that was not the caller's; sharded as `PeriodTotals`."""

    __tablename__ = "stats_error"

    period_start: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True, comment="时段开始(UTC, 15分钟)")
    code: Mapped[str] = mapped_column(String(64), primary_key=True, comment="错误码")
    shard: Mapped[int] = mapped_column(TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片")
    errors: Mapped[int] = mapped_column(UnsignedBigInteger, comment="错误数")

    __table_args__ = ({"comment": "分时段错误数", **TABLE_OPTIONS},)


class StatsState(Base):
    """What the statistics tables were built for, such as their time zone."""

    __tablename__ = "stats_state"

    name: Mapped[str] = mapped_column(String(32), primary_key=True, comment="名称")
    value: Mapped[str] = mapped_column(String(64), comment="值")

    __table_args__ = ({"comment": "统计状态", **TABLE_OPTIONS},)
