import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import export.runtime

FOLDER = Path(export.runtime.__file__).parent
LAZY = {"ort_runner": {"onnxruntime"}, "cuda": {"cuda.bindings"}, "parquet": {"pyarrow.parquet"}}
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


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.stem)
def test_the_runtime_imports_only_what_a_station_has(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    foreign = {name for name in imported(tree) if not allowed(name)}
    assert foreign == LAZY.get(path.stem, set())


@pytest.mark.parametrize("stem", LAZY)
def test_a_runtime_is_imported_only_inside_a_function(stem: str) -> None:
    (path,) = FOLDER.rglob(f"{stem}.py")
    tree = ast.parse(path.read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    (name,) = LAZY[stem]
    assert sum(name in set(imported(function)) for function in functions) == 1
    assert not any(name in set(imported(node)) for node in tree.body if node not in functions)


def test_tensorrt_is_imported_by_name_only_where_it_is_asked_for(python: Any) -> None:
    code = (
        "import sys, export.runtime.station, export.runtime.rebuild;"
        "print([name for name in sys.modules if 'tensorrt' in name or name.split('.')[0] in ('cuda', 'onnxruntime')])"
    )
    own = {f"export.runtime.{name}" for name in ("tensorrt_library",)} | {"export.runtime.cuda"}
    done = python(code)
    assert set(ast.literal_eval(done.stdout)) <= own, done
