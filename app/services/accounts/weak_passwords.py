"""Passwords that are guessed first are refused, as NIST SP 800-63B (5.1.1.2) asks: no rules of composition, but a list.

Refused are the commonest passwords, those of few different or only consecutive characters, and those that are made of
the account's own names.
"""

import asyncio
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

from app.errors import WeakPassword

COMMON_PASSWORDS = Path(__file__).with_name("common-passwords.txt")
# Common in Chinese leaks ("I love you"), of which the list has few.
_FURTHER = frozenset({"woaini520", "woaini521", "woaini1314", "woaini123", "woaini5201314", "5201314520", "520131400"})
MIN_DIFFERENT_CHARACTERS = 4
# A shorter name is part of many a good password by chance.
MIN_NAME_CHARACTERS = 4
# As long as a password must be: a local part such as "test" may stand in a password, but not be most of it.
MIN_REST_CHARACTERS = 8


async def check_password(password: str, *, username: str, email: str) -> None:
    """Do nothing if a password is none of the first to be guessed for this account.

    Raises:
        WeakPassword: it is one; its details say why.
    """
    # Not the event loop's: the list is read at the first call.
    if (reason := await asyncio.to_thread(_weakness, password, username, email)) is not None:
        sentence, word = reason
        raise WeakPassword(sentence, details={"reason": word})


def _weakness(password: str, username: str, email: str) -> tuple[str, str] | None:
    guessed = _compared(password)
    if guessed in _common() or len(set(guessed)) < MIN_DIFFERENT_CHARACTERS or _is_a_run(guessed):
        return WeakPassword.message, "common"
    name, address = _compared(username), _compared(email)
    if name == guessed or (len(name) >= MIN_NAME_CHARACTERS and name in guessed):
        return "The password must not contain the user name.", "contains_username"
    local_part = address.partition("@")[0]
    rest = guessed.replace(local_part, "") if local_part else guessed
    if address in guessed or (rest != guessed and len(rest) < MIN_REST_CHARACTERS):
        return "The password must not contain the email address, nor be made of its first part.", "contains_email"
    return None


@cache
def _common() -> frozenset[str]:
    lines = COMMON_PASSWORDS.read_text(encoding="utf-8").splitlines()
    return _FURTHER.union(line for line in lines if not line.startswith("#"))


def _is_a_run(text: str) -> bool:
    """Whether each character follows on the one before, as in "87654321" and "abcdefgh"."""
    steps = {ord(after) - ord(before) for before, after in pairwise(text)}
    return len(steps) == 1 and abs(steps.pop()) <= 1


def _compared(text: str) -> str:
    """Return what a guesser would take for the same: case and width of letters change nothing."""
    return unicodedata.normalize("NFKC", text).casefold()
