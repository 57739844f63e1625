"""What GPT-SoVITS's own save functions write as small weights, and how they name the file (process_ckpt.py:41-60, s1_train.py:62-81)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from gsvckpt.errors import RefusedError, UsageError
from gsvckpt.model import Tensor
from gsvckpt.sovits import layouts, names
from gsvckpt.sovits.config import fields, lookup
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.requirements import missing_fields, wrong_sizes
from gsvckpt.sovits.upstream import head_for

_LONGEST = 200  # bytes of an experiment's name, which leave room for epoch, step, rank and extension in that of a file; a letter has up to four
_ADDED = ("pretrain", "resume_step")  # what upstream's argument parser hangs on a config.json (utils.py:213-232)


class SmallFile(NamedTuple):
    """The parts of a small file: which of a training file's tensors, what `info` says, the first two bytes, upstream's name for it."""

    tensors: Mapping[str, Tensor]
    info: str
    name: str
    version: str | None
    rank: int | None = None
    ordered: bool = False
    head: str = "PK"


def extract_gpt(identity: Identity, state: Mapping[str, Tensor], config: object, path: str) -> SmallFile:
    """What `my_model_ckpt` saves beside a training file. Raises RefusedError where the file does not tell its epoch."""
    epoch = identity.progress.epoch
    if epoch is None:
        raise RefusedError("does not state its epoch, which small weights need", where="epoch")
    experiment = _experiment(lookup(config, "train", "exp_name"), path)
    return SmallFile(state, f"GPT-e{epoch}", f"{experiment}-e{epoch}.ckpt", identity.version, ordered=True)


def extract_sovits(identity: Identity, state: Mapping[str, Tensor], config: Mapping[str, object], path: str, step: int) -> SmallFile:
    """What `savee` saves beside a `G_*.pth`: without enc_q, or of a LoRA what was trained and its buffers. Raises RefusedError.

    `config` was found to fit the tensors.
    """
    epoch, rank = identity.progress.epoch, identity.lora_rank
    if epoch is None:
        raise RefusedError("does not state its epoch, which small weights need", where="iteration")
    version = identity.version or version_of(config)
    if version is None:
        raise RefusedError("neither the file nor its config says whether it is v3 or v4", where="config", hint="--config FILE, with a version in it")
    experiment = _experiment(config.get("name"), path)
    base = f"{experiment}_e{epoch}_s{step}"
    info = f"{epoch}epoch_{step}iteration"
    if rank is None:
        tensors = {name: tensor for name, tensor in state.items() if "enc_q" not in name}
        return SmallFile(tensors, info, f"{base}.pth", version, head=head_for(version, lora=False))
    wanted = layouts.layout(f"lora-{version}", rank)
    missing = [name for name in wanted if name not in state]
    if missing:
        raise RefusedError(f"lacks {len(missing):,} of the {len(wanted):,} tensors of a LoRA file", where=missing[0])
    return SmallFile(
        {name: tensor for name, tensor in state.items() if name in wanted},
        info,
        f"{base}_l{rank}.pth",
        version,
        rank,
        head=head_for(version, lora=True),
    )


def check_config(config: Mapping[str, object], identity: Identity, state: Mapping[str, Tensor], where: str) -> None:
    """Raise RefusedError, with the first contradiction, where an experiment's config belongs to another version than the tensors.

    `logs/<exp>/config.json` is that of the last SoVITS run of the experiment, of whatever version (utils.py:213-232).
    """
    told = version_of(config)
    if identity.version is not None and told is not None and told.lower() != identity.version.lower():
        raise RefusedError(f"it is for {told}, but the tensors are {identity.version}", where=where, hint="--config FILE names the right one")
    facts = (
        ("model.gin_channels", lookup(config, "model", "gin_channels"), _rows(state, "ref_enc.fc.fc.weight")),
        ("model.upsample_initial_channel", lookup(config, "model", "upsample_initial_channel"), _rows(state, "dec.conv_pre.weight")),
    )
    for key, said, found in facts:
        if said is not None and found is not None and said != found:
            raise RefusedError(f"{key} is {said}, but the tensors have {found}", where=where, hint="--config FILE names the right one")
    for section in ("train", "data", "model"):
        if not fields(config.get(section)):
            raise UsageError(f"has no section {section!r}, so it is not the config of a SoVITS run", where=where)
    missing = missing_fields("sovits-weights", config)
    if missing:
        raise RefusedError(
            f"lacks {missing[0]}, which GPT-SoVITS reads ({len(missing):,} fields are missing)", where=where, hint="--config FILE names the right one"
        )
    options = layouts.suitable(identity.kind, identity.version, lora=identity.lora_rank is not None)
    nearest = layouts.closest(state, options, identity.lora_rank or 32)
    if nearest is not None and not nearest[1].wrong_shape:  # sizes of upstream's own models; what is of others nobody knows
        for key, said, has in wrong_sizes("sovits-weights", config, state):
            raise RefusedError(f"{key} is {said!s:.40}, but the tensors have {has}", where=where, hint="--config FILE names the right one")


def completed(config: Mapping[str, object]) -> dict[str, object]:
    """A config.json with what upstream's own save function has beside it."""
    return {**config, **{key: None for key in _ADDED if key not in config}}


def version_of(config: Mapping[str, object]) -> str | None:
    """The version that a config states."""
    told = config.get("version") or lookup(config, "model", "version")
    return told if isinstance(told, str) else None


def experiments_of(config: object, path: str = "") -> set[str]:
    """The names of the experiment that a config and a path tell."""
    told = {lookup(config, "name"), lookup(config, "train", "exp_name"), names.experiment(path)}
    folders = {lookup(config, "data", "exp_dir"), lookup(config, "s2_ckpt_dir")}
    told |= {names.basename(folder) for folder in folders if isinstance(folder, str)}
    return {name for name in told if isinstance(name, str) and name}


def experiments_of_header(metadata: Mapping[str, str], path: str) -> set[str]:
    """The names of the experiment that the header of a safetensors file tells, and its name where that is of upstream's form but for the end."""
    told = experiments_of(dict(metadata))
    with suppress(ValueError, RecursionError):
        told |= experiments_of(json.loads(metadata.get("config", "")))
    stem = os.path.splitext(path)[0]
    return told | {name for end in (".pth", ".ckpt") if (name := names.experiment(stem + end))}


def _experiment(told: object, path: str) -> str:
    """A name that is safe as part of a file's name."""
    name = told if isinstance(told, str) and told else names.experiment(path) or names.basename(path).rpartition(".")[0] or "voice"
    return names.cut("".join("_" if letter in '/\\:*?"<>|' or ord(letter) < 32 else letter for letter in name)[:100], _LONGEST)


def _rows(state: Mapping[str, Tensor], name: str) -> int | None:
    tensor = state.get(name)
    return tensor.shape[0] if tensor is not None and tensor.shape else None
