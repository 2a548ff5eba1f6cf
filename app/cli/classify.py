"""`image-classifier classify`: a folder of photos through the whole client flow, and what that saved."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.categories import CATEGORY_TEXTS, Category
from app.cli.client import PhotoClient, PhotoResult, RequestFailed, Stopped
from app.cli.photos import find_photos

DEFAULT_SERVER = "http://127.0.0.1:8000"
MAX_CONCURRENCY = 64
# Failures that are listed one by one under the table; all of them are in --json and --csv.
SHOWN_FAILURES = 10
INTERRUPTED = 130

ServerOption = Annotated[
    str, typer.Option("--server", "-s", metavar="URL", envvar="IMAGE_CLASSIFIER_SERVER", help="Where the service is.")
]


@dataclass(frozen=True, slots=True)
class Summary:
    """The run in figures. Bytes saved are those of JPEGs that did not have to be uploaded.

    Costs are in the currency of the service's COST_PER_API_CALL, None where it has not counted any request today.
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
    categories: dict[str, int]


def classify(
    paths: Annotated[list[Path], typer.Argument(help="Photos, and folders of photos.", exists=True)],
    server: ServerOption = DEFAULT_SERVER,
    user_id: Annotated[str | None, typer.Option(help="Whose request it is, in the statistics.")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=MAX_CONCURRENCY, help="At once.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one CSV line for each photo.")] = False,
) -> None:
    """Classify photos as a phone does: compress, hash, ask, and upload only what the service does not know.

    The exit status is 1 if a photo failed, 130 after Ctrl-C; what was done by then is shown.
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other.")
    found = list(find_photos(paths))
    messages = Console(stderr=True)
    client = PhotoClient(server, user_id=user_id, concurrency=concurrency)
    try:
        results, finished = _run(client, found, concurrency, messages)
        summary = summarize(results, _cost_per_call(client) if results else None)
    finally:
        client.close()
    if as_json:
        sys.stdout.write(json.dumps(_as_object(results, summary), ensure_ascii=False, indent=2) + "\n")
    elif as_csv:
        _write_csv(results)
    else:
        _show(results, summary, Console(), messages)
    if not finished:
        messages.print(f"Stopped; {len(found) - len(results)} of {len(found)} photos were not classified.")
        raise typer.Exit(INTERRUPTED)
    if summary.failed:
        raise typer.Exit(1)


def summarize(results: Sequence[PhotoResult], cost_per_call: float | None) -> Summary:
    """Add the results up; each upload is one model call, each hit and duplicate saves one."""
    statuses = Counter(result.status for result in results)
    saved = statuses["hit"] + statuses["duplicate"]
    categories = Counter(result.category for result in results if result.category is not None)
    return Summary(
        photos=len(results),
        hits=statuses["hit"],
        uploads=statuses["uploaded"],
        duplicates=statuses["duplicate"],
        failed=statuses["failed"],
        bytes_uploaded=sum(result.uploaded_bytes for result in results),
        bytes_saved=sum(result.compressed_bytes for result in results if result.status in {"hit", "duplicate"}),
        cost=None if cost_per_call is None else round(statuses["uploaded"] * cost_per_call, 6),
        cost_saved=None if cost_per_call is None else round(saved * cost_per_call, 6),
        categories=dict(categories.most_common()),
    )


def _run(
    client: PhotoClient, paths: Sequence[Path], concurrency: int, messages: Console
) -> tuple[list[PhotoResult], bool]:
    """Return what became of the files, in their order, and whether the user let it finish."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done: dict[int, PhotoResult] = {}
    finished = True
    with (
        Progress(*columns, console=messages, disable=not messages.is_terminal, transient=True) as progress,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        task = progress.add_task("Classifying", total=len(paths))
        futures = {pool.submit(client.classify, path): index for index, path in enumerate(paths)}
        try:
            _collect(futures, done, lambda: progress.advance(task))
        except KeyboardInterrupt:
            finished = False
            client.stop()
            for future in futures:
                future.cancel()
            _collect({future: index for future, index in futures.items() if not future.cancelled()}, done, lambda: None)
    return [done[index] for index in sorted(done)], finished


def _collect(
    futures: dict[Future[PhotoResult], int], done: dict[int, PhotoResult], advance: Callable[[], object]
) -> None:
    pending = set(futures)
    while pending:
        ready, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in ready:
            try:
                done[futures[future]] = future.result()
            except Stopped:
                continue
            advance()


def _cost_per_call(client: PhotoClient) -> float | None:
    """Return what the service counts for a model call: a day's costs are that times its misses and its hits."""
    try:
        today = client.get("/stats/today")
        total = today["total_requests"]
        return (today["estimated_cost"] + today["cost_saved"]) / total if total else None
    except (RequestFailed, Stopped, KeyError, TypeError):
        return None


def _as_object(results: Iterable[PhotoResult], summary: Summary) -> dict[str, Any]:
    return {"summary": asdict(summary), "photos": [result.as_dict() for result in results]}


def _write_csv(results: Iterable[PhotoResult]) -> None:
    writer = csv.DictWriter(sys.stdout, [field.name for field in fields(PhotoResult)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.as_dict() for result in results)


def _show(results: Sequence[PhotoResult], summary: Summary, output: Console, messages: Console) -> None:
    table = Table("", "", title=None, show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("photos", str(summary.photos))
    table.add_row("hits", f"{summary.hits}{_percent(summary.hits, summary.photos)}")
    table.add_row("uploads", f"{summary.uploads}, {megabytes(summary.bytes_uploaded)}")
    table.add_row("duplicates", str(summary.duplicates))
    table.add_row("failed", str(summary.failed), style="red" if summary.failed else None)
    table.add_row("not uploaded", megabytes(summary.bytes_saved))
    if summary.cost is not None:
        table.add_row("cost", f"{summary.cost:.2f} spent, {summary.cost_saved:.2f} saved")
    output.print(table)
    if summary.categories:
        shares = Table("category", "", "photos", box=None, padding=(0, 2, 0, 0), header_style="dim")
        shares.columns[2].justify = "right"
        for key, count in summary.categories.items():
            shares.add_row(key, category_name(key), str(count))
        output.print()
        output.print(shares)
    failures = [result for result in results if result.status == "failed"]
    for result in failures[:SHOWN_FAILURES]:
        messages.print(f"{result.path}: {result.error}: {result.message}", markup=False, highlight=False)
    if len(failures) > SHOWN_FAILURES:
        messages.print(f"and {len(failures) - SHOWN_FAILURES} more; --json lists them all")


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
