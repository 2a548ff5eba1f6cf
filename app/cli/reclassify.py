"""`image-classifier reclassify`: which entries would another model be asked about again, at which cost; marks them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.categories import Category
from app.cli.output import messages, say, shown

if TYPE_CHECKING:
    from app.cli.maintenance import reclassification as work

# Lines of the table; what is left out is in the total.
_SHOWN_ROWS = 40


def reclassify(
    model: Annotated[
        str | None,
        typer.Option(help="The model that is to answer: that of the settings, LLM_MODEL, which is the default."),
    ] = None,
    category: Annotated[Category | None, typer.Option(help="Only entries of this category.")] = None,
    below: Annotated[float | None, typer.Option(min=0, max=1, help="Only entries with a lower confidence.")] = None,
    made_by: Annotated[str | None, typer.Option(help="Only entries of this model.")] = None,
    language: Annotated[
        str | None, typer.Option(help="zh or en: only entries whose description is in another language.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count, and say what it would cost.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back all marks that no upload has met yet.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Mark entries of the cache, so that the model is asked again when their photos are uploaded the next time.

    Until then look-ups miss them. Entries that a person has corrected stay. At a terminal, you are asked first.
    """
    from app.cli.maintenance import reclassification as work
    from app.config.settings import load_settings

    settings = load_settings()
    try:
        if undo:
            with _progress("Taking back", None) as advance:
                taken = work.take_back(settings, advance)
            say(f"{taken} entries answer again")
            return
        plan = work.make_plan(settings, model=model, category=category, below=below, made_by=made_by, language=language)
        _show(plan)
        if dry_run or plan.entries == 0:
            return
        if sys.stdin.isatty() and not yes:
            typer.confirm(f"Mark {plan.entries} entries?", abort=True, err=True)
        with _progress("Marking", plan.entries) as advance:
            marked = work.mark(settings, plan, advance)
        say(f"{marked} entries are asked again at their next upload; --undo takes it back")
    except ValueError as error:
        say(str(error))
        raise typer.Exit(2) from None
    except work.CannotBeDone as error:
        say(str(error))
        raise typer.Exit(1) from None


def _show(plan: "work.Plan") -> None:
    table = Table("model", "category", "entries", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for (model, category), count in plan.counts.most_common(_SHOWN_ROWS):
        table.add_row(shown(model), shown(category), str(count))
    if plan.entries:
        Console().print(table, highlight=False)
    say(f"{plan.entries} entries would be asked again of {plan.selection.model}, about {plan.cost:.4f} {plan.currency}")


@contextmanager
def _progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, disable=not messages.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda entries: progress.advance(task, entries)
