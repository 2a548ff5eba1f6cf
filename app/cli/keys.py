"""`image-classifier keys`: make, list and revoke API keys. A key is shown once, by `create`."""

import re
import sys
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.cli.output import say, shown, write_json

if TYPE_CHECKING:
    from app.services.api_keys.key import ApiKey

MILLIONTHS = 1_000_000
# A thousand million of any currency; more is no budget.
MAX_BUDGET = Decimal(10**9)
MAX_DAYS = 36_500
MAX_RATE = 1_000_000
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

keys_cli = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@keys_cli.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What people call it, such as the server that has it.")],
    scope: Annotated[str, typer.Option(help="Comma-separated: classify, stats, admin (which includes the others).")],
    budget: Annotated[str | None, typer.Option(help="What it may spend a day, in CURRENCY, such as 5.")] = None,
    rate: Annotated[int | None, typer.Option(min=1, max=MAX_RATE, help="Requests a minute.")] = None,
    expires: Annotated[str | None, typer.Option(help="How long it counts: 12h, 90d, 52w; left out: always.")] = None,
) -> None:
    """Make a key and show it, this once. From the first key on, the API takes no request without one."""
    from app.cli.maintenance import keys as work
    from app.config.settings import load_settings

    try:
        new = work.create(
            load_settings(),
            name=name,
            scopes=[each.strip() for each in scope.split(",") if each.strip()],
            budget_micros=None if budget is None else _micros(budget),
            rate_per_minute=rate,
            lifetime=None if expires is None else _duration(expires),
        )
    except ValueError as error:
        say(str(error))
        raise typer.Exit(2) from None
    except work.CannotBeDone as error:
        say(str(error))
        raise typer.Exit(1) from None
    say(f"key {new.id} was made; it is shown only now, and counts within two seconds")
    sys.stdout.write(f"{new.text}\n")


@keys_cli.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """List all keys, those that have expired or were revoked too. The keys themselves are kept nowhere."""
    from app.cli.maintenance import keys as work
    from app.config.settings import load_settings

    try:
        keys = work.list_all(load_settings())
    except work.CannotBeDone as error:
        say(str(error))
        raise typer.Exit(1) from None
    if as_json:
        write_json([_row(key, work.state_of(key)) for key in keys])
        return
    table = Table("id", "name", "scopes", "a day", "a minute", "made", "expires", "state", box=None)
    for key in keys:
        row = _row(key, work.state_of(key))
        table.add_row(*(shown("" if value is None else str(value)) for value in row.values()))
    Console().print(table)


@keys_cli.command("revoke")
def revoke(key_id: Annotated[int, typer.Argument(metavar="ID", min=1, help="As `list` shows it.")]) -> None:
    """Revoke a key, for good. Every process refuses it within two seconds."""
    from app.cli.maintenance import keys as work
    from app.config.settings import load_settings

    try:
        is_there = work.revoke(load_settings(), key_id)
    except work.CannotBeDone as error:
        say(str(error))
        raise typer.Exit(1) from None
    if not is_there:
        say(f"there is no key {key_id}")
        raise typer.Exit(1)
    say(f"key {key_id} is revoked")


def _row(key: "ApiKey", state: str) -> dict[str, object]:
    budget = None if key.budget_micros is None else str(Decimal(key.budget_micros) / MILLIONTHS)
    return {
        "id": key.id,
        "name": key.name,
        "scopes": ",".join(sorted(key.scopes)),
        "budget": budget,
        "rate_per_minute": key.rate_per_minute,
        "created_at": _moment(key.created_at),
        "expires_at": _moment(key.expires_at),
        "state": state,
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _micros(text: str) -> int:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError("--budget is an amount such as 5 or 0.50") from None
    if not (amount.is_finite() and 0 <= amount <= MAX_BUDGET and amount * MILLIONTHS % 1 == 0):
        raise ValueError("--budget is an amount such as 5 or 0.50, with at most six decimals")
    return int(amount * MILLIONTHS)


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9]\d{0,5})([hdw])", text)
    if match is None or (duration := int(match[1]) * _UNITS[match[2]]) > timedelta(days=MAX_DAYS):
        raise ValueError("--expires is a time such as 12h, 90d or 52w")
    return duration
