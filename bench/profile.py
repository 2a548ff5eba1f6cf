"""`python -m bench.profile`: where every microsecond of an answer goes, in whose code, on MySQL.

py-spy looks at the worker some dozen times a second, at its C code too. It slows the worker down, so it gives the
shares only; what they are shares of, the CPU time of one answer, is measured before, without it.
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.command import add_setting_option, run_command
from bench.databases import mysql_server
from bench.load import LoadError, Outcome, Request
from bench.measure import Measurement, measure, start_target
from bench.report import render_table, three_figures
from bench.requests import check_known, make_photo, upload_known, upload_new
from bench.services import ServiceCommand, make_known, our_service, start_service
from bench.wrk import Wrk

# What can be profiled: how it is asked for on the command line -> its name, its request, over how many connections,
# and what the answers are.
LINES: dict[str, tuple[str, Callable[[bytes], Request], int, Outcome]] = {
    "hit": ("check-cache, hit", check_known, 32, Outcome.CACHED),
    "known": ("upload, known photo", upload_known, 8, Outcome.CACHED),
    "new": ("upload, new photo", upload_new, 8, Outcome.FRESH),
}
WARM_UP_SECONDS = 2.0
# More than this and py-spy, which unwinds C stacks, falls behind.
SAMPLES_PER_SECOND = 50
# The load goes on a little longer than the recording.
MARGIN_SECONDS = 2.0
SHOWN_FUNCTIONS = 40

# Beginning of a file's name -> area, most telling first. Names of C files are those of the libraries' own sources.
AREAS = (
    ("app/api/", "ours: app/api"),
    ("app/services/", "ours: app/services"),
    ("app/database/", "ours: app/database"),
    ("app/", "ours: the rest of app"),
    ("uvicorn/", "uvicorn, httptools"),
    ("httptools/", "uvicorn, httptools"),
    ("llhttp.c", "uvicorn, httptools"),
    ("parser.c", "uvicorn, httptools"),
    ("starlette/", "Starlette, FastAPI"),
    ("fastapi/", "Starlette, FastAPI"),
    ("pydantic", "pydantic"),
    ("aiomysql/", "aiomysql, PyMySQL"),
    ("pymysql/", "aiomysql, PyMySQL"),
    ("sqlalchemy/", "SQLAlchemy, greenlet"),
    ("<sqlalchemy", "SQLAlchemy, greenlet"),
    ("greenlet/", "SQLAlchemy, greenlet"),
    ("_collections_cy.c", "SQLAlchemy, greenlet"),
    ("_immutabledict_cy.c", "SQLAlchemy, greenlet"),
    ("_processors_cy.c", "SQLAlchemy, greenlet"),
    ("_result_cy.c", "SQLAlchemy, greenlet"),
    ("_row_cy.c", "SQLAlchemy, greenlet"),
    ("_util_cy.c", "SQLAlchemy, greenlet"),
    ("loguru/", "loguru"),
    ("openai/", "model client: SDK, httpx2, h11, anyio"),
    ("anthropic/", "model client: SDK, httpx2, h11, anyio"),
    ("httpx2/", "model client: SDK, httpx2, h11, anyio"),
    ("httpcore2/", "model client: SDK, httpx2, h11, anyio"),
    ("h11/", "model client: SDK, httpx2, h11, anyio"),
    ("anyio/", "model client: SDK, httpx2, h11, anyio"),
    ("binascii.c", "Base64, SHA-256"),
    ("_hashopenssl.c", "Base64, SHA-256"),
    ("python_multipart/", "python-multipart"),
    ("asyncio/", "event loop: asyncio, uvloop"),
    ("_asynciomodule.c", "event loop: asyncio, uvloop"),
    ("uvloop/", "event loop: asyncio, uvloop"),
    ("loop.c", "event loop: asyncio, uvloop"),
    ("core.c", "event loop: asyncio, uvloop"),
    ("linux.c", "event loop: asyncio, uvloop"),
    ("stream.c", "event loop: asyncio, uvloop"),
    ("tcp.c", "event loop: asyncio, uvloop"),
)
EVENT_LOOP = "event loop: asyncio, uvloop"
SYSTEM = "the kernel: system calls"
GARBAGE = "Python's garbage collector"
REST = "the rest"
# Innermost functions in which a thread waits, and functions anywhere that mean it.
WAITING_INNERMOST = {"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "select"}
WAITING_ANYWHERE = {"PyThread_acquire_lock_timed", "lock_PyThread_acquire_lock"}
SYSTEM_CALLS = {
    *("read", "write", "readv", "writev", "recv", "send", "recvmsg", "sendmsg", "recvfrom", "sendto"),
    *("accept4", "connect", "close", "epoll_ctl", "fsync", "fdatasync", "munmap", "mmap", "madvise", "getrandom"),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One level of a stack: a function and the file it is in."""

    function: str
    file: str

    @property
    def area(self) -> str | None:
        """Whose code this is, None where it is no area's in particular, such as the interpreter's."""
        if self.function.startswith("gc_collect"):
            return GARBAGE
        return next((area for beginning, area in AREAS if self.file.startswith(beginning)), None)


@dataclass(slots=True)
class Profile:
    """Counts of samples: by area and by function of the innermost frame that is in an area, and ours with callees."""

    samples: int
    areas: Counter[str]
    functions: Counter[tuple[str, str]]
    inclusive: Counter[str]


def main(arguments: list[str] | None = None) -> int:
    """Record a profile and print it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.profile", description="Show where the time of an answer goes."
    )
    parser.add_argument(
        "line",
        nargs="?",
        choices=LINES,
        default="hit",
        help="a hit by hash (default), an upload of a known or a new photo",
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to record (default 30)")
    parser.add_argument("--keep", type=Path, help="copy the recording, for a flame graph, to this file")
    add_setting_option(parser)
    chosen = parser.parse_args(arguments)
    return run_command(partial(run, chosen.line, chosen.seconds, chosen.keep, dict(chosen.settings)))


def run(kind: str, seconds: float, keep: Path | None, settings: Mapping[str, str], wrk: Wrk) -> None:
    """Measure the cost of an answer to one of LINES, record, and print; `settings` are variables of our service.

    Raises:
        LoadError, AccountingError: an answer was wrong or was lost, or py-spy could not look at the worker.
        NoServerError, ServerStartError, ProcessFailedError, NotDurableError: it cannot be measured.
    """
    photo = make_photo()
    name, request, connections, outcome = LINES[kind]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        mysql = stack.enter_context(mysql_server())
        database = stack.enter_context(mysql.database())
        model = stack.enter_context(start_service(ServiceCommand("model", "bench.instant_model:app", folder)))
        command = our_service("ours", database.url, folder, model_url=model.url, **settings)
        written_later = settings.get("LOG_DURABILITY") == "async"
        target = stack.enter_context(start_target(command, database.engine, written_later=written_later))
        make_known(target.service, upload_known(photo))
        line = Measurement(name, target, request(photo), connections, outcome)
        measure(line, wrk, WARM_UP_SECONDS)
        plain = measure(line, wrk, seconds / 2)
        recording = folder / "recording"
        with ThreadPoolExecutor(1) as pool:
            recorder = pool.submit(record, target.service.pid, seconds, recording)
            slowed = measure(line, wrk, seconds + MARGIN_SECONDS)
            recorder.result()
        if keep is not None:
            shutil.copy(recording, keep)
        profile = read_profile(recording.read_text().splitlines())
    microseconds = plain.cpu_ms * 1000
    setup = ", ".join([mysql.name, *(f"{name}={value}" for name, value in settings.items())])
    chance = 100 * (0.05 * 0.95 / max(profile.samples, 1)) ** 0.5
    print(
        f"{name}, {setup}, {connections} connections: {plain.per_second:.0f} requests/s ({slowed.per_second:.0f} while "
        f"recording), {microseconds:.0f} µs of the worker's CPU time for one answer; {profile.samples} samples, so a "
        f"share of 5 % is good to ± {chance:.1f} %.\n"
    )
    print(render_profile(profile, microseconds))


def record(pid: int, seconds: float, target: Path) -> None:
    """Have py-spy write the stacks of a process, with their counts, to a file.

    Raises:
        LoadError: it could not; looking at another process needs root or the right to trace it.
    """
    program = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or "py-spy"
    command: list[str | Path] = [
        *(program, "record", "--native", "--format", "raw", "--pid", str(pid)),
        *("--duration", str(max(round(seconds), 1)), "--rate", str(SAMPLES_PER_SECOND), "--output", target),
    ]
    done = subprocess.run(  # noqa: S603 - the profiler, with arguments of our own
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LoadError(f"py-spy: {(done.stderr or done.stdout).strip()[-500:]}")


def read_profile(lines: Iterable[str]) -> Profile:
    """Count collapsed stacks ("outermost (file:line);...;innermost (file:line) count"), those that wait left out."""
    profile = Profile(0, Counter(), Counter(), Counter())
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = [_frame(text) for text in stack.split(";")]
        if not stack or _waits(frames):
            continue
        samples = int(count)
        profile.samples += samples
        area, function = _innermost(frames)
        profile.areas[area] += samples
        profile.functions[area, function] += samples
        for ours in {f"{frame.function} ({frame.file})" for frame in frames if frame.file.startswith("app/")}:
            profile.inclusive[ours] += samples
    return profile


def render_profile(profile: Profile, microseconds: float) -> str:
    """Return the tables; `microseconds` is what all samples together stand for."""

    def rows(counts: Sequence[tuple[tuple[str, ...], int]]) -> list[list[str]]:
        total = max(profile.samples, 1)
        return [
            [*names, three_figures(count / total * microseconds), f"{count / total * 100:.1f} %"]
            for names, count in counts
        ]

    areas = rows([((area,), count) for area, count in profile.areas.most_common()])
    functions = rows(profile.functions.most_common(SHOWN_FUNCTIONS))
    ours = rows([((function,), count) for function, count in profile.inclusive.most_common(SHOWN_FUNCTIONS)])
    whole = ["all of it", f"{microseconds:.0f}", "100 %"]
    return "\n\n".join(
        [
            render_table(("in whose code", "µs", "share"), 1, [*areas, whole]),
            render_table(("area", "function", "µs", "share"), 2, functions),
            render_table(("ours, with everything it calls", "µs", "share"), 1, ours),
        ]
    )


def _frame(text: str) -> Frame:
    function, _, place = text.rpartition(" (")
    file, _, line = place.removesuffix(")").rpartition(":")
    return Frame(function, file if line.isdigit() else place.removesuffix(")"))


def _waits(frames: Sequence[Frame]) -> bool:
    return frames[-1].function in WAITING_INNERMOST or any(frame.function in WAITING_ANYWHERE for frame in frames)


def _innermost(frames: Sequence[Frame]) -> tuple[str, str]:
    """Return area and function of the innermost frame that is in an area; a system call is named with its user."""
    known = [(area, frame) for frame in reversed(frames) if (area := frame.area) is not None]
    if frames[-1].function in SYSTEM_CALLS:
        user = next((area for area, _ in known if area != EVENT_LOOP), EVENT_LOOP)
        return SYSTEM, f"{frames[-1].function}, for {user}"
    if not known:
        return REST, frames[-1].function
    area, frame = known[0]
    return area, f"{frame.function} ({frame.file})"


if __name__ == "__main__":
    sys.exit(main())
