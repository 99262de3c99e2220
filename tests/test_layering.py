"""Who may import whom: a room knows only the rooms that the data passed before it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# in the order in which the data passes; a module imports from its own room and from those above it
ROOMS = (
    *("settings", "clock", "records", "neurons", "languages", "models", "training", "interventions"),
    *("processes", "progress", "pass_sums", "batches", "scored_pass", "measurement", "cost", "figures"),
)
LONGEST_MODULE, LONGEST_FUNCTION = 250, 40  # lines; of a function without its signature and docstring
FIGURES_MAY_IMPORT = {"figures", "records"}
LINKS = ("callbacks", "conf", "experiments")  # inside confreg/ they only point to the folders beside it


def modules_of(folder: str) -> list[Path]:
    inside = (path.relative_to(ROOT) for path in sorted((ROOT / folder).rglob("*.py")))
    return [path for path in inside if not (path.parts[0] == "confreg" and path.parts[1] in LINKS)]


LIBRARY, CALLBACKS, EXPERIMENTS = modules_of("confreg"), modules_of("callbacks"), modules_of("experiments")
ROOM_MODULES = [path for path in LIBRARY if path != Path("confreg/__init__.py")]


def imports_of(path: Path) -> Iterator[str]:
    """Full names of all that a module imports, inside functions too; ``from package import name`` gives both."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its room"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_of(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(path)}


def rooms_of(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("confreg.")}


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=str)


def test_every_room_of_the_library_is_in_the_list() -> None:
    rooms = {path.parts[1].removesuffix(".py") for path in ROOM_MODULES}
    assert rooms <= set(ROOMS)
    assert {"neurons", "models", "measurement"} <= rooms


@named(ROOM_MODULES)
def test_a_module_imports_only_from_its_own_room_and_from_rooms_above(path: Path) -> None:
    own = path.parts[1].removesuffix(".py")
    allowed = set(ROOMS[: ROOMS.index(own) + 1])
    assert rooms_of(path) <= allowed


@named(modules_of("confreg/figures"))
def test_figures_know_only_the_records(path: Path) -> None:
    assert rooms_of(path) <= FIGURES_MAY_IMPORT


@named(LIBRARY)
def test_the_library_knows_neither_its_callers_nor_hydra_nor_wandb(path: Path) -> None:
    assert not rooms_of(path) & set(LINKS)
    assert not packages_of(path) & {"hydra", "wandb", *LINKS}


@named(LIBRARY)
def test_of_the_library_only_training_knows_lightning(path: Path) -> None:
    knows = packages_of(path) & {"lightning", "pytorch_lightning"}
    assert not knows or path.parts[1] == "training"


@named(CALLBACKS)
def test_callbacks_know_nothing_of_who_runs_them(path: Path) -> None:
    assert not rooms_of(path) & {"experiments", "conf"}
    assert not packages_of(path) & {"hydra", "omegaconf", *LINKS}


def test_reading_the_imports_of_a_module_sees_every_form_of_them(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import a.b as c\nfrom confreg.x import y\nfrom confreg import z\ndef f():\n    import hydra\n", encoding="utf-8")
    assert {"a.b", "confreg.x", "confreg.x.y", "confreg.z", "hydra"} <= set(imports_of(module))
    assert rooms_of(module) == {"x", "z"}


def test_the_page_is_made_without_torch() -> None:
    rooms = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in modules_of("confreg/figures")]
    code = f"import sys, {', '.join(rooms)}; sys.exit(' '.join({{'torch', 'lightning', 'transformers'}} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@named([*LIBRARY, *CALLBACKS, *EXPERIMENTS])
def test_modules_and_functions_are_short(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert int(node.end_lineno or 0) - first.lineno < LONGEST_FUNCTION, node.name
