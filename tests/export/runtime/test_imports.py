import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import export.runtime

FOLDER = Path(export.runtime.__file__).parent
ALWAYS = sys.stdlib_module_names | {"numpy", "PIL", "cryptography"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module or ""


def allowed(name: str) -> bool:
    return name.partition(".")[0] in ALWAYS or f"{name}.".startswith("export.runtime.")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_the_runtime_imports_only_what_a_station_has(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    foreign = {name for name in imported(tree) if not allowed(name)}
    assert foreign == ({"onnxruntime"} if path.stem == "engines" else set())


def test_onnxruntime_is_imported_only_inside_a_function() -> None:
    tree = ast.parse((FOLDER / "engines.py").read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert sum("onnxruntime" in set(imported(function)) for function in functions) == 1
    assert not any("onnxruntime" in set(imported(node)) for node in tree.body if node not in functions)
