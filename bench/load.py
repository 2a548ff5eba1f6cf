"""One load: wrk sends requests of one kind over some connections, and every one of them is answered or it is an error.

When the time is over, wrk sends no more and waits for the answers that are under way, so what it counted can be
compared with the database to the last row.
"""

import json
import secrets
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.wrk import Wrk

SCRIPT = Path(__file__).with_name("load.lua")
# What load.lua replaces by its token and number, which together are as long.
PLACEHOLDER = b"<bench: another photo each time>"
TOKEN_BYTES = 8
# For one answer; the slowest line, the local model, takes a tenth of a second.
ANSWER_TIMEOUT_SECONDS = 30


class LoadError(Exception):
    """An answer was missing or not what the line measures; the text quotes the first such answer."""


class Outcome(StrEnum):
    """What an answer says: a known photo, a photo classified just now, or a hash that is not known."""

    CACHED = "cached"
    FRESH = "fresh"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Request:
    """A POST; where `body` holds PLACEHOLDER, every request is another.

    With `bodies`, of which none holds a line feed, the requests go through them in turn, and `body` is not sent.
    """

    path: str
    content_type: str
    body: bytes = field(repr=False)
    bodies: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk counted, by `Outcome`. `sender_cpu` is the share of one core that wrk itself took.

    The percentiles are wrk's, which adds what a stalled connection would have sent meanwhile ("coordinated omission"),
    so a stall weighs more than the requests that it delayed.
    """

    cached: int
    fresh: int
    missed: int
    elapsed_seconds: float
    p50_ms: float
    p99_ms: float
    sender_cpu: float = 0.0

    @property
    def answers(self) -> int:
        return self.cached + self.fresh + self.missed

    @property
    def per_second(self) -> float:
        return self.answers / self.elapsed_seconds

    def require(self, outcome: Outcome) -> None:
        """Check that every answer had this outcome; raises LoadError."""
        answers = {Outcome.CACHED: self.cached, Outcome.FRESH: self.fresh, Outcome.MISSED: self.missed}
        if answers[outcome] != self.answers:
            counted = ", ".join(f"{count} {name}" for name, count in answers.items())
            raise LoadError(f"every answer should have been {outcome}, but they were: {counted}")


def run_load(wrk: Wrk, url: str, request: Request, *, connections: int, seconds: float) -> Load:
    """Send `request` to the service at `url` for `seconds`, over connections that stay open.

    One thread sends: it is busy for half of the time with the fastest service (see `Load.sender_cpu`).

    Raises:
        LoadError: a request was not answered, or not with a classification.
    """
    with tempfile.NamedTemporaryFile(prefix="bench-") as bodies:
        bodies.write(b"\n".join(request.bodies) or request.body)
        bodies.flush()
        command: list[str | Path] = [
            *(wrk.program, "--threads", "1", "--connections", str(connections)),
            *("--timeout", f"{ANSWER_TIMEOUT_SECONDS}s", "--duration", f"{round(seconds) + ANSWER_TIMEOUT_SECONDS}s"),
            *("--script", SCRIPT, url + request.path, "--", str(seconds), request.content_type, bodies.name),
            *("lines" if request.bodies else "one", secrets.token_hex(TOKEN_BYTES)),
        ]
        with subprocess.Popen(  # noqa: S603 - the load generator, with arguments of our own
            command, env=wrk.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            try:
                lines = _lines_until_result(process)
            finally:
                process.kill()
    return _load(lines)


def _lines_until_result(process: subprocess.Popen[bytes]) -> list[str]:
    lines = []
    for line in process.stdout or []:
        text = line.decode("utf-8", "replace").rstrip("\n")
        lines.append(text)
        if text == "drained":
            # Ends its sleep; it prints the statistics and goes.
            process.send_signal(signal.SIGINT)
        if text.startswith("result "):
            break
    return lines


def _load(lines: list[str]) -> Load:
    result: dict[str, Any] = next(
        (json.loads(line.removeprefix("result ")) for line in lines if line.startswith("result ")), {}
    )
    if not result:
        raise LoadError("wrk said nothing but: " + " / ".join(lines[-5:]))
    unexpected = [line for line in lines if line.startswith("unexpected ")]
    if unexpected:
        raise LoadError(f"wrk got an answer that is no classification: {unexpected[0]}")
    load = Load(
        cached=result["cached"],
        fresh=result["fresh"],
        missed=result["missed"],
        elapsed_seconds=result["elapsed_seconds"],
        p50_ms=result["p50_ms"],
        p99_ms=result["p99_ms"],
        sender_cpu=result["cpu_seconds"] / max(result["elapsed_seconds"], 1e-6),
    )
    if not result["promised"] == result["answered"] == load.answers > 0 or result["socket_errors"]:
        raise LoadError(f"wrk did not get an answer to every request: {json.dumps(result)}")
    return load
