"""gsvckpt verify"""

from __future__ import annotations

import os
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gsvckpt.cli.options import Settings, shared_options, tell_device
from gsvckpt.commands.verify.after import AfterVerify
from gsvckpt.commands.verify.batch import verify_files
from gsvckpt.commands.verify.document import DoneAfterVerify, as_json
from gsvckpt.commands.verify.findings import CHECKS, SEVERITIES, Severity, name_copies, select_checks
from gsvckpt.commands.verify.result import Expected, Options, Verification
from gsvckpt.commands.verify.targets import Targets, absent, assess_runs, gather, is_forgotten, with_verdicts
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.engine.open import index_of
from gsvckpt.errors import GsvError, MissingError
from gsvckpt.formats.shards import is_index
from gsvckpt.report.console import print_error, print_warning, warn_unsafe
from gsvckpt.report.json_document import begin_document, print_document
from gsvckpt.report.output import printing, write_out

if TYPE_CHECKING:
    from gsvckpt.commands.verify.backup import Copied, Restored

EXAMPLES = f"""
**Examples**

`gsvckpt verify voice.pth`  is it whole, safe, and what GPT-SoVITS will take it for?

`gsvckpt verify logs/ -r --record`  and remember what the files are, in gsvckpt.toml beside them

`gsvckpt verify logs/alice --resume`  would training go on here, from which file, at which epoch?

`gsvckpt verify logs/ -r --backup /mnt/copies`, later `gsvckpt verify logs/ -r --restore-from /mnt/copies`

`gsvckpt verify stranger.pth --checks pickle.safety`  would loading it run code?

`gsvckpt verify s3://bucket/logs/ -r --quick`  a URL of a folder ends in a slash

`gsvckpt verify small.pth --against big.pth`  are these the same tensors?

`gsvckpt verify models/ --format sarif > verify.sarif`

**Checks**

{" · ".join(CHECKS)}
"""
Format = Literal["table", "json", "junit", "sarif"]


class VerifyRun:
    """What verifying came to: the results, failures that belong to none of them, and by path what was done with the files."""

    def __init__(self, results: list[Verification], failures: list[GsvError]) -> None:
        self.results, self.failures = results, failures
        self.recorded: dict[str, str] = {}
        self.copied: dict[str, Copied] = {}
        self.restored: dict[str, Restored] = {}
        self.asked: list[str] = []
        self.warnings: list[tuple[str, str]] = []  # about manifests

    def exit_code(self, fail_on: Severity) -> int:
        worst = max((error.exit_code for error in self.failures), default=0)
        limit = SEVERITIES.index(fail_on)
        found = any(SEVERITIES.index(finding.severity) <= limit for result in self.results for finding in result.findings)
        if found or any(result.status == "unsafe" for result in self.results):  # whatever was asked about
            worst = max(worst, 1)
        return max(worst, 3) if any(result.status == "unchecked" for result in self.results) else worst


@shared_options()
def verify(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Checkpoints, or folders of them; also URLs.", show_default=False)],
    quick: Annotated[bool, typer.Option("--quick", help="Check the structure only, and read no tensor bytes.", rich_help_panel="Checks")] = False,
    checks: Annotated[
        str | None,
        typer.Option(
            "--checks",
            metavar="LIST",
            help="Run only these checks: ids, their first parts, or globs; -NAME leaves one out.",
            rich_help_panel="Checks",
        ),
    ] = None,
    layout: Annotated[
        str, typer.Option("--layout", metavar="auto|VERSION|none", help="Compare names and shapes with this layout.", rich_help_panel="Checks")
    ] = "auto",
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="OTHER", help="Check that it has the same tensors as this checkpoint.", rich_help_panel="Checks"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Check that GPT-SoVITS would resume from this file or experiment's folder.", rich_help_panel="Checks"),
    ] = False,
    checksums: Annotated[
        str | None,
        typer.Option("--checksums", metavar="FILE", help="Compare with a list of md5sum, sha256sum or xxhsum.", rich_help_panel="Checks"),
    ] = None,
    manifest: Annotated[
        str | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            help="Compare with this manifest [default: gsvckpt.toml beside the files].",
            rich_help_panel="Manifest and copies",
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record sound files in gsvckpt.toml beside them.", rich_help_panel="Manifest and copies")
    ] = False,
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor", help="With --record: record a digest of every tensor, too.", rich_help_panel="Manifest and copies")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="With --record: remove the entries of files that no longer exist.", rich_help_panel="Manifest and copies")
    ] = False,
    backup: Annotated[
        str | None,
        typer.Option(
            "--backup",
            metavar="DIR",
            help="Copy sound files to this folder, if they changed since the last copy.",
            rich_help_panel="Manifest and copies",
        ),
    ] = None,
    restore_from: Annotated[
        str | None,
        typer.Option(
            "--restore-from",
            metavar="DIR",
            help="Replace damaged and missing files with copies from this folder.",
            rich_help_panel="Manifest and copies",
        ),
    ] = None,
    write_checksums: Annotated[
        str | None,
        typer.Option(
            "--write-checksums",
            metavar="FILE",
            help="Write a list that sha256sum -c can check (.md5: md5sum, .xxh128: xxhsum).",
            rich_help_panel="Manifest and copies",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing checksum file.", rich_help_panel="Manifest and copies")] = False,
    fail_on: Annotated[
        Literal["error", "warning"], typer.Option("--fail-on", help="Exit 1 if there is a finding of at least this severity.")
    ] = "error",
    format: Annotated[Format, typer.Option("--format", metavar="FORM", help="Print a table, json, junit or sarif.")] = "table",  # noqa: A002 - the option's name
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Search subfolders, too.")] = False,
    *,
    settings: Settings,
) -> int:
    """Check that a checkpoint is sound, say exactly what is wrong if not, and restore it from a copy.

    Every byte is checked: the container, the checksum of each record (which torch never checks), what the pickle names, NaN and infinity, names and
    shapes against GPT-SoVITS's own, and what GPT-SoVITS will take the file for. Nothing in the file is run. What cannot be examined is never sound.
    """
    settings = settings._replace(json=settings.json or format == "json")
    after = AfterVerify(record, per_tensor, forget, backup, restore_from, write_checksums, force)
    paths = list(map(settings.locate, paths))
    against = settings.locate(against) if against is not None else None
    options = _options(checks, quick=quick, layout=layout, against=against, device=settings.device)._replace(resume=resume, config=backup is not None)
    after.refuse_contradictions(options, manifest=manifest, checksums=checksums, paths=paths)
    options = options._replace(digests=options.digests | after.digests, tensors=per_tensor)
    if settings.device != "cpu" and settings.verbose:
        tell_device("cpu", "it finds NaN faster than a device could receive the bytes")
    if against is not None:
        paths = [index_of(paths[0]) or paths[0]]  # a sharded checkpoint is one, whatever else its folder holds
    targets = gather(paths, recursive=recursive, resuming=resume, recorded=manifest, listed=checksums)
    after.require_room(targets.files, targets.roots)
    run = _run(targets, options, settings)
    run.asked = after.asked
    if after.restore_from is not None:
        _restore(run, targets, after.restore_from, options, settings)
    if after.backup is not None:
        _back_up(run, targets, after.backup, settings)
    if after.record:
        _record(run, after)
    if after.listing is not None:
        _write_list(run, after.listing, force=force)
    code = run.exit_code(fail_on)
    _print(run, targets, options, settings, "json" if settings.json else format, code, fail_on)
    return code


def _options(checks: str | None, *, quick: bool, layout: str, against: str | None, device: str) -> Options:
    if layout != "auto":
        from gsvckpt.commands.verify.checks.layouts import require_layout

        require_layout(layout)
    if device != "cpu":
        from gsvckpt.devices.choice import choose

        choose(device)  # one that is not there is a wrong option, not a damaged file
    digests = frozenset[str]() if quick or checks is not None else Options().digests
    return Options(select_checks(checks), quick, layout, against, digests)


def _run(targets: Targets, options: Options, settings: Settings) -> VerifyRun:
    """Verify everything, with what is missing beside what is there."""
    label = os.path.basename(next(iter(targets.files))) if len(targets.files) == 1 else "verify"
    with settings.watch(label) as progress:
        results = verify_files(targets.files, options, settings.workers, progress, settings.cluster)
    return VerifyRun([*with_verdicts(targets, results), *absent(targets, options), *assess_runs(targets, results)], list(targets.failures))


def _restore(run: VerifyRun, targets: Targets, folder: str, options: Options, settings: Settings) -> None:
    """Bring damaged and missing files back, and look at them again."""
    from gsvckpt.commands.verify.after import restore_damaged

    entries = {path: expected.entry for path, expected in targets.files.items()} | dict(targets.recorded)
    damaged = {
        result.path: entries[result.path]
        for result in run.results
        if result.path in entries and (result.status == "damaged" or result.path in targets.recorded)
    }
    with settings.watch("restoring") as progress:
        run.restored, failures = restore_damaged(damaged, folder, progress)
        run.failures += failures
        again = {path: targets.files.get(path, Expected())._replace(entry=entries[path], recorded=True) for path in run.restored}
        again |= {path: expected for path, expected in targets.files.items() if run.restored and is_index(path)}  # it may be whole again
        renewed = {result.path: result for result in verify_files(again, options, settings.workers, progress)}
    run.results = [renewed.get(result.path, result) for result in run.results]


def _back_up(run: VerifyRun, targets: Targets, folder: str, settings: Settings) -> None:
    from gsvckpt.commands.verify.after import back_up

    with settings.watch("copying") as progress:
        run.copied, failures = back_up(run.results, folder, targets.roots, progress)
    run.failures += failures
    run.results = [result._replace(findings=tuple(name_copies(finding, folder) for finding in result.findings)) for result in run.results]


def _record(run: VerifyRun, after: AfterVerify) -> None:
    from gsvckpt.commands.verify.after import record_results, tell_passing

    run.recorded, failures = record_results(run.results, tensors=after.per_tensor, forget=after.forget)
    run.failures += failures
    run.warnings += tell_passing(run.recorded.values())
    if after.forget:
        run.results = [result for result in run.results if not is_forgotten(result)]


def _write_list(run: VerifyRun, path: str, *, force: bool) -> None:
    from gsvckpt.commands.verify.after import write_list

    try:
        write_list(path, run.results, force=force)
    except GsvError as error:
        error.path = error.path or path
        run.failures.append(error)


def _print(run: VerifyRun, targets: Targets, options: Options, settings: Settings, form: Format, code: int, fail_on: Severity) -> None:
    for error in run.failures:
        print_error(error)
    for result in run.results:
        if result.error is not None:
            print_error(MissingError(result.error["why"], where=result.error["where"], hint=result.error["hint"], path=result.path))
    with printing(code):
        if form == "junit":
            from gsvckpt.report.junit import junit

            write_out(junit(run.results, run.failures, options, fail_on))
        elif form == "sarif":
            from json import dumps

            from gsvckpt.report.sarif import sarif

            write_out(dumps(sarif(run.results, run.failures, code), indent=2) + "\n")
        else:
            _print_results(run, targets, settings, code)
    for path, why in run.warnings:
        print_warning(path, why)
    for result in run.results:
        warn_unsafe(result.path, result.safety)


def _print_results(run: VerifyRun, targets: Targets, settings: Settings, code: int) -> None:
    from gsvckpt.report import verify as report

    done = DoneAfterVerify(run.recorded, run.copied, run.restored, run.asked)
    if settings.json:
        begin_document("verify", {"folders": targets.folders, "ignored": targets.others} if targets.folders else None)
        files = (as_json(result, done) for result in run.results)  # made one by one: there may be many
        warnings = {"warnings": [{"path": path, "why": why} for path, why in run.warnings]} if run.warnings else None
        print_document("verify", code, chain(files, map(failure_json, run.failures)), warnings)
        return
    root = targets.folders[0] if len(targets.folders) == 1 and set(targets.roots) >= set(targets.files) else None
    if run.results:
        report.print_results(run.results, done, targets.others, root=root, verbose=settings.verbose, quiet=settings.quiet)
