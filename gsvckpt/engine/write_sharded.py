"""Write one checkpoint as several files with an index, in a folder that appears in one step."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from gsvckpt.engine.open import read
from gsvckpt.engine.read_back import difference
from gsvckpt.engine.write import Approve, Engine, Written
from gsvckpt.errors import OutputError, UsageError
from gsvckpt.files.budget import MOST_SHARDS
from gsvckpt.files.local import LocalSource
from gsvckpt.files.publish import publish_bytes
from gsvckpt.files.publish_folder import publish_folder
from gsvckpt.files.streams import check_unchanged
from gsvckpt.formats.layout import Layout
from gsvckpt.formats.safetensors import Shard, lay_out_shards
from gsvckpt.formats.shards import read as read_shards
from gsvckpt.model import Checkpoint, Source
from gsvckpt.sovits.sections import find_state_path
from gsvckpt.transforms.plan import Plan

INDEX = "model.safetensors.index.json"


def rehearse(engine: Engine, plan: Plan, limit: int, *, approve: Approve) -> Written:
    """Carry out everything but the writing. The layout of the result has the size of all files together."""
    rehearsed = engine.rehearse(plan, approve=approve)
    return rehearsed._replace(layout=_total(*_lay_out(rehearsed.plan, limit)))


def write(engine: Engine, plan: Plan, folder: str, limit: int, *, approve: Approve, accept: Callable[[Written], None]) -> Written:
    """Write the files of `plan` into `folder`, which must not be there yet, reading everything back first. Raises as `Engine.write` does."""
    rehearsed = rehearse(engine, plan, limit, approve=approve)
    accept(rehearsed)
    plan = replace(rehearsed.plan, clamp=plan.clamp)
    shards, index = _lay_out(plan, limit)

    def fill(temp: str) -> None:
        for shard in shards:
            engine.write_part(plan, shard.layout, os.path.join(temp, shard.name))
        publish_bytes(os.path.join(temp, INDEX), index, overwrite=False)
        with ExitStack() as stack:
            written = read_shards(os.path.join(temp, INDEX), _read_closing, stack)
            place = difference(plan, written.root, {})
            if place is not None:
                raise OutputError(f"the output does not read back as it was written: {place}", path=folder, hint="the disk may be failing")

    publish_folder(folder, rehearsed.layout.size, fill, settle=lambda: check_unchanged(plan.sources))
    return rehearsed


def _read_closing(source: Source) -> Checkpoint:
    """A shard whose tree is compared. Its bytes were read back when it was written, so no file stays open, however many there are."""
    try:
        return read(source)
    finally:
        if isinstance(source, LocalSource):
            source.close()


def _lay_out(plan: Plan, limit: int) -> tuple[tuple[Shard, ...], bytes]:
    shards, index = lay_out_shards(plan.root, plan.dtype_of, plan.metadata, plan.head, find_state_path(plan.root), plan.views, limit)
    if len(shards) > MOST_SHARDS:
        raise UsageError(f"{limit:,} bytes a file would make {len(shards):,} files", where="--max-shard-size", hint="name a larger size")
    return shards, index


def _total(shards: tuple[Shard, ...], index: bytes) -> Layout:
    return Layout(sum(shard.layout.size for shard in shards) + len(index), (), (), lambda _: ())
