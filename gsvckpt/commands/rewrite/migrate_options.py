"""The options of migrate, which of them contradict each other, and the steps that they select."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from gsvckpt.commands.rewrite.destination import SALVAGED, Destination
from gsvckpt.commands.rewrite.migrate import Migrate, Steps
from gsvckpt.dtypes import DTYPES
from gsvckpt.engine.resources import Resources
from gsvckpt.engine.write import OnOverflow
from gsvckpt.errors import UsageError
from gsvckpt.formats.heads import HEADS
from gsvckpt.transforms.rules import read_rules
from gsvckpt.units import parse_size

MigrateDType = Literal["float32", "float16", "bfloat16"]
ContainerName = Literal["torch", "safetensors"]

_HEADS = ("auto", *HEADS)


class MigrateOptions(NamedTuple):
    """The options as they were written."""

    salvage: bool
    to_inference: bool
    config: str | None
    step: int | None
    merge_lora: str | None
    over_base: bool
    rules: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    like: str | None
    fill: bool
    plain: bool
    scrub_paths: bool
    dtype: MigrateDType | None
    on_overflow: OnOverflow
    to: ContainerName | None
    head: str
    max_shard_size: str | None
    compact: bool = False

    def destination(self, output: str | None, in_place: bool, force: bool, dry_run: bool, check: bool) -> Destination:
        """Where outputs go: the name says where a file may not be whole."""
        return Destination(SALVAGED if self.salvage else "migrated", output, in_place, force, dry_run, check)

    def recipe(self, destination: Destination, resources: Resources) -> Migrate:
        """The steps, with paths as another machine would know them. Raises UsageError for options that exclude each other, and for their values."""
        self._refuse_contradictions(destination)
        steps = Steps(
            self.salvage,
            self.to_inference,
            resources.locate(self.config) if self.config is not None else None,
            self.step,
            resources.locate(self.merge_lora) if self.merge_lora is not None else None,
            self.over_base,
            tuple(rule for name in self.rules for rule in read_rules(name)),
            self.include,
            self.exclude,
            resources.locate(self.like) if self.like is not None and os.path.exists(self.like) else self.like,  # else a layout's name
            self.fill,
            self.plain,
            self.scrub_paths,
            DTYPES[self.dtype] if self.dtype is not None else None,
            self.on_overflow == "clamp",
            self.to,
            self.head,
            parse_size(self.max_shard_size, "--max-shard-size") if self.max_shard_size is not None else None,
            self.compact,
            destination.force,
        )
        return Migrate(steps, self.on_overflow)

    def _refuse_contradictions(self, destination: Destination) -> None:
        if self.head not in _HEADS:
            raise UsageError(f"{self.head[:20]!r} is not a head", where="--head", hint=f"one of {', '.join(_HEADS)}")
        if destination.in_place and self.salvage:
            raise UsageError("salvaged tensors must not replace the damaged file", where="--in-place", hint="-o PATH")
        if destination.in_place and (self.to_inference or self.merge_lora or self.to or self.max_shard_size):
            raise UsageError("--in-place cannot make another kind of file", hint="-o PATH; the source stays")
        if self.fill and self.like is None:
            raise UsageError("takes tensors from the checkpoint of --like", where="--fill", hint="--like FILE --fill")
        beside = (
            *(self.rules, self.include, self.exclude, self.like, self.plain, self.scrub_paths, self.dtype, self.to, self.max_shard_size),
            self.compact,
        )
        if self.over_base and (self.merge_lora is None or any(beside) or self.head != "auto"):
            raise UsageError("changes only tensor data, so it can only be combined with --merge-lora", where="--over-base")
        for option, value in (("--config", self.config), ("--step", self.step)):
            if value is not None and not (self.to_inference or self.merge_lora):
                raise UsageError("can only be used with --to-inference, --merge-lora or --bundle", where=option)


def refuse_beside_bundle(asked: MigrateOptions, destination: Destination) -> None:
    """Raise UsageError for what cannot be meant together with --bundle."""
    others: dict[str, object] = {f"--{name.replace('_', '-')}": value for name, value in asked._asdict().items() if name not in ("config", "step")}
    others |= {"--on-overflow": asked.on_overflow != "keep", "--head": asked.head != "auto"}
    others |= {"--output": destination.output, "--in-place": destination.in_place, "--check": destination.check}
    beside = next((option for option, value in others.items() if value not in (None, False, ())), None)
    if beside is not None:
        raise UsageError("cannot be combined with --bundle, which copies files as they are", where=beside)
