"""Run verify on everything that was named: check the files, act on the results, and return the outcome."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from gsvckpt.commands.verify.after import AfterVerify
from gsvckpt.commands.verify.batch import verify_files
from gsvckpt.commands.verify.document import DoneAfterVerify, as_json
from gsvckpt.commands.verify.findings import SEVERITIES, Finding, Severity, name_copies, select_checks
from gsvckpt.commands.verify.result import Expected, Options, Status, Verification, failure_of
from gsvckpt.commands.verify.targets import Targets, absent, assess_runs, gather, is_forgotten, with_verdicts
from gsvckpt.engine.document import document
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.engine.open import index_of
from gsvckpt.engine.resources import Resources
from gsvckpt.errors import GsvError
from gsvckpt.files.progress import Progress
from gsvckpt.formats.shards import is_index

Watch: TypeAlias = Callable[[str], AbstractContextManager[Progress]]
"""A progress display under the name that it is given."""

_STATUSES: tuple[Status, ...] = ("unsafe", "damaged", "unchecked", "suspect", "sound")  # the worst first


class VerifyRequest(NamedTuple):
    """The options as they were written."""

    paths: tuple[str, ...]
    quick: bool
    checks: str | None
    layout: str
    against: str | None
    resume: bool
    checksums: str | None
    manifest: str | None
    recursive: bool
    fail_on: Severity


class PreparedVerify(NamedTuple):
    """The task of verify: the files, the checks, and what to do with the results."""

    targets: Targets
    options: Options
    after: AfterVerify
    resources: Resources
    fail_on: Severity


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The outcome of verify: `errors` are failures that belong to none of the `files`, `done` what was done with these, `warnings` about manifests
    by path; `folders` that were named held so many `others`; `unseen` are those errors that may hide a training run.
    """

    files: tuple[Verification, ...]
    errors: tuple[GsvError, ...]
    done: DoneAfterVerify
    warnings: tuple[tuple[str, str], ...]
    folders: tuple[str, ...]
    others: int
    fail_on: Severity
    skipped: tuple[tuple[str, str], ...] = ()
    unseen: tuple[GsvError, ...] = ()

    @property
    def status(self) -> Status:
        """The worst status of all files."""
        found = {result.status for result in self.files}
        return next((status for status in _STATUSES if status in found), "unchecked")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all files."""
        return tuple(finding for result in self.files for finding in result.findings)

    @property
    def unopened(self) -> tuple[GsvError, ...]:
        """The errors of files that could not be opened, as in their `error`."""
        return tuple(error for error in map(failure_of, self.files) if error is not None)

    @property
    def exit_code(self) -> int:
        """The exit code that the command would have."""
        worst = max((error.exit_code for error in self.errors), default=0)
        limit = SEVERITIES.index(self.fail_on)
        found = any(SEVERITIES.index(finding.severity) <= limit for finding in self.findings)
        if found or any(result.status == "unsafe" for result in self.files):  # whatever was asked about
            worst = max(worst, 1)
        return max(worst, 3) if any(result.status == "unchecked" for result in self.files) else worst

    @property
    def before(self) -> dict[str, object]:
        """The document's keys before `files`."""
        skipped = {"skipped": [{"path": path, "why": why} for path, why in self.skipped]} if self.skipped else {}
        return {"folders": list(self.folders), "ignored": self.others, **skipped} if self.folders else {}

    @property
    def behind(self) -> dict[str, object]:
        """The document's keys after `files`."""
        keys: dict[str, object] = {"warnings": [{"path": path, "why": why} for path, why in self.warnings]} if self.warnings else {}
        answers = {result.path: result.resumption for result in self.files if result.resumption is not None}
        if answers or self.unseen:
            from gsvckpt.commands.verify.checks.resume import unite  # only --resume asks

            keys["resume"] = unite(answers, self.unseen).as_json()
        return keys

    def objects(self) -> Iterator[Mapping[str, object]]:
        """The document's files, made one by one: there may be many."""
        yield from (as_json(result, self.done, self.fail_on) for result in self.files)
        yield from map(failure_json, self.errors)

    def as_json(self) -> dict[str, object]:
        """The document of `--json`."""
        return document("verify", self.objects(), self.exit_code, self.before, self.behind)


def prepare(asked: VerifyRequest, after: AfterVerify, resources: Resources) -> PreparedVerify:
    """Find the files to verify. Raises UsageError for options that contradict each other, RefusedError where something is in the way of what is to
    be written, and MissingError or DamagedError for a manifest or list that cannot be read.
    """
    paths = list(map(resources.locate, asked.paths))
    options = _options(asked, resources)._replace(config=after.backup is not None)
    after.refuse_contradictions(options, manifest=asked.manifest, checksums=asked.checksums, paths=paths)
    options = options._replace(digests=options.digests | after.digests, tensors=after.per_tensor)
    if options.against is not None:
        paths = [index_of(paths[0]) or paths[0]]  # a sharded checkpoint is one, whatever else its folder holds
    targets = gather(paths, recursive=asked.recursive, resuming=asked.resume, recorded=asked.manifest, listed=asked.checksums)
    after.require_room(targets.files, targets.roots)
    return PreparedVerify(targets, options, after, resources, asked.fail_on)


def _options(asked: VerifyRequest, resources: Resources) -> Options:
    if asked.layout != "auto":
        from gsvckpt.commands.verify.checks.layouts import require_layout

        require_layout(asked.layout)
    if resources.device != "cpu":
        from gsvckpt.devices.choice import choose

        choose(resources.device)  # one that is not there is a wrong option, not a damaged file
    digests = frozenset[str]() if asked.quick or asked.checks is not None else Options().digests
    against = resources.locate(asked.against) if asked.against is not None else None
    return Options(select_checks(asked.checks), asked.quick, asked.layout, against, digests, resume=asked.resume)


def verify_all(prepared: PreparedVerify, watch: Watch) -> VerifyResult:
    """Verify all files and report missing ones; then restore, copy, record and list, as the options say."""
    targets, options, after, resources, fail_on = prepared
    label = os.path.basename(next(iter(targets.files))) if len(targets.files) == 1 else "verify"
    with watch(label) as progress:
        results = verify_files(targets.files, options, resources.workers, progress, resources.cluster)
    files = (*with_verdicts(targets, results), *absent(targets, options), *assess_runs(targets, results))
    done = DoneAfterVerify(asked=after.asked)
    found = VerifyResult(files, targets.failures, done, (), targets.folders, targets.others, fail_on, targets.skipped, targets.unseen)
    if after.restore_from is not None:
        found = _restore(found, prepared, after.restore_from, watch)
    if after.backup is not None:
        found = _back_up(found, targets, after.backup, watch)
    if after.record:
        found = _record(found, after)
    return _write_list(found, after.listing, force=after.force) if after.listing is not None else found


def _restore(found: VerifyResult, prepared: PreparedVerify, folder: str, watch: Watch) -> VerifyResult:
    """Restore damaged and missing files, and verify them again."""
    from gsvckpt.commands.verify.after import restore_damaged

    targets = prepared.targets
    entries = {path: expected.entry for path, expected in targets.files.items()} | dict(targets.recorded)
    damaged = {
        result.path: entries[result.path]
        for result in found.files
        if result.path in entries and (result.status == "damaged" or result.path in targets.recorded)
    }
    with watch("restoring") as progress:
        restored, failures = restore_damaged(damaged, folder, progress)
        again = {path: targets.files.get(path, Expected())._replace(entry=entries[path], recorded=True) for path in restored}
        again |= {path: expected for path, expected in targets.files.items() if restored and is_index(path)}  # it may be whole again
        renewed = {result.path: result for result in verify_files(again, prepared.options, prepared.resources.workers, progress)}
    files = tuple(renewed.get(result.path, result) for result in found.files)
    return replace(found, files=files, errors=(*found.errors, *failures), done=found.done._replace(restored=restored))


def _back_up(found: VerifyResult, targets: Targets, folder: str, watch: Watch) -> VerifyResult:
    from gsvckpt.commands.verify.after import back_up

    with watch("copying") as progress:
        copied, failures = back_up(found.files, folder, targets.roots, progress)
    files = tuple(result._replace(findings=tuple(name_copies(finding, folder) for finding in result.findings)) for result in found.files)
    return replace(found, files=files, errors=(*found.errors, *failures), done=found.done._replace(copied=copied))


def _record(found: VerifyResult, after: AfterVerify) -> VerifyResult:
    from gsvckpt.commands.verify.after import record_results, tell_passing

    recorded, failures = record_results(found.files, tensors=after.per_tensor, forget=after.forget)
    files = tuple(result for result in found.files if not (after.forget and is_forgotten(result)))
    warnings = (*found.warnings, *tell_passing(recorded.values()))
    return replace(found, files=files, errors=(*found.errors, *failures), warnings=warnings, done=found.done._replace(recorded=recorded))


def _write_list(found: VerifyResult, path: str, *, force: bool) -> VerifyResult:
    from gsvckpt.commands.verify.after import write_list

    try:
        write_list(path, found.files, force=force)
    except GsvError as error:
        error.path = error.path or path
        return replace(found, errors=(*found.errors, error))
    return found
