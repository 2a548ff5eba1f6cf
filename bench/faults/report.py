"""The table: one line for each fault, as aligned text or as Markdown, and in words what is not as it should be."""

from collections.abc import Sequence

from bench.faults.load import Kind
from bench.faults.run import Outcome

COLUMNS = (
    "fault",
    "requests",
    "answers by status",
    "lost",
    "doubled",
    "paid twice",
    "paid in vain",
    "logged, not told",
    "longest wait s",
    "silence s",
    "known again s",
    "new again s",
)
NEVER = "never"


def cells(outcome: Outcome) -> list[str]:
    """Return the line of one fault."""
    verdict = outcome.verdict
    statuses = sorted(verdict.statuses.items())
    recovery = [outcome.recovery[kind] for kind in (Kind.HIT, Kind.UPLOAD)]
    return [
        outcome.fault.name,
        str(verdict.requests),
        ", ".join(f"{status}: {count}" for status, count in statuses),
        *map(str, (verdict.lost, verdict.doubled, verdict.paid_twice, verdict.paid_in_vain, verdict.unanswered)),
        f"{verdict.longest_wait_seconds:.1f}",
        f"{outcome.silence_seconds:.1f}",
        *(NEVER if seconds is None else f"{seconds:.1f}" for seconds in recovery),
    ]


def table(lines: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Return the table with these lines below the header."""
    if markdown:
        rule = ["---", *("---:" for _ in COLUMNS[1:])]
        rule[COLUMNS.index("answers by status")] = "---"
        return "\n".join(f"| {' | '.join(line)} |" for line in (COLUMNS, rule, *lines))
    widths = [max(len(line[place]) for line in (COLUMNS, *lines)) for place in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (COLUMNS, *lines)
    )


def remarks(outcome: Outcome) -> list[str]:
    """Return what is to be said of one fault beside its line: what is wrong first, then what explains it."""
    said = list(outcome.verdict.findings)
    if outcome.settled_seconds is None:
        said.append("the database had not settled when it was compared")
    said += [f"{kind}: never answered 200 again" for kind, seconds in outcome.recovery.items() if seconds is None]
    said += outcome.notes
    if codes := ", ".join(f"{code}: {count}" for code, count in sorted(outcome.verdict.codes.items())):
        said.append(f"errors: {codes}")
    return [f"{outcome.fault.name}: {each}" for each in said]
