"""What GPT-SoVITS needs besides tensors: the config fields that its loaders read, and the optimizer groups that its trainers build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gsvckpt.model import Opaque, Tensor
from gsvckpt.sovits.config import fields, lookup
from gsvckpt.sovits.kinds import Kind
from gsvckpt.sovits.versions import dimension

# AR/models/t2s_model.py:263-271 and the readers of `max_sec`; exporters alone ask for `inference.top_k`.
_GPT = {"data": ("max_sec",), "model": ("hidden_dim", "embedding_dim", "head", "n_layer", "vocab_size", "phoneme_vocab_size", "dropout", "EOS")}
# inference_webui.py, TTS.py and api.py; `model` holds the arguments of module/models.py SynthesizerTrn that have no default.
_SOVITS = {
    "data": ("filter_length", "sampling_rate", "hop_length", "win_length", "n_speakers"),
    "train": ("segment_size",),
    "model": (
        *("inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers", "kernel_size", "p_dropout", "resblock"),
        *("resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates", "upsample_initial_channel", "upsample_kernel_sizes", "gin_channels"),
    ),
}
# (config field, tensor, axis): what both say must agree, or loading stops with a size mismatch
_SOVITS_SIZES = (
    ("gin_channels", "ref_enc.fc.fc.weight", 0),
    ("upsample_initial_channel", "dec.conv_pre.weight", 0),
    ("inter_channels", "dec.conv_pre.weight", 1),
)
_GPT_SIZES = (
    ("phoneme_vocab_size", "model.ar_text_embedding.word_embeddings.weight", 0),
    ("embedding_dim", "model.ar_text_embedding.word_embeddings.weight", 1),
    ("vocab_size", "model.ar_audio_embedding.word_embeddings.weight", 0),
)
_SLOW = ("enc_p.text_embedding.", "enc_p.encoder_text.", "enc_p.mrte.")  # groups of their own, in this order (s2_train.py:172-192)
_BUFFERS = "_codebook."  # the quantizer's tensors are no parameters


def has_config(kind: Kind) -> bool:
    """Whether GPT-SoVITS reads a config from files of this kind."""
    return kind in ("gpt-weights", "sovits-weights", "sovits-lora")


def missing_fields(kind: Kind, config: object) -> tuple[str, ...]:
    """Fields that GPT-SoVITS reads from the config of such a file and that are missing; none for kinds whose config GPT-SoVITS does not read."""
    wanted = _GPT if kind == "gpt-weights" else _SOVITS if kind in ("sovits-weights", "sovits-lora") else {}
    if wanted and config is None:
        return ("config",)
    return tuple(f"{section}.{field}" for section, names in wanted.items() for field in names if field not in fields(lookup(config, section)))


def wrong_sizes(kind: Kind, config: object, state: Mapping[str, Tensor]) -> tuple[tuple[str, object, int], ...]:
    """(field, what the config says, what the tensors have) wherever the two differ."""
    sizes = _GPT_SIZES if kind == "gpt-weights" else _SOVITS_SIZES if kind == "sovits-weights" else ()
    compared = [(f"model.{field}", lookup(config, "model", field), dimension(state, name, axis)) for field, name, axis in sizes]
    return tuple((field, said, has) for field, said, has in compared if said is not None and has is not None and said != has)


def needs_plain_dict(kind: Kind, config: object) -> bool:
    """GPT weights whose config is an object: their readers call `config.get`, which only a dict has."""
    return kind == "gpt-weights" and isinstance(config, Opaque)


def optimizer_groups(kind: Kind, version: str | None, state: Mapping[str, Tensor], *, lora: bool) -> tuple[int, ...] | None:
    """How many parameters each group of the optimizer has that GPT-SoVITS builds for this model; None where that is not known."""
    parameters = [name for name in state if _BUFFERS not in name]
    if kind == "sovits-discriminator-training":
        return (len(parameters),)
    if kind != "sovits-generator-training" or lora or version in ("v3", "v4", None):
        return None
    slow = [sum(name.startswith(prefix) for name in parameters) for prefix in _SLOW]
    return (len(parameters) - sum(slow), *slow)


def group_sizes(optimizer: object) -> tuple[int, ...] | None:
    """The same of a saved optimizer; None where it has none (then resuming begins with fresh moments)."""
    if not isinstance(optimizer, dict):
        return None
    groups = optimizer.get("param_groups")
    if not isinstance(groups, Sequence):
        return ()
    return tuple(len(group["params"]) if isinstance(group, dict) and isinstance(group.get("params"), Sequence) else 0 for group in groups)
