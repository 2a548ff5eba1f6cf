"""Money: the ledger of model calls, its sums, and what limits have been used."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.tables.columns import (
    TABLE_OPTIONS,
    Base,
    TinyUnsignedInteger,
    UnsignedBigInteger,
    UnsignedInteger,
    UtcDateTime,
    comparison_key,
)

PROVIDER_MAX_LENGTH = 100


class ModelCallRow(Base):
    """One call of a model that costs money; the row is never changed, except that it may forget who paid."""

    __tablename__ = "model_call"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    request_id: Mapped[str] = mapped_column(String(64), comment="请求ID")
    number: Mapped[int] = mapped_column(UnsignedInteger, comment="同一请求中的第几次调用(从0开始)")
    called_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="调用时间")
    provider: Mapped[str] = mapped_column(String(PROVIDER_MAX_LENGTH), comment="服务商")
    model: Mapped[str] = mapped_column(String(MODEL_NAME_MAX_LENGTH), comment="模型")
    input_tokens: Mapped[int] = mapped_column(UnsignedInteger, comment="输入token数")
    cached_input_tokens: Mapped[int] = mapped_column(UnsignedInteger, comment="其中命中服务商缓存的token数")
    output_tokens: Mapped[int] = mapped_column(UnsignedInteger, comment="输出token数")
    cost_micros: Mapped[int] = mapped_column(UnsignedBigInteger, comment="费用(CURRENCY的百万分之一)")
    outcome: Mapped[str] = mapped_column(String(16), comment="结果: answered, invalid, refused, failed")
    api_key_id: Mapped[int | None] = mapped_column(UnsignedBigInteger, comment="API密钥ID")
    account_id: Mapped[int | None] = mapped_column(UnsignedBigInteger, comment="账号ID")
    user_id: Mapped[str | None] = mapped_column(comparison_key(64), comment="用户ID/设备ID")

    __table_args__ = (
        Index("uk_request_id", "request_id", "number", unique=True),
        Index("idx_called_at", "called_at"),
        Index("idx_user_id", "user_id"),
        Index("idx_account_id", "account_id"),
        {"comment": "付费模型调用账本", **TABLE_OPTIONS},
    )


class SpendingTotals(Base):
    """Sums of the ledger over a quarter of an hour; sharded as `PeriodTotals`. Without an API key `api_key_id` is 0."""

    __tablename__ = "stats_spending"

    period_start: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True, comment="时段开始(UTC, 15分钟)")
    provider: Mapped[str] = mapped_column(String(PROVIDER_MAX_LENGTH), primary_key=True, comment="服务商")
    model: Mapped[str] = mapped_column(String(MODEL_NAME_MAX_LENGTH), primary_key=True, comment="模型")
    api_key_id: Mapped[int] = mapped_column(
        UnsignedBigInteger, primary_key=True, autoincrement=False, comment="API密钥ID(0为无)"
    )
    shard: Mapped[int] = mapped_column(TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片")
    calls: Mapped[int] = mapped_column(UnsignedBigInteger, comment="调用次数")
    input_tokens: Mapped[int] = mapped_column(UnsignedBigInteger, comment="输入token数")
    cached_input_tokens: Mapped[int] = mapped_column(UnsignedBigInteger, comment="其中命中服务商缓存的token数")
    output_tokens: Mapped[int] = mapped_column(UnsignedBigInteger, comment="输出token数")
    cost_micros: Mapped[int] = mapped_column(UnsignedBigInteger, comment="费用(CURRENCY的百万分之一)")

    __table_args__ = ({"comment": "分时段费用", **TABLE_OPTIONS},)


class BudgetUse(Base):
    """What of a limit is used in its window: money in millionths of CURRENCY, or photos."""

    __tablename__ = "budget_use"

    scope: Mapped[str] = mapped_column(comparison_key(100), primary_key=True, comment="限额对象")
    window_start: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True, comment="窗口开始(UTC)")
    used: Mapped[int] = mapped_column(UnsignedBigInteger, comment="已用(百万分之一货币单位, 或图片数)")
    attempts: Mapped[int] = mapped_column(UnsignedBigInteger, comment="领取次数")

    __table_args__ = (
        Index("idx_window_start", "window_start"),
        {"comment": "限额使用情况", **TABLE_OPTIONS},
    )
