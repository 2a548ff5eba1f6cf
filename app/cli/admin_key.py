"""`image-classifier create-admin`: make the administrator's key, keep it in `.env`, show it once."""

import contextlib
import os
import re
import secrets
import stat
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from dotenv import dotenv_values

from app.cli.output import say

KEY_NAME = "ADMIN_API_KEY"
# 256 bits, as RFC 4086 asks of a key that must not be guessed for long.
KEY_BYTES = 32
OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR


def create_admin(
    env_file: Annotated[Path, typer.Option(help="Where the setting is written.")] = Path(".env"),
    force: Annotated[bool, typer.Option("--force", help="Replace a key that is there.")] = False,
    print_only: Annotated[bool, typer.Option("--print-only", help="Write nothing.")] = False,
) -> None:
    """Make an ADMIN_API_KEY, write it to .env and show it once. The service reads it when it starts."""
    key = secrets.token_urlsafe(KEY_BYTES)
    if not print_only:
        try:
            _write_setting(env_file, KEY_NAME, key, replace=force)
        except FileExistsError:
            say(f"{env_file} has an {KEY_NAME} already; --force replaces it.")
            raise typer.Exit(1) from None
        except UnicodeDecodeError:
            say(f"{env_file} is not UTF-8.")
            raise typer.Exit(1) from None
        except OSError as error:
            say(f"{env_file}: {error.strerror}")
            raise typer.Exit(1) from None
        say(f"written to {env_file}; restart the service")
        if os.environ.get(KEY_NAME):
            say(f"The environment has an {KEY_NAME}, too, and wins over the file.")
    sys.stdout.write(f"{key}\n")


def _write_setting(path: Path, name: str, value: str, *, replace: bool) -> None:
    """Write NAME=value into an `.env` file, whole or not at all, not readable for other users.

    Raises:
        FileExistsError: it has a value for it, and `replace` is not said.
        UnicodeDecodeError: it is not UTF-8.
        OSError: it cannot be written.
    """
    # Where a link leads: the file beside which the new one is made must be the one that it replaces.
    path = path.resolve()
    before = path.stat() if path.exists() else None
    text = "" if before is None else path.read_text(encoding="utf-8")
    if before is not None and dotenv_values(path, interpolate=False).get(name) and not replace:
        raise FileExistsError
    is_ours = re.compile(rf"\s*(export\s+)?{name}\s*=")
    kept = [line for line in text.splitlines() if not is_ours.match(line)]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=".env-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join([*kept, f"{name}={value}"]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        mode = None if before is None else stat.S_IMODE(before.st_mode)
        # A group that could read it, such as the service's, still can; other users can no longer.
        Path(new).chmod(OWNER_ONLY if mode is None or mode & stat.S_IRWXO else mode)
        if before is not None and hasattr(os, "chown"):
            # Root's hand must not take the file away from the service that reads it.
            os.chown(new, before.st_uid, before.st_gid)
        Path(new).replace(path)
    except BaseException:
        # It holds a key.
        with contextlib.suppress(OSError):
            Path(new).unlink()
        raise
