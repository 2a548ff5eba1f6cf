"""What the calls for a result of a library picture cost: an answer that uses the result again saves as much."""

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import add_column
from app.database.tables.columns import UnsignedBigInteger

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COST = "得到该结果的费用(CURRENCY的百万分之一)"


def upgrade() -> None:
    cost = sa.Column("cost_micros", UnsignedBigInteger, nullable=False, server_default=sa.text("'0'"), comment=COST)
    add_column("inference_result", cost)


def downgrade() -> None:
    op.drop_column("inference_result", "cost_micros")
