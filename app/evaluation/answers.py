"""What models have answered, kept in a file for each model and prompt: an evaluation that goes on asks nothing twice.

A line is one photo, known by the SHA-256 of its file. A line that a crash has cut off is passed over, and so asked
again.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pydantic import TypeAdapter, ValidationError

from app.categories import Category
from app.clients.calibration import ConfidenceSource
from app.clients.metering import CallOutcome, ModelCall


@dataclass(frozen=True, slots=True)
class Tokens:
    """One call of the model: whether it is charged, and its tokens."""

    is_charged: bool
    input: int = 0
    cached_input: int = 0
    output: int = 0

    @classmethod
    def of(cls, call: ModelCall) -> "Tokens":
        """Return what is kept of a call."""
        return cls(call.is_charged, call.input_tokens, call.cached_input_tokens, call.output_tokens)

    def as_call(self) -> ModelCall:
        """Return the call, for its price."""
        return ModelCall(CallOutcome.ANSWERED, self.is_charged, self.input, self.cached_input, self.output)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model has made of one photo: a category, or the code of an error that it would always end with.

    `probabilities` are those of all categories before calibration, where the model gives them.
    """

    photo: str
    seconds: float
    category: Category | None = None
    confidence: float = 0.0
    source: ConfidenceSource = ConfidenceSource.SELF_REPORTED
    probabilities: dict[Category, float] | None = None
    error: str | None = None
    calls: tuple[Tokens, ...] = ()


_LINE = TypeAdapter(Answer)


class AnswerFile:
    """The answers of one model; `answers` by the photo's SHA-256."""

    def __init__(self, folder: Path, model: str, key: str) -> None:
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model)[:60]}-{key}.jsonl"
        self.answers: dict[str, Answer] = {}
        self._file: TextIO | None = None

    def read(self) -> None:
        """Read what earlier runs have asked."""
        if self.path.is_file():
            with self.path.open(encoding="utf-8", errors="replace") as lines:
                self.answers = {answer.photo: answer for answer in _valid(lines)}

    def forget(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        self.answers = {}

    def keep(self, answer: Answer) -> None:
        """Append an answer; it is on its way to the disk when this returns."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            # Ends a line that was cut off; an empty one is passed over.
            self._file.write("\n")
        self._file.write(_LINE.dump_json(answer).decode() + "\n")
        self._file.flush()
        self.answers[answer.photo] = answer

    def close(self) -> None:
        """Close the file, if it was written to."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _valid(lines: Iterable[str]) -> Iterable[Answer]:
    for line in lines:
        try:
            yield _LINE.validate_json(line)
        except ValidationError:
            continue
