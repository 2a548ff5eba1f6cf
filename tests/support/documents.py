"""The documentation as text, for the tests that read it."""

import re
from pathlib import Path

from app.config.settings import PROJECT_ROOT

READMES = [PROJECT_ROOT / "README.md", PROJECT_ROOT / "README.zh-CN.md"]
DOCS = PROJECT_ROOT / "docs"
CLIENTS = DOCS / "clients"
TRANSLATED = [READMES, [CLIENTS / "README.md", CLIENTS / "README.zh-CN.md"]]
PAGES = sorted([*PROJECT_ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def page_name(path: Path) -> str:
    """The page as a test's id shows it."""
    return path.relative_to(PROJECT_ROOT).as_posix()


def code_blocks(page: Path, language: str) -> list[str]:
    """The fenced code of one language, in order, each with its last line break."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
