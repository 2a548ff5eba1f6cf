"""`image-classifier stats`: the service's statistics as tables."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from app.cli.classify import DEFAULT_SERVER, ServerOption, category_name
from app.cli.connection import RequestFailed, ServiceConnection
from app.cli.output import say, shown, write_json

# Key in the --json output -> path below /api/v1.
SOURCES = {
    "today": "/stats/today",
    "cache": "/stats/cache-efficiency",
    "categories": "/stats/category-distribution",
    "spending": "/stats/spending",
    "new_photos": "/stats/new-photos?by=model",
    "users": "/stats/users/top?limit=5",
}


def stats(
    server: ServerOption = DEFAULT_SERVER,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the figures of today, what the cache has saved, what new photos were and cost, and the busiest users."""
    service = ServiceConnection(server)
    try:
        figures = {name: service.get(path) for name, path in SOURCES.items()}
        if as_json:
            write_json(figures)
        else:
            _print(figures, Console())
    except RequestFailed as error:
        say(f"{error.code}: {error}")
    except (AttributeError, KeyError, TypeError):
        say("This is not the service's answer.")
    else:
        return
    finally:
        service.close()
    raise typer.Exit(1)


def _print(figures: dict[str, Any], output: Console) -> None:
    for title in ("today", "cache"):
        _print_figures(title, figures[title], output)
    _print_rows(
        "categories today",
        ("category", "", "count", "%"),
        [
            (row["category"], category_name(row["category"]), row["count"], row["percentage"])
            for row in figures["categories"]
        ],
        output,
    )
    spending = figures["spending"]
    _print_rows(
        "spending today",
        ("model", "calls", "input tokens", "output tokens", f"cost {spending['currency']}"),
        [
            (row["name"], row["calls"], row["input_tokens"], row["output_tokens"], row["cost"])
            for row in spending["groups"]
        ],
        output,
    )
    _print_rows(
        "new photos today",
        ("model", "photos", "%"),
        [(row["value"], row["count"], row["percentage"]) for row in figures["new_photos"]],
        output,
    )
    _print_rows(
        "users",
        ("user", "requests", "hits", "hit rate %"),
        [(row["user_id"], row["request_count"], row["cache_hits"], row["cache_hit_rate"]) for row in figures["users"]],
        output,
    )


def _print_figures(title: str, figures: dict[str, Any], output: Console) -> None:
    table = Table(title, "", box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.columns[1].justify = "right"
    for name, value in figures.items():
        table.add_row(shown(name.replace("_", " ")), _cell(value))
    output.print(table)
    output.print()


def _print_rows(title: str, names: tuple[str, ...], rows: list[tuple[Any, ...]], output: Console) -> None:
    if not rows:
        return
    columns = (Column(shown(name)) for name in names)
    table = Table(*columns, title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column, value in zip(table.columns, rows[0], strict=True):
        column.justify = "right" if isinstance(value, (int, float)) else "left"
    for row in rows:
        table.add_row(*map(_cell, row))
    output.print(table)
    output.print()


def _cell(value: Any) -> Text:
    return shown(f"{value:,}" if isinstance(value, (int, float)) else str(value))
