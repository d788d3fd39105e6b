"""The floors of the house: imports run one way, whether at run time, inside a function or for types alone."""

import ast
import importlib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import export
import factory

ROOTS = {"factory": Path(factory.__file__).parent, "export": Path(export.__path__[0])}

# From top to bottom. A room may import from rooms of its own floor and of those below, never from above.
FLOORS = (
    {"cli"},
    {"cli_scores", "cli_audit", "cli_pilot", "cli_compare", "cli_measure", "cli_keys", "cli_feedback"},
    {"tables_evidence"},
    {"commands", "tables", "newline", "feedback", "doctor", "contest", "measuring"},  # what the commands say and write
    {"pipeline"},
    {"page"},
    {"page_choices", "handover"},  # what the pipeline hands over
    {"golden", "inspection"},
    {"outcome"},
    {"delivery", "choice", "kinds"},
    {"variants"},
    {"trainings"},
    {"selection"},
    {"groundwork"},
    {"evidence"},
    {"search"},
    {"training"},
    {"cost", "spaces", "data"},
    {"score", "swapout", "report", "profiles", "refusal", "workspace", "progress", "engine", "signing"},
)
HEIGHT = {room: -floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the two packages by its full name."""
    found = {}
    for root in ROOTS.values():
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """Modules of the project that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            inner = [name for name in names if name in MODULES]
            yield from inner
            if node.module in MODULES and len(inner) < len(names):
                yield str(node.module)


GRAPH = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    """The part of the factory that a module belongs to."""
    return module.split(".")[1]


def test_the_whole_project_was_read() -> None:
    assert {"factory.pipeline", "factory.swapout.layer", "export.build.onnx", "export.runtime.station"} <= set(MODULES)
    assert "factory.spaces.plan" in GRAPH["factory.cost.count"]
    assert "export.build.onnx" in GRAPH["factory.cost.probe"]


def test_the_benchmarks_import_what_there_is() -> None:
    assert importlib.import_module("tests.benchmarks.__main__")


def test_every_room_of_the_factory_has_its_floor() -> None:
    rooms = {room(name) for name in MODULES if name.startswith("factory.")}
    assert rooms == set(HEIGHT)


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("factory.")])
def test_no_import_of_the_factory_runs_upward(name: str) -> None:
    upward = {
        other for other in GRAPH[name] if other.startswith("factory.") and HEIGHT[room(other)] > HEIGHT[room(name)]
    }
    assert upward == set()


def test_no_import_runs_in_a_circle() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


def test_no_two_rooms_import_each_other() -> None:
    between: dict[str, set[str]] = {}
    for name, others in GRAPH.items():
        if name.startswith("factory."):
            found = {room(other) for other in others if other.startswith("factory.")}
            between.setdefault(room(name), set()).update(found - {room(name)})
    TopologicalSorter(between).prepare()


@pytest.mark.parametrize(
    ("package", "below"),
    [("export.runtime", ("export.runtime",)), ("export.build", ("export.runtime", "export.build"))],
)
def test_the_export_imports_nothing_of_the_workstation(package: str, below: tuple[str, ...]) -> None:
    found = {other for name in MODULES if name.startswith(package) for other in GRAPH[name]}
    assert found
    assert {other for other in found if not other.startswith(below)} == set()


def test_swapout_knows_nothing_of_the_rest() -> None:
    found = {other for name in MODULES if name.startswith("factory.swapout") for other in GRAPH[name]}
    assert {other for other in found if not other.startswith("factory.swapout")} == set()
