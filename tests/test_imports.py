"""Imports go downward only, and the slow libraries stay where they belong. Read from the source, so that imports inside functions count as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "gsvckpt"
MODULES = sorted(path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".") for path in ROOT.rglob("*.py"))

# Low to high. What shares a line may not import one another; within one package imports are free.
LAYERS = [
    {"errors"},
    {"budget", "characters", "dtypes", "texts", "quantities", "locations"},
    {"model", "progress", "checksums", "findings", "rules", "yaml_text", "units"},
    {"remote"},
    {"files", "streams", "pickles"},
    {"removal", "spans", "obstacles"},
    {"temporaries"},
    {"uploading"},
    {"locking", "publishing", "retention"},
    {"devices", "formats", "sovits", "transforms"},
    {"opening", "callbacks", "tables", "event_files"},
    {"asides", "ordering", "salvaging", "strides", "sweep", "manifest", "checksum_files", "runs", "trash", "exclusion"},
    {"computing", "engine", "scan", "loading", "metrics", "policies"},
    {"contents", "destinations", "sharding", "examination", "survey", "backup", "guards", "likeness"},
    {"references", "training_configs", "experiments", "recognition"},
    {"extraction", "inventory"},
    {"accounting", "checks", "comparison", "migration", "rewriting", "executors", "receipts"},
    {"verdicts", "demotion", "audits", "cluster", "resemblance"},
    {"recipes", "dispatch", "twins"},
    {"counterpart"},
    {"keep_options", "verification"},
    {"keeping", "targets", "workers", "bundles", "rewrites"},
    {"bundling", "pruning"},
    {"clearing"},
    {"report"},
    {"inspections"},
    {"cli"},
    {"__main__"},
]
NUMBERS = {"comparison", "devices", "loading", "scan", "strides"}
ONLY_IN = {
    "torch": NUMBERS,
    "numpy": NUMBERS,
    "rich": {"report"},
    "typer": {"cli"},
    "tensorboard": {"event_files"},
    "dask": set(),
    "distributed": {"cluster"},
    "safetensors": set(),
    "click": set(),
    "fsspec": {"remote"},
    "aiohttp": {"remote"},
}


def level(part: str) -> int:
    found = [index for index, layer in enumerate(LAYERS) if part in layer]
    assert found, f"gsvckpt.{part} has no place in LAYERS"
    return found[0]


def part_of(module: str) -> str:
    """`gsvckpt.formats.sniff` belongs to `formats`; the package's own `__init__` is the public face and stands beside the loader."""
    names = module.removesuffix(".__init__").split(".")
    return names[1] if len(names) > 1 else ""


def imported(module: str) -> Iterator[str]:
    path = ROOT.parent / (module.replace(".", "/") + ".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_is_looked_at() -> None:
    assert {"gsvckpt.model", "gsvckpt.formats.sniff", "gsvckpt.pickles.machine"} <= set(MODULES)


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module)])
def test_imports_go_downward(module: str) -> None:
    mine = part_of(module)
    for name in imported(module):
        theirs = part_of(name) if name.startswith("gsvckpt.") else mine
        if theirs == mine or name == "gsvckpt.__version__":
            continue
        assert level(theirs) < level(mine), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_where_they_belong(module: str) -> None:
    for name in imported(module):
        library = name.split(".")[0]
        assert part_of(module) in ONLY_IN.get(library, {part_of(module)}), f"{module} imports {name}"


def test_transforms_meet_formats_only_in_the_engine() -> None:
    above = ("gsvckpt.formats", "gsvckpt.engine", "gsvckpt.files", "gsvckpt.publishing", "gsvckpt.pickles")
    for module in MODULES:
        if module.startswith("gsvckpt.transforms"):
            assert not [name for name in imported(module) if name.startswith(above)], module
