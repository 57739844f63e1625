"""One file through a writing command: examine, plan, ask whether GPT-SoVITS would still read it rightly, then write or only rehearse."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from gsvckpt.destinations import Destination
from gsvckpt.engine import Engine, Outcome
from gsvckpt.errors import RefusedError, UsageError
from gsvckpt.examination import Examination, examine, recognise
from gsvckpt.formats.layout import Layout
from gsvckpt.opening import open_checkpoint
from gsvckpt.sovits import upstream
from gsvckpt.sovits.upstream import UpstreamError, Verdict
from gsvckpt.transforms.plan import Plan, begin

_INSIST = "--force insists"
_PUBLISHED = ("gpt-weights", "sovits-generator-base", "sovits-discriminator-base", "vocoder", "speaker-encoder")  # kinds with official files


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What became of one source. `output` is None where nothing was to be written; `outcome` is None when there was nothing to change."""

    source: str
    output: str | None
    examination: Examination
    plan: Plan
    outcome: Outcome | None
    bytes_before: int
    bytes_after: int
    upstream_after: Verdict | UpstreamError | None
    warnings: tuple[str, ...]
    rehearsed: bool

    @property
    def changed(self) -> bool:
        return _changes(self.plan)


def _changes(plan: Plan) -> bool:
    """Whether there is anything to change. A planned cast is none when all its storages overflowed and kept their dtype."""
    return bool(plan.casts) or any(change.step != "cast" for change in plan.changes)


class _Nothing(Exception):  # not an error: no tensor could be cast after all, so no output is due
    """Ends the writing of an output that would be its source."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


def rewrite(
    source: str,
    output: str,
    destination: Destination,
    engine_for: Callable[[Plan], Engine],
    make: Callable[[Examination, Plan], Plan],
    accept: Callable[[Outcome], None] = lambda _: None,
) -> Rewritten:
    """Apply what `make` plans to one file. Raises GsvError, or OSError of the system; then nothing was written and the source is as it was."""
    with open_checkpoint(source) as checkpoint:
        examination = examine(checkpoint)
        _refuse_source(examination, destination)
        plan = make(examination, begin(checkpoint))
        plan = replace(plan, window=_window(examination, plan))
        _refuse_name(plan, source, output)
        before = checkpoint.source.size
        needless = destination.output is None  # with -o, an output is always written
        if not plan.changes and needless:
            return Rewritten(
                source, None, examination, plan, None, before, before, examination.upstream, examination.warnings, not destination.writes
            )
        verdicts: list[Verdict | UpstreamError | None] = []

        def approve(layout: Layout) -> None:
            verdicts.append(_foresee(examination, layout))
            if not destination.force:
                _refuse_misreading(examination, verdicts[-1])

        def accept_changes(outcome: Outcome) -> None:
            accept(outcome)
            if needless and not _changes(outcome.plan):
                raise _Nothing(outcome)

        engine = engine_for(plan)
        try:
            if destination.writes:
                with destination.prepared(source, output):
                    overwrite = destination.in_place or destination.force
                    outcome = engine.write(plan, output, overwrite=overwrite, approve=approve, accept=accept_changes)
            else:
                outcome = engine.rehearse(plan, approve=approve, accept=accept_changes)
        except _Nothing as nothing:
            rest = (before, before, examination.upstream, examination.warnings, not destination.writes)
            return Rewritten(source, None, examination, nothing.outcome.plan, nothing.outcome, *rest)
        obstacle = destination.obstacle(source, output) if destination.dry_run else None
        warnings = (
            *examination.identity.notes,
            *upstream.warnings(examination.identity, verdicts[-1], examination.rows),
            *([f"{obstacle.why}, so a real run would stop here ({obstacle.hint})"] if obstacle else []),
        )
        after = outcome.layout.size
        return Rewritten(source, output, examination, outcome.plan, outcome, before, after, verdicts[-1], warnings, not destination.writes)


def _refuse_source(examination: Examination, destination: Destination) -> None:
    if destination.force:
        return
    if examination.safety.verdict == "unsafe":
        names = ", ".join(name for name, verdict in examination.safety.globals if verdict == "unsafe")
        raise RefusedError(f"holds code that would run when it is loaded ({names})", hint=f"do not load this file; {_INSIST} and writes it back")
    if not destination.in_place:
        return
    match = recognise(examination.checkpoint.source, thorough=examination.identity.kind in _PUBLISHED)
    if match is not None:
        raise RefusedError(
            f"is the official {match.file.name}; GPT-SoVITS knows it by its exact bytes, and would take a rewritten one for another version",
            hint=f"write a copy with -o PATH; {_INSIST}",
        )


def _refuse_name(plan: Plan, source: str, output: str) -> None:
    """A command keeps the container, so the output's name must not promise another one: programs choose their reader by it."""
    wanted = os.path.splitext(output)[1].lower()
    if wanted != os.path.splitext(source)[1].lower() and (wanted == ".safetensors") != (plan.container == "safetensors"):
        raise UsageError(
            f"{output} would hold a {plan.container} file, as its source is one", where="--output", hint="give it the source's extension"
        )


def _window(examination: Examination, plan: Plan) -> tuple[int, int] | None:
    """The sizes within which GPT-SoVITS reads a PK file's version from its size."""
    detected = upstream.applies(examination.identity.kind) and plan.container == "torch-zip" and plan.head == "PK"
    return upstream.size_window(examination.identity.version) if detected else None


def _foresee(examination: Examination, layout: Layout) -> Verdict | UpstreamError | None:
    if not upstream.applies(examination.identity.kind):
        return None
    return upstream.detect(layout.first(upstream.HEADER_SIZE), layout.size)


def _refuse_misreading(examination: Examination, after: Verdict | UpstreamError | None) -> None:
    identity, before = examination.identity, examination.upstream
    is_pro_base = identity.kind == "sovits-generator-base" and identity.version in ("v2Pro", "v2ProPlus")
    if is_pro_base and before is not None and upstream.misread(identity.version, examination.is_lora, before):
        return  # training reads a base without any detection, and inference misreads this one already
    reason = upstream.judge(identity.version, examination.is_lora, before, after)
    if reason is not None:
        consequence = upstream.warnings(identity, after, examination.rows)
        raise RefusedError(f"{reason}{': ' + consequence[-1] if consequence else ''}", hint=f"{_INSIST}")
