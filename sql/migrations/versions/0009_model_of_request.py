"""Which model has given the answer of a request; rows of before do not say it.

The entry of the photo may be another model's by now, or a person's, so it cannot say it for them.
"""

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import add_column

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # At the end and without a default: MySQL and MariaDB do not rewrite the table, which may have millions of rows.
    add_column("request_log", sa.Column("model", sa.String(255), comment="给出该结果的模型"))


def downgrade() -> None:
    op.drop_column("request_log", "model")
