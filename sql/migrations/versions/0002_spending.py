"""Money: the ledger of model calls, its sums, what limits have been used, and what hits save."""

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import add_column, create_index, create_table
from app.database.tables.columns import TinyUnsignedInteger, UnsignedBigInteger, UnsignedInteger, comparison_key

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SAVED = "节省的费用(CURRENCY的百万分之一)"


def upgrade() -> None:
    create_table(
        "model_call",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(64), nullable=False, comment="请求ID"),
        sa.Column("number", UnsignedInteger, nullable=False, comment="同一请求中的第几次调用(从0开始)"),
        sa.Column("called_at", sa.DateTime, nullable=False, comment="调用时间"),
        sa.Column("provider", sa.String(100), nullable=False, comment="服务商"),
        sa.Column("model", sa.String(255), nullable=False, comment="模型"),
        sa.Column("input_tokens", UnsignedInteger, nullable=False, comment="输入token数"),
        sa.Column("cached_input_tokens", UnsignedInteger, nullable=False, comment="其中命中服务商缓存的token数"),
        sa.Column("output_tokens", UnsignedInteger, nullable=False, comment="输出token数"),
        sa.Column("cost_micros", UnsignedBigInteger, nullable=False, comment="费用(CURRENCY的百万分之一)"),
        sa.Column("outcome", sa.String(16), nullable=False, comment="结果: answered, invalid, refused, failed"),
        sa.Column("api_key_id", UnsignedBigInteger, comment="API密钥ID"),
        sa.Column("account_id", UnsignedBigInteger, comment="账号ID"),
        sa.Column("user_id", comparison_key(64), comment="用户ID/设备ID"),
        comment="付费模型调用账本",
    )
    create_index("model_call", "uk_request_id", "request_id", "number", unique=True)
    for column in ("called_at", "user_id", "account_id"):
        create_index("model_call", f"idx_{column}", column)
    create_table(
        "stats_spending",
        sa.Column("period_start", sa.DateTime, primary_key=True, comment="时段开始(UTC, 15分钟)"),
        sa.Column("provider", sa.String(100), primary_key=True, comment="服务商"),
        sa.Column("model", sa.String(255), primary_key=True, comment="模型"),
        sa.Column("api_key_id", UnsignedBigInteger, primary_key=True, autoincrement=False, comment="API密钥ID(0为无)"),
        sa.Column("shard", TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片"),
        sa.Column("calls", UnsignedBigInteger, nullable=False, comment="调用次数"),
        sa.Column("input_tokens", UnsignedBigInteger, nullable=False, comment="输入token数"),
        sa.Column("cached_input_tokens", UnsignedBigInteger, nullable=False, comment="其中命中服务商缓存的token数"),
        sa.Column("output_tokens", UnsignedBigInteger, nullable=False, comment="输出token数"),
        sa.Column("cost_micros", UnsignedBigInteger, nullable=False, comment="费用(CURRENCY的百万分之一)"),
        comment="分时段费用",
    )
    create_table(
        "budget_use",
        sa.Column("scope", comparison_key(100), primary_key=True, comment="限额对象"),
        sa.Column("window_start", sa.DateTime, primary_key=True, comment="窗口开始(UTC)"),
        sa.Column("used", UnsignedBigInteger, nullable=False, comment="已用(百万分之一货币单位, 或图片数)"),
        sa.Column("attempts", UnsignedBigInteger, nullable=False, comment="领取次数"),
        comment="限额使用情况",
    )
    create_index("budget_use", "idx_window_start", "window_start")
    add_column("stats_period", _micros("saved_micros", SAVED))
    add_column("stats_cache", _micros("saved_micros", SAVED))
    add_column("image_classification_cache", _micros("cost_micros", "得到该结果的费用(CURRENCY的百万分之一)"))
    add_column("model_call_lease", _micros("reserved_micros", "预留的费用(CURRENCY的百万分之一)"))
    add_column("model_call_lease", sa.Column("api_key_id", UnsignedBigInteger, comment="API密钥ID"))


def downgrade() -> None:
    for table, column in (
        ("model_call_lease", "api_key_id"),
        ("model_call_lease", "reserved_micros"),
        ("image_classification_cache", "cost_micros"),
        ("stats_cache", "saved_micros"),
        ("stats_period", "saved_micros"),
    ):
        op.drop_column(table, column)
    for table in ("budget_use", "stats_spending", "model_call"):
        op.drop_table(table)


def _micros(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, UnsignedBigInteger, nullable=False, server_default=sa.text("'0'"), comment=comment)
