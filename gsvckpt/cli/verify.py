"""gsvckpt verify"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gsvckpt.cli.options import Settings, shared_options, tell_device
from gsvckpt.commands.verify.after import AfterVerify
from gsvckpt.commands.verify.findings import CHECKS
from gsvckpt.commands.verify.run import PreparedVerify, VerifyRequest, VerifyResult, prepare, verify_all
from gsvckpt.report.console import print_error, print_warning, warn_unsafe
from gsvckpt.report.json_document import begin_document, print_document
from gsvckpt.report.output import printing, write_out

EXAMPLES = f"""
**Examples**

`gsvckpt verify voice.pth  # is it whole and safe, will GPT-SoVITS take it?`

`gsvckpt verify logs/ -r --record  # and remember the files, in gsvckpt.toml`

`gsvckpt verify logs/alice --resume  # would training go on, and from where?`

`gsvckpt verify logs/ -r --backup /mnt/copies  # and copy what is sound`

`gsvckpt verify logs/ -r --restore-from /mnt/copies  # and bring back the rest`

`gsvckpt verify stranger.pth --checks pickle.safety  # would it run code?`

`gsvckpt verify s3://bucket/logs/ -r --quick  # a folder's URL ends in a slash`

`gsvckpt verify small.pth --against big.pth  # are these the same tensors?`

`gsvckpt verify models/ --format sarif > verify.sarif  # for code hosts`

**Checks**

{" · ".join(CHECKS)}
"""
Format = Literal["table", "json", "junit", "sarif"]


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
    asked = VerifyRequest(tuple(paths), quick, checks, layout, against, resume, checksums, manifest, recursive, fail_on)
    prepared = prepare(asked, AfterVerify(record, per_tensor, forget, backup, restore_from, write_checksums, force), settings.resources)
    if settings.device != "cpu" and settings.verbose:
        tell_device("cpu", "it finds NaN faster than a device could receive the bytes")
    found = verify_all(prepared, settings.watch)
    _print(found, prepared, settings, "json" if settings.json else format)
    return found.exit_code


def _print(found: VerifyResult, prepared: PreparedVerify, settings: Settings, form: Format) -> None:
    for error in (*found.errors, *found.unopened):
        print_error(error)
    with printing(found.exit_code):
        if form == "junit":
            from gsvckpt.report.junit import junit

            write_out(junit(found.files, found.errors, found.fail_on))
        elif form == "sarif":
            from json import dumps

            from gsvckpt.report.sarif import sarif

            write_out(dumps(sarif(found.files, found.errors, found.exit_code, found.fail_on), indent=2) + "\n")
        elif settings.json:
            begin_document("verify", found.before)
            print_document("verify", found.exit_code, found.objects(), found.behind)
        else:
            _print_results(found, prepared, settings)
    for path, why in (*((path, f"was not looked into: {why}") for path, why in found.skipped), *found.warnings):
        print_warning(path, why)
    for result in found.files:
        warn_unsafe(result.path, result.safety)


def _print_results(found: VerifyResult, prepared: PreparedVerify, settings: Settings) -> None:
    from gsvckpt.report import verify as report

    roots = prepared.targets.roots
    root = found.folders[0] if len(found.folders) == 1 and set(roots) >= set(prepared.targets.files) else None
    if found.files:
        report.print_results(found.files, found.done, found.others, root=root, verbose=settings.verbose, quiet=settings.quiet)
