"""The specification's statistics (section 7.4) as views, the days that they need, and the sums of new photos.

The views read what the endpoints read, and compute in integers: the databases' own division rounds twice (MySQL) or in
binary fractions (SQLite). SQLite checks all views when a later migration renames a table or a column: drop them first.
"""

# ruff: noqa: S608 - constants of this file

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import create_index, create_table
from app.database.tables.columns import TinyUnsignedInteger, UnsignedBigInteger, comparison_key

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

VIEWS = ("v_today", "v_cache_efficiency", "v_category_distribution", "v_top_images", "v_top_users")


def upgrade() -> None:
    create_table(
        "stats_new_photo",
        sa.Column("period_start", sa.DateTime, primary_key=True, comment="时段开始(UTC, 15分钟)"),
        sa.Column("kind", sa.String(16), primary_key=True, comment="model, format或confidence"),
        sa.Column("value", comparison_key(255), primary_key=True, comment="模型、格式或置信度区间"),
        sa.Column("shard", TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片"),
        sa.Column("photos", UnsignedBigInteger, nullable=False, comment="新图片数"),
        comment="分时段新图片数",
    )
    create_table(
        "stats_day",
        sa.Column("day", sa.Date, primary_key=True, comment="日期(统计时区)"),
        sa.Column("starts_at", sa.DateTime, nullable=False, comment="开始(UTC)"),
        sa.Column("ends_at", sa.DateTime, nullable=False, comment="结束(UTC, 不含)"),
        comment="统计日历",
    )
    create_index("stats_day", "idx_starts_at", "starts_at")
    # SQLite knows no CREATE OR REPLACE; an upgrade that was cut off on MySQL has left some of them.
    for name, query in _queries(is_sqlite=op.get_context().dialect.name == "sqlite").items():
        op.execute(f"DROP VIEW IF EXISTS {name}")
        op.execute(_create(name, query))


def downgrade() -> None:
    for name in VIEWS:
        op.execute(f"DROP VIEW IF EXISTS {name}")
    op.drop_table("stats_day")
    op.drop_table("stats_new_photo")


def _create(name: str, query: str) -> str:
    if op.get_context().dialect.name == "sqlite":
        return f"CREATE VIEW {name} AS {query}"
    # The reader needs the right to read the tables, and the account that created the view may go.
    return f"CREATE SQL SECURITY INVOKER VIEW {name} AS {query}"


def _queries(*, is_sqlite: bool) -> dict[str, str]:
    # The columns of SQLite hold microseconds, and are compared as texts.
    now = "datetime('now') || '.000000'" if is_sqlite else "UTC_TIMESTAMP()"

    def scaled(number: str, digits: int) -> str:
        return f"({number}) / 1{'0' * digits}.0" if is_sqlite else f"({number}) * 0.{'1'.rjust(digits, '0')}"

    def ratio(numerator: str, denominator: str, digits: int = 2) -> str:
        """The quotient, rounded half up; 0 where there is nothing to divide by."""
        divide = "/" if is_sqlite else "DIV"
        doubled = f"2 * ({numerator}) * 1{'0' * digits} + {denominator}"
        return f"COALESCE({scaled(f'({doubled}) {divide} (2 * {denominator})', digits)}, 0)"

    def seconds(column: str) -> str:
        return f"CAST(strftime('%s', {column}) AS INTEGER)"

    lifetime_days = (
        f"({seconds('last_hit_at')} - {seconds('created_at')}) / 86400"
        if is_sqlite
        else "TIMESTAMPDIFF(DAY, created_at, last_hit_at)"
    )
    is_today = f"d.starts_at <= {now} AND d.ends_at > {now}"
    visitors = (
        "(SELECT COALESCE(SUM(v.visitors), 0) FROM stats_visitor_count AS v WHERE v.day = d.day AND v.kind = '{}')"
    )
    return {
        "v_today": f"""
SELECT total_requests, cache_hits, total_requests - cache_hits AS cache_misses,
  {ratio("100 * cache_hits", "total_requests")} AS cache_hit_rate,
  unique_users, unique_ips,
  {ratio("milliseconds", "total_requests")} AS avg_processing_time_ms,
  {scaled("spent_micros", 6)} AS estimated_cost, {scaled("saved_micros", 6)} AS cost_saved
FROM (
  SELECT COALESCE(SUM(p.requests), 0) AS total_requests, COALESCE(SUM(p.hits), 0) AS cache_hits,
    COALESCE(SUM(p.processing_time_ms), 0) AS milliseconds, COALESCE(SUM(p.saved_micros), 0) AS saved_micros,
    (SELECT COALESCE(SUM(s.cost_micros), 0) FROM stats_spending AS s
      WHERE s.period_start >= d.starts_at AND s.period_start < d.ends_at) AS spent_micros,
    {visitors.format("user")} AS unique_users,
    {visitors.format("ip")} AS unique_ips
  FROM stats_day AS d
  LEFT JOIN stats_period AS p ON p.period_start >= d.starts_at AND p.period_start < d.ends_at
  WHERE {is_today}
  GROUP BY d.day, d.starts_at, d.ends_at
) AS today""",
        "v_cache_efficiency": f"""
SELECT images AS total_cached_images, hits AS total_hits, hits - images AS times_saved,
  {scaled("saved_micros", 6)} AS cost_saved,
  {ratio("hits", "images")} AS avg_hit_per_image,
  COALESCE((SELECT MAX(hit_count) FROM image_classification_cache), 0) AS max_hits
FROM (
  SELECT COALESCE(SUM(images), 0) AS images, COALESCE(SUM(hits), 0) AS hits,
    COALESCE(SUM(saved_micros), 0) AS saved_micros
  FROM stats_cache
) AS cache""",
        "v_category_distribution": f"""
SELECT category, requests AS count, {ratio("100 * requests", "total")} AS percentage,
  {ratio("confidence", "10000 * requests", 4)} AS avg_confidence
FROM (
  SELECT p.category AS category, SUM(p.requests) AS requests, SUM(p.confidence_sum) AS confidence,
    SUM(SUM(p.requests)) OVER () AS total
  FROM stats_day AS d
  JOIN stats_period AS p ON p.period_start >= d.starts_at AND p.period_start < d.ends_at
  WHERE {is_today}
  GROUP BY p.category
) AS shares
ORDER BY requests DESC, category""",
        "v_top_images": f"""
SELECT image_hash, category, confidence, hit_count, created_at, last_hit_at, {lifetime_days} AS lifetime_days
FROM image_classification_cache
ORDER BY hit_count DESC, id DESC
LIMIT 10""",
        "v_top_users": f"""
SELECT user_id, requests AS request_count, hits AS cache_hits,
  {ratio("100 * hits", "requests")} AS cache_hit_rate,
  first_request_at AS first_request, last_request_at AS last_request
FROM stats_user
ORDER BY requests DESC, user_id DESC
LIMIT 20""",
    }
