"""Nonces of signed requests."""

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import create_index, create_table

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "signature_nonce",
        sa.Column("nonce_hash", sa.String(64), primary_key=True, comment="密钥ID与随机数的SHA-256"),
        sa.Column("request_id", sa.String(64), nullable=False, comment="使用它的请求ID"),
        sa.Column("expires_at", sa.DateTime, nullable=False, comment="过期时间(UTC), 之后可删除"),
        comment="请求签名中用过的随机数",
    )
    create_index("signature_nonce", "idx_expires_at", "expires_at")


def downgrade() -> None:
    op.drop_table("signature_nonce")
