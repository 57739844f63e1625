"""gsvckpt inspect: one file, with every key of its JSON."""

from __future__ import annotations

import pytest
from support.builders import hparams, safetensors, tensor, torch_stream, torch_zip

from gsvckpt.sovits import upstream

from .samples import (
    adamw,
    assert_one_error,
    discriminator,
    generator,
    gpt,
    lora,
    numbers,
    s1_training,
    s2_training,
    save,
    small,
    sovits_config,
    weights,
)

KEYS = {
    "path": str,
    "size": int,
    "container": dict,
    "kind": str,
    "version": (str, type(None)),
    "version_evidence": list,
    "upstream": (dict, type(None)),
    "progress": dict,
    "lora_rank": (int, type(None)),
    "tensors": int,
    "parameters": int,
    "bytes": dict,
    "dtypes": dict,
    "official": (str, type(None)),
    "safety": dict,
}
BASE = {"info": "pretrained-v2"}


def samples():
    """Name -> (tree, head, kind, version)."""
    return {
        "GPT_weights_v2/xxx-e15.ckpt": ({"weight": gpt(), "config": {"train": {}}, "info": "GPT-e15"}, b"PK", "gpt-weights", "v2"),
        "old-e15.ckpt": ({"weight": gpt(512), "config": {"train": {}}, "info": "GPT-e15"}, b"PK", "gpt-weights", "v1"),
        "epoch=1-step=12.ckpt": (s1_training(gpt(dtype="float32")), b"PK", "gpt-training", "v2"),
        "a_e8_s16.pth": (small(generator("v1"), "v1"), b"PK", "sovits-weights", "v1"),
        "b_e8_s16.pth": (small(generator("v2"), "v2"), b"PK", "sovits-weights", "v2"),
        "c_e8_s16.pth": (small(generator("v2Pro"), "v2Pro"), b"05", "sovits-weights", "v2Pro"),
        "d_e8_s16.pth": (small(generator("v2ProPlus"), "v2ProPlus"), b"06", "sovits-weights", "v2ProPlus"),
        "e_e8_s16.pth": (small(generator("v3"), "v3"), b"PK", "sovits-weights", "v3"),
        "f_e8_s16.pth": (small(generator("v4"), "v4"), b"PK", "sovits-weights", "v4"),
        "g_e8_s16.pth": ({**small(generator("v3"), "v3"), "config": hparams({})}, b"PK", "sovits-weights", None),
        "h_e8_s16_l4.pth": (small(lora(4), "v3", lora_rank=4), b"03", "sovits-lora", "v3"),
        "i_e8_s16_l8.pth": (small(lora(8), "v4", lora_rank=8), b"04", "sovits-lora", "v4"),
        "logs_s2_v2/G_16.pth": (s2_training(generator("v2", enc_q=True)), b"PK", "sovits-generator-training", "v2"),
        "logs_s2_v2/D_16.pth": (s2_training(discriminator()), b"PK", "sovits-discriminator-training", "v2"),
        "s2G.pth": ({**small(generator("v2", enc_q=True), "v2"), **BASE}, b"PK", "sovits-generator-base", "v2"),
        "s2D.pth": ({"weight": discriminator(8)}, b"PK", "sovits-discriminator-base", None),
        "vocoder.pth": (
            weights(dict.fromkeys(("conv_pre.weight", "ups.0.weight", "resblocks.0.weight", "conv_post.weight"), (4, 4))),
            b"PK",
            "vocoder",
            None,
        ),
        "sv.ckpt": (
            weights(dict.fromkeys(("conv1.weight", "layer1.a", "layer3_ds.a", "fuse34.a", "seg_1.weight"), (4, 4))),
            b"PK",
            "speaker-encoder",
            None,
        ),
        "run.pth": ({"net": weights({"w": (4, 4)}), "optimizer": adamw(weights({"w": (4, 4)})), "epoch": 8}, b"PK", "training", None),
        "plain.pth": (weights({"w": (4, 4)}), b"PK", "state-dict", None),
        "nothing.pth": ({"answer": 42}, b"PK", "unknown", None),
    }


@pytest.mark.parametrize("name", samples())
def test_every_key_for_every_kind(gsvckpt, tmp_path, name):
    tree, head, kind, version = samples()[name]
    path = save(tmp_path / name, tree, head)
    file = gsvckpt.json("inspect", path).file
    assert {key for key, types in KEYS.items() if not isinstance(file[key], types)} == set()
    assert (file["path"], file["size"], file["kind"], file["version"]) == (str(path), path.stat().st_size, kind, version)
    assert file["container"] == {
        "format": "torch-zip",
        "head": head.decode(),
        "prefix": "archive",
        "byteorder": "little",
        "records": file["container"]["records"],
    }
    assert file["bytes"].keys() == {"file", "weights", "optimizer", "other", "unused"}
    assert file["bytes"]["file"] == file["size"] == sum(file["bytes"].values()) - file["bytes"]["file"]
    assert (file["bytes"]["optimizer"] > 0) == ("training" in kind)
    assert file["upstream"] is None or file["upstream"].keys() in ({"symbols", "model", "lora", "rule"}, {"error"})
    assert (file["upstream"] is not None) == (kind in ("sovits-weights", "sovits-lora", "sovits-generator-base"))
    assert file["progress"].keys() == {"epoch", "step", "info"}
    assert file["safety"]["verdict"] == "safe"
    assert all(entry.keys() in ({"name", "verdict", "called"}, {"name", "verdict", "called", "arguments"}) for entry in file["safety"]["globals"])
    assert sum(part["tensors"] for part in file["dtypes"].values()) == file["tensors"]
    assert (version is None) or file["version_evidence"]
    assert gsvckpt("inspect", path).code == 0


@pytest.mark.parametrize(
    ("name", "progress", "rank"),
    [
        ("GPT_weights_v2/xxx-e15.ckpt", (15, None, "GPT-e15"), None),
        ("epoch=1-step=12.ckpt", (2, 12, None), None),
        ("h_e8_s16_l4.pth", (8, 16, "8epoch_16iteration"), 4),
        ("logs_s2_v2/G_16.pth", (8, 16, None), None),
        ("run.pth", (8, None, None), None),
    ],
)
def test_progress_and_rank(gsvckpt, tmp_path, name, progress, rank):
    tree, head, *_ = samples()[name]
    file = gsvckpt.json("inspect", save(tmp_path / name, tree, head)).file
    assert tuple(file["progress"].values()) == progress
    assert file["lora_rank"] == rank


def test_counts(gsvckpt, tmp_path):
    tree = {"weight": {"enc_p.text_embedding.weight": numbers((732, 2)), "enc_p.n": tensor("int64", (), [3])}, "config": sovits_config("v2")}
    file = gsvckpt.json("inspect", save(tmp_path / "x.pth", tree)).file
    assert (file["tensors"], file["parameters"]) == (2, 732 * 2 + 1)
    assert file["dtypes"] == {"float32": {"tensors": 1, "bytes": 732 * 8}, "int64": {"tensors": 1, "bytes": 8}}
    assert file["bytes"]["weights"] == 732 * 8 + 8


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"PK", {"symbols": "v1", "model": "v1", "lora": False, "rule": "size"}),
        (b"03", {"symbols": "v2", "model": "v3", "lora": True, "rule": "head"}),
        (b"07", None),
    ],
)
def test_upstream_is_what_gpt_sovits_says_and_a_warning_tells_where_that_is_wrong(gsvckpt, tmp_path, head, expected):
    path = save(tmp_path / "x_e8_s16_l4.pth", small(lora(), "v4", lora_rank=4), head)
    file = gsvckpt.json("inspect", path).file
    assert file["upstream"] == expected if expected else file["upstream"].keys() == {"error"}
    assert file["warnings"]
    assert "!" in gsvckpt("inspect", path).out


def test_sizes_decide_between_v1_v2_and_v3(gsvckpt, tmp_path, monkeypatch):
    path = save(tmp_path / "x.pth", small(generator("v2"), "v2"))
    assert gsvckpt.json("inspect", path).file["upstream"]["model"] == "v1"
    monkeypatch.setattr(upstream, "V2_MIN_SIZE", path.stat().st_size)
    assert gsvckpt.json("inspect", path).file["upstream"] == {"symbols": "v2", "model": "v2", "lora": False, "rule": "size"}
    monkeypatch.setattr(upstream, "V3_MIN_SIZE", path.stat().st_size)
    assert gsvckpt.json("inspect", path).file["upstream"]["model"] == "v3"


def test_a_file_from_before_torch_1_6(gsvckpt, tmp_path):
    path = tmp_path / "old.pth"
    path.write_bytes(torch_stream(small(generator("v1"), "v1")))
    file = gsvckpt.json("inspect", path).file
    assert (file["container"]["format"], file["container"]["head"], file["kind"], file["version"]) == ("torch-stream", None, "sovits-weights", "v1")
    assert "error" in file["upstream"]  # its first bytes are no head that GPT-SoVITS knows


def test_safetensors(gsvckpt, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors({"model.h.layers.0.a": ("F16", (2, 3), bytes(12)), "b": ("I64", (1,), bytes(8))}, {"format": "pt"}))
    file = gsvckpt.json("inspect", path).file
    assert (file["container"]["format"], file["tensors"], file["upstream"]) == ("safetensors", 2, None)
    assert file["safety"] == {"verdict": "safe", "globals": []}
    assert file["container"]["metadata"] == {"format": "pt"}


def test_an_official_file_is_named(gsvckpt, tmp_path, monkeypatch):
    from gsvckpt.engine import examine

    path = save(tmp_path / "mine.pth", small(generator("v2"), "v2"))
    match = examine.official.Match(examine.official.OFFICIAL[0], "header and size")
    monkeypatch.setattr(examine, "match_official", lambda source, **_: match)
    assert gsvckpt.json("inspect", path).file["official"] == "s2G488k.pth"
    assert "s2G488k.pth" in gsvckpt("inspect", path).out


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 4096, b"version https://git-lfs.github.com/spec/v1\n", b"<html>", torch_zip({"a": 1})[:200]], ids=range(5)
)
def test_what_is_no_checkpoint_is_named_with_a_hint(gsvckpt, tmp_path, data):
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    run = gsvckpt.json("inspect", path, exit_code=3)
    assert run.file["path"] == str(path)
    assert run.file["size"] == len(data)
    assert run.file["error"]["hint"]["text"]
    assert_one_error(run, path, 3)
