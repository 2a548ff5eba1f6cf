"""What the calls for a result of a library picture cost, and events that go with their task.

An answer that uses a result again saves as much. A task goes with its picture, by a foreign key, and so do its events
from now on: they told for up to a day of a picture that its owner had deleted.
"""

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import add_column, create_index
from app.database.tables.columns import UnsignedBigInteger

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COST = "得到该结果的费用(CURRENCY的百万分之一)"


def upgrade() -> None:
    cost = sa.Column("cost_micros", UnsignedBigInteger, nullable=False, server_default=sa.text("'0'"), comment=COST)
    add_column("inference_result", cost)
    if _key_to_task() is None:
        # What the rule is for: events of tasks that are gone.
        op.execute("DELETE FROM task_event WHERE task_id NOT IN (SELECT id FROM inference_task)")
        create_index("task_event", "idx_task_id", "task_id")
        # SQLite adds no key to a table: the table is made anew.
        options = {"sqlite_autoincrement": True}
        with op.batch_alter_table("task_event", table_kwargs=options) as table:
            table.create_foreign_key("fk_task_event_task", "inference_task", ["task_id"], ["id"], ondelete="CASCADE")


def downgrade() -> None:
    with op.batch_alter_table("task_event", table_kwargs={"sqlite_autoincrement": True}) as table:
        # init.sql leaves the name to the server.
        table.drop_constraint(_key_to_task() or "", type_="foreignkey")
    is_sqlite = op.get_context().dialect.name == "sqlite"
    op.drop_index("task_event_idx_task_id" if is_sqlite else "idx_task_id", "task_event")
    op.drop_column("inference_result", "cost_micros")


def _key_to_task() -> str | None:
    """Return the name of the foreign key of an event to its task, None where there is none."""
    keys = sa.inspect(op.get_bind()).get_foreign_keys("task_event")
    return next((key["name"] for key in keys if key["referred_table"] == "inference_task"), None)
