"""Rewrite one file: examine it, plan the change, check that GPT-SoVITS would still read it correctly, then write it or only rehearse."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from gsvckpt.commands.rewrite import refusals
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.recipe import Planned, Recipe
from gsvckpt.commands.rewrite.result import Rewritten
from gsvckpt.engine import write_sharded
from gsvckpt.engine.examine import Examination, examine
from gsvckpt.engine.write import Engine, Written
from gsvckpt.files.paths import is_url
from gsvckpt.formats.layout import Layout
from gsvckpt.formats.pickle.calls import calls_of
from gsvckpt.formats.pickle.mentions import globals_of
from gsvckpt.formats.pickle.safety import judge_all
from gsvckpt.formats.sniff import read_head
from gsvckpt.hints import quote_word
from gsvckpt.sovits import kinds, upstream
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.sections import split_sections
from gsvckpt.transforms.plan import Plan, begin


@dataclass(frozen=True, slots=True)
class FilePlan:
    """An open file, what is to be done to it, and where the result goes. `notes` are what the output, too, contradicts itself in; `others` are files
    that must stay, should one of them be at `output`.
    """

    source: str
    output: str
    destination: Destination
    recipe: Recipe
    examination: Examination
    planned: Planned
    notes: tuple[str, ...] = ()
    others: frozenset[str] = frozenset()

    @property
    def plan(self) -> Plan:
        return self.planned.plan


@contextmanager
def plan_file(
    source: str, output: str, destination: Destination, recipe: Recipe, *, jobs: int = 1, taken: Collection[str] = ()
) -> Iterator[FilePlan]:
    """Open a file, examine it, and plan what the recipe makes of it. It stays open as long as the plan is in use.

    `taken` are files that must stay, such as the other sources and outputs of the same run. Raises GsvError for what is refused, as far as that
    shows without reading any tensor, and OSError of the system. An error that is raised while the plan is in use learns which file it is about.
    """
    with ExitStack() as stack, recipe.open(source) as checkpoint:
        examination = examine(checkpoint)
        refusals.refuse_source(examination, destination)
        planned = recipe.plan(examination, begin(checkpoint), stack, jobs)
        if planned.plan.root is not checkpoint.root and not destination.force:  # a config or a base may have brought names along
            refusals.refuse_code(judge_all(globals_of(planned.plan.root), calls_of(planned.plan.root)))
        plan = replace(planned.plan, window=_window(planned.identity, planned.plan) if planned.complete else None)
        planned = replace(planned, plan=plan)
        output = destination.named(source, output, planned.name, _extension(planned.identity, plan))
        refusals.refuse_name(plan, source, output)
        refusals.refuse_incomplete(examination, planned, destination)
        refusals.refuse_head(planned.identity, plan, destination)
        notes = _lasting_notes(examination, plan.head)
        others = frozenset[str]()
        if os.path.lexists(output):
            named = (*planned.consulted, *(one.path for one in plan.sources), *taken)
            others = frozenset(path for path in named if not _is_same(path, source))
        yield FilePlan(source, output, destination, recipe, examination, planned, notes, others)


def rehearse(file_plan: FilePlan, engine: Engine) -> Rewritten:
    """Do everything but the writing. A dry run also says what a real one would stop at. Raises as `write` does."""
    plan, approve = file_plan.plan, partial(_approve, file_plan)
    if _may_be_needless(file_plan) and not plan.changes:
        return _sum_up_nothing(file_plan, None, rehearsed=True)
    if plan.shard_size is not None:
        written = write_sharded.rehearse(engine, plan, plan.shard_size, approve=approve)
    else:
        written = engine.rehearse(plan, approve=approve)
    file_plan.recipe.accept(written)
    return _sum_up(file_plan, written, rehearsed=True)


def write(file_plan: FilePlan, engine: Engine) -> Rewritten:
    """Write the output. Raises GsvError, or OSError of the system; then nothing was written and the source is as it was."""
    plan, output, destination = file_plan.plan, file_plan.output, file_plan.destination
    if _may_be_needless(file_plan) and not plan.changes:
        return _sum_up_nothing(file_plan, None, rehearsed=False)
    approve, recipe = partial(_approve, file_plan), file_plan.recipe

    def accept(written: Written) -> bool:
        recipe.accept(written)
        return not _is_needless(file_plan, written)

    with destination.prepared(file_plan.source, output, file_plan.others, folder=plan.shard_size is not None):
        if plan.shard_size is not None:
            written = write_sharded.write(engine, plan, output, plan.shard_size, approve=approve, accept=recipe.accept)
        else:
            overwrite = destination.in_place or destination.force
            written = engine.write(plan, output, overwrite=overwrite, approve=approve, accept=accept)
    return _sum_up(file_plan, written, rehearsed=False)


def _approve(file_plan: FilePlan, layout: Layout) -> None:
    refusals.refuse_layout(file_plan.examination, file_plan.planned, layout, file_plan.destination)


def _may_be_needless(file_plan: FilePlan) -> bool:
    """Whether an output that would be its source is not written: with -o, an output is always written."""
    return file_plan.destination.output is None


def _is_needless(file_plan: FilePlan, written: Written) -> bool:
    return _may_be_needless(file_plan) and not _changes(written.plan)


def _changes(plan: Plan) -> bool:
    """Whether there is anything to change. A planned cast is none when all its storages overflowed and kept their dtype."""
    return bool(plan.casts) or any(change.step != "cast" for change in plan.changes)


def _sum_up(file_plan: FilePlan, written: Written, *, rehearsed: bool) -> Rewritten:
    if _is_needless(file_plan, written):
        return _sum_up_nothing(file_plan, written, rehearsed=rehearsed)
    examination, planned, destination = file_plan.examination, file_plan.planned, file_plan.destination
    size = written.layout.size
    detected = refusals.foresee(planned, written.layout)
    warnings = [*file_plan.notes, *planned.warnings]
    warnings += upstream.warnings(planned.identity, detected, kinds.symbol_rows(split_sections(planned.plan.root).tensors))
    if destination.dry_run:
        in_folder = planned.plan.shard_size is not None
        obstacle = destination.obstacle(file_plan.source, file_plan.output, file_plan.others, folder=in_folder)
        warnings += [f"{obstacle.why}, so a real run would stop here ({obstacle.hint})"] if obstacle is not None else []
    misread = refusals.foresee_base(planned, size)
    warnings += [misread] if misread is not None else []
    if planned.plan.container == "torch-zip" and size > examination.checkpoint.source.size:
        from gsvckpt.sovits.runtimes import outgrown  # few outputs grow

        told = outgrown(planned.identity.kind, planned.identity.version, examination.checkpoint.source.size, size)
        warnings += [told] if told is not None else []
    return Rewritten(
        source=file_plan.source,
        output=file_plan.output,
        changed=_changes(written.plan),
        rehearsed=rehearsed,
        keeps_all=planned.keeps_all,
        bytes_before=examination.checkpoint.source.size,
        bytes_after=size,
        upstream_before=examination.upstream,
        upstream_after=detected,
        warnings=tuple(warnings),
        details=file_plan.recipe.details(examination, planned, written),
        overflowed=len(written.overflowed),
        notes=(*destination.notes(file_plan.source, file_plan.output, planned.listed_in), *_notes_of_lightning(planned.plan, file_plan.output)),
    )


def _notes_of_lightning(plan: Plan, output: str) -> tuple[str, ...]:
    """What is to be done before today's Lightning resumes from an output. It was so of the source as well."""
    root = plan.root
    if plan.container != "torch-zip" or not (isinstance(root, dict) and "pytorch-lightning_version" in root):
        return ()
    from gsvckpt.sovits.lightning import path_classes  # SoVITS needs none of it

    if not path_classes(root):
        return ()
    command = f"gsvckpt migrate {quote_word(output)} --plain --in-place"
    return (f"pytorch-lightning 2.6 and newer, with torch 2.6 and newer, resumes from it only after: {command}",)


def _sum_up_nothing(file_plan: FilePlan, written: Written | None, *, rehearsed: bool) -> Rewritten:
    """The result where there is nothing to change, as the plan says or as it turned out when tensors were to be cast."""
    examination, planned = file_plan.examination, file_plan.planned
    size = examination.checkpoint.source.size
    return Rewritten(
        source=file_plan.source,
        output=None,
        changed=False,
        rehearsed=rehearsed,
        keeps_all=True,
        bytes_before=size,
        bytes_after=size,
        upstream_before=examination.upstream,
        upstream_after=examination.upstream,
        warnings=(*examination.warnings, *planned.warnings),
        details=file_plan.recipe.details(examination, planned, written),
        overflowed=len(written.overflowed) if written is not None else 0,
    )


def _lasting_notes(examination: Examination, head: str) -> tuple[str, ...]:
    """What the source contradicts itself in, without what was said of a head that the output does not have."""
    checkpoint, notes = examination.checkpoint, examination.identity.notes
    if not notes or head == checkpoint.container.head:
        return notes
    mended = replace(checkpoint, container=replace(checkpoint.container, head=head))
    after = kinds.identify(mended, checkpoint.source.path, read_head(checkpoint.source)).notes
    return tuple(note for note in notes if note in after)


def _extension(identity: Identity, plan: Plan) -> str | None:
    """The extension of an output in another container; None where the source's own will do."""
    before = plan.checkpoint.container.format if not plan.checkpoint.container.shards else "shards"
    if plan.shard_size is not None:
        return ""
    if plan.container == "safetensors":
        return ".safetensors" if before != "safetensors" else None
    return (".ckpt" if identity.family == "gpt" else ".pth") if before in ("safetensors", "shards") else None


def _is_same(path: str, source: str) -> bool:
    if is_url(path) or is_url(source):
        return path == source
    return os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source)


def _window(identity: Identity, plan: Plan) -> tuple[int, int] | None:
    """The sizes within which GPT-SoVITS reads a PK file's version from its size."""
    detected = upstream.applies(identity.kind) and plan.container == "torch-zip" and plan.head == "PK"
    return upstream.size_window(identity.version, base=identity.kind == "sovits-generator-base") if detected else None
