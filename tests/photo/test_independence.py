"""app.photo stands alone: it imports the standard library, Pillow, pillow-heif, and nothing else of ours."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "app" / "photo"
ALLOWED = sys.stdlib_module_names | {"PIL", "pillow_heif"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_imports(path: Path) -> None:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    foreign = [name for name in names if name.split(".")[0] not in ALLOWED and not name.startswith("app.photo")]
    assert foreign == []
