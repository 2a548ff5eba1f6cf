"""The harness of `make faults` works on real servers, and each of its checks can fail."""

import asyncio
import base64
import dataclasses
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import create_engine, insert
from sqlalchemy.engine import make_url

from app.config.settings import PROJECT_ROOT
from app.database.tables.classification import CachedImage
from app.database.tables.request_log import RequestLog
from bench.faults import database_faults, other_faults
from bench.faults.__main__ import run
from bench.faults.books import Books, Row, read_books
from bench.faults.comparison import compare, recovery_seconds
from bench.faults.disk import small_disk
from bench.faults.load import NO_CLASSIFICATION, Answer, Kind
from bench.faults.model import PaidModel
from bench.faults.report import COLUMNS, table
from bench.faults.site import Fault
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import classification, dropped_in_body, failure
from tests.servers.processes import start_process
from tests.servers.waiting import wait_until
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

# Half a minute where nothing else runs.
RUN_TIMEOUT_SECONDS = 300


def answer(number: int, image_hash: str, *, kind: Kind = Kind.HIT, status: int = 200, **changes: Any) -> Answer:
    """The answer to a request; each has an id and a user of its own."""
    given = {"request_id": f"req-{number}" if status else "", **changes}
    return Answer(kind, f"user-{number}", image_hash, number, number + 0.5, status, **given)


# A new photo, two hits of it, a request that failed, and one whose answer never came though it was counted.
ANSWERS = [
    answer(0, "a", kind=Kind.UPLOAD),
    answer(1, "a"),
    answer(2, "a"),
    answer(3, "a", status=503, code="database_unavailable"),
    answer(4, "a", status=0),
]
ROWS = [
    Row("req-0", "user-0", "a", from_cache=False),
    *(Row(f"req-{number}", f"user-{number}", "a", from_cache=True) for number in (1, 2, 4)),
]
BOOKS = Books(rows=ROWS, hit_counts={"a": 4}, sums={"requests": (4, 4), "hits": (3, 3)}, ledger=1, leases=0)
PAID = {"a": 1}


def test_books_that_balance_are_clean() -> None:
    verdict = compare(ANSWERS, BOOKS, PAID)
    assert verdict.is_clean
    assert verdict.findings == []
    assert verdict.requests == 5
    assert verdict.statuses == {"200": 3, "503": 1, "broken": 1}
    assert verdict.codes == {"database_unavailable": 1}
    assert verdict.unanswered == 1
    assert verdict.longest_wait_seconds == 0.5


def with_rows(*rows: Row) -> dict[str, Any]:
    return {"rows": list(rows)}


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        (with_rows(*ROWS[:2], ROWS[3]), "lost"),
        (with_rows(*ROWS, ROWS[1]), "doubled"),
        (with_rows(*ROWS, ROWS[1]._replace(request_id="req-9")), "doubled"),
        (with_rows(*ROWS, Row("req-9", None, "a", from_cache=True)), "doubled"),
        ({"hit_counts": {"a": 3}}, "lost"),
        ({"hit_counts": {"a": 5}}, "doubled"),
        ({"hit_counts": {}}, "lost"),
        ({"hit_counts": {}}, "paid_in_vain"),
        ({"sums": {"requests": (3, 4)}}, "lost"),
        ({"sums": {"requests": (5, 4)}}, "doubled"),
        ({"ledger": 0}, "paid_in_vain"),
        ({"ledger": 2}, "doubled"),
    ],
)
def test_each_difference_of_the_books_is_noticed(changes: dict[str, Any], column: str) -> None:
    verdict = compare(ANSWERS, dataclasses.replace(BOOKS, **changes), PAID)
    assert not verdict.is_clean
    assert getattr(verdict, column) >= 1
    assert verdict.findings


@pytest.mark.parametrize(
    ("answers", "column"),
    [
        ([*ANSWERS, answer(1, "a")._replace(user_id="user-1b")], "doubled"),
        ([*ANSWERS, answer(9, "a", code=NO_CLASSIFICATION)], "lost"),
        ([*ANSWERS, answer(9, "b", kind=Kind.UPLOAD)], "lost"),
    ],
    ids=["two answers of one id", "a known photo was unknown", "neither in the log nor in the cache"],
)
def test_each_wrong_answer_is_noticed(answers: list[Answer], column: str) -> None:
    assert getattr(compare(answers, BOOKS, PAID), column) >= 1


def test_a_second_paid_call_is_noticed() -> None:
    verdict = compare(ANSWERS, dataclasses.replace(BOOKS, ledger=2), {"a": 2})
    assert (verdict.paid_twice, verdict.lost, verdict.doubled, verdict.paid_in_vain) == (1, 0, 0, 0)
    assert not verdict.is_clean


def test_an_answer_that_was_paid_and_not_kept_is_noticed() -> None:
    verdict = compare(ANSWERS, dataclasses.replace(BOOKS, ledger=2), {**PAID, "b": 1})
    assert (verdict.paid_twice, verdict.paid_in_vain) == (0, 1)


def test_recovery_is_counted_until_answers_stay_good() -> None:
    def good(asked_at: int) -> Answer:
        return answer(asked_at, "a")

    def bad(asked_at: int) -> Answer:
        return answer(asked_at, "a", status=503)

    # Each is answered after half a second.
    assert recovery_seconds([bad(1), good(11), good(12)], Kind.HIT, 10.0) == 0.0
    assert recovery_seconds([good(11), bad(12), good(13)], Kind.HIT, 10.0) == 3.5
    assert recovery_seconds([good(11), bad(12)], Kind.HIT, 10.0) is None
    assert recovery_seconds([good(11)], Kind.UPLOAD, 10.0) is None


async def test_the_books_are_read_as_they_are(mysql_database: TestDatabase) -> None:
    now = datetime.now(UTC)
    row = {"image_hash": "a" * 64, "category": "pets", "confidence": 0.9, "created_at": now}
    engine = create_engine(make_url(mysql_database.url).set(drivername="mysql+pymysql"))
    try:
        with engine.begin() as connection:
            connection.execute(insert(CachedImage), [{**row, "model_used": "test", "hit_count": 2, "last_hit_at": now}])
            rows = [
                {**row, "request_id": f"req-{number}", "user_id": f"user-{number}", "from_cache": number}
                for number in (0, 1)
            ]
            connection.execute(insert(RequestLog), rows)
        books = await asyncio.to_thread(read_books, engine)
    finally:
        engine.dispose()
    assert books.rows == [Row(f"req-{n}", f"user-{n}", "a" * 64, from_cache=n == 1) for n in (0, 1)]
    assert books.hit_counts == {"a" * 64: 2}
    assert (books.ledger, books.leases) == (0, 0)
    # They were written past the service, which would have counted them.
    verdict = compare([answer(0, "a" * 64), answer(1, "a" * 64)], books, {})
    assert (verdict.lost, verdict.doubled) == (sum(due - said for said, due in books.sums.values()), 0)
    assert verdict.lost >= 5


@pytest.fixture
def model() -> Iterator[PaidModel]:
    """A model that is paid."""
    model = PaidModel()
    model.start()
    yield model
    model.stop()


async def ask(model: PaidModel, photo: bytes, *, timeout_seconds: float = 60) -> httpx2.Response:
    """Ask as the service does."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}"}}
    body = {
        "model": "test-vision",
        "max_tokens": 500,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}],
    }
    async with httpx2.AsyncClient(timeout=timeout_seconds) as client:
        headers = {"Authorization": f"Bearer {model.api_key}"}
        return await client.post(f"{model.url}/chat/completions", json=body, headers=headers)


async def counted(model: PaidModel, answers: list[int]) -> None:
    """Wait until so many answers are counted, by picture: that may be a moment after the client has its own."""

    def are_counted() -> bool:
        return sorted(model.answered.values()) == answers

    await asyncio.to_thread(wait_until, are_counted, f"{answers} answers are counted")


async def test_the_model_is_paid_for_answers_only(model: PaidModel) -> None:
    one, other = jpeg_photo(32, 32), jpeg_photo(40, 32)
    for photo in (one, one, other):
        assert (await ask(model, photo)).status_code == 200
    await counted(model, [1, 2])
    model.say(failure(429))
    assert (await ask(model, one)).status_code == 429
    model.say(dropped_in_body())
    with pytest.raises(httpx2.HTTPError):
        await ask(model, one)
    model.say(classification().delayed(1))
    with pytest.raises(httpx2.TimeoutException):
        await ask(model, one, timeout_seconds=0.3)
    model.say(classification())
    await ask(model, other)
    # By now the request whose client had gone would have been counted, too.
    await asyncio.sleep(1)
    await counted(model, [2, 2])


async def test_a_dead_model_comes_back_at_the_same_address(model: PaidModel) -> None:
    url = model.url
    model.stop()
    with pytest.raises(httpx2.ConnectError):
        await ask(model, jpeg_photo(32, 32))
    model.start()
    assert model.url == url
    assert (await ask(model, jpeg_photo(32, 32))).status_code == 200


def test_a_table_is_aligned_or_markdown() -> None:
    line = ["stopped", *("0" for _ in COLUMNS[1:])]
    header, row = table([line], markdown=False).splitlines()
    assert header.index(COLUMNS[1]) == row.index("0")
    assert table([line], markdown=True).splitlines()[2] == f"| {' | '.join(line)} |"


def test_names_are_different() -> None:
    names = [fault.name for fault in (*database_faults.FAULTS, *other_faults.FAULTS)]
    assert len(names) == len(set(names))


def test_what_is_not_possible_here_is_skipped_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # There is no mount to be found.
    monkeypatch.setenv("PATH", "/nowhere")
    fault = Fault("no-room", database_faults.stopped, prepare_folder=small_disk("mysql", 1))
    assert run([fault], markdown=True) == 0
    assert re.search(r"\| no-room \| – \| skipped: only root .* \| – \|", capsys.readouterr().out)


def test_what_cannot_be_brought_back_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    def hanging(folder: Path) -> AbstractContextManager[None]:
        raise TimeoutError("it hangs")

    assert run([Fault("hanging", database_faults.stopped, prepare_folder=hanging)], markdown=False) == 1
    output = capsys.readouterr().out
    assert "FAILED" in output
    assert "hanging: TimeoutError: it hangs" in output


def test_a_fault_is_run_alone_and_its_line_is_printed() -> None:
    command = [sys.executable, "-m", "bench.faults", "cut-in-commit", "--markdown"]
    with start_process(command, ready=lambda: True, cwd=PROJECT_ROOT) as process:
        status = process.wait(RUN_TIMEOUT_SECONDS)
        output = process.output()
    assert status == 0, output
    lines = [line for line in output.splitlines() if line.startswith("| cut-in-commit |")]
    assert len(lines) == 1, output
    name, requests, statuses, *figures = lines[0].strip("| ").split(" | ")
    assert (name, figures[:4]) == ("cut-in-commit", ["0"] * 4)
    assert int(requests) == sum(map(int, re.findall(r": (\d+)", statuses)))
    # Commits were cut, or nothing has been shown.
    assert int(re.findall(r"(\d+) commits were cut", output)[0]) > 0


def test_an_unknown_fault_is_refused() -> None:
    command = [sys.executable, "-m", "bench.faults", "earthquake"]
    with start_process(command, ready=lambda: True, cwd=PROJECT_ROOT) as process:
        assert process.wait(120) == 2
        assert "earthquake" in process.output()
