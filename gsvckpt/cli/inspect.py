"""gsvckpt inspect"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gsvckpt.cli.options import Settings, open_device, shared_options, tell_device, try_each
from gsvckpt.commands.inspect.result import InventoryRow, View, diff_json, document
from gsvckpt.engine.examine import Examination, examine
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import GsvError, UsageError
from gsvckpt.files.paths import is_folder, name_of
from gsvckpt.formats.known import known_of
from gsvckpt.formats.pickle.safety import judge_all
from gsvckpt.report import inspect as inspection
from gsvckpt.report.console import print_error, print_warning, warn_unsafe
from gsvckpt.report.json_document import add_file, begin_document, print_document
from gsvckpt.report.output import printing
from gsvckpt.units import size

if TYPE_CHECKING:
    from gsvckpt.commands.inspect.batch import Inspected
    from gsvckpt.engine.statistics import Stats

EXAMPLES = """
**Examples**

`gsvckpt inspect voice.pth  # what it is, and where its bytes go`

`gsvckpt inspect logs/ -r  # an inventory of every checkpoint below a folder`

`gsvckpt inspect voice.pth --tensors --stats --include 'dec.*'  # these tensors`

`gsvckpt inspect https://host/a.pth s3://bucket/logs/  # little of each is read`

`gsvckpt inspect G_16.pth --diff G_32.pth  # what training changed`

`gsvckpt inspect *.pth --json | jq '.files[] | [.path, .kind]'  # for scripts`
"""


@shared_options()
def inspect(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Checkpoints, or folders of them; also URLs.", show_default=False)],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.", rich_help_panel="Show")] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Read the values and show range, mean, NaN, zeros and a histogram.", rich_help_panel="Show")
    ] = False,
    config: Annotated[bool, typer.Option("--config", help="Print the config stored in the checkpoint.", rich_help_panel="Show")] = False,
    format: Annotated[  # noqa: A002 - the option's name
        Literal["toml", "json"], typer.Option("--format", help="The format in which the config is printed.", rich_help_panel="Show")
    ] = "toml",
    globals: Annotated[  # noqa: A002 - as above
        bool, typer.Option("--globals", help="List the classes and functions that its pickle names, with a verdict on each.", rich_help_panel="Show")
    ] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Estimate the memory that loading and training need.", rich_help_panel="Show")] = False,
    diff: Annotated[
        str | None, typer.Option("--diff", metavar="OTHER", help="Compare with another checkpoint; exit 1 if they differ.", rich_help_panel="Show")
    ] = None,
    include: Annotated[list[str] | None, typer.Option("--include", metavar="GLOB", help="Show only matching tensors (repeatable).")] = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Do not show matching tensors (repeatable).")] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, metavar="N", help="Group modules by the first N parts of their names.")] = 1,
    sort: Annotated[
        Literal["name", "size", "age", "epoch"] | None,
        typer.Option("--sort", help="Sort modules and tensors, or the checkpoints of a folder, by this.", show_default=False),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Search subfolders, too.")] = False,
    *,
    settings: Settings,
) -> int:
    """Show what a checkpoint is, without running any code from it.

    Kind, version, epoch, dtypes, where the bytes go and what wastes space, whether it is safe to load, and what GPT-SoVITS itself will take it for.
    """
    view = View(
        tensors=tensors or (stats and not settings.json),
        stats=stats,
        config=format if config else None,
        globals=globals,
        memory=memory,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        depth=depth,
        sort="size" if sort == "size" else "name" if sort == "name" else None,
        verbose=settings.verbose,
    )
    if diff is not None:
        if len(paths) != 1:
            raise UsageError("compares one file with another, so give one PATH", where="--diff")
        return _compare(paths[0], diff, view, settings)
    if sort in ("age", "epoch") and not any(map(is_folder, paths)):
        raise UsageError("sorts the checkpoints of a folder; tensors can be sorted by name or size", where="--sort")
    if len(paths) == 1 and not is_folder(paths[0]) and (settings.cluster is None or not settings.json):  # nothing to share out
        return _show_one(paths[0], view, settings)
    return _show_many(list(map(settings.locate, paths)), view, settings, recursive=recursive, sort=sort)


@contextmanager
def _opened(path: str, *, structure_only: bool = True) -> Iterator[Examination]:
    """Open and examine one file. One that would run code is named last and on stderr, so that no other output hides it."""
    with open_checkpoint(path, structure_only=structure_only) as checkpoint:
        examination = examine(checkpoint)
        yield examination
    warn_unsafe(path, examination.safety)


def _warn_of(error: GsvError, settings: Settings, *, alone: bool = False) -> None:
    """What is known of a file that could not be read: its names where they would run code, and when it was asked for `alone` all else, too."""
    known = known_of(error)
    if known is None:
        return
    if alone and not settings.json and not settings.quiet:
        from gsvckpt.report.inspect import print_known

        print_known(known)
    warn_unsafe(error.path, judge_all(known.globals, known.calls))


def _show(path: str, view: View, settings: Settings, *, alone: bool = False) -> dict[str, object]:
    """Examine and print one file, under its name unless it is shown `alone`. Returns its JSON object, where that was asked for."""
    with _opened(path, structure_only=not view.stats) as examination:
        if alone:
            view.require_match(examination.state)
        measured = _measure(examination, view, settings) if view.stats else {}
        if settings.json:
            return document(examination, view, measured)
        if not settings.quiet:
            inspection.print_examination(examination, view, measured, heading=not alone)
        return {}


def _show_one(path: str, view: View, settings: Settings) -> int:
    results, code = try_each([path], lambda path: _show(path, view, settings, alone=True))
    with printing(code):
        for error in [result for result in results if isinstance(result, GsvError)]:
            _warn_of(error, settings, alone=True)
        if settings.json:
            print_document("inspect", code, [failure_json(result) if isinstance(result, GsvError) else result for result in results])
    return code


def _show_many(paths: Sequence[str], view: View, settings: Settings, *, recursive: bool, sort: str | None) -> int:
    """Show several files and what folders hold: the parts that were asked for of each, else one table of all."""
    from gsvckpt.commands.inspect.batch import Inspect, Inspected, inspect_files
    from gsvckpt.engine.discover import find_files
    from gsvckpt.formats.shards import is_index  # what only folders need is imported only for them
    from gsvckpt.report import inventory

    folders = [path for path in paths if is_folder(path)]
    found = find_files(folders, recursive=recursive, wanted="checkpoints")
    files = [*(path for path in paths if path not in folders), *found.checkpoints]
    if len(paths) == len(files) == 1 and is_index(files[0]) and not recursive and settings.cluster is None:  # the folder is one checkpoint
        return _show_one(files[0], view, settings)
    if view.asks_for_parts and not settings.json:
        return try_each(files, lambda path: _show(path, view, settings), found.errors)[1]
    failures: list[GsvError] = [*found.errors]
    worst = max((error.exit_code for error in failures), default=0)
    for error in failures:
        print_error(error)
    if settings.json:
        begin_document("inspect", found.as_json())
        for error in failures:
            add_file(failure_json(error))
    entries: list[InventoryRow] = []
    with settings.watch("inspect") as progress:
        job = Inspect(view if settings.json else None, settings.device, fixed=settings.jobs is not None)
        results = inspect_files(job, files, settings.workers, progress, settings.cluster)
        for path, result in zip(files, results, strict=True):
            if isinstance(result, Inspected):
                _tell_device(result, settings)
                warn_unsafe(path, result.safety)
            else:
                print_error(result)
                failures.append(result)
                worst = max(worst, result.exit_code)
            if settings.json:
                add_file(result.facts if isinstance(result, Inspected) and isinstance(result.facts, dict) else failure_json(failures[-1]))
            elif isinstance(result, Inspected) and isinstance(result.facts, InventoryRow):
                entries.append(result.facts)
    with printing(worst):
        if settings.json:
            print_document("inspect", worst, [])
            return worst
        for error in failures:
            _warn_of(error, settings)
        if not settings.quiet and (entries or found.features or len(failures) > len(found.errors)):
            inventory.print_inventory(
                entries, failures, found, folders[0] if len(paths) == len(folders) == 1 else None, verbose=view.verbose, sort=sort
            )
    return worst


def _tell_device(result: Inspected, settings: Settings) -> None:
    for warning in result.warnings:
        print_warning("", warning)
    if settings.verbose and result.device is not None:
        name, why, count = result.device
        tell_device(name, f"{why} ({size(count)})")


def _measure(examination: Examination, view: View, settings: Settings) -> Mapping[str, Stats | None]:
    from gsvckpt.devices.choice import Work
    from gsvckpt.engine.placement import bytes_of
    from gsvckpt.engine.statistics import measure_tensors

    tensors = view.choose(examination.state)
    device, threads, _ = open_device(settings, Work("stats", bytes_of(tensors)))
    with settings.watch(name_of(examination.checkpoint.source.path)) as progress:
        return measure_tensors(tensors, device, threads, progress)


def _compare(path: str, other: str, view: View, settings: Settings) -> int:
    from gsvckpt.commands.inspect.run import Compared, compare
    from gsvckpt.report import inventory

    def work(path: str) -> Compared:
        with settings.watch("comparing") as progress:
            return compare(path, other, view, settings.resources, progress)

    (found,), code = try_each([path], work)
    if isinstance(found, GsvError):
        with printing(code):
            if settings.json:
                print_document("inspect", code, [failure_json(found)], {"diff": None})
        return code
    for warning in found.warnings:
        print_warning("", warning)
    if settings.verbose:
        tell_device(found.computed.device, f"{found.computed.why} ({size(found.computed.nbytes)})")
    for name, safety in zip((path, other), found.safety, strict=True):
        warn_unsafe(name, safety)
    code = int(not found.difference.equal)
    with printing(code):
        if settings.json:
            print_document("inspect", code, found.documents, {"diff": diff_json(found.difference)})
        elif not settings.quiet or code:
            inventory.print_difference(path, other, found.difference, verbose=settings.verbose)
    return code
