"""The floors of the house: who may import whom, and how large a file may grow."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from app.config.settings import PROJECT_ROOT

APP = PROJECT_ROOT / "app"
MAX_LINES = 350
# It is a list of like things: an error each.
MAX_LINES_OF = {"app/errors.py": 450}

# Folder (or file) -> beginnings of module names that it must not import.
FORBIDDEN = {
    "api": ("sqlalchemy", "app.database", "openai", "anthropic"),
    "web": ("sqlalchemy", "app.database", "app.clients", "openai", "anthropic"),
    "schemas": ("sqlalchemy", "app.database", "fastapi", "starlette"),
    "services": (
        "fastapi",
        "starlette",
        "uvicorn",
        "openai",
        "anthropic",
        "app.api",
        "app.schemas",
        "app.main",
        "app.resources",
    ),
    "clients": ("sqlalchemy", "app.database", "fastapi", "starlette", "app.api", "app.schemas", "app.services"),
    "database": ("fastapi", "starlette", "app.api", "app.schemas", "app.services", "app.clients"),
    "evaluation": ("sqlalchemy", "fastapi", "starlette", "app.api", "app.schemas", "app.database", "app.cli."),
    "storage": ("sqlalchemy", "fastapi", "starlette", "app.api", "app.services", "app.database", "app.clients"),
    "server": ("sqlalchemy", "fastapi", "starlette", "app.api", "app.services", "app.database", "app.clients"),
    "runtime": ("fastapi", "starlette", "app.api", "app.services", "app.database", "app.clients"),
    "observability": ("fastapi", "starlette", "app.api", "app.services", "app.database", "app.clients"),
    "observability/metrics.py": ("sqlalchemy", "app."),
    "observability/metrics_multiprocess.py": ("sqlalchemy", "app."),
    "config": ("fastapi", "starlette", "app.api", "app.services", "app.database", "app.clients"),
    "language": ("sqlalchemy", "fastapi", "starlette", "app.api", "app.schemas", "app.services", "app.clients"),
    "errors.py": ("fastapi", "starlette", "sqlalchemy", "app."),
    "categories.py": ("app.",),
    "resources.py": ("fastapi", "starlette", "app.api"),
}

# Package (or module) of app/services -> the others that it may import.
SERVICES: dict[str, set[str]] = {
    "accounts": {"audit", "library", "privacy", "request_log", "throttle"},
    "api_keys": {"audit", "throttle"},
    "audit": set(),
    "batches": {
        "cache",
        "classification",
        "inference",
        "library",
        "near_duplicates",
        "photos",
        "request_log",
        "spending",
        "tasks",
    },
    "cache": {"idempotency", "redis", "request_log"},
    "classification": {"cache", "idempotency", "near_duplicates", "photos", "request_log", "spending", "spool"},
    "device_tokens": {"accounts", "api_keys", "signatures"},
    "events": {"accounts", "redis"},
    "feedback": {"audit", "cache", "request_log"},
    "health": set(),
    "idempotency": set(),
    "inference": {"cache", "classification", "library", "photos", "request_log", "spool"},
    "library": {"idempotency", "photos"},
    "near_duplicates": {"cache", "request_log"},
    "photos": set(),
    "privacy": {"feedback", "idempotency", "request_log"},
    "rate_limits": {"redis"},
    "redis": set(),
    "request_log": {"idempotency", "spool"},
    "signatures": {"api_keys"},
    "spending": {"request_log", "spool"},
    "spool": set(),
    "statistics": {"feedback", "health", "request_log", "spending"},
    "tasks": {"events", "idempotency"},
    "throttle": set(),
}

TOP_LEVEL = {
    "__init__.py",
    "__main__.py",
    "categories.py",
    "clock.py",
    "errors.py",
    "main.py",
    "resources.py",
    "worker.py",
}

MAX_MODULES = 12
# They are lists of like things: a resource each, a provider each, a command each, a table of one feature each.
MAX_MODULES_OF = {"api/routes": 19, "clients/llm": 15, "cli": 14, "database/tables": 17, "schemas": 16}


def imported_modules(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            modules.add(node.module or "")
            modules.update(f"{node.module}.{name.name}" for name in node.names)
    return modules


def files_of(floor: str) -> list[Path]:
    target = APP / floor
    return [target] if target.is_file() else sorted(target.rglob("*.py"))


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_a_floor_imports_only_what_it_may_know(floor: str) -> None:
    files = files_of(floor)
    assert files
    wrong = [
        f"{path.relative_to(PROJECT_ROOT)} imports {module}"
        for path in files
        for module in imported_modules(path)
        if module.startswith(FORBIDDEN[floor])
    ]
    assert wrong == []


def test_services_do_not_ask_which_database_it_is() -> None:
    """What differs between the databases has a name in app/database."""
    asking = [str(path) for path in files_of("services") if "sqlite" in path.read_text(encoding="utf-8")]
    assert asking == []


def test_the_service_does_not_know_its_command_line() -> None:
    others = set(APP.rglob("*.py")) - set(files_of("cli"))
    wrong = [path for path in others if any(f"{module}.".startswith("app.cli.") for module in imported_modules(path))]
    assert wrong == []


def test_the_client_does_not_wait_for_what_only_the_service_needs() -> None:
    """Database and settings take a second, three quarters of the time until `--help` is there."""
    code = "import sys, app.cli.main; print({'sqlalchemy', 'alembic', 'pydantic', 'fastapi'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    assert done.stdout == "set()\n"


def test_the_photo_package_knows_nothing_of_ours() -> None:
    for path in files_of("photo"):
        foreign = {m for m in imported_modules(path) if m.startswith("app.") and not m.startswith("app.photo")}
        assert foreign == set(), path


def test_files_stay_small_enough_to_hold_in_the_head() -> None:
    lengths = {
        path.relative_to(PROJECT_ROOT).as_posix(): path.read_text("utf-8").count("\n") for path in APP.rglob("*.py")
    }
    long = {name: lines for name, lines in lengths.items() if lines > MAX_LINES_OF.get(name, MAX_LINES)}
    assert long == {}


def test_the_packages_of_the_services_import_only_what_the_table_names() -> None:
    found: dict[str, set[str]] = {}
    for path in files_of("services"):
        package = path.relative_to(APP / "services").parts[0].removesuffix(".py")
        names = {module.split(".")[2] for module in imported_modules(path) if module.startswith("app.services.")}
        found.setdefault(package, set()).update(names - {package})
    found.pop("__init__")
    assert found == SERVICES


def test_the_packages_of_the_services_form_no_circle() -> None:
    # Raises CycleError, which names the circle.
    order = list(TopologicalSorter(SERVICES).static_order())
    assert set(order) == set(SERVICES)


def test_a_folder_is_one_room() -> None:
    modules = Counter(
        str(path.parent.relative_to(APP))
        for path in APP.rglob("*.py")
        if path.name not in {"__init__.py", "__main__.py"}
    )
    assert {name: n for name, n in modules.items() if n > MAX_MODULES_OF.get(name, MAX_MODULES)} == {}


def test_no_further_module_stands_at_the_top() -> None:
    assert {path.name for path in APP.glob("*.py")} == TOP_LEVEL


def test_files_are_named_by_the_fields_words() -> None:
    """Each was the name of a file, which a reader could not guess; docs/glossary.md has the terms that stay."""
    private = {
        "alive", "leaving", "shortcut", "pushing", "earlier_answers", "presence", "group_reader", "packets",
        "cache_watch", "cache_copies", "rollup_building", "task_runs", "task_expiry", "cores", "open_files",
        "processes", "opening", "figures", "upkeep", "operate", "terminal", "flights",
    }  # fmt: skip
    assert {path.stem for path in APP.rglob("*.py")} & private == set()


def test_every_module_opens_with_the_rule_that_explains_it() -> None:
    silent = [
        str(path.relative_to(PROJECT_ROOT))
        for path in APP.rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_the_sdks_are_loaded_only_when_they_are_used() -> None:
    heavy = (
        "typer",
        "rich",
        "app.cli",
        "openai",
        "anthropic",
        "onnxruntime",
        "alembic",
        "redis",
        "obstore",
        "opentelemetry.sdk",
        "requests",
    )
    code = f"import sys, app.main; print([module for module in {heavy} if module in sys.modules])"
    result = subprocess.run(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
