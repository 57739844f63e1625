"""Learn everything about a checkpoint that needs no tensor bytes: what it is, whether it is safe, and what GPT-SoVITS will take it for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from gsvckpt.errors import DamagedError
from gsvckpt.files.paths import folder_of
from gsvckpt.formats.pickle.safety import Safety, judge_checkpoint
from gsvckpt.formats.sniff import read_head
from gsvckpt.hints import quote_word
from gsvckpt.model import Checkpoint, Distant, Source, Tensor, format_path
from gsvckpt.sovits import kinds, official, upstream
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.official import Match
from gsvckpt.sovits.sections import Role, Sections, split_sections, state_recipes, state_tensors
from gsvckpt.sovits.upstream import Detection, UpstreamError

if TYPE_CHECKING:
    from gsvckpt.formats.pickle.special_tensors import SpecialTensor

_FOREIGN = "GPT-SoVITS reads no safetensors files; gsvckpt migrate --to torch makes one that it reads"


class Examination(NamedTuple):
    """`roles` are those of the root entries; `state` is the model's state dict, `weights` that and others such as EMA copies by root key.

    `special` are the model's other tensors, which are kept as recipes: quantized, sparse and the like.
    `rows` are the state's phoneme rows, by which GPT-SoVITS corrects v1 and v2; `upstream` is what it says before that.
    """

    checkpoint: Checkpoint
    identity: Identity
    safety: Safety
    roles: Mapping[object, Role]
    state: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    rows: int | None
    upstream: Detection | UpstreamError | None
    official: Match | None
    special: Mapping[str, SpecialTensor]
    warnings: tuple[str, ...] = ()

    @property
    def is_lora(self) -> bool:
        return self.identity.kind == "sovits-lora"


def examine(checkpoint: Checkpoint, sections: Sections | None = None) -> Examination:
    """Examine an opened checkpoint. Reads its first 8 KiB, and the whole file only when its size is exactly that of an official one.

    `sections` are those of its root, where the caller knows them already.
    """
    source = checkpoint.source
    head = read_head(source)
    sections = sections or split_sections(checkpoint.root)
    identity = kinds.identify(checkpoint, source.path, head, sections)
    rows = kinds.symbol_rows(sections.tensors)
    opened = upstream.applies(identity.kind)
    foreign = opened and checkpoint.container.format == "safetensors"
    detected = upstream.detect(head, source.size) if opened and not foreign else None
    warnings = (*identity.notes, *upstream.warnings(identity, detected, rows), *([_FOREIGN] if foreign else []))
    if checkpoint.container.stale:
        told = f"another program changed it after gsvckpt wrote it ({checkpoint.container.stale}), so it is read as it is now: a dict of tensors"
        warnings = (told, *warnings)
    if is_zero_part(checkpoint.root):
        folder = quote_word(folder_of(source.path) or os.curdir)
        warnings = (f"is one part of a DeepSpeed ZeRO checkpoint; its own script gathers the weights: python zero_to_fp32.py {folder} OUT", *warnings)
    if checkpoint.container.refused:
        warnings = (f"torch.load refuses it: {checkpoint.container.refused}; gsvckpt migrate writes a file that it opens", *warnings)
    weights = _all_weights(checkpoint.root, sections)
    recipes = state_recipes(checkpoint.root, sections.path)
    special: Mapping[str, SpecialTensor] = {}
    if recipes:
        from gsvckpt.formats.pickle.special_tensors import special_tensors  # few files have any

        special = special_tensors(recipes)
    safety = judge_checkpoint(checkpoint)
    return Examination(
        checkpoint, identity, safety, sections.roles, sections.tensors, weights, rows, detected, match_official(source), special, warnings
    )


def is_zero_part(root: object) -> bool:
    """Whether DeepSpeed wrote a file as one of several: the model's states, or the optimizer's of one rank (deepspeed/runtime/engine.py)."""
    if not isinstance(root, dict) or "ds_version" not in root:
        return False
    inner = root.get("optimizer_state_dict")
    return "param_shapes" in root or (isinstance(inner, dict) and "zero_stage" in inner)


def match_official(source: Source, *, thorough: bool = False) -> Match | None:
    """The official file that this is, or None.

    Its SHA-256 is computed only where the size is exactly that of an official file; `thorough` computes it always, as not all sizes are known. For
    the structure alone it never is, as a whole file would have to come from another machine.
    """
    match = official.lookup(source.size, official.digest_header(read_head(source)))
    if match is not None or (isinstance(source, Distant) and source.structure_only) or not (thorough or official.candidates(source.size)):
        return match
    import hashlib

    from gsvckpt.files.streams import read_chunks

    digest = hashlib.sha256()
    for _, chunk in read_chunks(source):
        digest.update(chunk)
    return official.lookup_sha256(digest.hexdigest())


class Closed(NamedTuple):
    """A closed source: only its path and facts remain."""

    path: str
    size: int

    def read_into(self, offset: int, _: memoryview) -> None:
        raise DamagedError(f"is closed, so byte {offset:,} can no longer be read", path=self.path)


def _all_weights(root: object, sections: Sections) -> dict[str, Tensor]:
    found = dict(sections.tensors)
    if sections.path:
        for key, role in sections.roles.items():
            if role == "weights" and key != sections.path[0]:
                found |= {format_path((key, name)): tensor for name, tensor in state_tensors(root, (key,)).items()}
    return found
