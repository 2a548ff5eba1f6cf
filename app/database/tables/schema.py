"""All tables together: what the migrations build, and what a test compares with them and with `sql/init.sql`."""

from app.database.tables import (
    accounts,
    api_keys,
    audit,
    batches,
    classification,
    feedback,
    heartbeat,
    idempotency,
    inference,
    library,
    near_duplicates,
    request_log,
    signatures,
    spending,
    statistics,
)
from app.database.tables.columns import Base

__all__ = [
    "accounts",
    "api_keys",
    "audit",
    "batches",
    "classification",
    "feedback",
    "heartbeat",
    "idempotency",
    "inference",
    "library",
    "metadata",
    "near_duplicates",
    "request_log",
    "signatures",
    "spending",
    "statistics",
]

metadata = Base.metadata
