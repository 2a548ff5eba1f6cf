"""Who was forgotten within the last days, so that rows which waited on disk do not bring the ids back."""

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import create_table

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "forgotten_user",
        sa.Column("user_hash", sa.String(64), primary_key=True, comment="用户ID的SHA-256"),
        sa.Column("forgotten_at", sa.DateTime, nullable=False, comment="遗忘时间"),
        comment="近期被遗忘的用户",
    )


def downgrade() -> None:
    op.drop_table("forgotten_user")
