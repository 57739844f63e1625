"""Verify one file: open it, read it once, run every check. A plain function of plain values, so any executor can run it."""

from __future__ import annotations

import os
from contextlib import ExitStack

from gsvckpt.commands.verify.checks import containers, officials, resume
from gsvckpt.commands.verify.checks.answer import Answers, gather
from gsvckpt.commands.verify.checks.files import ask_lists, ask_reading, ask_unchanged, ask_unreadable
from gsvckpt.commands.verify.checks.table import ask_all
from gsvckpt.commands.verify.findings import SEVERITIES, Finding, name_file, worst
from gsvckpt.commands.verify.phases import Contents, Unreadable, open_file, read_opened, read_unreadable
from gsvckpt.commands.verify.result import Asked, Expected, Options, Verification, failed, judge
from gsvckpt.engine.examine import Examination, examine
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import ChangedError, GsvError, MissingError
from gsvckpt.files.local import open_source
from gsvckpt.files.progress import Progress, Silent
from gsvckpt.files.secrets import conceal
from gsvckpt.formats.pickle.safety import Safety
from gsvckpt.model import OpenSource
from gsvckpt.sovits.config import config_of


def verify_file(
    path: str | os.PathLike[str],
    options: Options | None = None,
    expected: Expected | None = None,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Verification:
    """Verify one file. Nothing is raised for what is wrong with it: whatever it is, there is a result.

    Of an index, what it makes of its shards is verified: all there, each with its tensors, and what they are as one. Their bytes are verified by
    their own paths.
    """
    asked = Asked(options or Options(), expected or Expected(), jobs, progress or Silent())
    try:
        with open_source(path, structure_only=asked.options.quick) as source, ExitStack() as stack:
            opened = open_file(source, asked, stack)
            return _verify_unreadable(opened, source, asked) if isinstance(opened, Unreadable) else _verify_opened(opened, source, asked)
    except (MissingError, ChangedError) as error:
        return failed(conceal(os.fspath(path)), error)


def peek(path: str) -> resume.ResumeState | GsvError:
    """What resuming asks of a file, from its pickle alone."""
    try:
        with open_checkpoint(path) as checkpoint:
            return resume.summarise(examine(checkpoint))
    except GsvError as error:
        return error


def _verify_opened(examination: Examination, source: OpenSource, asked: Asked) -> Verification:
    options, identity = asked.options, examination.identity
    contents = read_opened(examination, source, asked)
    answers = [
        *ask_reading(contents, asked),
        *ask_all(examination, contents, asked),
        *ask_lists(source, contents, asked, compared=False),
        ask_unchanged(source),
    ]
    result = _result(source, contents, examination.safety, gather(answers, options.checks))
    return result._replace(
        kind=identity.kind,
        version=identity.version,
        epoch=identity.progress.epoch,
        step=identity.progress.step,
        config=config_of(examination.checkpoint) if options.config else None,
        resume=resume.summarise(examination) if options.resume else None,
        official=_official_name(examination, contents),
    )


def _official_name(examination: Examination, contents: Contents) -> str | None:
    if examination.checkpoint.container.shards:
        return None
    name = officials.match(examination.checkpoint.source.path, contents.digests.get("sha256"))
    return name or (examination.official.file.name if examination.official is not None else None)


def _verify_unreadable(found: Unreadable, source: OpenSource, asked: Asked) -> Verification:
    contents = read_unreadable(found, source, asked)
    name = officials.match(source.path, contents.digests.get("sha256")) if found.compared else None
    answers = [
        *ask_unreadable(found, source, contents),
        *ask_reading(contents, asked),
        *ask_lists(source, contents, asked, compared=found.compared and name is None),
        ask_unchanged(source),
    ]
    told = gather(answers, asked.options.checks, f"the file could not be opened ({found.error.check})")
    if found.compared and name is None and worst(told.findings) != "error":
        told = told._replace(findings=(*told.findings, containers.unexamined(found.error)))
    return _result(source, contents, found.safety, told)._replace(official=name)


def _result(source: OpenSource, contents: Contents, safety: Safety, found: Answers) -> Verification:
    findings = tuple(sorted((name_file(finding, source.path) for finding in found.findings), key=_rank))
    status = judge(findings, safety)
    result = Verification(source.path, status, findings, source.size, source.mtime_ns, safety=safety, skipped=found.skipped)
    return result._replace(digests=dict(contents.digests), tensors=contents.tensors)


def _rank(finding: Finding) -> int:
    return SEVERITIES.index(finding.severity)
