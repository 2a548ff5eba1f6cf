"""Time: stored and answered in UTC; only "which day is it" knows a time zone."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo


def utc_now() -> datetime:
    """The current time, aware, in UTC, in whole seconds: what the tables hold."""
    return datetime.now(UTC).replace(microsecond=0)


def day_in_utc(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The first moment of `day` in `zone` and the first of the next day, both in UTC."""
    start = datetime.combine(day, time.min, zone)
    end = datetime.combine(day + timedelta(days=1), time.min, zone)
    return start.astimezone(UTC), end.astimezone(UTC)
