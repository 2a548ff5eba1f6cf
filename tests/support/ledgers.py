"""Whether the books of a database agree with each other: each request once, in every row and sum."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

_SUMS = """
SELECT (SELECT COUNT(*) FROM request_log), (SELECT COALESCE(SUM(from_cache), 0) FROM request_log),
  (SELECT COALESCE(SUM(requests), 0) FROM stats_period), (SELECT COALESCE(SUM(hits), 0) FROM stats_period),
  (SELECT COUNT(*) FROM image_classification_cache),
  (SELECT COALESCE(SUM(hit_count), 0) FROM image_classification_cache),
  (SELECT COALESCE(SUM(images), 0) FROM stats_cache), (SELECT COALESCE(SUM(hits), 0) FROM stats_cache),
  (SELECT COALESCE(SUM(requests), 0) FROM stats_user), (SELECT COUNT(user_id) FROM request_log),
  (SELECT COALESCE(SUM(visitors), 0) FROM stats_visitor_count), (SELECT COUNT(*) FROM stats_visitor),
  (SELECT COALESCE(SUM(photos), 0) FROM stats_new_photo WHERE kind = 'model'),
  (SELECT COUNT(*) FROM model_call), (SELECT COALESCE(SUM(calls), 0) FROM stats_spending),
  (SELECT COUNT(*) FROM model_call_lease)
"""


async def check_ledgers_agree(engine: AsyncEngine, *, aliases: int = 0) -> None:
    """Compare the sums with the rows; `hit_count` of an entry begins at 1, and no model was asked about `aliases`."""
    async with engine.connect() as connection:
        row: Any = (await connection.execute(text(_SUMS))).one()
    rows, cached, requests, hits, entries, hit_count, images, all_hits, user_requests, named, visitors, seen = (
        int(value) for value in row[:12]
    )
    photos, calls, summed_calls, leases = (int(value) for value in row[12:])
    assert (requests, hits, images, all_hits, photos) == (rows, cached, entries, hit_count, entries - aliases)
    assert hit_count == entries + cached
    assert (user_requests, visitors, summed_calls, leases) == (named, seen, calls, 0)


async def logged_ids(engine: AsyncEngine) -> list[str]:
    """The requests in the log."""
    async with engine.connect() as connection:
        return list(await connection.scalars(text("SELECT request_id FROM request_log")))
