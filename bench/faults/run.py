"""One fault from its beginning to the comparison: a fresh site, load before, during and after it."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.faults.books import await_stillness, read_books
from bench.faults.comparison import Verdict, compare, recovery_seconds
from bench.faults.load import Kind, watched
from bench.faults.site import Fault, Site, running_site

BEFORE_SECONDS = 2.5
# After the fault: the load goes on at least for so long, and until all was well for STEADY_SECONDS.
AFTER_SECONDS = 3.0
STEADY_SECONDS = 2.0
RECOVER_WITHIN_SECONDS = 60.0
OUTPUT_SHOWN = 3000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fault has cost.

    `silence_seconds` is the longest time without an answer of /health/live, `recovery` is by kind of request in seconds
    (None: it did not recover), `settled_seconds` how long after the last answer rows were still written (None: they did
    not settle), `notes` what the fault itself has to say.
    """

    fault: Fault
    verdict: Verdict
    silence_seconds: float
    recovery: dict[Kind, float | None]
    settled_seconds: float | None
    duration_seconds: float
    notes: Sequence[str] = ()

    @property
    def is_clean(self) -> bool:
        return self.verdict.is_clean and self.settled_seconds is not None and None not in self.recovery.values()


def run_fault(fault: Fault) -> Outcome:
    """Let one fault happen to a fresh site under load, and say what it has cost.

    Raises:
        NoDiskError, NoServerError: it is not possible here.
        ServerStartError, ProcessFailedError, NotPreparedError: it could not begin.
        TimeoutError: a part could not be brought back.
    """
    began = time.monotonic()
    with running_site(fault) as site:
        try:
            with watched(site.port) as liveness:
                ended_at = asyncio.run(_run_load(fault, site))
                silence = liveness.longest_silence_seconds
            with site.database.reader() as engine:
                settled = await_stillness(engine, site.data / "spool")
                books = read_books(engine)
        except BaseException:
            print(site.output()[-OUTPUT_SHOWN:], file=sys.stderr)
            raise
        answers = site.load.answers
        return Outcome(
            fault,
            compare(answers, books, site.model.answered),
            silence,
            {kind: recovery_seconds(answers, kind, ended_at) for kind in (Kind.HIT, Kind.UPLOAD)},
            settled,
            time.monotonic() - began,
            site.notes,
        )


async def _run_load(fault: Fault, site: Site) -> float:
    """Return when the fault was over, as `time.monotonic()`."""
    load = site.load
    await load.prepare()
    running = asyncio.create_task(load.run())
    try:
        await asyncio.sleep(BEFORE_SECONDS)
        block = fault.happens(site)
        await asyncio.to_thread(block.__enter__)
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(block.__exit__, None, None, None)
        ended_at = time.monotonic()
        await asyncio.sleep(AFTER_SECONDS)
        await load.until_steady(STEADY_SECONDS, RECOVER_WITHIN_SECONDS)
    finally:
        load.stop()
        await running
    await load.finish()
    return ended_at
