"""gsvckpt migrate --merge-lora BASE --over-base: full v4 weights that GPT-SoVITS takes for what they are."""

from __future__ import annotations

import hashlib
import zipfile

import pytest
import torch
from support.builders import read, tensor, torch_zip

from gsvckpt.sovits import layouts, upstream

from .samples import hparams, save


@pytest.fixture(scope="module")
def trees():
    """A v4 base and a LoRA of rank 2 of the right names; every tensor is one number in the file, expanded, as only names and shapes count here."""

    def tiny(name, shape):
        return tensor("float16", (1,) * len(shape), [len(name) % 7 / 8])

    base = {name: tiny(name, shape) for name, (_, shape) in layouts.layout("sovits-v3").items()}
    lora = {name: tiny(name, shape) for name, (_, shape) in layouts.layout("lora-v4", 2).items()}
    return base, lora


@pytest.fixture
def known(monkeypatch, trees):
    """GPT-SoVITS knows the base by its first bytes, and layouts are as small as the test's tensors."""
    base, lora = trees
    shrunk = {name: ("float32", view.shape) for name, view in base.items()}
    original = layouts.layout
    monkeypatch.setattr(layouts, "layout", lambda name, rank=32: shrunk if name == "sovits-v3" else original(name, rank))
    data = torch_zip({"weight": base, "config": hparams({"version": "v4"}), "info": "pretrained_s2G_v4"}, prefix="s2Gv4")
    monkeypatch.setitem(upstream.HASHES, hashlib.md5(data[:8192], usedforsecurity=False).hexdigest(), ("v2", "v4"))
    return data, {
        "weight": lora,
        "config": hparams({"version": "v4", "model": hparams({"version": "v4"})}),
        "info": "2epoch_4iteration",
        "lora_rank": 1,
    }


def test_the_first_bytes_and_everything_but_tensor_data_are_those_of_the_base(gsvckpt, tmp_path, known):
    data, lora = known
    (tmp_path / "s2Gv4-copy.pth").write_bytes(data)
    source = save(tmp_path / "alice_e2_s4_l1.pth", lora, head=b"04")
    file = gsvckpt.json("migrate", source, "--merge-lora", tmp_path / "s2Gv4-copy.pth", "--over-base").file
    written = (tmp_path / "alice_e2_s4.pth").read_bytes()
    assert (written[:8192], len(written)) == (data[:8192], len(data))
    assert file["upstream_after"] == {"symbols": "v2", "model": "v4", "lora": False, "rule": "hash"}
    assert zipfile.ZipFile(tmp_path / "alice_e2_s4.pth").testzip() is None
    before, after = read(data), read(written)
    assert [record._replace(crc=0) for record in before.records] == [record._replace(crc=0) for record in after.records]
    import sys
    import types

    module = types.ModuleType("utils")
    module.HParams = type("HParams", (), {"__module__": "utils"})
    sys.modules["utils"] = module
    try:
        merged = torch.load(tmp_path / "alice_e2_s4.pth", weights_only=False)
    finally:
        del sys.modules["utils"]
    weight = merged["weight"]
    adapter = "cfm.base_model.model.estimator.transformer_blocks.0.attn.to_q"
    up, down = (torch.tensor(len(f"{adapter}.lora_{side}.default.weight") % 7 / 8) for side in "BA")
    name = "cfm.estimator.transformer_blocks.0.attn.to_q.weight"
    expected = torch.tensor(len(name) % 7 / 8) + up * down
    assert weight[name].item() == expected.half().item()
    bridge = next(name for name in lora["weight"] if name.startswith("bridge"))
    assert weight[bridge].flatten()[0].item() == len(bridge) % 7 / 8
    assert merged["info"] == "pretrained_s2G_v4"


def test_without_it_the_result_would_be_read_as_v3_and_is_refused(gsvckpt, tmp_path, known):
    data, lora = known
    (tmp_path / "base.pth").write_bytes(data)
    run = gsvckpt("migrate", save(tmp_path / "alice_e2_s4_l1.pth", lora, head=b"04"), "--merge-lora", tmp_path / "base.pth")
    assert run.code == 4
    assert "--over-base" in run.err
    assert not (tmp_path / "alice_e2_s4.pth").exists()


def test_a_base_that_is_not_known_by_its_first_bytes_does_not_help(gsvckpt, tmp_path, known):
    _, lora = known
    other = torch_zip({"weight": {name: tensor("float16", (1,)) for name in ()}, "x": 1})
    (tmp_path / "base.pth").write_bytes(other)
    assert gsvckpt("migrate", save(tmp_path / "x_e2_s4_l1.pth", lora, head=b"04"), "--merge-lora", tmp_path / "base.pth", "--over-base").code == 4


@pytest.mark.parametrize("more", [[], ["--merge-lora", "b.pth", "--plain"], ["--merge-lora", "b.pth", "--head", "04"]], ids=range(3))
def test_it_goes_with_merge_lora_alone(gsvckpt, tmp_path, known, more):
    assert gsvckpt("migrate", save(tmp_path / "x.pth", known[1], head=b"04"), "--over-base", *more).code == 2
