"""gsvckpt inspect"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import typer

from gsvckpt.cli.options import DeviceOption, JobsOption, JsonOption, ProgressOption, QuietOption, Settings, VerboseOption, try_each
from gsvckpt.opening import open_checkpoint
from gsvckpt.errors import GsvError, UsageError
from gsvckpt.examination import Examination, examine
from gsvckpt.report import inspection, inventory
from gsvckpt.report.console import print_document
from gsvckpt.report.documents import failure_json
from gsvckpt.report.inspection import View
from gsvckpt.scan import Stats, differences, measure_tensors
from gsvckpt.survey import find_files

EXAMPLES = """
**Examples**

`gsvckpt inspect voice.pth`  what it is, where the bytes go, what GPT-SoVITS will take it for

`gsvckpt inspect logs/ -r`  an inventory of every checkpoint below a folder

`gsvckpt inspect voice.pth --tensors --stats --include 'dec.*'`

`gsvckpt inspect G_16.pth --diff G_32.pth`  what training changed; exit 1 when they differ

`gsvckpt inspect *.pth --json | jq '.files[] | [.path, .kind, .version]'`
"""


class SortChoice(str, Enum):
    """Order of tensors and modules."""

    name = "name"
    size = "size"


class FormatChoice(str, Enum):
    """How a config is written."""

    toml = "toml"
    json = "json"


def inspect(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Checkpoints, or folders of them.", show_default=False)],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.", rich_help_panel="Show")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Read the values: range, mean, NaN, zeros, histogram.", rich_help_panel="Show")] = False,
    config: Annotated[bool, typer.Option("--config", help="Print the embedded config.", rich_help_panel="Show")] = False,
    format: Annotated[FormatChoice, typer.Option("--format", help="The config's format.", rich_help_panel="Show")] = FormatChoice.toml,  # noqa: A002 - the option's name
    globals: Annotated[bool, typer.Option("--globals", help="List what its pickle names, with verdicts.", rich_help_panel="Show")] = False,  # noqa: A002 - as above
    memory: Annotated[bool, typer.Option("--memory", help="Estimate what loading and training need.", rich_help_panel="Show")] = False,
    diff: Annotated[
        str | None, typer.Option("--diff", metavar="OTHER", help="Compare with another checkpoint; exit 1 when they differ.", rich_help_panel="Show")
    ] = None,
    include: Annotated[list[str] | None, typer.Option("--include", metavar="GLOB", help="Only matching tensors (repeatable).")] = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Not matching tensors (repeatable).")] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, metavar="N", help="Group modules by this many name parts.")] = 1,
    sort: Annotated[SortChoice | None, typer.Option("--sort", help="Order of modules and tensors [default: as in the file].", show_default=False)] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Go through subfolders.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    progress: ProgressOption = None,
    device: DeviceOption = "cpu",
    jobs: JobsOption = None,
) -> int:
    """Show what a checkpoint is, without running a byte of it.

    Kind, version, epoch, dtypes, where the bytes go and what wastes space, whether it is safe to load, and what GPT-SoVITS itself will take it for.
    """
    settings = Settings(json, quiet, verbose, progress, device, jobs)
    view = View(
        tensors=tensors or (stats and not json),
        stats=stats,
        config=format.value if config else None,
        globals=globals,
        memory=memory,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        depth=depth,
        sort=sort.value if sort else None,
        verbose=verbose,
    )
    if diff is not None:
        if len(paths) != 1:
            raise UsageError("compares one file with another, so give one PATH", where="--diff")
        return _compare(paths[0], diff, view, settings)
    folders = [path for path in paths if os.path.isdir(path)]
    files = [path for path in paths if path not in folders]
    found = find_files(folders, recursive=recursive)
    alone = not folders and len(paths) == 1
    results, worst = try_each([*files, *found.checkpoints], lambda path: _show(path, view, settings, alone=alone))
    shown = [result for result in results if isinstance(result, Shown)]
    if json:
        documents = [result.facts if isinstance(result, Shown) else failure_json(result) for result in results]
        print_document("inspect", worst, documents, found.as_json())
    elif not settings.quiet and not alone and not view.asks_for_parts:
        failures = [result for result in results if isinstance(result, GsvError)]
        inventory.print_inventory([one.entry for one in shown if one.entry], failures, found.others, folders[0] if len(paths) == len(folders) == 1 else None)
    return worst


@dataclass(frozen=True, slots=True)
class Shown:
    """One file's line in an inventory, and its JSON object where that was asked for."""

    entry: inventory.Entry | None
    facts: dict[str, object]


def _show(path: str, view: View, settings: Settings, *, alone: bool) -> Shown:
    """Examine one file, and print it unless it is one of many that only their inventory shows."""
    with open_checkpoint(path) as checkpoint:
        examination = examine(checkpoint)
        measured = _measure(examination, view, settings) if view.stats else {}
        if not settings.json and not settings.quiet and (alone or view.asks_for_parts):
            inspection.print_examination(examination, view, measured, heading=not alone)
        facts = inspection.document(examination, view, measured) if settings.json else {}
        return Shown(None if alone else inventory.make_entry(examination), facts)


def _measure(examination: Examination, view: View, settings: Settings) -> Mapping[str, Stats | None]:
    from gsvckpt.devices.choice import choose

    with settings.watch(os.path.basename(examination.checkpoint.source.path)) as progress:
        return measure_tensors(view.choose(examination.state), choose(settings.device), settings.workers, progress)


def _compare(path: str, other: str, view: View, settings: Settings) -> int:
    from gsvckpt.devices.choice import choose

    with open_checkpoint(path) as one, open_checkpoint(other) as two, settings.watch("comparing") as progress:
        left, right = examine(one), examine(two)
        found = differences(view.choose(left.state), view.choose(right.state), choose(settings.device), settings.workers, progress)
        code = 0 if found.equal else 1
        if settings.json:
            documents = [inspection.document(left, view, {}), inspection.document(right, view, {})]
            print_document("inspect", code, documents, {"diff": inventory.diff_json(found)})
        elif not settings.quiet or code:
            inventory.print_difference(path, other, found, verbose=settings.verbose)
        return code
