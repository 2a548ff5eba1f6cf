"""app.photo stands alone: it imports the standard library, Pillow, pillow-heif, and nothing else of ours."""

import ast
import subprocess
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


def test_native_decoders_are_loaded_only_by_the_process_that_decodes() -> None:
    """They would be memory of every worker process."""
    code = "import sys, app.photo; print({'PIL._avif', 'PIL._webp', 'pillow_heif'} & set(sys.modules))"
    root = PACKAGE.parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    assert done.stdout == "set()\n"
