"""The benchmark of the statistics works, and a wrong figure fails it; nothing is said here about how fast it is."""

import re
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from app.clock import day_in_utc
from app.config.settings import PROJECT_ROOT
from bench.ledger import AccountingError
from bench.statistics import COLUMNS, PATHS, ZONE, check_figures, fill
from bench.wrk import WrkMissingError, get_wrk
from tests.servers.processes import start_process
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="wrk comes from apt")

RUN_TIMEOUT_SECONDS = 400


def test_a_short_run_measures_every_figure() -> None:
    try:
        get_wrk()
    except WrkMissingError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "bench.statistics", "--rows", "2000", "--seconds", "0.3"]
    with start_process(command, ready=lambda: True, cwd=PROJECT_ROOT) as process:
        status = process.wait(RUN_TIMEOUT_SECONDS)
        output = process.output()
    assert status == 0, output
    lines = output.partition(f"| {' | '.join(COLUMNS)} |\n")[2].splitlines()[1 : len(PATHS) + 1]
    expected = [path.partition("?")[0] for path in PATHS]
    assert [re.split("[`?]", line)[1] for line in lines] == expected
    for line in lines:
        _, requests, middle, late, slowest = line.strip("| ").split(" | ")
        assert int(requests) > 0
        assert 0 < float(middle) <= float(late) <= float(slowest)


@pytest.fixture
def log(mysql_database: TestDatabase) -> Iterator[Engine]:
    """An engine on a short log."""
    engine = create_engine(make_url(mysql_database.url).set(drivername="mysql+pymysql"))
    try:
        fill(engine, 2000)
        yield engine
    finally:
        engine.dispose()


def test_a_wrong_figure_is_noticed(log: Engine) -> None:
    with log.connect() as connection:
        counted = connection.execute(
            text("SELECT COUNT(*), SUM(hit_count), MAX(hit_count) FROM image_classification_cache")
        )
        images, hits, most = map(int, counted.one())
    right: dict[str, Any] = {"total_cached_images": images, "total_hits": hits, "max_hits": most}

    def ask(path: str) -> dict[str, Any]:
        if "cache" in path:
            return right
        day = date.fromisoformat(path[-10:])
        start, end = day_in_utc(day, ZONE)
        with log.connect() as connection:
            row = connection.execute(
                text(
                    "SELECT COUNT(*) AS total_requests, COUNT(DISTINCT user_id) AS unique_users,"
                    " COUNT(DISTINCT ip_address) AS unique_ips FROM request_log"
                    " WHERE created_at >= :start AND created_at < :end"
                ),
                {"start": start.replace(tzinfo=None), "end": end.replace(tzinfo=None)},
            ).one()
        figures = {**row._mapping, **wrong}
        return {"points": [{"value": figures["total_requests"] + missing}]} if "timeseries" in path else figures

    past = datetime.now(ZONE).date() - timedelta(days=40)
    wrong: dict[str, int] = {}
    missing = 0
    check_figures(log, ask, past)
    wrong = {"unique_ips": -1}
    with pytest.raises(AccountingError, match="the log says"):
        check_figures(log, ask, past)
    wrong, missing = {}, -1
    with pytest.raises(AccountingError, match="the points of a series"):
        check_figures(log, ask, past)
    missing, right["total_hits"] = 0, hits + 1
    with pytest.raises(AccountingError, match="the cache"):
        check_figures(log, ask, past)
