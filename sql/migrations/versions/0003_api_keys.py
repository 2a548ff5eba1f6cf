"""API keys and the audit log."""

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import create_index, create_table
from app.database.tables.columns import UnsignedBigInteger, UnsignedInteger

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "api_key",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(64), nullable=False, comment="名称"),
        sa.Column("key_hash", sa.String(64), nullable=False, comment="密钥的SHA-256"),
        sa.Column("scopes", sa.String(64), nullable=False, comment="权限"),
        sa.Column("budget_micros", UnsignedBigInteger, comment="每日预算"),
        sa.Column("rate_per_minute", UnsignedInteger, comment="每分钟请求数"),
        sa.Column("created_at", sa.DateTime, nullable=False, comment="创建时间"),
        sa.Column("expires_at", sa.DateTime, comment="过期时间"),
        sa.Column("revoked_at", sa.DateTime, comment="吊销时间"),
        comment="API密钥",
        sqlite_autoincrement=True,
    )
    create_index("api_key", "uk_key_hash", "key_hash", unique=True)
    create_table(
        "audit_log",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
        sa.Column("at", sa.DateTime, nullable=False, comment="时间(UTC)"),
        sa.Column("actor", sa.String(128), nullable=False, comment="操作者"),
        sa.Column("action", sa.String(64), nullable=False, comment="操作"),
        sa.Column("subject", sa.String(128), comment="对象"),
        sa.Column("ip_address", sa.String(45), comment="IP地址"),
        sa.Column("details", sa.JSON, nullable=False, comment="详情"),
        comment="审计日志",
        sqlite_autoincrement=True,
    )
    create_index("audit_log", "idx_at", "at")
    create_index("audit_log", "idx_subject", "subject", "at")


def downgrade() -> None:
    op.drop_table("audit_log")
    op.drop_table("api_key")
