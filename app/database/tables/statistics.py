"""The sums that the statistics read."""

from datetime import date, datetime

from sqlalchemy import BigInteger, Date, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables.columns import (
    TABLE_OPTIONS,
    Base,
    TinyUnsignedInteger,
    UnsignedBigInteger,
    UtcDateTime,
    comparison_key,
)


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
    processing_time_ms: Mapped[int] = mapped_column(UnsignedBigInteger, comment="处理耗时之和(毫秒)")
    confidence_sum: Mapped[int] = mapped_column(UnsignedBigInteger, comment="置信度之和(万分之一)")
    saved_micros: Mapped[int] = mapped_column(
        UnsignedBigInteger, server_default=text("'0'"), comment="节省的费用(CURRENCY的百万分之一)"
    )

    __table_args__ = ({"comment": "分时段统计", **TABLE_OPTIONS},)


class UserTotals(Base):
    """Sums over all requests of one user, kept for LOG_RETENTION_DAYS after the last one."""

    __tablename__ = "stats_user"

    user_id: Mapped[str] = mapped_column(comparison_key(64), primary_key=True, comment="用户ID/设备ID")
    requests: Mapped[int] = mapped_column(UnsignedBigInteger, comment="请求数")
    hits: Mapped[int] = mapped_column(UnsignedBigInteger, comment="缓存命中数")
    first_request_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="首次请求时间")
    last_request_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="最后请求时间")

    __table_args__ = (
        Index("idx_requests", "requests", "user_id"),
        Index("idx_last_request_at", "last_request_at"),
        {"comment": "用户统计", **TABLE_OPTIONS},
    )


class Visitor(Base):
    """Who was seen on a day of STATS_TIMEZONE: the memory behind `VisitorCount`, kept as long as the log."""

    __tablename__ = "stats_visitor"

    day: Mapped[date] = mapped_column(Date, primary_key=True, comment="日期(统计时区)")
    kind: Mapped[str] = mapped_column(String(4), primary_key=True, comment="user或ip")
    visitor: Mapped[str] = mapped_column(comparison_key(64), primary_key=True, comment="用户ID或IP地址")

    __table_args__ = (
        Index("idx_visitor", "visitor"),
        {"comment": "每日访客", **TABLE_OPTIONS},
    )


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
    saved_micros: Mapped[int] = mapped_column(
        UnsignedBigInteger, server_default=text("'0'"), comment="节省的费用(CURRENCY的百万分之一)"
    )

    __table_args__ = ({"comment": "缓存统计", **TABLE_OPTIONS},)


class ErrorPeriod(Base):
    """How many answers failed for a reason that was not the caller's; sharded as `PeriodTotals`."""

    __tablename__ = "stats_error"

    period_start: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True, comment="时段开始(UTC, 15分钟)")
    code: Mapped[str] = mapped_column(String(64), primary_key=True, comment="错误码")
    shard: Mapped[int] = mapped_column(TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片")
    errors: Mapped[int] = mapped_column(UnsignedBigInteger, comment="错误数")

    __table_args__ = ({"comment": "分时段错误数", **TABLE_OPTIONS},)


class NewPhotoPeriod(Base):
    """How many photos became known, by what is known of them; sharded as `PeriodTotals`.

    A photo counts once for each `kind`: for the model that answered, its format, and the tenth of its confidence.
    """

    __tablename__ = "stats_new_photo"

    period_start: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True, comment="时段开始(UTC, 15分钟)")
    kind: Mapped[str] = mapped_column(String(16), primary_key=True, comment="model, format或confidence")
    value: Mapped[str] = mapped_column(comparison_key(255), primary_key=True, comment="模型、格式或置信度区间")
    shard: Mapped[int] = mapped_column(TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片")
    photos: Mapped[int] = mapped_column(UnsignedBigInteger, comment="新图片数")

    __table_args__ = ({"comment": "分时段新图片数", **TABLE_OPTIONS},)


class StatsDay(Base):
    """When a day of STATS_TIMEZONE begins and ends in UTC, for the views: a server may not know the zone."""

    __tablename__ = "stats_day"

    day: Mapped[date] = mapped_column(Date, primary_key=True, comment="日期(统计时区)")
    starts_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="开始(UTC)")
    ends_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="结束(UTC, 不含)")

    __table_args__ = (
        Index("idx_starts_at", "starts_at"),
        {"comment": "统计日历", **TABLE_OPTIONS},
    )


class StatsState(Base):
    """What the statistics tables were built for, such as their time zone."""

    __tablename__ = "stats_state"

    name: Mapped[str] = mapped_column(String(32), primary_key=True, comment="名称")
    value: Mapped[str] = mapped_column(String(64), comment="值")

    __table_args__ = ({"comment": "统计状态", **TABLE_OPTIONS},)
