"""Show what verify found: one line for each file, its findings below it, and a summary."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from gsvckpt.commands.verify.document import DoneAfterVerify
from gsvckpt.commands.verify.findings import SEVERITIES, Finding, family
from gsvckpt.commands.verify.result import Verification
from gsvckpt.files.paths import below
from gsvckpt.report.console import print_lines
from gsvckpt.report.output import Line, line
from gsvckpt.sovits.kinds import KINDS
from gsvckpt.units import plural, printable, size

STYLES: Mapping[str, str] = {"sound": "green", "damaged": "bold red", "unsafe": "bold red", "suspect": "yellow", "unchecked": "magenta"}
_SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_ASKED = frozenset({"resume", "against"})  # families that answer a question: what they say for information is the answer
_ROWS = 200  # sound files named one by one without --verbose
_SHORT = 120  # characters of two values that stand beside each other
_STATUS_WIDTH, _SIZE_WIDTH, _WHAT_WIDTH, _DIGEST_WIDTH = 9, 9, 30, 8


def print_results(results: Sequence[Verification], after: DoneAfterVerify, others: int, *, root: str | None, verbose: bool, quiet: bool) -> None:
    """Print every file with its findings; with `quiet`, only those of which there is something to say."""
    print_lines(_lines(results, after, others, root=root, verbose=verbose, quiet=quiet))


def _lines(results: Sequence[Verification], after: DoneAfterVerify, others: int, *, root: str | None, verbose: bool, quiet: bool) -> Iterator[Line]:
    hidden = shown = 0
    for result in results:
        told = [finding for finding in result.findings if _is_told(finding, result, verbose=verbose)]
        hidden += len(result.findings) - len(told)
        remarkable = bool(told) or result.status != "sound" or result.path in after.restored or (result.path in after.copied and not quiet)
        shown += not remarkable
        if remarkable or verbose or (not quiet and shown <= _ROWS):
            yield _file_line(result, below(root, result.path) if root is not None else result.path)
            for finding in told:
                yield from _finding_lines(finding)
            yield from _fate_lines(result, after, verbose=verbose)
    if quiet and all(result.status == "sound" for result in results):
        return
    if shown > _ROWS and not verbose:
        yield line(f"and {shown - _ROWS:,} more sound files; -v lists them", "dim")
    yield from _summary_lines(results, after, others)
    if hidden:
        yield line(f"-v shows {plural(hidden, 'more note')}", "dim")


def _is_told(finding: Finding, result: Verification, *, verbose: bool) -> bool:
    """Remarks on files that are sound are left to --verbose."""
    return verbose or finding.severity != "info" or result.status not in ("sound", "suspect") or family(finding.check) in _ASKED


def _file_line(result: Verification, name: str) -> Line:
    run = "training run" if any(family(finding.check) == "resume" for finding in result.findings) else ""
    what = " ".join(filter(None, (KINDS.get(result.kind or "", ""), result.version, f"epoch {result.epoch}" if result.epoch is not None else "")))
    facts = f" {size(result.size) if result.size else '-':>{_SIZE_WIDTH}}  {what or run or '-':<{_WHAT_WIDTH}}  {printable(name)}"
    return Line(((f"{result.status:<{_STATUS_WIDTH}}", STYLES[result.status]), (facts, "")))


def _finding_lines(finding: Finding) -> Iterator[Line]:
    where = f"  {printable(finding.where)}" if finding.where else ""
    yield Line(((f"{finding.severity:<8}", _SEVERITY_STYLES[finding.severity]), (finding.check, "bold"), (where, "")), 2)
    yield line(printable(finding.why), indent=10)
    if finding.found and finding.expected and len(finding.found) + len(finding.expected) < _SHORT:
        yield line(f"found {printable(finding.found)}, expected {printable(finding.expected)}", "dim", 10)
    if finding.hint:
        yield line(f"hint: {printable(str(finding.hint))}", "cyan", 10)


def _fate_lines(result: Verification, after: DoneAfterVerify, *, verbose: bool) -> Iterator[Line]:
    """Why it could not be opened, what was done with it, and its digests."""
    if result.error is not None:
        yield line(printable(result.error["why"]), "magenta", 2)
    if result.path in after.restored:
        done = after.restored[result.path]
        aside = f"; the damaged one is {printable(os.path.basename(done.kept))}" if done.kept else ""
        yield line(f"restored from {printable(done.source)}{aside}", "green", 2)
    if result.path in after.copied and (verbose or after.copied[result.path].made):
        copied = after.copied[result.path]
        yield line(f"{'copied to' if copied.made else 'has a copy,'} {printable(copied.copy)}", "dim", 2)
    left_out = [word for option, word in (("--record", "recorded"), ("--backup", "copied")) if option in after.asked]
    if left_out and result.mtime_ns and not result.intact:
        yield line(f"not {' and not '.join(left_out)}, as it has errors", "magenta", 2)
    if verbose:
        for digest, value in sorted(result.digests.items()):
            yield line(f"{digest:<{_DIGEST_WIDTH}} {value}", "dim", 2)


def _summary_lines(results: Sequence[Verification], after: DoneAfterVerify, others: int) -> Iterator[Line]:
    statuses = Counter(str(result.status) for result in results)
    severities = Counter(finding.severity for result in results for finding in result.findings)
    parts = [f"{statuses[status]:,} {status}" for status in STYLES if statuses[status]]
    counts = [plural(severities[severity], "note" if severity == "info" else severity) for severity in SEVERITIES if severities[severity]]
    text = f"{plural(len(results), 'file')}, {size(sum(result.size for result in results))}: {', '.join(parts) or 'nothing to verify'}"
    text += f"; {', '.join(counts)}" if counts else ""
    text += f"; {plural(others, 'other file')}" if others else ""
    yield line(text, "bold")
    made = sum(copy.made for copy in after.copied.values())
    done = [f"{len(after.recorded):,} recorded" if after.recorded else ""]
    done.append(f"{made:,} copied, {len(after.copied) - made:,} had a copy" if after.copied else "")
    done.append(f"{len(after.restored):,} restored" if after.restored else "")
    if any(done):
        yield line("; ".join(filter(None, done)))
