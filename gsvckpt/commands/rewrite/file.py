"""One file through a writing command: examine, plan, ask whether GPT-SoVITS would still read it rightly, then write or only rehearse."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.engine import write_sharded
from gsvckpt.engine.examine import Examination, examine, recognise
from gsvckpt.engine.open import open_checkpoint, refuse_ambiguous
from gsvckpt.engine.write import Accept, Approve, Engine, Outcome
from gsvckpt.errors import RefusedError, UsageError
from gsvckpt.files.paths import is_url
from gsvckpt.formats.layout import Layout
from gsvckpt.formats.pickle.calls import calls_of
from gsvckpt.formats.pickle.mentions import globals_of
from gsvckpt.formats.pickle.safety import Safety, judge_all
from gsvckpt.formats.sniff import read_head
from gsvckpt.model import Checkpoint, Tensor
from gsvckpt.sovits import kinds, layouts, upstream
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.sections import divide
from gsvckpt.sovits.upstream import UpstreamError, Verdict
from gsvckpt.transforms.plan import Plan, begin

_INSIST = "--force insists"
_OVER_BASE = "--over-base writes into a copy of the official s2Gv4.pth, which GPT-SoVITS knows by its first bytes; "
_ANYBODYS = ("state-dict", "training", "unknown")  # kinds of which nobody knows who reads them
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
    whole: bool = True
    kept: Mapping[str, Tensor] = field(default_factory=dict)

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


class Planned(NamedTuple):
    """What is to be done to one file. `name`: how the output is to be called, where the user did not say; `identity`: what it will be; `whole`:
    nothing of the source's model is lost, where something is, a warning says so; `kept`: tensors that were to be cast but share their bytes with
    others; `consulted`: the other files that were looked into; `complete`: no lost tensor is missing.
    """

    plan: Plan
    identity: Identity
    name: str | None = None
    warnings: tuple[str, ...] = ()
    whole: bool = True
    kept: Mapping[str, Tensor] = MappingProxyType({})
    consulted: tuple[str, ...] = ()
    complete: bool = True


Make = Callable[[Examination, Plan], Planned]
Open = Callable[[str], AbstractContextManager[Checkpoint]]


def rewrite(
    source: str,
    output: str,
    destination: Destination,
    engine_for: Callable[[Plan], Engine],
    make: Make,
    accept: Callable[[Outcome], None] = lambda _: None,
    opened: Open = open_checkpoint,
    taken: Collection[str] = (),
) -> Rewritten:
    """Apply what `make` plans to one file. `taken` are files that must stay, such as the other sources and outputs of the same run.

    Raises GsvError, or OSError of the system; then nothing was written and the source is as it was.
    """
    with opened(source) as checkpoint:
        examination, planned, output = _plan(source, checkpoint, output, destination, make)
        identity, plan = planned.identity, planned.plan
        _refuse_name(plan, source, output)
        _refuse_incomplete(examination, planned, destination)
        _refuse_head(identity, plan, destination)
        before = checkpoint.source.size
        needless = destination.output is None  # with -o, an output is always written
        warnings = (*_lasting_notes(examination, plan.head), *planned.warnings)
        if not plan.changes and needless:
            warnings = (*examination.warnings, *planned.warnings)
            return Rewritten(source, None, examination, plan, None, before, before, examination.upstream, warnings, not destination.writes)
        verdicts: list[Verdict | UpstreamError | None] = []

        def approve(layout: Layout) -> None:
            verdicts.append(_foresee(identity, plan, layout))
            if planned.complete and not destination.force:
                _refuse_misreading(examination, identity, verdicts[-1], is_merge=bool(plan.products))
                _refuse_base(examination, identity, plan, layout.size)

        engine = engine_for(plan)
        others = frozenset[str]()
        if os.path.lexists(output):
            others = frozenset(path for path in (*planned.consulted, *(one.path for one in plan.sources), *taken) if not _is_same(path, source))

        def sum_up(outcome: Outcome) -> Rewritten:
            obstacle = destination.obstacle(source, output, others, folder=plan.shard_size is not None) if destination.dry_run else None
            after = outcome.layout.size
            misread = _misread_base(identity, plan.container, plan.head, after)
            said = (
                *warnings,
                *upstream.warnings(identity, verdicts[-1], kinds.symbol_rows(divide(plan.root).tensors)),
                *([f"{obstacle.why}, so a real run would stop here ({obstacle.hint})"] if obstacle else []),
                *([misread] if misread else []),
            )
            done = (outcome.plan, outcome, before, after, verdicts[-1], said)
            return Rewritten(source, output, examination, *done, rehearsed=not destination.writes, whole=planned.whole, kept=planned.kept)

        def accept_changes(outcome: Outcome) -> None:
            accept(outcome)
            if needless and not _changes(outcome.plan):
                raise _Nothing(outcome)

        try:
            if destination.writes:
                with destination.prepared(source, output, others, folder=plan.shard_size is not None):
                    outcome = _write(engine, plan, output, destination, approve, accept_changes)
            elif plan.shard_size is not None:
                outcome = write_sharded.rehearse(engine, plan, plan.shard_size, approve=approve, accept=accept_changes)
            else:
                outcome = engine.rehearse(plan, approve=approve, accept=accept_changes)
        except _Nothing as nothing:
            warnings = (*examination.warnings, *planned.warnings)
            rest = (before, before, examination.upstream, warnings, not destination.writes)
            return Rewritten(source, None, examination, nothing.outcome.plan, nothing.outcome, *rest, kept=planned.kept)
        return sum_up(outcome)


def name_output(source: str, output: str, destination: Destination, make: Make, opened: Open = open_checkpoint) -> str:
    """The name under which `rewrite` would write. Raises as that does, as far as that shows without reading any tensor."""
    with opened(source) as checkpoint:
        return _plan(source, checkpoint, output, destination, make)[2]


def _plan(source: str, checkpoint: Checkpoint, output: str, destination: Destination, make: Make) -> tuple[Examination, Planned, str]:
    examination = examine(checkpoint)
    _refuse_source(examination, destination)
    planned = make(examination, begin(checkpoint))
    if planned.plan.root is not checkpoint.root and not destination.force:  # a config or a base may have brought names along
        _refuse_code(judge_all(globals_of(planned.plan.root), calls_of(planned.plan.root)))
    plan = replace(planned.plan, window=_window(planned.identity, planned.plan) if planned.complete else None)
    return examination, planned._replace(plan=plan), destination.named(source, output, planned.name, _extension(planned.identity, plan))


def _lasting_notes(examination: Examination, head: str) -> tuple[str, ...]:
    """What the source contradicts itself in, without what was said of a head that the output does not have."""
    checkpoint, notes = examination.checkpoint, examination.identity.notes
    if not notes or head == checkpoint.container.head:
        return notes
    mended = replace(checkpoint, container=replace(checkpoint.container, head=head))
    after = kinds.identify(mended, checkpoint.source.path, read_head(checkpoint.source)).notes
    return tuple(note for note in notes if note in after)


def _write(engine: Engine, plan: Plan, output: str, destination: Destination, approve: Approve, accept: Accept) -> Outcome:
    if plan.shard_size is not None:
        return write_sharded.write(engine, plan, output, plan.shard_size, approve=approve, accept=accept)
    return engine.write(plan, output, overwrite=destination.in_place or destination.force, approve=approve, accept=accept)


def _refuse_source(examination: Examination, destination: Destination) -> None:
    if destination.in_place and examination.checkpoint.container.shards:
        raise RefusedError("is a checkpoint in several files, which cannot be replaced in one step", hint="write a copy with -o PATH")
    refuse_ambiguous(examination.checkpoint)
    if destination.force:
        return
    _refuse_code(examination.safety)
    if not destination.in_place:
        return
    match = recognise(examination.checkpoint.source, thorough=examination.identity.kind in _PUBLISHED)
    if match is not None:
        raise RefusedError(
            f"is the official {match.file.name}; GPT-SoVITS knows it by its exact bytes, and would take a rewritten one for another version",
            hint=f"write a copy with -o PATH; {_INSIST}",
        )


def _refuse_code(safety: Safety) -> None:
    if safety.verdict == "unsafe":
        names = ", ".join(map(str, safety.of("unsafe")))
        raise RefusedError(f"holds code that would run when it is loaded ({names})", hint=f"do not load this file; {_INSIST} and writes it back")


def _extension(identity: Identity, plan: Plan) -> str | None:
    """The extension of an output in another container; None where the source's own will do."""
    before = plan.checkpoint.container.format if not plan.checkpoint.container.shards else "shards"
    if plan.shard_size is not None:
        return ""
    if plan.container == "safetensors":
        return ".safetensors" if before != "safetensors" else None
    return (".ckpt" if identity.family == "gpt" else ".pth") if before in ("safetensors", "shards") else None


def _refuse_name(plan: Plan, source: str, output: str) -> None:
    """The output's name must not promise another container: programs choose their reader by it."""
    wanted = os.path.splitext(output)[1].lower()
    if plan.shard_size is not None:
        return
    same = wanted == os.path.splitext(source)[1].lower() and plan.container == plan.checkpoint.container.format
    if not same and (wanted == ".safetensors") != (plan.container == "safetensors"):
        hint = "--to torch makes one of that name" if plan.container == "safetensors" else "--to safetensors makes one of that name"
        raise UsageError(f"{output} would hold a {plan.container} file", where="--output", hint=hint)


def _refuse_incomplete(examination: Examination, planned: Planned, destination: Destination) -> None:
    """Refuse an output that lacks tensors which GPT-SoVITS needs and the source has: S1 stops there, S2 leaves them random without a word."""
    identity = planned.identity
    if destination.force or not planned.whole or planned.plan.root is examination.checkpoint.root:
        return
    if layouts.suitable(identity.kind, identity.version) == ():
        identity = examination.identity
    after = divide(planned.plan.root).tensors
    options = layouts.suitable(identity.kind, identity.version, lora=identity.lora_rank is not None)
    found = layouts.closest(after, options, identity.lora_rank or 32)
    if found is None or not (found[1].missing or found[1].wrong_shape):
        return
    had = layouts.compare(examination.state, layouts.layout(found[0], identity.lora_rank or 32))
    lost = [name for name in found[1].missing if name not in had.missing]
    if lost:
        stops = identity.family == "gpt"
        what = "would stop at it with a KeyError" if stops else "would load it without complaint and leave those random"
        raise RefusedError(f"would lack {len(lost):,} tensors that GPT-SoVITS needs, the first {lost[0]}; it {what}", hint=_INSIST)


def _refuse_head(identity: Identity, plan: Plan, destination: Destination) -> None:
    """Refuse a head on files whose readers do not mend it: training then starts over in silence, and torch.load says `stack underflow`."""
    suits = upstream.applies(identity.kind) and identity.kind != "sovits-generator-base"
    is_new = plan.head != (plan.checkpoint.container.head or "PK")
    if plan.container == "torch-zip" and plan.head != "PK" and is_new and not suits and identity.kind not in _ANYBODYS and not destination.force:
        raise RefusedError(f"a {identity.kind} under {plan.head} is read by nobody: only weights for inference have such heads", hint=_INSIST)


def _is_same(path: str, source: str) -> bool:
    if is_url(path) or is_url(source):
        return path == source
    return os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source)


def _window(identity: Identity, plan: Plan) -> tuple[int, int] | None:
    """The sizes within which GPT-SoVITS reads a PK file's version from its size."""
    detected = upstream.applies(identity.kind) and plan.container == "torch-zip" and plan.head == "PK"
    return upstream.size_window(identity.version, base=identity.kind == "sovits-generator-base") if detected else None


def _foresee(identity: Identity, plan: Plan, layout: Layout) -> Verdict | UpstreamError | None:
    """What GPT-SoVITS will say; None for files that it does not open, as it opens no safetensors files."""
    if plan.container == "safetensors" or not upstream.applies(identity.kind):
        return None
    return upstream.detect(layout.first(upstream.HEADER_SIZE), layout.size)


def _refuse_misreading(examination: Examination, identity: Identity, after: Verdict | UpstreamError | None, *, is_merge: bool) -> None:
    before = examination.upstream if identity.kind == examination.identity.kind else None  # of another kind nothing was said before
    lora = identity.kind == "sovits-lora"
    is_pro_base = identity.kind == "sovits-generator-base" and identity.version in ("v2Pro", "v2ProPlus")
    if is_pro_base and before is not None and upstream.misread(identity.version, lora, before):
        return  # training reads a base without any detection, and inference misreads this one already
    reason = upstream.judge(identity.version, lora, before, after)
    if reason is not None:
        consequence = upstream.warnings(identity, after, None)
        raise RefusedError(
            f"{reason}{': ' + consequence[-1] if consequence else ''}", hint=f"{_OVER_BASE if is_merge and identity.version == 'v4' else ''}{_INSIST}"
        )


def _refuse_base(examination: Examination, identity: Identity, plan: Plan, size: int) -> None:
    """Refuse a base that the preparation of the data would take for another version, where it did not take the source for one."""
    reason, checkpoint = _misread_base(identity, plan.container, plan.head, size), examination.checkpoint
    before = _misread_base(examination.identity, checkpoint.container.format, checkpoint.container.head, checkpoint.source.size)
    if reason is not None and before is None:
        raise RefusedError(reason, hint=_INSIST)


def _misread_base(identity: Identity, container: str, head: str | None, size: int) -> str | None:
    is_read = identity.kind == "sovits-generator-base" and container == "torch-zip" and head == "PK"
    return upstream.misread_base(identity.version, size) if is_read else None
