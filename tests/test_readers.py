"""The oracle of GPT-SoVITS's readers takes what plain torch.save writes of a right tree, and names the defect of every wrong one."""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
import torch
from support import readers
from support.readers import (
    Detection,
    HParams,
    corrected,
    detect,
    load_gpt,
    load_sovits,
    load_three_ways,
    load_training_base,
    load_vocoder,
    resume_s1,
    resume_s2,
    zip_is_clean,
)

from gsvckpt.sovits.layouts import layout

V2_SIZE = 82978 * 1024  # from here on a file under PK is v2 to upstream
LOGS = PurePosixPath("logs/xxx")
NEEDS = {"data": "filter_length sampling_rate hop_length win_length n_speakers", "train": "segment_size"}


# --- right trees ----------------------------------------------------------------------------------------------------------------------------------


@cache
def number(dtype, value):
    return torch.tensor(value, dtype=dtype)


def blank(shape, dtype=torch.float16, value=0):
    """A tensor of any size over the one number that all of them share, in memory and in a file."""
    return number(dtype, value).expand(shape)


def state(name, rank=4, dtype=torch.float16, without=""):
    return {key: blank(shape, dtype) for key, (_, shape) in layout(name, rank).items() if not (without and key.startswith(without))}


def gpt(version="v2"):
    rows = 512 if version == "v1" else 732
    model = {
        "hidden_dim": 512,
        "embedding_dim": 512,
        "head": 16,
        "n_layer": 24,
        "vocab_size": 1025,
        "phoneme_vocab_size": rows,
        "dropout": 0,
        "EOS": 1024,
    }
    config = {"data": {"max_sec": 54}, "model": model, "inference": {"top_k": 15}}
    return OrderedDict(weight=OrderedDict(state(f"gpt-{version}")), config=config, info="GPT-e8")


def s2_config(version, kind):
    model = dict.fromkeys(readers.S2_MODEL.split(), 1)
    model |= {"gin_channels": 1024 if "Pro" in version else 512, "upsample_initial_channel": 768 if version == "v2ProPlus" else 512}
    model |= {"upsample_kernel_sizes": [20 if version == "v2ProPlus" else 16, 16, 8, 2, 2], "version": version}
    config = {part: kind(**dict.fromkeys(keys.split(), 1)) for part, keys in NEEDS.items()}
    return kind(**config, model=kind(**model), version=version)


def hparams(**values):
    made = HParams()
    vars(made).update(values)
    return made


def sovits(version="v1", kind=dict):
    return OrderedDict(weight=state(f"sovits-{version}", without="enc_q."), config=s2_config(version, kind), info="8epoch_16iteration")


def lora(version="v3", rank=4):
    root = OrderedDict(weight=state(f"lora-{version}", rank), config=s2_config(version, dict), info="1epoch_2iteration", lora_rank=rank)
    root["weight"] |= {key: blank(tensor.shape, value=0.5) for key, tensor in root["weight"].items() if ".lora_" in key}
    return root


def s2_training(name="sovits-v2", groups=(649, 1, 108, 14)):
    table = layout(name, 4)
    parameters = [torch.nn.Parameter(torch.zeros(())) for _ in range(sum(groups))]
    parts = [[parameters.pop() for _ in range(count)] for count in groups]
    optimizer = torch.optim.AdamW([{"params": part} for part in parts], lr=1e-4, betas=(0.8, 0.99)).state_dict()
    first = next(key for key in table if name != "lora-training-v3" or key.startswith("ref_enc."))  # the first that is trained
    moments = {key: blank(table[first][1], torch.float32) for key in ("exp_avg", "exp_avg_sq")}
    optimizer["state"] = {0: {"step": torch.tensor(16.0), **moments}}
    return {"model": OrderedDict(state(name, dtype=torch.float32)), "iteration": 8, "optimizer": optimizer, "learning_rate": 1e-4}


def s1_training(output_dir=LOGS):
    moments = {key: blank((1, 512, 1024), torch.float32) for key in ("delta", "exp_avg_sq")}
    optimizer = {"state": {0: {"step": 12, **moments}}, "param_groups": [{"lr": 0.01, "params": list(range(295))}]}
    root = {"epoch": 1, "global_step": 12, "pytorch-lightning_version": "2.6.6", "state_dict": OrderedDict(state("gpt-v2", dtype=torch.float32))}
    root |= {"loops": {}, "callbacks": {}, "optimizer_states": [optimizer], "lr_schedulers": [{"lr": 0.002}], "hparams_name": "kwargs"}
    return root | {"hyper_parameters": {"config": gpt()["config"], "output_dir": output_dir, "is_train": True}}


def save(folder, root, head=b"PK", size=0, name="file.pth"):
    """What torch.save writes, under a head; brought to a size by a record that no reader asks for."""
    path = Path(folder) / name
    with readers.pretend_utils():
        torch.save(root, path)
    if size:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("file/filler", bytes(size - path.stat().st_size - 22))  # its two headers, less the zip64 trailer that zipfile leaves out
        assert path.stat().st_size == size
    with path.open("r+b") as file:
        file.write(head)
    return path


def refused(kind, words, read, *arguments, **options):
    with pytest.raises(kind, match=re.escape(words)):
        read(*arguments, **options)


def put(root, place, value):
    *above, last = place.split("/")
    for key in above:
        root = root[int(key) if key.isdigit() else key]
    root[last] = value


def drop(root, place):
    *above, last = place.split("/")
    for key in above:
        root = root[int(key) if key.isdigit() else key]
    del root[last]


def broken(tree, change, place, *value):
    root = tree()
    change(root, place, *value)
    return root


# --- GPT ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_takes_gpt_weights(tmp_path, version):
    assert len(load_gpt(save(tmp_path, gpt(version)))["weight"]) == 295


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ((drop, "weight/model.bert_proj.bias"), RuntimeError, "missing key model.bert_proj.bias"),
        ((put, "weight/extra", blank((1,))), RuntimeError, "unexpected key extra"),
        ((put, "weight/model.bert_proj.bias", blank((511,))), RuntimeError, "size mismatch for model.bert_proj.bias"),
        ((put, "weight/model.bert_proj.bias", blank((512,), torch.int64)), AssertionError, "model.bert_proj.bias is no tensor of floating"),
        ((put, "config/model/phoneme_vocab_size", 512), RuntimeError, "config.model.phoneme_vocab_size is 512, the tensors have 732"),
        ((put, "config/model/n_layer", 12), RuntimeError, "config.model.n_layer is 12"),
        ((put, "config/model/head", 8), AssertionError, "config.model.head is 8"),
        ((put, "config/model/EOS", 1025), AssertionError, "config.model.EOS is 1025"),
        ((drop, "config/model/EOS"), KeyError, "model.EOS"),
        ((drop, "config/inference/top_k"), KeyError, "inference.top_k"),
        ((drop, "config/data/max_sec"), KeyError, "data.max_sec"),
        ((put, "config", hparams()), AssertionError, "config is a HParams without .get"),
        ((drop, "config"), KeyError, "config"),
        ((drop, "weight"), KeyError, "weight"),
    ],
)
def test_refuses_gpt_weights(tmp_path, change, kind, words):
    refused(kind, words, load_gpt, save(tmp_path, broken(gpt, *change)))


# --- SoVITS ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "head", "size"),
    [("v1", b"PK", 0), ("v2", b"PK", V2_SIZE), ("v2", b"01", 0), ("v2Pro", b"05", 0), ("v2ProPlus", b"06", 0), ("v3", b"02", 0)],
)
@pytest.mark.parametrize("kind", [dict, hparams])
def test_takes_sovits_weights(tmp_path, version, head, size, kind):
    weight, info = load_sovits(save(tmp_path, sovits(version, kind), head, size))
    assert len(weight) == {"v1": 673, "v2": 673, "v2Pro": 678, "v2ProPlus": 678, "v3": 685}[version]
    assert info.detected == ("v1" if version == "v1" else "v2", version, False)
    assert info.config["model"]["version"] == version
    assert "utils" not in sys.modules


@pytest.mark.parametrize(
    ("tree", "head", "size", "words"),
    [
        (lambda: sovits("v2"), b"PK", V2_SIZE - 1, "the language menu is that of v1, but the tensors are v2"),
        (lambda: sovits("v1"), b"PK", V2_SIZE, "the language menu is that of v2, but the tensors are v1"),
        (lambda: sovits("v2Pro"), b"PK", V2_SIZE, "upstream builds v2, but the tensors are v2Pro"),
        (lambda: sovits("v2Pro"), b"06", 0, "upstream builds v2ProPlus, but the tensors are v2Pro"),
        (lambda: sovits("v3"), b"PK", V2_SIZE, "upstream builds v2, but the tensors are v3"),
        (lambda: sovits("v4"), b"02", 0, "upstream builds v3, but the tensors are v4"),
        (lora, b"PK", 0, "but the tensors are v3 LoRA"),
        (lora, b"04", 0, "upstream builds v4 LoRA, but the tensors are v3 LoRA"),
        (lora, b"02", 0, "upstream builds v3, but the tensors are v3 LoRA"),
        (lambda: sovits("v3"), b"03", 0, "upstream builds v3 LoRA, but the tensors are v3"),
    ],
)
def test_refuses_weights_whose_version_upstream_mistakes(tmp_path, tree, head, size, words):
    refused(AssertionError, words, load_sovits, save(tmp_path, tree(), head, size))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ((drop, "weight/dec.conv_pre.bias"), AssertionError, "missing key dec.conv_pre.bias"),
        ((put, "weight/module.dec.bias", blank((1,))), AssertionError, "unexpected key module.dec.bias"),
        ((put, "weight/dec.conv_pre.bias", blank((768,))), RuntimeError, "size mismatch for dec.conv_pre.bias"),
        ((put, f"weight/{readers.TEXT}", blank((300, 192))), AssertionError, "the language menu is that of v1, but the tensors are v2"),
        ((put, "config/model/gin_channels", 1024), RuntimeError, "config.model.gin_channels is 1024"),
        ((drop, "config/data/n_speakers"), KeyError, "data.n_speakers"),
        ((drop, "config/train/segment_size"), KeyError, "train.segment_size"),
        ((drop, "config/model/resblock"), KeyError, "model.resblock"),
        ((drop, "config"), KeyError, "config"),
    ],
)
def test_refuses_sovits_weights(tmp_path, change, kind, words):
    refused(kind, words, load_sovits, save(tmp_path, broken(sovits, *change)))


def test_refuses_an_unknown_head(tmp_path):
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html>")
    for read in (detect, load_sovits):
        refused(KeyError, "b'<!'", read, tmp_path / "page.pth")
    refused(KeyError, "b'07'", load_sovits, save(tmp_path, sovits("v4"), b"07"))


def test_knows_an_official_base_by_its_beginning(tmp_path, monkeypatch):
    path = save(tmp_path, sovits("v4"), size=V2_SIZE)
    refused(AssertionError, "upstream builds v2, but the tensors are v4", load_sovits, path)
    monkeypatch.setitem(
        readers.HASHES, hashlib.md5(path.read_bytes()[:8192], usedforsecurity=False).hexdigest(), Detection("v2", "v4", is_lora=False)
    )
    assert load_sovits(path)[1].detected.model == "v4"


def test_corrects_the_detection_by_the_tensors():
    v1, other = {readers.TEXT: blank((322, 192))}, {readers.TEXT: blank((732, 192))}
    for found, weight, wanted in (("v2", v1, "v1"), ("v1", other, "v2"), ("v1", {}, "v2"), ("v2Pro", other, "v2Pro"), ("v3", other, "v3")):
        assert corrected(Detection("v1", found, is_lora=False), weight) == ("v1" if weight is v1 else "v2", wanted, False)


def test_merges_a_lora_over_its_base(tmp_path):
    path, base = save(tmp_path, lora("v4"), b"04"), save(tmp_path, sovits("v4"), name="base.pth")
    assert len(load_sovits(path)[0]) == 258
    merged, info = load_sovits(path, base)
    assert merged.keys() == layout("sovits-v4").keys() and info.lora_rank == 4
    assert merged["cfm.estimator.transformer_blocks.21.attn.to_out.0.weight"].unique().tolist() == [1.0]  # 0 + 4 * 0.5 * 0.5
    refused(AssertionError, "missing key", load_sovits, path, save(tmp_path, {"weight": state("sovits-v4", without="bridge.")}, name="base.pth"))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ((drop, "lora_rank"), KeyError, "lora_rank"),
        ((put, "lora_rank", "4"), AssertionError, "lora_rank is '4', no int"),
        ((put, "lora_rank", 8), RuntimeError, "lora_A.default.weight: (4, 1024) in the file, (8, 1024) in the model"),
        ((drop, "weight/wns1.proj.bias"), AssertionError, "missing key wns1.proj.bias"),
    ],
)
def test_refuses_a_lora(tmp_path, change, kind, words):
    refused(kind, words, load_sovits, save(tmp_path, broken(lora, *change), b"03"))


# --- bases and the vocoder ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"), [("sovits-v1", 0), ("sovits-v2", V2_SIZE), ("sovits-v3", V2_SIZE), ("discriminator-v2", 0), ("discriminator-v2Pro", 0)]
)
def test_takes_a_base(tmp_path, name, size):
    assert load_training_base(save(tmp_path, {"weight": state(name)}, size=size)).keys() == layout(name).keys()


@pytest.mark.parametrize(
    ("weight", "head", "kind", "words"),
    [
        (lambda: state("sovits-v2Pro"), b"05", RuntimeError, "unpickling stack underflow"),
        (lambda: state("sovits-v1", without="enc_q."), b"PK", AssertionError, "missing key enc_q."),
        (lambda: state("sovits-v2"), b"PK", RuntimeError, "by the file's size the semantics' model has 322 rows, the tensor 732"),
        (lambda: state("lora-v3"), b"PK", AssertionError, "a LoRA is no base"),
        (lambda: state("discriminator-v2", without="discriminators.5."), b"PK", AssertionError, "missing key discriminators.5."),
    ],
)
def test_refuses_a_base(tmp_path, weight, head, kind, words):
    refused(kind, words, load_training_base, save(tmp_path, {"weight": weight()}, head))


def test_refuses_a_vocoder_that_is_not_flat_or_not_whole(tmp_path):
    assert len(load_vocoder(save(tmp_path, state("vocoder-v4")))) == 194
    refused(AssertionError, "generator is no tensor", load_vocoder, save(tmp_path, {"generator": state("vocoder-v4")}))
    refused(RuntimeError, "missing key conv_pre.bias", load_vocoder, save(tmp_path, broken(lambda: state("vocoder-v4"), drop, "conv_pre.bias")))


# --- training checkpoints -------------------------------------------------------------------------------------------------------------------------

GROUPS = {"sovits-v1": (649, 1, 108, 14), "sovits-v2": (649, 1, 108, 14), "sovits-v2ProPlus": (654, 1, 108, 14)}
GROUPS |= {"discriminator-v2": (111,), "discriminator-v2Pro": (147,), "lora-training-v3": (253,)}


@pytest.mark.parametrize("name", GROUPS)
def test_resumes_s2(tmp_path, name):
    assert resume_s2(save(tmp_path, s2_training(name, GROUPS[name]))) == (1e-4, 8)


def test_resumes_s2_without_moments_and_in_half(tmp_path):
    assert resume_s2(save(tmp_path, broken(s2_training, put, "optimizer", None))) == (1e-4, 8)
    assert resume_s2(save(tmp_path, broken(s2_training, put, "optimizer/state", {}))) == (1e-4, 8)
    assert resume_s2(save(tmp_path, broken(s2_training, put, "model", state("sovits-v2")))) == (1e-4, 8)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ((drop, "optimizer"), KeyError, "optimizer"),
        ((drop, "learning_rate"), KeyError, "learning_rate"),
        ((drop, "iteration"), KeyError, "iteration"),
        ((drop, "model"), KeyError, "model"),
        ((put, "iteration", 8.0), AssertionError, "iteration is 8.0, no int"),
        ((put, "learning_rate", None), AssertionError, "learning_rate is None, no float"),
        ((put, "optimizer", {}), RuntimeError, "optimizer: KeyError"),
        ((put, "optimizer/param_groups", s2_training(groups=(772,))["optimizer"]["param_groups"]), RuntimeError, "parameter groups"),
        ((put, "optimizer/param_groups", s2_training(groups=(648, 1, 108, 14))["optimizer"]["param_groups"]), RuntimeError, "match the size"),
        ((drop, "optimizer/param_groups/0/betas"), RuntimeError, "optimizer: KeyError: 'betas'"),
        ((put, "optimizer/state", {0: {"step": torch.tensor(1.0)}}), RuntimeError, "optimizer: KeyError: 'exp_avg'"),
        (
            (put, "optimizer/state", {1: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(5), "exp_avg_sq": torch.zeros(5)}}),
            AssertionError,
            "optimizer: exp_avg is (5,)",
        ),
        ((drop, "model/enc_q.pre.bias"), AssertionError, "missing key enc_q.pre.bias"),
        ((put, "model/enc_q.pre.bias", blank((5,))), RuntimeError, "size mismatch for enc_q.pre.bias"),
    ],
)
def test_refuses_to_resume_s2(tmp_path, change, kind, words):
    refused(kind, words, resume_s2, save(tmp_path, broken(s2_training, *change)))


def test_resumes_s1(tmp_path):
    assert resume_s1(save(tmp_path, s1_training()))["epoch"] == 1
    assert resume_s1(save(tmp_path, s1_training("logs/xxx")), strict_pickle=True)["epoch"] == 1
    root = s1_training() | {"optimizer_states": [], "lr_schedulers": [], "state_dict": state("gpt-v1")}
    for key in ("callbacks", "loops", "hyper_parameters", "hparams_name", "epoch", "global_step"):
        del root[key]
    assert resume_s1(save(tmp_path, root), strict_pickle=True).keys() == root.keys()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ((drop, "optimizer_states"), KeyError, "optimizer_states"),
        ((drop, "lr_schedulers"), KeyError, "lr_schedulers"),
        ((drop, "pytorch-lightning_version"), KeyError, "pytorch-lightning_version"),
        ((drop, "state_dict"), KeyError, "state_dict"),
        ((put, "lr_schedulers", None), AssertionError, "are no lists"),
        ((drop, f"state_dict/{readers.GPT_TEXT}"), RuntimeError, f"missing key {readers.GPT_TEXT}"),
        ((put, "state_dict/model.bert_proj.bias", blank((5,))), RuntimeError, "size mismatch for model.bert_proj.bias"),
        ((put, "optimizer_states/0/param_groups", [{"params": [0]}]), AssertionError, "optimizer: [1] parameters, not [295]"),
        ((put, "optimizer_states/0/state", {0: {}}), KeyError, "delta"),
        ((put, "optimizer_states/0/state", {0: {"delta": blank((512, 1024))}}), AssertionError, "optimizer: delta of 0 is (512, 1024)"),
    ],
)
def test_refuses_to_resume_s1(tmp_path, change, kind, words):
    refused(kind, words, resume_s1, save(tmp_path, broken(s1_training, *change)))


def test_refuses_a_path_in_the_hyper_parameters_under_a_strict_pickle(tmp_path):
    refused(RuntimeError, "PurePosixPath", resume_s1, save(tmp_path, s1_training()), strict_pickle=True)


# --- the container --------------------------------------------------------------------------------------------------------------------------------


def test_loads_three_ways(tmp_path):
    path = save(
        tmp_path, {"weight": {"a": torch.tensor([float("nan"), 1.0])}, "config": {"b": [float("nan"), (1, "c")]}, "empty": torch.zeros(0)}, b"05"
    )
    assert load_three_ways(path, weights_only=True)["config"]["b"][1] == (1, "c")
    path = save(tmp_path, {"config": hparams(a=1)})
    assert vars(load_three_ways(path, weights_only=False)["config"]) == {"a": 1}
    refused(RuntimeError, "HParams", load_three_ways, path, weights_only=True)


def test_notices_what_one_way_reads_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda path, mmap=False, **options: {"a": torch.tensor([0.0, -0.0 if mmap else 0.0])})
    (tmp_path / "any.pth").write_bytes(b"PK")
    refused(AssertionError, "root/a differs", load_three_ways, tmp_path / "any.pth", weights_only=False)


def rezip(path, target, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return target


def test_tells_a_clean_zip(tmp_path):
    path = save(tmp_path, {"a": torch.arange(999)}, b"06")
    assert zip_is_clean(path)
    plain = save(tmp_path, {"a": torch.arange(999)})
    refused(AssertionError, "no multiple of 64", zip_is_clean, rezip(plain, tmp_path / "unaligned.pth"))
    refused(AssertionError, "is compressed", zip_is_clean, rezip(plain, tmp_path / "small.pth", zipfile.ZIP_DEFLATED))
    data = bytearray(plain.read_bytes())
    data[data.index(torch.arange(999).numpy().tobytes()) + 4000] ^= 1
    plain.write_bytes(data)
    load_three_ways(plain, weights_only=True)  # torch does not look
    refused(AssertionError, "file/data/0 has another CRC", zip_is_clean, plain)
