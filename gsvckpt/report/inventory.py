"""Show several checkpoints in one table, by experiment; and the difference between two of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from gsvckpt.commands.inspect.result import InventoryRow
from gsvckpt.engine.discover import FoundFiles
from gsvckpt.errors import GsvError
from gsvckpt.files.paths import below, name_of
from gsvckpt.report.console import VERDICTS
from gsvckpt.report.terminal import Folded, make_console, print_table
from gsvckpt.units import ago, plural, printable, shape, size

if TYPE_CHECKING:
    from gsvckpt.engine.difference import Difference

_MANY = 500  # checkpoints
_VERDICTS = ("safe", "unknown", "unsafe")
_ROOMY = 100  # columns from which there is place for times
_LISTED = 20  # entries of each kind of difference without --verbose


def print_inventory(
    entries: Sequence[InventoryRow],
    failures: Sequence[GsvError],
    found: FoundFiles,
    root: str | None,
    *,
    verbose: bool = False,
    sort: str | None = None,
) -> None:
    """Print checkpoints by experiment, those without one first; then totals. Paths are relative to `root`, the folder that was asked for. `sort`:
    experiments and their checkpoints by size, age (the newest first), epoch or name.

    If there are very many, those of one run are in one line, unless `verbose`.
    """
    console = make_console()
    roomy = console.width >= _ROOMY
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("checkpoint")
    table.add_column("kind", overflow="fold")
    table.add_column("version", overflow="fold")
    table.add_column("epoch", justify="right")
    table.add_column("size", justify="right", no_wrap=True)
    if roomy:
        table.add_column("modified", justify="right", no_wrap=True)
    table.add_column("safety", no_wrap=True)
    names = _short_names([entry.path for entry in entries] + [error.path for error in failures], root)
    current: str | None = None
    rows = _sorted(entries, sort)
    shortened = len(rows) > _MANY and not verbose and sort is None
    for entry in _sum_runs(rows, names) if shortened else rows:
        if entry.experiment != current:
            current = entry.experiment
            table.add_section()
            if current:
                table.add_row(Folded(Text(printable(current), style="bold")))
        name = Text.assemble(printable(names.get(entry.path, entry.path)), (" !" if entry.warnings else "", "yellow"))
        modified = [ago(entry.modified) if entry.modified else "-"] if roomy else []
        safety = Text(entry.verdict, style=VERDICTS[entry.verdict])
        table.add_row(Folded(name), entry.kind, entry.version, entry.epoch, size(entry.size), *modified, safety)
    table.add_section()
    for error in failures:
        table.add_row(Folded(Text(printable(names[error.path]), style="red")), Text(error.kind, style="red"), "", "", _size_of(error.path))
    if entries or failures:
        print_table(console, table)
    for line in _totals(entries, failures, found):
        console.print(line, soft_wrap=not console.is_terminal)
    if shortened:
        console.print("the checkpoints of one run are in one line; -v lists each")
    if any(entry.warnings for entry in entries):
        console.print(Text("! has warnings: inspect the file alone", style="yellow"))


def _totals(entries: Sequence[InventoryRow], failures: Sequence[GsvError], found: FoundFiles) -> list[str]:
    """What all comes to: files and bytes, what could be freed, feature caches, and what was not looked into."""
    total = sum(entry.size for entry in entries)
    strippable = sum(entry.strippable for entry in entries)
    parts = [f"{plural(len(entries), 'checkpoint')}, {size(total)}"]
    parts += [f"{len(failures)} could not be read"] if failures else []
    parts += [f"{plural(found.others, 'other file')}"] if found.others else []
    lines = ["; ".join(parts)]
    lines += [f"{size(strippable)} are training state that strip-optimizer removes; training then resumes with fresh moments"] if strippable else []
    if found.features:
        files, features = sum(one.files for one in found.features), sum(one.size for one in found.features)
        lines.append(f"feature caches: {plural(files, 'file')}, {size(features)}, can be made again by data preparation")
    lines += [f"not looked into: {printable(path)} ({why})" for path, why in found.skipped]
    return lines


def _sorted(entries: Sequence[InventoryRow], sort: str | None) -> list[InventoryRow]:
    if sort is None:
        return sorted(entries, key=lambda entry: (entry.experiment, entry.kind, entry.version, _number(entry.epoch), entry.path))
    keys: dict[str, Callable[[InventoryRow], tuple[float, str]]] = {
        "size": lambda entry: (-entry.size, entry.path),
        "age": lambda entry: (-entry.modified, entry.path),
        "epoch": lambda entry: (-_number(entry.epoch), entry.path),
        "name": lambda entry: (0, entry.path),
    }
    key = keys[sort]
    first: dict[str, tuple[float, str]] = {}
    for entry in entries:
        first[entry.experiment] = min(first.get(entry.experiment, key(entry)), key(entry))
    return sorted(entries, key=lambda entry: (first[entry.experiment], entry.experiment, key(entry)))


def _sum_runs(rows: Sequence[InventoryRow], names: Mapping[str, str]) -> Iterator[InventoryRow]:
    """One entry for each run: its number of files in the name's place, its first and last epoch, all bytes, and the worst verdict."""
    for _, together in groupby(rows, key=lambda entry: (entry.experiment, entry.kind, entry.version)):
        run = list(together)
        epochs = list(dict.fromkeys(entry.epoch for entry in run if entry.epoch))
        yield replace(
            run[-1],
            path=f"{len(run):,} files" if len(run) > 1 else names[run[0].path],
            epoch=f"{epochs[0]}-{epochs[-1]}" if len(epochs) > 1 else "".join(epochs),
            size=sum(entry.size for entry in run),
            modified=max(entry.modified for entry in run),
            verdict=max((entry.verdict for entry in run), key=_VERDICTS.index),
            warnings=sum(entry.warnings for entry in run),
        )


def _number(text: str) -> int:
    return int(text) if text.isdigit() else -1


def _short_names(paths: Sequence[str], root: str | None) -> dict[str, str]:
    """The last part of each path, or all of it below `root` where two files share the last part."""
    counts = Counter(map(name_of, paths))
    return {path: name_of(path) if counts[name_of(path)] == 1 else below(root, path) if root else path for path in paths}


def _size_of(path: str) -> str:
    try:
        return size(os.path.getsize(path))
    except OSError:
        return "-"


def print_difference(one: str, two: str, found: Difference, *, verbose: bool) -> None:
    """Print what differs: names, shapes, dtypes, and the largest numeric changes first."""
    console = make_console()
    if found.equal:
        console.print("equal: the same names, shapes, dtypes and values")
        return
    left, right = printable(name_of(one)), printable(name_of(two))
    if left == right:
        left, right = printable(one), printable(two)
    changed = sorted(found.values, key=lambda item: -item[1])
    blocks = (
        (f"only in {left}", [printable(name) for name in found.only_left]),
        (f"only in {right}", [printable(name) for name in found.only_right]),
        ("other shape", [f"{printable(name)}: {shape(before)} -> {shape(after)}" for name, before, after in found.changed_shape]),
        ("other dtype", [f"{printable(name)}: {before} -> {after}" for name, before, after in found.changed_dtype]),
        ("other values, largest change first", [f"{amount:<9.3g} {printable(name)}" for name, amount in changed if amount]),
    )
    for title, lines in blocks:
        if lines:
            console.print(Text(f"{title}: {len(lines):,}", style="bold"))
            for line in lines if verbose else lines[:_LISTED]:
                console.print(Text(f"  {line}"), soft_wrap=True)
            if len(lines) > _LISTED and not verbose:
                console.print(Text(f"  and {len(lines) - _LISTED:,} more; -v lists them", style="dim"))
