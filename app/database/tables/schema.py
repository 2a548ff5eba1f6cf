"""All tables together: what the migrations build, and what a test compares with them and with `sql/init.sql`."""

from app.database.tables import accounts as account_tables
from app.database.tables import classification as tables

__all__ = ["account_tables", "metadata", "tables"]

metadata = tables.Base.metadata
