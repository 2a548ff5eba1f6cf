"""`image-classifier users`: the accounts of the signed-in side. A password is never an argument, which others can see.

It is made here and shown once, or with --ask typed at the terminal.
"""

import secrets
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.cli.output import say, shown, write_json

if TYPE_CHECKING:
    from app.services.accounts.administration import AccountState

# 128 bits; people type it once.
PASSWORD_BYTES = 16

users_cli = typer.Typer(help="List, make, disable and delete accounts.", no_args_is_help=True)

Username = Annotated[str, typer.Argument(metavar="USERNAME", help="In upper or lower case.")]
Ask = Annotated[bool, typer.Option("--ask", help="Type the password at the terminal, instead of having one made.")]


@users_cli.command("list")
def list_users(as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """List all accounts."""
    from app.cli.maintenance import users as work
    from app.config.settings import load_settings

    try:
        states = work.list_all(load_settings())
    except work.CannotBeDone as error:
        raise _told(error) from None
    if as_json:
        write_json([_row(state) for state in states])
        return
    table = Table("id", "username", "email", "made", "disabled", box=None)
    for state in states:
        table.add_row(*(shown("" if value is None else str(value)) for value in _row(state).values()))
    Console().print(table)


@users_cli.command("create")
def create(username: Username, email: Annotated[str, typer.Argument(metavar="EMAIL")], ask: Ask = False) -> None:
    """Make an account, also where SIGN_UP=closed, and show its password, this once."""
    from app.cli.maintenance import users as work
    from app.config.settings import load_settings

    settings, password = load_settings(), _password(ask)
    try:
        account = work.create(settings, username, email, password)
    except work.CannotBeDone as error:
        raise _told(error) from None
    say(f"account {account.id}, {account.username}, was made")
    _show(password, ask)


@users_cli.command("disable")
def disable(username: Username) -> None:
    """End all log-ins of an account at once, and allow no more. Its pictures and results stay."""
    _set_disabled(username, is_disabled=True)


@users_cli.command("enable")
def enable(username: Username) -> None:
    """Allow an account to log in again."""
    _set_disabled(username, is_disabled=False)


@users_cli.command("reset-password")
def reset_password(username: Username, ask: Ask = False) -> None:
    """Give an account a new password, show it, this once, and end its log-ins."""
    from app.cli.maintenance import users as work
    from app.config.settings import load_settings

    settings, password = load_settings(), _password(ask)
    try:
        work.reset_password(settings, username, password)
    except work.CannotBeDone as error:
        raise _told(error) from None
    say(f"{username} has a new password")
    _show(password, ask)


@users_cli.command("delete")
def delete(
    username: Username, yes: Annotated[bool, typer.Option("--yes", help="Do not ask at a terminal.")] = False
) -> None:
    """Delete an account with its pictures, tasks and results."""
    from app.cli.maintenance import users as work
    from app.config.settings import load_settings

    settings = load_settings()
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Delete {username} with all pictures and results?", abort=True, err=True)
    try:
        work.delete(settings, username)
    except work.CannotBeDone as error:
        raise _told(error) from None
    say(f"{username} is deleted")


def _set_disabled(username: str, *, is_disabled: bool) -> None:
    from app.cli.maintenance import users as work
    from app.config.settings import load_settings

    try:
        work.set_disabled(load_settings(), username, is_disabled=is_disabled)
    except work.CannotBeDone as error:
        raise _told(error) from None
    say(f"{username} is {'disabled' if is_disabled else 'enabled'}")


def _password(ask: bool) -> str:
    if not ask:
        return secrets.token_urlsafe(PASSWORD_BYTES)
    answer: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return answer


def _show(password: str, ask: bool) -> None:
    if not ask:
        sys.stdout.write(f"{password}\n")


def _row(state: "AccountState") -> dict[str, object]:
    account = state.account
    return {
        "id": account.id,
        "username": account.username,
        "email": account.email,
        "created_at": _moment(account.created_at),
        "disabled_at": _moment(state.disabled_at),
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _told(error: Exception) -> typer.Exit:
    say(str(error))
    return typer.Exit(1)
