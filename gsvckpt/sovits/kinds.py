"""Tell the kind of a checkpoint: from its tensors first, then from what is stored beside them. GPT-SoVITS's own, weaker rules are in upstream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from gsvckpt.model import Checkpoint, Path, Tensor
from gsvckpt.sovits import names, versions
from gsvckpt.sovits.config import find_config
from gsvckpt.sovits.official import OFFICIAL, OfficialFile, digest_header, lookup
from gsvckpt.sovits.sections import Role, Sections, is_optimizer_state, split_sections
from gsvckpt.sovits.training_progress import TrainingProgress, read_progress
from gsvckpt.sovits.versions import Clues, Family, Version

Kind = Literal[
    "gpt-weights",
    "gpt-training",
    "sovits-weights",
    "sovits-lora",
    "sovits-generator-training",
    "sovits-discriminator-training",
    "sovits-generator-base",
    "sovits-discriminator-base",
    "vocoder",
    "speaker-encoder",
    "training",
    "state-dict",
    "torchscript",
    "unknown",
]

# Lightning's own root entries; what a stripped training file still has of them tells it from a bare {"state_dict": ...}
_LIGHTNING = ("pytorch-lightning_version", "optimizer_states", "lr_schedulers", "loops", "callbacks", "hyper_parameters")
_S2_TRAINING = ("iteration", "optimizer", "learning_rate")  # beside `model` (utils.py:75-90)
_TRAINING_ROLES = ("optimizer", "scheduler", "scaler", "loop", "callback")


class Identity(NamedTuple):
    """What a checkpoint is.

    `version` is None where nothing decides; `versions` then holds those that remain (empty: no idea). A GPT file is v1 or v2, and v2 stands for
    all later ones. `lora_rank` is None for anything but a LoRA. `notes` are contradictions inside the file or with its name.
    """

    kind: Kind
    family: Family | None = None
    version: Version | None = None
    version_evidence: tuple[str, ...] = ()
    state_path: Path | None = None
    lora_rank: int | None = None
    progress: TrainingProgress = TrainingProgress()
    versions: tuple[Version, ...] = ()
    notes: tuple[str, ...] = ()


def identify(checkpoint: Checkpoint, name: str, first8k: bytes, sections: Sections | None = None) -> Identity:
    """Identify a checkpoint. `name` is its path or file name, `first8k` its first 8,192 bytes. Any tree has an answer; nothing is raised.

    `sections` are those of its root, where the caller has divided it already.
    """
    root = checkpoint.root
    known, path, tensors = sections or split_sections(root)
    head = checkpoint.container.head or ""
    clues = Clues(tensors, root, find_config(root), name, head, _official(checkpoint, first8k))
    family = versions.family_of(tensors)
    found = versions.find_version(family, clues)
    progress = read_progress(root, name, checkpoint.container.metadata)
    rank, notes = _rank(clues)
    kind = _kind(clues, known, path, family, found.versions)
    return Identity(kind, family, found.version, found.evidence, path, rank, progress, found.versions, (*progress.notes, *found.notes, *notes))


def symbol_rows(tensors: Mapping[str, Tensor]) -> int | None:
    """Rows of `enc_p.text_embedding.weight`, the number that upstream's callers look at; None where a state dict has no such table."""
    return versions.dimension(tensors, "enc_p.text_embedding.weight", 0)


def _official(checkpoint: Checkpoint, first8k: bytes) -> OfficialFile | None:
    match = lookup(checkpoint.source.size, digest_header(first8k))
    return match.file if match else None


def _kind(clues: Clues, known: Mapping[object, Role], path: Path | None, family: Family | None, possible: tuple[Version, ...]) -> Kind:
    entries = clues.root if isinstance(clues.root, dict) else {}
    place = path[0] if path else None
    if family == "gpt":
        if place == "weight":
            return "gpt-weights"
        if place == "state_dict" and any(key in entries for key in _LIGHTNING):
            return "gpt-training"
    if family in ("sovits-generator", "sovits-discriminator"):
        is_generator = family == "sovits-generator"
        if place == "model" and any(key in entries for key in _S2_TRAINING):
            return "sovits-generator-training" if is_generator else "sovits-discriminator-training"
        if place == "weight":
            return _small_kind(clues, possible) if is_generator else "sovits-discriminator-base"
    trained = is_optimizer_state(clues.root) or any(what in _TRAINING_ROLES for what in known.values())
    if trained or "pytorch-lightning_version" in entries:
        return "training"
    if family in ("vocoder", "speaker-encoder") and path in ((), ("generator",)):
        return "vocoder" if family == "vocoder" else "speaker-encoder"
    return "state-dict" if clues.tensors else "unknown"


def _small_kind(clues: Clues, possible: tuple[Version, ...]) -> Kind:
    """An S2 {weight, ...} file: a LoRA, a base to train from, or weights for inference."""
    if any("lora_A" in key for key in clues.tensors):
        return "sovits-lora"
    if any("enc_q" in key for key in clues.tensors):  # what upstream saves for inference never has it (process_ckpt.py:45-48)
        return "sovits-generator-base"
    if not any(version in ("v3", "v4") for version in possible):
        return "sovits-weights"
    # v3 and v4 have no enc_q, so base and fine-tune hold the same tensors: only a fine-tune tells how long it was trained.
    info = clues.info or ""
    if versions.counts_epochs(info):
        return "sovits-weights"
    if clues.official is not None or info.startswith("pretrained") or clues.config is None:
        return "sovits-generator-base"
    return "sovits-generator-base" if names.basename(clues.path) in {file.basename for file in OFFICIAL} else "sovits-weights"


def _rank(clues: Clues) -> tuple[int | None, tuple[str, ...]]:
    """The LoRA rank by the rows of its matrices, and what says otherwise."""
    rank = next((t.shape[0] for key, t in clues.tensors.items() if "lora_A" in key and len(t.shape) == 2), None)
    if rank is None:
        return None, ()
    stated = clues.root.get("lora_rank") if isinstance(clues.root, dict) else None
    named, folder = names.parse(clues.path).rank, names.folder_rank(clues.path)
    claims = (("lora_rank", stated if type(stated) is int else None), ("the name", named), ("the folder", folder))
    return rank, tuple(f"{who} says LoRA rank {told}, but the matrices have {rank} rows" for who, told in claims if told not in (None, rank))


KINDS: Mapping[str, str] = {
    "gpt-weights": "GPT weights",
    "gpt-training": "GPT training",
    "sovits-weights": "SoVITS weights",
    "sovits-lora": "SoVITS LoRA",
    "sovits-generator-training": "SoVITS G training",
    "sovits-discriminator-training": "SoVITS D training",
    "sovits-generator-base": "SoVITS G base",
    "sovits-discriminator-base": "SoVITS D base",
    "vocoder": "vocoder",
    "speaker-encoder": "speaker encoder",
    "training": "training checkpoint",
    "state-dict": "state dict",
    "torchscript": "TorchScript",
    "unknown": "unknown",
}
