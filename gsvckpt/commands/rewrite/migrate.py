"""The recipe of migrate: which steps are taken, in which order, and what each needs to know from the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from gsvckpt.commands.rewrite import container
from gsvckpt.commands.rewrite.audit import audit
from gsvckpt.commands.rewrite.extract import Request, extract, merge_lora
from gsvckpt.commands.rewrite.plain import simple_value
from gsvckpt.commands.rewrite.recipe import Planned
from gsvckpt.commands.rewrite.references import check_base, check_family, check_version, open_examined, open_reference
from gsvckpt.commands.rewrite.rules import fuse_weight_norms, unused
from gsvckpt.devices.presence import require_torch
from gsvckpt.dtypes import DTYPES, DType
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.salvage import find_lost, is_damaged, open_salvaged
from gsvckpt.engine.write import OnOverflow, Written
from gsvckpt.errors import RefusedError, UsageError, closest
from gsvckpt.files.progress import Silent
from gsvckpt.formats.pickle.weights_only import tell_refused
from gsvckpt.model import Checkpoint, Path, Tensor
from gsvckpt.sovits import kinds, names, small_weights
from gsvckpt.sovits.config import find_config, path_text
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.sections import split_sections, state_recipes
from gsvckpt.sovits.training_state import training_state
from gsvckpt.transforms.cast import Selection, cast, select
from gsvckpt.transforms.plain import simplify
from gsvckpt.transforms.plan import Change, Plan
from gsvckpt.transforms.rules import Rule, apply_rules
from gsvckpt.transforms.salvage import leave_out
from gsvckpt.transforms.scrub import Scrubber, scrub
from gsvckpt.transforms.state_dict import conflicts, keep_tensors, match, put_tensors, rename_tensors

_WITHOUT_CHECKSUMS = ("torch-stream", "torch-tar", "safetensors")


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a migration. Without any: today's container, with the head that GPT-SoVITS expects."""

    salvage: bool = False
    to_inference: bool = False
    config: str | None = None
    step: int | None = None
    merge_lora: str | None = None
    over_base: bool = False
    rules: tuple[Rule, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    like: str | None = None
    fill: bool = False
    plain: bool = False
    scrub_paths: bool = False
    dtype: DType | None = None
    clamp: bool = False
    to: Literal["torch", "safetensors"] | None = None
    head: str = "auto"
    shard_size: int | None = None
    compact: bool = False
    force: bool = False

    @property
    def completes(self) -> bool:
        """Whether lost tensors must be filled before small weights are made."""
        return self.salvage and self.to_inference and self.like is not None

    @property
    def request(self) -> Request:
        return Request(self.config, self.step, self.clamp, self.over_base)


@dataclass(frozen=True, slots=True)
class Migrate:
    """The recipe of migrate. `inflate` admits compressed zips."""

    steps: Steps
    on_overflow: OnOverflow = "keep"
    inflate: bool = True

    @property
    def renames(self) -> bool:
        steps = self.steps
        return steps.to_inference or steps.merge_lora is not None or steps.scrub_paths or steps.to is not None

    @property
    def is_large(self) -> bool:
        return self.steps.merge_lora is not None  # torch's own product

    def open(self, path: str) -> AbstractContextManager[Checkpoint]:
        return open_salvaged(path) if self.steps.salvage else open_checkpoint(path, inflate=self.inflate)

    def plan(self, examination: Examination, plan: Plan, stack: ExitStack, jobs: int) -> Planned:
        """Compose all steps, in the order that the documentation states. Raises GsvError before anything is written."""
        asked, task = self.steps, Task(self.steps, stack, jobs)
        planned = Planned(plan, examination.identity)
        for step in STEPS:
            if step.is_wanted(asked):
                planned = step.take(planned, task)
                planned = replace(planned, identity=_identify(planned))
        if asked.to == "safetensors" and examination.special and not asked.force:
            _refuse_special(planned)
        plan = container.set_head(
            container.contain(planned.plan, asked.to, asked.shard_size, compact=asked.compact or asked.to_inference), planned.identity, asked.head
        )
        planned = replace(planned, plan=plan)
        losses, missing = _tell_losses(planned, asked.like), _missing(planned)
        is_complete = not [name for name in missing if not (asked.to_inference and "enc_q" in name)]
        if asked.to_inference and not is_complete:
            raise RefusedError(losses[0], where="--to-inference")
        refused = tell_refused(plan.root) if asked.plain and plan.container == "torch-zip" else []
        named = (path for path in (asked.merge_lora, asked.like, asked.config) if path is not None)
        return replace(
            planned,
            name=planned.name if planned.keeps_all else None,  # what is not the model that was saved gets no name of upstream's
            warnings=(*planned.warnings, *losses, *refused),
            consulted=(*named, *planned.consulted),
            listed_in=planned.listed_in if plan.container == "torch-zip" else "",  # it lists no other files
            complete=is_complete,
        )

    def accept(self, written: Written) -> None:
        """Accept any result; overflows are reported."""

    def details(self, examination: Examination, planned: Planned, written: Written | None) -> dict[str, object]:  # noqa: ARG002 - as Recipe has it
        """The audit, if anything was cast."""
        facts: dict[str, object] = {"whole": planned.keeps_all}
        facts["changes"] = [
            {"step": change.step, "where": change.where, "from": change.before, "to": change.after} for change in planned.plan.changes
        ]
        if written is None or not (written.plan.casts or planned.kept or written.overflowed):
            return facts
        tensors = split_sections(planned.plan.root).tensors
        storages = {*written.plan.casts, *written.overflowed}
        chosen = {name: tensor for name, tensor in tensors.items() if tensor.storage in storages}
        kept = {name: tensor for name, tensor in tensors.items() if name in planned.kept and name not in chosen}
        others = {name: tensor for name, tensor in tensors.items() if name not in chosen and name not in kept}
        return {**facts, **audit(written, Selection(chosen, kept, others), tensors)}


# --- the steps -----------------------------------------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """The context of every step: the options, the stack that keeps other files open, and the number of threads."""

    asked: Steps
    stack: ExitStack
    jobs: int


class MigrateStep(NamedTuple):
    """One step: when it is taken, and what it does."""

    is_wanted: Callable[[Steps], bool]
    take: Callable[[Planned, Task], Planned]


def _salvage(planned: Planned, task: Task) -> Planned:
    plan = planned.plan
    sections = split_sections(plan.root)
    lost = find_lost(plan.root, task.jobs, Silent())
    if is_damaged(plan.checkpoint):
        plan = replace(plan, changes=(*plan.changes, Change("salvage", "container", "damaged", "written again")))
    if not lost:
        return replace(planned, plan=plan)
    of_model = {name: tensor for name, tensor in sections.tensors.items() if tensor.storage in lost}
    usual = training_state(plan.root, planned.identity.kind, known=sections.roles)
    plan = leave_out(plan, sections.path or (), sections.tensors, lost, usual)
    said = []
    if of_model:
        said.append(f"{len(sections.tensors) - len(of_model):,} of the model's {len(sections.tensors):,} tensors are complete")
        if plan.checkpoint.container.format in _WITHOUT_CHECKSUMS:
            said.append("such a file has no checksums: tensors reported as complete may still hold altered bytes")
    return replace(planned, plan=plan, lost=of_model, warnings=(*planned.warnings, *said))


def _to_inference(planned: Planned, task: Task) -> Planned:
    return extract(planned, task.asked.request)


def _merge_lora(planned: Planned, task: Task) -> Planned:
    require_torch("merging", "--merge-lora")
    base = open_examined(str(task.asked.merge_lora), task.stack)
    planned = replace(planned, warnings=(*planned.warnings, *check_base(base, planned.identity)))
    return merge_lora(planned, base, task.asked.request)


def _apply_rules(planned: Planned, task: Task) -> Planned:
    path, tensors = _state(planned.plan)
    done = apply_rules(task.asked.rules, tensors)
    said = unused(done.used)
    plan = _require_some(keep_tensors(planned.plan, path, lambda name: name not in done.dropped, "rules"), "--rules")
    plan = rename_tensors(plan, path, done.names, "rules")
    if done.fused:
        plan = fuse_weight_norms(plan, path, {done.names[values]: (tensors[gain], tensors[values]) for values, gain in done.fused.items()})
    planned = replace(planned, plan=plan, program=next((rule.program for rule, count in done.used if rule.program and count), planned.program))
    tensors = _state(planned.plan)[1]
    for dtype in dict.fromkeys(done.casts.values()):
        chosen = {name: tensors[name] for name, wanted in done.casts.items() if wanted == dtype}
        planned = _cast_to(planned, chosen, DTYPES[dtype], clamp=task.asked.clamp)
    if planned.kept:
        kept = planned.kept
        said.append(f"{len(kept):,} tensors were not cast because other tensors share their storage; the first is {next(iter(kept))}")
    return replace(planned, warnings=(*planned.warnings, *said))


def _choose(planned: Planned, task: Task) -> Planned:
    include, exclude = task.asked.include, task.asked.exclude
    path, tensors = _state(planned.plan)
    for glob in (*include, *exclude):
        if not any(fnmatchcase(name, glob) for name in tensors):
            close = closest(glob, tensors)
            raise UsageError(f"no tensor is called {glob}", where="--include/--exclude", hint=f"there are {', '.join(close)}" if close else "")

    def is_wanted(name: str) -> bool:
        included = not include or any(fnmatchcase(name, glob) for glob in include)
        return name not in tensors or (included and not any(fnmatchcase(name, glob) for glob in exclude))

    plan = keep_tensors(planned.plan, path, is_wanted, "choose")
    return replace(planned, plan=_require_some(plan, "--include/--exclude"))


def _like(planned: Planned, task: Task) -> Planned:
    asked, identity, lost = task.asked, planned.identity, planned.lost
    path, tensors = _state(planned.plan)
    reference = open_reference(str(asked.like), identity, task.stack)
    matching = match(tensors, reference.shapes)
    missing = [name for name in reference.shapes if name not in matching and (not lost or name in lost)]  # a voice stays a voice
    if asked.fill and missing and not asked.force:
        check_version(reference, identity, len(missing))
    check_family(reference, identity, tensors)
    said = [f"{name}: {why}" for name, why in conflicts(tensors, reference.shapes)]
    plan = keep_tensors(planned.plan, path, lambda name: name not in tensors or name in matching, "like")
    if not asked.fill:
        if missing:
            said.append(f"{len(missing):,} tensors of {reference.name} are missing, the first {missing[0]}; --fill takes them from a file")
        return replace(planned, plan=plan, warnings=(*planned.warnings, *said))
    if missing and not reference.tensors:
        raise UsageError(f"{reference.name} is a layout, which holds no numbers", where="--fill", hint="name a checkpoint with --like FILE")
    entries = {name: reference.tensors[name] for name in missing}
    filled = (Change("fill", name, "missing", reference.name, -entries[name].nbytes) for name in missing)
    plan = put_tensors(plan, path, entries, *filled, order=reference.shapes if lost else ())  # as if nothing had been lost
    return replace(planned, plan=plan, warnings=(*planned.warnings, *said))


def _make_plain(planned: Planned, _: Task) -> Planned:
    return replace(planned, plan=simplify(planned.plan, simple_value))


def _scrub(planned: Planned, _: Task) -> Planned:
    plan = planned.plan
    path = plan.checkpoint.source.path
    told = small_weights.experiments_of(find_config(plan.root), path) | small_weights.experiments_of_header(plan.metadata, path)
    scrubber = Scrubber(told)
    called = planned.name or names.basename(path)
    scrubbed = scrubber.file_name(called)
    plan = simplify(plan, lambda value: text if (text := path_text(value)) is not None else value)
    plan = scrub(plan, scrubber, frozenset(split_sections(plan.root).tensors), lambda key: not key.startswith(container.OWN))
    return replace(planned, plan=plan, name=scrubbed if scrubbed != called else planned.name)


def _cast(planned: Planned, task: Task) -> Planned:
    assert task.asked.dtype is not None  # noqa: S101 - only then is this step taken; for the type checker
    return _cast_to(planned, _state(planned.plan)[1], task.asked.dtype, clamp=task.asked.clamp)


STEPS = (  # one row a step, in the order in which they are taken
    MigrateStep(lambda asked: asked.salvage, _salvage),
    MigrateStep(lambda asked: asked.completes, _like),
    MigrateStep(lambda asked: asked.to_inference, _to_inference),
    MigrateStep(lambda asked: asked.merge_lora is not None, _merge_lora),
    MigrateStep(lambda asked: bool(asked.rules), _apply_rules),
    MigrateStep(lambda asked: bool(asked.include or asked.exclude), _choose),
    MigrateStep(lambda asked: asked.like is not None and not asked.completes, _like),
    MigrateStep(lambda asked: asked.plain, _make_plain),
    MigrateStep(lambda asked: asked.scrub_paths, _scrub),
    MigrateStep(lambda asked: asked.dtype is not None, _cast),
)


# --- what the steps have in common ---------------------------------------------------------------------------------------------------------------


def _cast_to(planned: Planned, tensors: Mapping[str, Tensor], dtype: DType, *, clamp: bool) -> Planned:
    plan = planned.plan
    chosen, kept, _ = select(plan.root, tensors, dtype, casts=plan.casts)
    return replace(planned, plan=cast(plan, chosen, dtype, clamp=clamp) if chosen else plan, kept={**planned.kept, **kept})


def _identify(planned: Planned) -> Identity:
    """What the planned file will be. A model stays of its version, though the tensors that tell it are among the lost."""
    before = planned.identity
    after = identify_plan(planned.plan, before)
    is_known = before.version is not None and _missing(planned)
    return after._replace(version=before.version, versions=before.versions) if is_known else after


def _missing(planned: Planned) -> list[str]:
    """The lost tensors in whose places nothing stands."""
    there = split_sections(planned.plan.root).tensors if planned.lost else {}
    return [name for name in planned.lost if name not in there]


def _tell_losses(planned: Planned, like: str | None) -> list[str]:
    """What became of the lost tensors: they are missing, or another file's stand in their places. Neither is the model that was saved."""
    missing = _missing(planned)
    filled = len(planned.lost) - len(missing)
    said = [f"this file is incomplete: {len(missing):,} tensors are lost, the first {missing[0]}; --like FILE --fill completes it"] if missing else []
    return said + ([f"{filled:,} lost tensors are those of {like}: this is not the model that was saved"] if filled else [])


def identify_plan(plan: Plan, before: Identity) -> Identity:
    """What the planned file will be. A version that only the source's head or name told is still known."""
    container = replace(plan.checkpoint.container, format="torch-zip", head=plan.head)
    after = kinds.identify(replace(plan.checkpoint, root=plan.root, container=container), plan.checkpoint.source.path, b"")
    if after.version is None and before.version is not None and before.version in after.versions:
        return after._replace(version=before.version, versions=(before.version,))
    return after


def _state(plan: Plan) -> tuple[Path, Mapping[str, Tensor]]:
    """The path of the model's state dict, and its tensors by name."""
    sections = split_sections(plan.root)
    if sections.path is None or not sections.tensors:
        raise RefusedError("has no model tensors to choose from", where="state dict")
    return sections.path, sections.tensors


def _refuse_special(planned: Planned) -> None:
    """Raise RefusedError for tensors that a safetensors file has no form for: other programs would not find them."""
    sections = split_sections(planned.plan.root)
    name = next(iter(state_recipes(planned.plan.root, sections.path)), None)
    if name is not None:
        why = "is a special tensor, for which safetensors has no form: other programs would not find it"
        raise RefusedError(why, where=name, hint="--force keeps it for gsvckpt alone; torch's own container keeps it for all")


def _require_some(plan: Plan, where: str) -> Plan:
    """The plan, if it leaves any tensor of the model."""
    if not split_sections(plan.root).tensors:
        raise RefusedError("no tensor of the model would be left", where=where)
    return plan
