"""Other checkpoints that a migration needs: the base of a LoRA, and the reference of --like."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NamedTuple

from gsvckpt.engine.examine import Examination, examine, match_official
from gsvckpt.engine.open import blame, open_checkpoint
from gsvckpt.errors import RefusedError, UsageError, did_you_mean
from gsvckpt.files.paths import is_url
from gsvckpt.model import Tensor
from gsvckpt.sovits import layouts, official
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.versions import VERSIONS
from gsvckpt.transforms.state_dict import match

Shapes = Mapping[str, tuple[int, ...]]


class Reference(NamedTuple):
    """What a state dict is compared with: a checkpoint's tensors, or only the shapes of a named layout."""

    name: str
    shapes: Shapes
    tensors: Mapping[str, Tensor]
    identity: Identity | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that it may be of; a layout of a generator or LoRA is of the version in its name."""
        if self.identity is not None:
            return self.identity.versions
        return tuple(part for part in self.name.split("-") if part in VERSIONS and self.name.startswith(("sovits-", "lora-")))


def open_examined(path: str, stack: ExitStack) -> Examination:
    """Open a checkpoint, also one that another program compressed, until the stack closes it."""
    checkpoint = stack.enter_context(open_checkpoint(path, inflate=True))
    with blame(path):
        return examine(checkpoint)


def open_reference(name: str, identity: Identity, stack: ExitStack) -> Reference:
    """The checkpoint of that path, or the layout of that name: `v2` means that of the source's own kind.

    Raises UsageError for what is neither, and what opening raises.
    """
    if is_url(name) or os.path.exists(name):
        found = open_examined(name, stack)
        return Reference(name, {key: tensor.shape for key, tensor in found.state.items()}, found.state, found.identity)
    rank = identity.lora_rank or 32
    if name in layouts.names():
        return Reference(name, {key: shape for key, (_, shape) in layouts.layout(name, rank).items()}, {})
    suited = layouts.suitable(identity.kind, name, lora=identity.lora_rank is not None) if name in VERSIONS else ()
    if not suited:
        known = f"layouts: {', '.join(VERSIONS)}, {', '.join(layouts.names()[:4])}, ..."
        hint = did_you_mean(name, [*VERSIONS, *layouts.names()], known, most=3)
        raise UsageError(f"{name} is neither a file nor a layout for a {identity.kind}", where="--like", hint=hint)
    return Reference(suited[0], {key: shape for key, (_, shape) in layouts.layout(suited[0], rank).items()}, {})


def check_base(base: Examination, lora: Identity) -> tuple[str, ...]:
    """Raise RefusedError where a checkpoint cannot be the base of this LoRA. Returns warnings: a base that is not the file it is called."""
    path = base.checkpoint.source.path
    expected = layouts.layout("sovits-v3")
    difference = layouts.compare(base.state, expected)
    if difference.missing or difference.wrong_shape:
        first = next(iter(difference.missing), None) or difference.wrong_shape[0][0]
        raise RefusedError(
            f"is not a base of v3 or v4: {difference.count:,} tensors differ from their layout, the first {first}",
            path=path,
            where="--merge-lora",
            hint="GPT-SoVITS merges into pretrained_models/s2Gv3.pth or gsv-v4-pretrained/s2Gv4.pth",
        )
    if None not in (lora.version, base.identity.version) and lora.version != base.identity.version:
        raise RefusedError(f"is a base of {base.identity.version}, but the LoRA is of {lora.version}", path=path, where="--merge-lora")
    if official.named(path) and match_official(base.checkpoint.source, thorough=True) is None:
        return (f"{path} has the name of an official file, but is not that file (its SHA-256 differs)",)
    if base.identity.version is None:
        return (f"{path} does not tell whether it is a base of v3 or v4, which have the same tensors",)
    return ()


def check_family(reference: Reference, identity: Identity, tensors: Mapping[str, Tensor]) -> None:
    """Raise RefusedError where a state dict and what it is to be like are of different families."""
    other = reference.identity.family if reference.identity is not None else identity.family
    matching = match(tensors, reference.shapes)
    if matching and None in (other, identity.family):
        return
    if not matching or other != identity.family:
        first = next((name for name in tensors if name not in matching), "")
        raise RefusedError(
            f"{reference.name} is of another family: {len(matching):,} of {len(tensors):,} tensors match, the first that does not is {first}",
            where="--like",
        )


def check_version(reference: Reference, identity: Identity, count: int) -> None:
    """Raise RefusedError where a model would be completed with `count` tensors of another version: each loads, and together they are no voice."""
    family = reference.identity.family if reference.identity is not None else "sovits-generator"
    other = reference.versions if family == identity.family else ()
    if other and identity.versions and not set(other) & set(identity.versions):
        ours, theirs = (" or ".join(versions) for versions in (identity.versions, other))
        both = {*other, *identity.versions}
        alike = both <= {"v1", "v2"} or both <= {"v3", "v4"}  # the first two differ in two tensors, the others in none
        raise RefusedError(
            f"is {ours}, but {reference.name} is {theirs}{'' if alike else ', another network, and no conversion exists'}: {count:,} of its tensors"
            " would be mixed into this file",
            where="--fill",
            hint=f"--like FILE of {ours} fills it; for {theirs}, train again with the same recordings; --force mixes them",
        )
