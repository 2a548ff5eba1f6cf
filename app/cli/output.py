"""What reaches a terminal, a pipe or a spreadsheet.

File names, users' ids and a service's words come from others. A terminal obeys some characters, rich its markup, a
spreadsheet what looks like a formula; none of them shall.
"""

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

# https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA_STARTS = ("=", "+", "-", "@")

messages = Console(stderr=True)


def printable(text: str) -> str:
    r"""Return the text with all that is no visible character or space as an escape, such as \n or \x1b."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(text: str) -> Text:
    """Return the text for a table of rich, in which it is nothing but text."""
    return Text(printable(text))


def say(text: str) -> None:
    """Write a line to standard error; a long one is not broken, so that it can be searched and copied."""
    messages.print(shown(text), soft_wrap=True, highlight=False)


def write_json(value: Any) -> None:
    """Write JSON to standard output, in UTF-8 and with escapes for what cannot be seen, such as half a character."""
    _use_utf_8()
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # Between the lines of `indent` there is no other line break: JSON escapes those of strings.
    for line in text.split("\n"):
        safe = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)
        sys.stdout.write(f"{safe}\n")


def write_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a header and a line for each row to standard output, in UTF-8; a text like a formula gets a ' before it."""
    _use_utf_8()
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) if isinstance(value, str) else value for name, value in row.items()})


def _cell(text: str) -> str:
    safe = printable(text)
    return f"'{safe}" if safe.startswith(_FORMULA_STARTS) else safe


def _use_utf_8() -> None:
    # Not so by itself on Windows, nor in some locales.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
