"""What the documentation says agrees with the code: settings, error codes, links, both languages."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from pydantic import SecretStr
from typer.main import get_command

from app.cli.main import cli
from app.clients.registry import create_model_client
from app.config.model import ModelSettings
from app.config.settings import PROJECT_ROOT, Settings
from app.errors import AppError
from tests.support.documents import DOCS, PAGES, READMES, TRANSLATED, code_blocks, page_name

# Shows a usual value: the default is not to use MySQL.
SHOWS_AN_EXAMPLE = {"MYSQL_HOST"}
# Comes from the framework, not from a class of ours.
FRAMEWORK_CODES: dict[str, int] = {}


def table_rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row whose first cell is one piece of code, without that code's quotes."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| `") and re.fullmatch(r"`[^`]+`", cells[0]):
            yield [cells[0].strip("`"), *cells[1:]]


# ----- settings


def settings_fields() -> dict[str, tuple[Any, str]]:
    """Variable -> (the group of settings that reads it, the name of its field)."""
    groups = [Settings, *(field.annotation for field in Settings.model_fields.values() if field.default_factory)]
    return {
        str(field.validation_alias): (group, field_name)
        for group in groups
        for field_name, field in group.model_fields.items()  # type: ignore[union-attr]  # all are settings classes
        if field.validation_alias
    }


def example_defaults() -> dict[str, str]:
    """Variable -> default, as `.env.example` shows them."""
    text = (PROJECT_ROOT / ".env.example").read_text(encoding="utf-8")
    # What comes after it is docker-compose.yml's alone (tests/deploy/test_compose.py).
    lines = text.partition("# ===== Docker only =====")[0].splitlines()
    found = [re.fullmatch(r"# ([A-Z_]+)=(\S*) +# \S.*", line) for line in lines]
    defaults = {match[1]: match[2] for match in found if match}
    assert len(defaults) == sum(bool(re.match(r"#? ?[A-Z_]+=", line)) for line in lines), "a line without explanation"
    return defaults


def documented_defaults() -> dict[str, str]:
    """Variable -> default, as the table of docs/configuration.md has them."""
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    rows = [row for row in table_rows(text) if re.fullmatch("[A-Z_]+", row[0])]
    assert len(rows) == len({row[0] for row in rows}), "a variable stands there twice"
    assert all(row[2] for row in rows)
    return {row[0]: row[1].strip("`").replace("–", "") for row in rows}


def test_env_example_lists_every_variable_once() -> None:
    assert set(example_defaults()) == set(settings_fields())


@pytest.mark.parametrize("variable", sorted(settings_fields()))
def test_env_example_shows_the_default(variable: str) -> None:
    shown = example_defaults()[variable]
    group, field_name = settings_fields()[variable]
    default = group.model_fields[field_name].get_default()
    if variable in SHOWS_AN_EXAMPLE:
        assert default is None
    elif shown:
        assert getattr(group.model_validate({variable: shown}), field_name) == default
    else:
        assert default in (None, {}, (), frozenset(), SecretStr(""))


def test_trusted_proxies_are_those_of_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    assert uvicorn.Config("app.main:app").forwarded_allow_ips == example_defaults()["FORWARDED_ALLOW_IPS"]


def test_the_table_lists_the_same_variables_and_defaults() -> None:
    expected = {key: "" if key in SHOWS_AN_EXAMPLE else value for key, value in example_defaults().items()}
    assert documented_defaults() == expected


@pytest.mark.parametrize("readme", READMES, ids=page_name)
def test_a_readme_has_no_copy_of_the_table(readme: Path) -> None:
    assert not {row[0] for row in table_rows(readme.read_text(encoding="utf-8"))} & set(settings_fields())


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_settings_shown_in_examples_are_accepted(page: Path) -> None:
    for block in code_blocks(page, "ini"):
        values = dict(line.split("=", 1) for line in block.splitlines())
        for variable, value in values.items():
            settings_fields()[variable][0].model_validate({variable: value})
        if "LLM_PROVIDER" in values:
            client = create_model_client(ModelSettings.model_validate(values))
            assert (client.provider, client.model) == (values["LLM_PROVIDER"], values["LLM_MODEL"])


# ----- errors


def error_classes(base: type[AppError] = AppError) -> Iterator[type[AppError]]:
    if base.__module__ in {"app.errors", "app.clients.errors"}:
        yield base
    for subclass in base.__subclasses__():
        yield from error_classes(subclass)


def test_every_error_code_is_documented_with_its_status() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8").partition("\n## Errors\n")[2].partition("\n## ")[0]
    documented = {row[0]: int(row[1]) for row in table_rows(text)}
    assert documented == {error.code: error.status for error in error_classes()} | FRAMEWORK_CODES


# ----- command line


def commands_of(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Full name -> command, those of groups too."""
    for name, command in vars(group)["commands"].items():
        if "commands" in vars(command):
            yield from commands_of(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_every_command_and_option_is_documented() -> None:
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    commands = dict(commands_of(get_command(cli)))
    names = {name for command in commands.values() for option in command.params for name in option.opts}
    options = {name for name in names if name.startswith("--")}
    shown = set(re.findall(r"--[a-z][a-z-]+", text))
    assert shown == options | {"--help"}
    assert all(re.search(rf"image-classifier {name}\b|^\| `{name}\b", text, re.MULTILINE) for name in commands)


# ----- links and JSON


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if re.match("[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_of_the_project_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:app|bench|docs|scripts|sql|tests)/[\w./-]+)`", text)
    assert [name for name in named if not (PROJECT_ROOT / name).exists()] == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, open_pages = set[Path](), [READMES[0]]
    while open_pages:
        page = open_pages.pop()
        reached.add(page)
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            if target.suffix == ".md" and target.is_file() and target not in reached:
                open_pages.append(target)
    assert sorted(set(PAGES) - reached) == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_json_shown_is_json(page: Path) -> None:
    for block in code_blocks(page, "json"):
        assert json.loads(block)["success"] in {True, False}


@pytest.mark.parametrize("pages", TRANSLATED, ids=lambda pages: page_name(pages[0]))
def test_both_languages_say_the_same(pages: list[Path]) -> None:
    english, chinese = (page.read_text(encoding="utf-8") for page in pages)
    code, heading, link = r"^```.*?^```$", r"^#+ ", r"\]\(([^)]+)\)"
    assert re.findall(code, english, re.DOTALL | re.MULTILINE) == re.findall(code, chinese, re.DOTALL | re.MULTILINE)
    assert re.findall(heading, english, re.MULTILINE) == re.findall(heading, chinese, re.MULTILINE)

    def targets(text: str) -> list[str]:
        """What a page links to. A translated page, picture or heading counts as its original."""
        links = (target.replace(".zh-CN.md", ".md").replace("-zh-", "-en-") for target in re.findall(link, text))
        return sorted("#" if target.startswith("#") else target for target in links)

    assert targets(english) == targets(chinese)


@pytest.mark.parametrize("readme", READMES, ids=page_name)
def test_a_readme_is_short(readme: Path) -> None:
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 150


# ----- glossary


def test_every_file_of_the_glossary_exists() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| (?!term |---)", line)]
    files = [re.search(r"\| `([^`]+)` \|$", row) for row in rows]
    assert all(files), "a term without a file"
    assert [file[1] for file in files if file and not (PROJECT_ROOT / file[1]).is_file()] == []


def test_the_glossary_explains_each_term_once() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    terms = [term for row in re.findall(r"^\| (?!term |---)([^|]+) \|", text, re.MULTILINE) for term in row.split(", ")]
    assert len(terms) == len(set(terms)) > 30
