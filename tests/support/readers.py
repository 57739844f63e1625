"""GPT-SoVITS's own readers as an oracle: what each of them needs of a file, told from upstream's behaviour and from nothing that gsvckpt decides.

Only the tables of names and shapes are shared. KeyError and RuntimeError stand for what upstream raises; AssertionError for what it passes over
without a word, as it loads with `strict=False`, tells versions by head and size, and begins a training anew when it cannot read the checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import sys
import tempfile
import types
import zipfile
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch

from gsvckpt.sovits.layouts import layout

KIB, MIB = 1024, 1024 * 1024
GPT_TEXT, TEXT = "model.ar_text_embedding.word_embeddings.weight", "enc_p.text_embedding.weight"
A, B = ".lora_A.default.weight", ".lora_B.default.weight"


class Detection(NamedTuple):
    """Whose symbols (v1 or v2), which model, and whether it is a LoRA over a base."""

    symbols: str
    model: str
    is_lora: bool


class Info(NamedTuple):
    detected: Detection
    config: dict
    info: object
    lora_rank: int | None


class HParams:
    """What `utils.HParams` is to the unpickler: an object whose state is its `__dict__` (utils.py, class HParams)."""


HParams.__module__ = "utils"

# process_ckpt.py: the MD5 of the official bases' first 8 KiB. The first is s2G488k.pth, a v1 file: the table is wrong there, the callers mend it
HASHES = {
    "dc3c97e17592963677a4a1681f30c653": Detection("v2", "v2", False),
    "6642b37f3dbb1f76882b69937c95a5f3": Detection("v2", "v2", False),
    "43797be674a37c1c83ee81081941ed0f": Detection("v2", "v3", False),
    "4f26b9476d0c5033e04162c486074374": Detection("v2", "v4", False),
    "c7e9fce2223f3db685cdfa1e6368728a": Detection("v2", "v2Pro", False),
    "66b313e39455b57ab1b0bc0b239c9d0a": Detection("v2", "v2ProPlus", False),
}
HEADS = {b"00": "v1", b"01": "v2", b"02": "v3", b"03": "v3", b"04": "v4", b"05": "v2Pro", b"06": "v2ProPlus"}
GPT_SIZES = {"hidden_dim": 512, "embedding_dim": 512, "n_layer": 24, "vocab_size": 1025}
# SynthesizerTrn has no defaults for these; without gin_channels it builds for no speaker
S2_MODEL = """inter_channels hidden_channels filter_channels n_heads n_layers kernel_size p_dropout resblock resblock_kernel_sizes
resblock_dilation_sizes upsample_rates upsample_initial_channel upsample_kernel_sizes gin_channels"""


# --- weights --------------------------------------------------------------------------------------------------------------------------------------


def load_gpt(path):
    """The root of S1 weights that inference and the exporters load, and that a training may begin from.

    inference_webui.py:420-424, TTS_infer_pack/TTS.py:599-603, AR/models/t2s_model.py:263-271, t2s_lightning_module.py:24-35
    """
    root = _open(path)
    config, weight = _need(root, "config"), _need(root, "weight")
    assert hasattr(config, "get"), f"config is a {type(config).__name__} without .get, which the readers call"
    _need(config, "data max_sec"), _need(config, "inference top_k")
    model = {key: _need(config, f"model {key}") for key in (*GPT_SIZES, "phoneme_vocab_size", "head", "dropout", "EOS")}
    for key, size in {**GPT_SIZES, "phoneme_vocab_size": _rows(weight, GPT_TEXT)}.items():
        if model[key] != size:
            raise RuntimeError(f"size mismatch: config.model.{key} is {model[key]}, the tensors have {size}")
    assert model["EOS"] == model["vocab_size"] - 1, f"config.model.EOS is {model['EOS']}"
    assert model["head"] == 16, f"config.model.head is {model['head']}: it loads, and speaks nonsense"
    assert isinstance(model["dropout"], int | float), f"config.model.dropout is {model['dropout']!r}"
    _fit(weight, _gpt_table(weight), RuntimeError)
    return root


def detect(path):
    """(symbols, model, is_lora) by hash, head and size (process_ckpt.py:100-126). KeyError for an unknown head."""
    with open(path, "rb") as file:
        start = file.read(8192)
    known = HASHES.get(hashlib.md5(start, usedforsecurity=False).hexdigest())
    if known:
        return known
    if (head := start[:2]) != b"PK":
        return Detection("v1" if HEADS[head] == "v1" else "v2", HEADS[head], head in (b"03", b"04"))
    size = os.path.getsize(path)
    if size < 82978 * KIB:
        return Detection("v1", "v1", is_lora=False)
    return Detection("v2", "v2" if size < 700 * MIB else "v3", is_lora=False)


def corrected(detected, weight):
    """The detection after the callers' look at the tensors (inference_webui.py:318-330, TTS_infer_pack/TTS.py:508-522)."""
    symbols = "v1" if TEXT in weight and weight[TEXT].shape[0] == 322 else "v2"
    keeps_its_model = "Pro" in detected.model or detected.model in ("v3", "v4")
    return Detection(symbols, detected.model if keeps_its_model else symbols, detected.is_lora)


def load_sovits(path, base=None):
    """(state, info) of S2 weights that inference builds as what they are, with every key its own, and shows in the right language menu.

    With `base`, a LoRA's state is the merged one, in float32 where it was merged; without, the LoRA is checked and the base taken for granted.
    process_ckpt.py:100-138, inference_webui.py:266-375, TTS_infer_pack/TTS.py:506-581
    """
    detected, root = detect(path), _open_sovits(path)
    weight, config = _need(root, "weight"), _plain(_need(root, "config"))
    needs = ["train segment_size", *(f"data {key}" for key in "filter_length sampling_rate hop_length win_length n_speakers".split())]
    for key in (*needs, *(f"model {key}" for key in S2_MODEL.split())):
        _need(config, key)
    built, model = corrected(detected, weight), _model(weight)
    if model == "v3":  # equal to v4 in every shape: here the config has the word, then info; when they are silent, the detection stands
        told = config["model"].get("version"), config.get("version"), "v4" if root.get("info") == "pretrained_s2G_v4" else None, detected.model
        model = next((version for version in told if version in ("v3", "v4")), "v3")
    truth = Detection(built.symbols, model, _lora_rank(weight) is not None)
    names = [found.model + " LoRA" * found.is_lora for found in (built, truth)]
    assert names[0] == names[1], f"upstream builds {names[0]}, but the tensors are {names[1]}"
    assert detected.symbols == truth.symbols, f"the language menu is that of {detected.symbols}, but the tensors are {truth.symbols}"
    if not detected.is_lora:
        _check_built(config["model"], model)
        _fit(weight, layout(f"sovits-{model}"), may_lack="enc_q.")
        return weight, Info(detected, config, root.get("info"), None)
    rank = _need(root, "lora_rank")
    assert type(rank) is int, f"lora_rank is {rank!r}, no int"
    _fit(weight, layout(f"lora-{model}", rank))
    state = weight if base is None else _merge(_need(_open_sovits(base), "weight"), weight, model)
    return state, Info(detected, config, root.get("info"), rank)


def load_training_base(path):
    """The weights of an S2 base, G or D, by a plain torch.load: no head is restored, and no part begins from random numbers.

    s2_train.py:238-262, s2_train_v3_lora.py:205; prepare_datasets/3-get-semantic.py:18-28,85 builds G by the file's size
    """
    weight = _need(_open(path), "weight")
    name = _layout_name(weight)
    assert not name.startswith("lora"), "a LoRA is no base"
    _fit(weight, layout(name))
    if name.startswith("sovits"):
        size, rows = os.path.getsize(path), weight[TEXT].shape[0]
        sized = 322 if size < 82978 * KIB or 100 * MIB <= size < 103520 * KIB else 732
        if rows != sized:
            raise RuntimeError(f"size mismatch for {TEXT}: by the file's size the semantics' model has {sized} rows, the tensor {rows}")
    return weight


def load_vocoder(path):
    """The flat state dict of v4's vocoder, strict, its weight norm removed (TTS_infer_pack/TTS.py:656-661, inference_webui.py:512-517)."""
    state = _open(path)
    _fit(state, layout("vocoder-v4"), RuntimeError)
    return state


# --- training checkpoints -------------------------------------------------------------------------------------------------------------------------


def resume_s2(path):
    """(learning rate, epoch) of a G, D or LoRA checkpoint from which training goes on (utils.py:23-60).

    Its optimizer is None, or one that AdamW takes for the groups upstream builds and makes a step with (s2_train.py:172-192).
    """
    root = _open(path)
    iteration, rate, optimizer, model = (_need(root, key) for key in ("iteration", "learning_rate", "optimizer", "model"))
    assert type(iteration) is int, f"iteration is {iteration!r}, no int"
    assert type(rate) is float, f"learning_rate is {rate!r}, no float"
    name = _layout_name(model).replace("lora-", "lora-training-")
    table = layout(name, _lora_rank(model) or 0)
    _fit(model, table)
    if optimizer is not None:
        _step_adamw(optimizer, [[table[key][1] for key in group] for group in _parameter_groups(name, table)])
    return rate, iteration


def resume_s1(path, *, strict_pickle=False):
    """The root of a Lightning checkpoint from which S1 goes on (s1_train.py:140-147). `strict_pickle`: under PyTorch Lightning 2.6 or later."""
    root = _open(path, weights_only=strict_pickle)
    version, state = _need(root, "pytorch-lightning_version"), _need(root, "state_dict")
    assert isinstance(version, str), f"pytorch-lightning_version is {version!r}, no str"
    lists = _need(root, "optimizer_states"), _need(root, "lr_schedulers")
    assert all(isinstance(value, list) for value in lists), "optimizer_states and lr_schedulers are no lists"
    _fit(state, _gpt_table(state), RuntimeError)
    shapes = [shape for _, shape in _gpt_table(state).values()]
    for optimizer in lists[0]:  # ScaledAdam stacks the state of equal shapes and keeps it under the first of them (AR/modules/optim.py)
        groups = [group["params"] for group in _need(optimizer, "param_groups")]
        assert [len(group) for group in groups] == [len(shapes)], f"optimizer: {[len(group) for group in groups]} parameters, not [{len(shapes)}]"
        first = dict(zip(reversed(shapes), reversed(groups[0]), strict=True))
        for shape, number in first.items():
            for key in ("delta", "exp_avg_sq") if number in _need(optimizer, "state") else ():
                found, wanted = tuple(_need(optimizer["state"][number], key).shape), (shapes.count(shape), *shape)
                assert found == wanted, f"optimizer: {key} of {number} is {found}, not {wanted}"
    return root


# --- the container --------------------------------------------------------------------------------------------------------------------------------


def load_three_ways(path, *, weights_only):
    """The tree that torch.load gives: with mmap, and with `weights_only` where asked, it is the same, bit for bit."""
    with _restore_head(path) as restored:
        root = _open(restored)
        for options in ({"mmap": True}, {"weights_only": True})[: 1 + weights_only]:
            for (place, one), (other_place, other) in zip(_leaves(root), _leaves(_open(restored, **options)), strict=True):
                assert place == other_place, f"with {options}: {other_place} stands where {place} should"
                same = _same_bits(one, other) if isinstance(one, torch.Tensor) else repr(one) == repr(other)  # so NaN equals NaN
                assert same, f"with {options}: {place} differs"
    return root


def zip_is_clean(path):
    """True: every CRC is right (torch.load checks none), every entry is stored, every storage begins at a multiple of 64 bytes."""
    with _restore_head(path) as restored, zipfile.ZipFile(restored) as archive, open(restored, "rb") as raw:
        damaged = archive.testzip()
        assert damaged is None, f"{damaged} has another CRC"
        for entry in archive.infolist():
            assert archive.namelist().count(entry.filename) == 1, f"{entry.filename} is there twice"
            assert entry.compress_type == zipfile.ZIP_STORED, f"{entry.filename} is compressed"
            raw.seek(entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", raw.read(4)))
            assert "/data/" not in entry.filename or start % 64 == 0, f"{entry.filename} begins at {start}, no multiple of 64"
    return True


@contextmanager
def pretend_utils():
    """Upstream's module `utils`, with its HParams, for as long as a file is pickled or unpickled."""
    before, module = sys.modules.get("utils"), types.ModuleType("utils")
    module.HParams, sys.modules["utils"] = HParams, module
    try:
        yield
    finally:
        del sys.modules["utils"]
        if before is not None:
            sys.modules["utils"] = before


@contextmanager
def _restore_head(path):
    """The path of a copy that begins with PK as upstream's readers make it. KeyError for a head they do not know."""
    with open(path, "rb") as file:
        head = file.read(2)
    if head == b"PK":
        yield path
        return
    HEADS[head]
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copyfile(path, Path(folder) / "restored.pth")
        with open(copy, "r+b") as file:
            file.write(b"PK")
        yield copy


def _open(source, **options):
    with pretend_utils():
        try:
            return torch.load(source, map_location="cpu", **{"weights_only": False, **options})
        except Exception as error:
            raise RuntimeError(f"torch.load fails: {error}") from error


def _open_sovits(path):
    """As load_sovits_new does (process_ckpt.py:129-138)."""
    data = Path(path).read_bytes()
    return _open(path if data[:2] == b"PK" else io.BytesIO(b"PK" + data[2:]))


def _need(mapping, keys):
    for key in keys.split():
        if not isinstance(mapping, dict) or key not in mapping:
            raise KeyError(keys.replace(" ", "."))
        mapping = mapping[key]
    return mapping


def _plain(value):
    """HParams or dict, nested, as dicts: upstream's DictToAttrRecursive takes both."""
    value = vars(value) if isinstance(value, HParams) else value
    return {key: _plain(below) for key, below in value.items()} if isinstance(value, dict) else value


def _leaves(tree, place="root"):
    below = vars(tree).items() if isinstance(tree, HParams) else tree.items() if isinstance(tree, dict) else None
    below = enumerate(tree) if isinstance(tree, list | tuple) else below
    yield place, tree if below is None else type(tree)
    for key, value in below or ():
        yield from _leaves(value, f"{place}/{key}")


def _same_bits(one, other):
    alike = (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
    return alike and torch.equal(*(tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other)))


# --- state dicts and optimizers ---------------------------------------------------------------------------------------------------------------------


def _fit(state, table, error=AssertionError, may_lack=()):
    """load_state_dict: other shapes always raise, other keys only where it is strict."""
    assert isinstance(state, dict), f"the state dict is a {type(state).__name__}"
    for key, tensor in state.items():
        assert isinstance(tensor, torch.Tensor) and tensor.is_floating_point(), f"{key} is no tensor of floating numbers"
        if key in table and tuple(tensor.shape) != table[key][1]:
            raise RuntimeError(f"size mismatch for {key}: {tuple(tensor.shape)} in the file, {table[key][1]} in the model")
    missing = [key for key in table if key not in state and not (may_lack and key.startswith(may_lack))]
    for word, keys in (("missing", missing), ("unexpected", [key for key in state if key not in table])):
        if keys:
            raise error(f"{word} key {keys[0]} ({len(keys)} in all)")


def _rows(state, key):
    if key not in state:
        raise RuntimeError(f"missing key {key}")
    return state[key].shape[0]


def _gpt_table(state):
    return layout("gpt-v1" if _rows(state, GPT_TEXT) == 512 else "gpt-v2")


def _lora_rank(weight):
    return next((tensor.shape[0] for key, tensor in weight.items() if key.endswith(A)), None)


def _model(weight):
    """The version by the tensors alone; v3 stands for v4 too."""
    if any(key.startswith(("cfm.", "bridge.")) for key in weight):
        return "v3"
    if any(key.startswith(("sv_emb.", "ge_to512.", "prelu.")) for key in weight):
        return "v2ProPlus" if "dec.conv_pre.weight" in weight and weight["dec.conv_pre.weight"].shape[0] == 768 else "v2Pro"
    return "v1" if TEXT in weight and weight[TEXT].shape[0] == 322 else "v2"


def _layout_name(weight):
    if any(key.startswith("discriminators.") for key in weight):
        return "discriminator-v2Pro" if any(key.startswith("discriminators.7.") for key in weight) else "discriminator-v2"
    return ("sovits-" if _lora_rank(weight) is None else "lora-") + _model(weight)


def _check_built(model, version):
    """Upstream builds by the config: that of another version gives other shapes than the tensors have."""
    wanted = {"gin_channels": 1024 if "Pro" in version else 512}
    if version not in ("v3", "v4"):  # they have no such decoder
        plus = version == "v2ProPlus"
        wanted |= {"upsample_initial_channel": 768 if plus else 512, "upsample_kernel_sizes": [20 if plus else 16, 16, 8, 2, 2]}
    for key, value in wanted.items():
        if model[key] != value:
            raise RuntimeError(f"size mismatch: config.model.{key} is {model[key]}, the tensors of {version} need {value}")


def _merge(base, lora, version):
    """get_peft_model, load, merge_and_unload: alpha equals the rank, so the scale is 1 (inference_webui.py:356-375)."""
    _fit(base, layout(f"sovits-{version}"))
    merged = base | {key.replace("cfm.base_model.model.", "cfm."): tensor for key, tensor in lora.items() if not key.endswith((A, B))}
    for key in (key for key in lora if key.endswith(A)):
        name = key.replace("cfm.base_model.model.", "cfm.").replace(A, ".weight")
        merged[name] = base[name].float() + lora[key.replace(A, B)].float() @ lora[key].float()
    return merged


def _parameter_groups(name, table):
    """The trained parameters as upstream groups them: four groups for G up to v2Pro (s2_train.py:172-192), one for all else."""
    if name.startswith("discriminator"):
        return [list(table)]
    names = [key for key in table if "._codebook." not in key and not key.endswith("rotary_embed.inv_freq")]  # these are buffers
    if name.endswith(("v3", "v4")):  # enc_p and ssl_proj are frozen there; under a LoRA, so is all of cfm but the LoRA
        free = [key for key in names if not key.startswith(("enc_p.", "ssl_proj."))]
        return [[key for key in free if "training" not in name or not key.startswith("cfm.") or ".lora_" in key]]
    slow = ("enc_p.text_embedding.", "enc_p.encoder_text.", "enc_p.mrte.")
    return [[key for key in names if not key.startswith(slow)], *([key for key in names if key.startswith(part)] for part in slow)]


def _step_adamw(saved, groups):
    """AdamW itself is the judge: over parameters without data it takes the state and makes a step, which trips over whatever is not there."""
    parameters = [[torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in group] for group in groups]
    optimizer = torch.optim.AdamW([{"params": group} for group in parameters], lr=1e-4)
    try:
        optimizer.load_state_dict(saved)
        for parameter in chain(*parameters):
            parameter.grad = torch.empty_like(parameter)
            for key in ("exp_avg", "exp_avg_sq") if optimizer.state[parameter] else ():
                found = tuple(optimizer.state[parameter][key].shape)
                assert found == tuple(parameter.shape), f"optimizer: {key} is {found}, its parameter {tuple(parameter.shape)}"
        optimizer.step()
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise RuntimeError(f"optimizer: {type(error).__name__}: {error}") from error
