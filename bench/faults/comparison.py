"""What the clients were told, against what the database holds and what the model was paid for.

The rules, each of which is a number that must be zero:

- lost: an answer 200 whose row is not in the log, or whose photo is not in the cache; a hit or a request that a sum
  does not know; a known photo that the service did not know.
- doubled: a request that is in the log twice; an id that two requests share; a row that no request asked for; a hit or
  a request that a sum knows once more than the log; a call that is in the ledger and was never answered.
- paid twice: further answers of the model for a photo that it had answered (`model.py` says what is paid).
- paid in vain: photos that the model was paid for and that are not in the cache; answers that are not in the ledger.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.faults.books import Books
from bench.faults.load import NO_CLASSIFICATION, Answer, Kind

BROKEN = "broken"


@dataclass(slots=True)
class Verdict:
    """The outcome of one fault; `findings` say in words what the numbers count.

    `unanswered` are requests in the log whose client was told an error, or nothing; that is no fault, it tells how much
    a client that asks again may count twice. `statuses` counts answers by status, "broken" those that did not come.
    """

    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    paid_twice: int = 0
    paid_in_vain: int = 0
    unanswered: int = 0
    longest_wait_seconds: float = 0.0
    findings: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.paid_twice or self.paid_in_vain)

    def add(self, column: str, count: int, finding: str) -> None:
        """Count something in a column, and say what, where there is anything to count."""
        if count:
            setattr(self, column, getattr(self, column) + count)
            self.findings.append(f"{count} {finding}")


def compare(answers: Sequence[Answer], books: Books, paid: Mapping[str, int]) -> Verdict:
    """Return what is missing and what is there twice.

    Args:
        answers: one for each request that was sent.
        books: of the database, after the last answer and with nothing left to be written.
        paid: how often the model was paid for each picture.
    """
    verdict = Verdict(
        requests=len(answers),
        statuses=Counter(str(answer.status) if answer.status else BROKEN for answer in answers),
        codes=Counter(answer.code for answer in answers if answer.code),
        longest_wait_seconds=max(
            (answer.answered_at - answer.asked_at for answer in answers if answer.kind is not Kind.AROUND), default=0.0
        ),
    )
    _compare_log(verdict, answers, books)
    _compare_sums(verdict, books)
    _compare_payments(verdict, books, paid)
    return verdict


def recovery_seconds(answers: Sequence[Answer], kind: Kind, ended_at: float) -> float | None:
    """Return how long after the end of the fault requests of one kind were answered 200 again, and stayed so.

    None where they never were; 0 where the first answer after the end was one.
    """
    after = [answer for answer in answers if answer.kind is kind and answer.answered_at >= ended_at]
    last_bad = max((answer.answered_at for answer in after if not answer.is_acknowledged), default=None)
    if last_bad is None:
        return 0.0 if after else None
    good = [answer.answered_at for answer in after if answer.answered_at > last_bad]
    return min(good) - ended_at if good else None


def _compare_log(verdict: Verdict, answers: Sequence[Answer], books: Books) -> None:
    acknowledged = [answer for answer in answers if answer.is_acknowledged]
    logged = Counter(row.request_id for row in books.rows)
    users = Counter(row.user_id for row in books.rows)
    asked = {answer.user_id for answer in answers}
    ids = Counter(answer.request_id for answer in acknowledged)
    verdict.unanswered = sum(users[answer.user_id] > 0 for answer in answers if not answer.is_acknowledged)
    verdict.add("lost", sum(not logged[each] for each in ids), "answers 200 are not in the log")
    verdict.add(
        "lost",
        len({answer.image_hash for answer in acknowledged} - books.hit_counts.keys()),
        "photos that were answered 200 are not in the cache",
    )
    unknown = sum(answer.status == 200 and answer.code == NO_CLASSIFICATION for answer in answers)
    verdict.add("lost", unknown, "answers 200 are no classification")
    verdict.add("doubled", _surplus(users), "rows of a request that has one already")
    verdict.add("doubled", _surplus(logged), "rows whose request id is taken")
    verdict.add("doubled", _surplus(ids), "answers with the request id of another")
    verdict.add("doubled", sum(row.user_id not in asked for row in books.rows), "rows that no request asked for")


def _compare_sums(verdict: Verdict, books: Books) -> None:
    hits = Counter(row.image_hash for row in books.rows if row.from_cache)
    # An entry's count begins at 1.
    differences = {image_hash: count - 1 - hits[image_hash] for image_hash, count in books.hit_counts.items()}
    verdict.add("doubled", sum(each for each in differences.values() if each > 0), "hits more than the log has")
    verdict.add("lost", -sum(each for each in differences.values() if each < 0), "hits fewer than the log has")
    for name, (said, made_from) in books.sums.items():
        verdict.add("doubled", max(0, said - made_from), f"too many in the sum of {name}")
        verdict.add("lost", max(0, made_from - said), f"missing in the sum of {name}")


def _compare_payments(verdict: Verdict, books: Books, paid: Mapping[str, int]) -> None:
    verdict.add("paid_twice", sum(count - 1 for count in paid.values() if count > 1), "answers were paid once more")
    verdict.add("paid_in_vain", len(paid.keys() - books.hit_counts.keys()), "paid photos are not in the cache")
    answered = sum(paid.values())
    verdict.add("paid_in_vain", max(0, answered - books.ledger), "paid answers are not in the ledger")
    verdict.add("doubled", max(0, books.ledger - answered), "calls in the ledger were never answered")


def _surplus(counts: Counter[str] | Counter[str | None]) -> int:
    return sum(count - 1 for count in counts.values() if count > 1)
