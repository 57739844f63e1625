"""Composing a migration: which steps, in which order, and what each needs to know of the tree that the one before left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal, NamedTuple

from gsvckpt.commands.rewrite.extract import Extracted, Request, extract, merge_lora
from gsvckpt.commands.rewrite.references import check_base, check_family, check_version, open_examined, open_reference
from gsvckpt.dtypes import DTYPES, DType
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.salvage import find_lost, is_damaged
from gsvckpt.errors import RefusedError, UsageError
from gsvckpt.files.progress import Progress, Silent
from gsvckpt.formats.pickle.weights_only import tell_refused
from gsvckpt.model import Path, Tensor
from gsvckpt.sovits import kinds, names, small_weights, upstream
from gsvckpt.sovits.config import find_config, path_text, plain, simple_form
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.sections import divide
from gsvckpt.sovits.training_state import training_state
from gsvckpt.transforms.cast import cast, select
from gsvckpt.transforms.plain import simplify
from gsvckpt.transforms.plan import Change, Plan
from gsvckpt.transforms.rules import Rule, apply_rules
from gsvckpt.transforms.salvage import leave_out
from gsvckpt.transforms.scrub import Scrubber, scrub
from gsvckpt.transforms.state_dict import conflicts, keep_tensors, match, put_tensors, rename_tensors

_OWN = "gsvckpt."  # what the writer of safetensors adds and takes away itself
_READABLE = ("format", "config", "info")
_WITHOUT_CHECKSUMS = ("torch-stream", "safetensors")


@dataclass(frozen=True, slots=True)
class Steps:
    """What a migration is asked to do. Nothing of it: the file in today's container, with the head that GPT-SoVITS expects."""

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
    force: bool = False


class Migrated(NamedTuple):
    """A plan, what the file will be, the name that upstream would give it (None: any), and what is worth a warning."""

    plan: Plan
    identity: Identity
    name: str | None
    warnings: tuple[str, ...]
    whole: bool = True
    kept: Mapping[str, Tensor] = MappingProxyType({})  # tensors that should have been cast, had nothing else their bytes
    consulted: tuple[str, ...] = ()  # files that were looked into
    complete: bool = True  # no lost tensor is missing: where one is, neither size nor head makes GPT-SoVITS read it rightly


@dataclass(slots=True)
class Migration:
    """One file's migration. `stack` keeps the checkpoints open that the plan takes bytes from."""

    steps: Steps
    stack: ExitStack
    jobs: int = 1
    progress: Progress = field(default_factory=Silent)
    name: str | None = None
    warnings: list[str] = field(default_factory=list)
    lost: dict[str, Tensor] = field(default_factory=dict)  # tensors of the model, by name
    kept: dict[str, Tensor] = field(default_factory=dict)
    consulted: list[str] = field(default_factory=list)

    def plan(self, examination: Examination, plan: Plan) -> Migrated:
        """Compose all steps, in the order that the documentation states. Raises GsvError before anything is written."""
        identity = examination.identity
        completes = self.steps.salvage and self.steps.to_inference and self.steps.like is not None  # what is lost, before anything is made of it
        order: tuple[tuple[bool, Callable[[Plan, Identity], Plan]], ...] = (
            (self.steps.salvage, self._salvage),
            (completes, self._like),
            (self.steps.to_inference, self._to_inference),
            (self.steps.merge_lora is not None, self._merge_lora),
            (bool(self.steps.rules), self._apply_rules),
            (bool(self.steps.include or self.steps.exclude), self._choose),
            (self.steps.like is not None and not completes, self._like),
            (self.steps.plain, lambda plan, _: simplify(plan, simple_form)),
            (self.steps.scrub_paths, self._scrub),
            (self.steps.dtype is not None, self._cast),
        )
        for wanted, step in order:
            if wanted:
                plan = step(plan, identity)
                identity = self._identify(plan, identity)
        plan = self._set_head(self._contain(plan), identity)
        losses = self._tell_losses(plan)
        missing = [name for name in self._missing(plan) if not (self.steps.to_inference and "enc_q" in name)]
        if missing and self.steps.to_inference:
            raise RefusedError(losses[0], where="--to-inference")
        self.warnings += losses
        if self.steps.plain and plan.container == "torch-zip":
            self.warnings += tell_refused(plan.root)
        named = (self.steps.merge_lora, self.steps.like, self.steps.config)
        consulted = (*(path for path in named if path is not None), *self.consulted)
        name = self.name if not self.lost else None  # what is not the model that was saved gets no name of upstream's
        return Migrated(plan, identity, name, tuple(self.warnings), not self.lost, self.kept, consulted, not missing)

    def _identify(self, plan: Plan, before: Identity) -> Identity:
        """What the planned file will be. A model stays of its version, though the tensors that tell it are among the lost."""
        after = identify_plan(plan, before)
        kept = before.version is not None and self._missing(plan)
        return after._replace(version=before.version, versions=before.versions) if kept else after

    def _missing(self, plan: Plan) -> list[str]:
        """The lost tensors in whose places nothing stands."""
        there = divide(plan.root).tensors if self.lost else {}
        return [name for name in self.lost if name not in there]

    def _salvage(self, plan: Plan, identity: Identity) -> Plan:
        sections = divide(plan.root)
        lost = find_lost(plan.root, self.jobs, self.progress)
        if is_damaged(plan.checkpoint):
            plan = replace(plan, changes=(*plan.changes, Change("salvage", "container", "damaged", "written anew")))
        if not lost:
            return plan
        self.lost = {name: tensor for name, tensor in sections.tensors.items() if tensor.storage in lost}
        usual = training_state(plan.root, identity.kind, known=sections.roles)
        plan = leave_out(plan, sections.path or (), sections.tensors, lost, usual)
        if self.lost:
            self.warnings.append(f"{len(sections.tensors) - len(self.lost):,} of the model's {len(sections.tensors):,} tensors are whole")
            if plan.checkpoint.container.format in _WITHOUT_CHECKSUMS:
                self.warnings.append("such a file has no checksums: where bytes were altered or left out, tensors that are told whole are not")
        return plan

    def _tell_losses(self, plan: Plan) -> list[str]:
        """What became of the lost tensors: they are missing, or another file's stand in their places. Neither is the model that was saved."""
        missing = self._missing(plan)
        filled = len(self.lost) - len(missing)
        said = (
            [f"this file is not whole: {len(missing):,} tensors are lost, the first {missing[0]}; --like FILE --fill completes it"] if missing else []
        )
        return said + ([f"{filled:,} lost tensors are those of {self.steps.like}: this is not the model that was saved"] if filled else [])

    def _to_inference(self, plan: Plan, identity: Identity) -> Plan:
        return self._learn(extract(plan, identity, self._request))

    def _merge_lora(self, plan: Plan, identity: Identity) -> Plan:
        assert self.steps.merge_lora is not None  # noqa: S101 - only then is this step taken; for the type checker
        base = open_examined(self.steps.merge_lora, self.stack)
        self.warnings += check_base(base, identity)
        return self._learn(merge_lora(plan, identity, base, self._request, self.name))

    @property
    def _request(self) -> Request:
        return Request(self.steps.config, self.steps.step, self.steps.clamp, self.steps.over_base)

    def _learn(self, extracted: Extracted) -> Plan:
        self.name = extracted.name
        self.warnings += extracted.warnings
        self.consulted += extracted.consulted
        return extracted.plan

    def _apply_rules(self, plan: Plan, _: Identity) -> Plan:
        path, tensors = _state(plan)
        done = apply_rules(self.steps.rules, tensors)
        for rule, count in done.used:
            if not count:
                self.warnings.append(f"no tensor for the rule {rule}")
        plan = _require_some(keep_tensors(plan, path, lambda name: name not in done.dropped, "rules"), "--rules")
        plan = rename_tensors(plan, path, done.names, "rules")
        tensors = _state(plan)[1]
        for dtype in dict.fromkeys(done.casts.values()):
            chosen = {name: tensors[name] for name, wanted in done.casts.items() if wanted == dtype}
            plan = self._cast_to(plan, chosen, DTYPES[dtype])
        if self.kept:
            self.warnings.append(f"{len(self.kept):,} tensors keep their dtype, as others share their bytes; the first is {next(iter(self.kept))}")
        return plan

    def _choose(self, plan: Plan, _: Identity) -> Plan:
        path, tensors = _state(plan)
        for glob in (*self.steps.include, *self.steps.exclude):
            if not any(fnmatchcase(name, glob) for name in tensors):
                close = get_close_matches(glob, list(tensors), 3)
                raise UsageError(f"no tensor is called {glob}", where="--include/--exclude", hint=f"there are {', '.join(close)}" if close else "")

        def wanted(name: str) -> bool:
            included = not self.steps.include or any(fnmatchcase(name, glob) for glob in self.steps.include)
            return name not in tensors or (included and not any(fnmatchcase(name, glob) for glob in self.steps.exclude))

        return _require_some(keep_tensors(plan, path, wanted, "choose"), "--include/--exclude")

    def _like(self, plan: Plan, identity: Identity) -> Plan:
        assert self.steps.like is not None  # noqa: S101 - only then is this step taken; for the type checker
        path, tensors = _state(plan)
        reference = open_reference(self.steps.like, identity, self.stack)
        check_family(reference, identity, tensors)
        matching = match(tensors, reference.shapes)
        for name, why in conflicts(tensors, reference.shapes):
            self.warnings.append(f"{name}: {why}")
        plan = keep_tensors(plan, path, lambda name: name not in tensors or name in matching, "like")
        missing = [name for name in reference.shapes if name not in matching and (not self.lost or name in self.lost)]  # a voice stays a voice
        if not self.steps.fill:
            if missing:
                self.warnings.append(
                    f"{len(missing):,} tensors of {reference.name} are missing, the first {missing[0]}; --fill takes them from a file"
                )
            return plan
        if missing and not reference.tensors:
            raise UsageError(f"{reference.name} is a layout, which holds no numbers", where="--fill", hint="name a checkpoint with --like FILE")
        if missing and not self.steps.force:
            check_version(reference, identity, len(missing))
        entries = {name: reference.tensors[name] for name in missing}
        return put_tensors(plan, path, entries, *(Change("fill", name, "missing", reference.name, -entries[name].nbytes) for name in missing))

    def _scrub(self, plan: Plan, _: Identity) -> Plan:
        path = plan.checkpoint.source.path
        told = small_weights.experiments_of(find_config(plan.root), path) | small_weights.experiments_of_header(plan.metadata, path)
        scrubber = Scrubber(told)
        called = self.name or names.basename(path)
        if scrubber.file_name(called) != called:
            self.name = scrubber.file_name(called)
        plan = simplify(plan, lambda value: text if (text := path_text(value)) is not None else value)
        return scrub(plan, scrubber, frozenset(divide(plan.root).tensors), lambda key: not key.startswith(_OWN))

    def _cast(self, plan: Plan, _: Identity) -> Plan:
        assert self.steps.dtype is not None  # noqa: S101 - only then is this step taken; for the type checker
        return self._cast_to(plan, _state(plan)[1], self.steps.dtype)

    def _cast_to(self, plan: Plan, tensors: Mapping[str, Tensor], dtype: DType) -> Plan:
        chosen, kept, _ = select(plan.root, tensors, dtype, casts=plan.casts)
        self.kept |= kept
        return cast(plan, chosen, dtype, clamp=self.steps.clamp) if chosen else plan

    def _contain(self, plan: Plan) -> Plan:
        """Today's containers. What was a stream or had compressed records changes by being written."""
        before = plan.checkpoint.container
        wanted = {"torch": "torch-zip", "safetensors": "safetensors", None: plan.container}[self.steps.to]
        if wanted != before.format:
            plan = replace(plan, changes=(*plan.changes, Change("to", "container", before.format, wanted)))
        if before.shards or self.steps.shard_size is not None:
            was = f"{before.shards} files" if before.shards else "one file"
            now = f"files of at most {self.steps.shard_size:,} bytes" if self.steps.shard_size is not None else "one file"
            plan = replace(plan, changes=(*plan.changes, Change("to", "shards", was, now)))
        if before.compressed:
            plan = replace(plan, changes=(*plan.changes, Change("to", f"{before.compressed:,} records", "compressed", "stored")))
        if wanted == "safetensors":
            return replace(plan, container="safetensors", metadata=self._readable(plan), shard_size=self.steps.shard_size)
        if self.steps.shard_size is not None:
            raise UsageError("shards are safetensors files", where="--max-shard-size", hint="--to safetensors")
        lost = [key for key in plan.metadata if key not in _READABLE and not key.startswith(_OWN)]
        changes = [Change("to", "metadata", ", ".join(lost), "dropped: a torch file has no place for it")] if lost else []
        return replace(plan, container="torch-zip", metadata={}, changes=(*plan.changes, *changes))

    def _readable(self, plan: Plan) -> dict[str, str]:
        """What a header tells other programs: where the tensors come from (`pt`, as they expect), and the config and `info` of the model."""
        others = {key: value for key, value in plan.metadata.items() if not key.startswith(_OWN)}
        if plan.checkpoint.container.format == "safetensors" and not any(key.startswith(_OWN) for key in plan.metadata):
            return others
        import json

        config, info = plain(find_config(plan.root)), plan.root.get("info") if isinstance(plan.root, dict) else None
        others = {key: value for key, value in others.items() if key not in _READABLE}
        told = {"format": "pt"} | ({"config": json.dumps(config, ensure_ascii=False)} if config is not None else {})
        return others | told | ({"info": info} if isinstance(info, str) else {})

    def _set_head(self, plan: Plan, identity: Identity) -> Plan:
        if plan.container != "torch-zip":
            if self.steps.head != "auto":
                raise UsageError("only torch's zip has such a head", where="--head")
            return plan
        before = plan.checkpoint.container.head
        head = self.steps.head if self.steps.head != "auto" else _best_head(plan.head, identity)
        if head != (before or "PK"):
            plan = replace(plan, changes=(*plan.changes, Change("head", "first two bytes", before or "none", head)))
        size = plan.checkpoint.source.size
        wanted = upstream.padded_size(identity.version, size, base=identity.kind == "sovits-generator-base")
        if not plan.changes and head == "PK" and upstream.applies(identity.kind) and wanted is not None:
            plan = replace(plan, changes=(Change("size", "file", f"{size:,} bytes", f"{wanted:,} bytes, as GPT-SoVITS expects"),))
        return replace(plan, head=head)


def identify_plan(plan: Plan, before: Identity) -> Identity:
    """What the planned file will be. A version that only the source's head or name told is still known."""
    container = replace(plan.checkpoint.container, format="torch-zip", head=plan.head)
    after = kinds.identify(replace(plan.checkpoint, root=plan.root, container=container), plan.checkpoint.source.path, b"")
    if after.version is None and before.version is not None and before.version in after.versions:
        return after._replace(version=before.version, versions=(before.version,))
    return after


def _best_head(head: str, identity: Identity) -> str:
    """The head that upstream would write. `07` stays: upstream stops at it, while it would take a PK file for v3 and sound wrong."""
    if not upstream.applies(identity.kind):
        return "PK" if identity.kind != "unknown" else head
    if identity.version is None or identity.kind == "sovits-generator-base" or (head == "07" and identity.version == "v4"):
        return head
    return upstream.head_for(identity.version, identity.kind == "sovits-lora")


def _state(plan: Plan) -> tuple[Path, Mapping[str, Tensor]]:
    """The path of the model's state dict, and its tensors by name."""
    sections = divide(plan.root)
    if sections.path is None or not sections.tensors:
        raise RefusedError("holds no model whose tensors could be chosen", where="state dict")
    return sections.path, sections.tensors


def _require_some(plan: Plan, where: str) -> Plan:
    """The plan, if it leaves any tensor of the model."""
    if not divide(plan.root).tensors:
        raise RefusedError("not one tensor of the model would be left", where=where)
    return plan
