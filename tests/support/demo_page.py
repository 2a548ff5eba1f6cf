"""What one does with the demo, and what one sees of it."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import FilePayload, Locator, Page

from tests.support.documents import DOCS

CAT, COFFEE = DOCS / "samples" / "cat.jpg", DOCS / "samples" / "coffee.jpg"


def file(name: str, kind: str, data: bytes) -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": data}


async def choose(page: Page, *files: FilePayload | Path) -> None:
    """Choose files; those that are none yet stand in the order given."""
    payloads = [file(path.name, "image/jpeg", path.read_bytes()) if isinstance(path, Path) else path for path in files]
    await page.set_input_files("#choose", payloads)


def entry(page: Page, number: int = 0) -> Locator:
    """The newest entry, or an older one."""
    return page.locator(".entry").nth(number)


def calls(page: Page) -> list[str]:
    """What the page asks the API from now on; the list grows."""
    paths: list[str] = []
    page.on("request", lambda request: paths.append(urlsplit(request.url).path.partition("/api/v1")[2]))
    return paths


async def steps(item: Locator) -> dict[str, str]:
    """Name -> time of an entry's steps, as shown."""
    return dict(
        await item.locator(".steps li").evaluate_all(
            "items => items.map(i => [i.dataset.step, i.lastChild.textContent])"
        )
    )


async def provoked(problems: list[str], *expected: str) -> None:
    """These problems were meant to be; there are no others."""
    # What the console says comes by another way than what the page shows, and may come later.
    async with asyncio.timeout(120):
        while len(problems) < len(expected):  # noqa: ASYNC110 - a list notifies no task
            await asyncio.sleep(0.01)
    assert len(problems) == len(expected), problems
    assert all(part in problem for part, problem in zip(expected, problems, strict=True)), problems
    problems.clear()
