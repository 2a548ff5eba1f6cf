"""`image-classifier classify`: a folder of photos through the whole client flow, and what that saved."""

import signal
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.categories import CATEGORY_TEXTS, Category
from app.cli.client import PhotoClient, PhotoResult
from app.cli.connection import RequestFailed, ServiceConnection, Stopped
from app.cli.output import messages, say, shown, write_csv, write_json
from app.cli.photos import find_photos

DEFAULT_SERVER = "http://127.0.0.1:8000"
MAX_CONCURRENCY = 64
# Failures that are listed one by one under the table; all of them are in --json and --csv.
SHOWN_FAILURES = 10
INTERRUPTED = 130


def _is_address(server: str) -> str:
    try:
        url = httpx2.URL(server)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
        # It is not repeated: it may hold a password.
        raise typer.BadParameter(f"an address such as {DEFAULT_SERVER} is needed.")
    return server


def _is_user_id(user_id: str | None) -> str | None:
    if user_id is not None and not user_id.isprintable():
        raise typer.BadParameter("characters that cannot be seen are not allowed.")
    return user_id


ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        "-s",
        metavar="URL",
        envvar="IMAGE_CLASSIFIER_SERVER",
        help="Where the service is.",
        callback=_is_address,
    ),
]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a new photo costs."""

    per_photo: float
    currency: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The run in figures. Bytes saved are those of JPEGs that did not have to be uploaded.

    An upload costs nothing where another client has uploaded the same photo in the meantime. Costs are at the service's
    average of today, in `currency`; None where it has not counted any request, or does not tell.
    """

    photos: int
    hits: int
    uploads: int
    duplicates: int
    failed: int
    bytes_uploaded: int
    bytes_saved: int
    cost: float | None
    cost_saved: float | None
    currency: str | None
    categories: dict[str, int]


def classify(
    paths: Annotated[list[Path], typer.Argument(help="Photos, and folders of photos.", exists=True)],
    server: ServerOption = DEFAULT_SERVER,
    user_id: Annotated[
        str | None, typer.Option(help="Whose request it is, in the statistics.", callback=_is_user_id)
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, max=MAX_CONCURRENCY, help="Photos at once.")
    ] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one CSV line for each photo.")] = False,
) -> None:
    """Classify photos as a phone does: compress, hash, ask, and upload only what the service does not know.

    The exit status is 1 if a photo failed, 130 after Ctrl-C; what was done by then is shown.
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other.")
    # A photo of 100 megapixels is nothing to warn of.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    found = list(find_photos(paths))
    service = ServiceConnection(server, user_id=user_id, connections=concurrency)
    client = PhotoClient(service)
    try:
        results, finished = _run(client, service, found, concurrency)
        summary = summarize(results, _average_cost(service) if results else None)
    finally:
        service.close()
    if as_json:
        write_json(_as_object(results, summary))
    elif as_csv:
        write_csv([field.name for field in fields(PhotoResult)], (result.as_dict() for result in results))
    else:
        _show(results, summary, Console())
    if not found:
        say("There are no photos.")
    if len(results) < len(found):
        why = f" ({client.failure.code}: {client.failure})" if client.failure else ""
        say(f"Stopped{why}; {len(found) - len(results)} of {len(found)} photos were not classified.")
    if not finished:
        raise typer.Exit(INTERRUPTED)
    if summary.failed:
        raise typer.Exit(1)


def summarize(results: Sequence[PhotoResult], cost: Cost | None) -> Summary:
    """Add the results up: what was not from the cache is a model call, what was has saved one."""
    statuses = Counter(result.status for result in results)
    from_cache = Counter(result.from_cache for result in results)
    categories = Counter(result.category for result in results if result.category is not None)
    return Summary(
        photos=len(results),
        hits=statuses["hit"],
        uploads=statuses["uploaded"],
        duplicates=statuses["duplicate"],
        failed=statuses["failed"],
        bytes_uploaded=sum(result.uploaded_bytes for result in results),
        bytes_saved=sum(result.compressed_bytes for result in results if result.status in {"hit", "duplicate"}),
        cost=None if cost is None else round(from_cache[False] * cost.per_photo, 6),
        cost_saved=None if cost is None else round(from_cache[True] * cost.per_photo, 6),
        currency=None if cost is None else cost.currency,
        categories=dict(categories.most_common()),
    )


def _run(
    client: PhotoClient, service: ServiceConnection, paths: Sequence[Path], concurrency: int
) -> tuple[list[PhotoResult], bool]:
    """Return what became of the files, in their order, and whether the user let it finish."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    futures: list[Future[PhotoResult]] = []
    finished = True
    with (
        Progress(*columns, console=messages, disable=not messages.is_terminal, transient=True) as progress,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        task = progress.add_task("Classifying", total=len(paths))
        try:
            futures.extend(pool.submit(client.classify, path) for path in paths)
            for _ in as_completed(futures):
                progress.advance(task)
        except KeyboardInterrupt:
            finished = False
            # An upload may take two minutes; Ctrl-C does not wait for it.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            service.stop()
            say("Waiting for the uploads under way; Ctrl-C again leaves at once.")
    return [future.result() for future in futures if not isinstance(future.exception(), Stopped)], finished


def _average_cost(service: ServiceConnection) -> Cost | None:
    """Return what the service counts for a new photo today, on average; without one, what a hit has saved."""
    try:
        today = service.get("/stats/today")
        if today["cache_misses"]:
            return Cost(today["estimated_cost"] / today["cache_misses"], str(today["currency"]))
        if today["cache_hits"]:
            return Cost(today["cost_saved"] / today["cache_hits"], str(today["currency"]))
    # Who presses Ctrl-C now wants to see the results.
    except (RequestFailed, Stopped, KeyError, TypeError, KeyboardInterrupt):
        pass
    return None


def _amount(money: float) -> str:
    """Write an amount with at least two decimals, and as many as a part of a cent needs."""
    text = f"{money:,.6f}".rstrip("0")
    return text + "0" * max(0, 2 - len(text.partition(".")[2]))


def _as_object(results: Iterable[PhotoResult], summary: Summary) -> dict[str, Any]:
    return {"summary": asdict(summary), "photos": [result.as_dict() for result in results]}


def _show(results: Sequence[PhotoResult], summary: Summary, output: Console) -> None:
    table = Table("", "", title=None, show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("photos", str(summary.photos))
    table.add_row("hits", f"{summary.hits}{_percent(summary.hits, summary.photos)}")
    table.add_row("uploads", f"{summary.uploads}, {megabytes(summary.bytes_uploaded)}")
    table.add_row("duplicates", str(summary.duplicates))
    table.add_row("failed", str(summary.failed), style="red" if summary.failed else None)
    table.add_row("not uploaded", megabytes(summary.bytes_saved))
    if summary.cost is not None and summary.cost_saved is not None:
        spent, saved = _amount(summary.cost), _amount(summary.cost_saved)
        table.add_row("cost", shown(f"{spent} {summary.currency} spent, {saved} {summary.currency} saved"))
    output.print(table)
    if summary.categories:
        shares = Table("category", "", "photos", box=None, padding=(0, 2, 0, 0), header_style="dim")
        shares.columns[2].justify = "right"
        for key, count in summary.categories.items():
            shares.add_row(shown(key), category_name(key), str(count))
        output.print()
        output.print(shares)
    failures = [result for result in results if result.status == "failed"]
    for result in failures[:SHOWN_FAILURES]:
        say(f"{result.path}: {result.error}: {result.message}")
    if len(failures) > SHOWN_FAILURES:
        say(f"and {len(failures) - SHOWN_FAILURES} more; --json lists them all")


def category_name(key: str) -> str:
    """Return both names of a category, nothing for one that a newer service may have."""
    if key not in set(Category):
        return ""
    text = CATEGORY_TEXTS[Category(key)]
    return f"{text.chinese} {text.english}"


def megabytes(count: int) -> str:
    """Return a number of bytes in megabytes of a million bytes, or kilobytes where it is less than one."""
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1e3:.0f} KB"


def _percent(part: int, whole: int) -> str:
    return f" ({100 * part / whole:.0f} %)" if whole else ""
