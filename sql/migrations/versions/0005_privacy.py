"""Privacy: a user is found by name in the visitors of all days, and users who were not seen for long by time."""

from alembic import op

from app.database.migration_steps import create_index

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INDEXES = (("stats_visitor", "idx_visitor", "visitor"), ("stats_user", "idx_last_request_at", "last_request_at"))


def upgrade() -> None:
    for table, name, column in INDEXES:
        create_index(table, name, column)


def downgrade() -> None:
    is_sqlite = op.get_context().dialect.name == "sqlite"
    for table, name, _ in INDEXES:
        op.drop_index(f"{table}_{name}" if is_sqlite else name, table)
