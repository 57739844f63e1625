"""Imports go downward only, and the slow libraries stay where they belong. Read from the source, so that imports inside functions count as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "gsvckpt"
MODULES = sorted(path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".") for path in ROOT.rglob("*.py"))

# The one rule: imports go downward, any number of floors. What shares a line does not know each other; within one room imports are free.
LEVELS = [
    {"characters", "hints", "version"},
    {"errors"},
    {"dtypes", "units"},
    {"model"},
    {"files"},
    {"devices", "formats", "sovits", "transforms"},
    {"engine"},
    {"commands"},
    {"report"},
    {"cli"},
    {"__main__"},
]
ALONE = {"inspect", "rewrite", "verify"}  # commands that do not know each other; prune and bundle may use all three
NUMBERS = {"devices", "engine.load", "engine.statistics", "engine.strided_read", "engine.difference"}
ONLY_IN = {
    "torch": {"devices", "engine.load"},
    "numpy": NUMBERS,
    "rich": {"report"},
    "typer": {"cli"},
    "tensorboard": {"commands.prune.tensorboard"},
    "dask": set(),
    "distributed": {"engine.pool.dask"},
    "safetensors": {"formats.safetensors"},
    "regex": {"transforms.rules"},
    "click": set(),
    "fsspec": {"files.remote"},
    "aiohttp": {"files.remote"},
}


def room(module: str) -> str:
    """`gsvckpt.formats.sniff` stands in the room `formats`; a module beside the rooms is one of its own."""
    return module.split(".")[1] if "." in module else ""


def level(part: str) -> int:
    found = [index for index, names in enumerate(LEVELS) if part in names]
    assert found, f"gsvckpt.{part} has no place in LEVELS"
    return found[0]


def stands_in(module: str, place: str) -> bool:
    return f"{module}.".startswith(f"gsvckpt.{place}.")


def imported(module: str) -> Iterator[str]:
    path = ROOT.parent / (module.replace(".", "/") + ".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_is_looked_at() -> None:
    assert {"gsvckpt.model", "gsvckpt.formats.sniff", "gsvckpt.formats.pickle.machine"} <= set(MODULES)


def test_the_listing_shows_the_rooms() -> None:
    """At a glance: nine folders, and at most nine modules beside them."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == {"cli", "report", "commands", "engine", "formats", "sovits", "transforms", "devices", "files"}
    assert len(list(ROOT.glob("*.py"))) <= 9


@pytest.mark.parametrize("module", [module for module in MODULES if room(module.removesuffix(".__init__"))])
def test_imports_go_downward(module: str) -> None:
    mine = room(module)
    for name in imported(module):
        if not name.startswith("gsvckpt.") or room(name) == mine:
            continue
        assert level(room(name)) < level(mine), f"{module} imports {name}"


@pytest.mark.parametrize("command", sorted(ALONE))
def test_commands_do_not_know_each_other(command: str) -> None:
    for module in MODULES:
        if stands_in(module, f"commands.{command}"):
            known = {name.split(".")[2] for name in imported(module) if name.startswith("gsvckpt.commands.")}
            assert known <= {command}, f"{module} imports {known}"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_where_they_belong(module: str) -> None:
    for name in imported(module):
        places = ONLY_IN.get(name.split(".")[0])
        assert places is None or any(stands_in(module, place) for place in places), f"{module} imports {name}"


@pytest.mark.parametrize("place", ["formats.zip", "formats.pickle"])
def test_containers_know_nothing_of_torch(place: str) -> None:
    for module in MODULES:
        if stands_in(module, place):
            rooms = {".".join(name.split(".")[1:3]) if room(name) == "formats" else room(name) for name in imported(module) if "gsvckpt." in name}
            assert rooms <= {place, "formats.zip", "model", "errors", "hints", "dtypes", "files"}, f"{module} imports {rooms}"


# --- sizes -------------------------------------------------------------------------------------------------------------------------------------

MOST_LINES, MOST_LINES_OF_FUNCTION, MOST_PARAMETERS = 350, 60, 7
OPTION_LISTS = ("cli/", "commands/python/")  # where a parameter is an option


@pytest.mark.parametrize("path", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")))
def test_nothing_is_too_long_to_be_seen_at_once(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES
    if path.startswith(OPTION_LISTS):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert (node.end_lineno or 0) - node.lineno < MOST_LINES_OF_FUNCTION, node.name
            assert sum(parameter.arg not in ("self", "cls") for parameter in parameters) <= MOST_PARAMETERS, node.name
