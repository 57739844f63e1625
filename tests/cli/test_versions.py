"""What GPT-SoVITS takes a converted file for: head and size window stay right, or the output is refused."""

from __future__ import annotations

import pytest
import torch
from support.oracle import hparams_class

from gsvckpt.sovits import upstream
from tests.support import voices

from .samples import adamw, assert_one_error, convert, generator, lora, numbers, save, small, weights


@pytest.mark.parametrize(("version", "head"), [("v2Pro", b"05"), ("v2ProPlus", b"06")])
def test_the_head_is_restored(gsvckpt, tmp_path, version, head):
    file, output = convert(gsvckpt, save(tmp_path / "x.pth", small(generator(version), version), head))
    assert output.read_bytes()[:2] == head
    assert file["upstream_before"] == file["upstream_after"] == {"symbols": "v2", "model": version, "lora": False, "rule": "head"}


@pytest.mark.parametrize(("head", "version"), [(b"03", "v3"), (b"04", "v4")])
def test_a_lora_keeps_its_head_and_rank(gsvckpt, tmp_path, head, version):
    file, output = convert(gsvckpt, save(tmp_path / "x.pth", small({**lora(), "more": numbers((4,))}, version, lora_rank=4), head))
    assert output.read_bytes()[:2] == head
    assert (file["upstream_after"]["model"], file["upstream_after"]["lora"]) == (version, True)


def test_v2_is_padded_into_its_window_and_v1_stays_below_it(gsvckpt, tmp_path, monkeypatch):
    for version in ("v1", "v2"):
        source = save(tmp_path / f"{version}.pth", small(generator(version), version))
        monkeypatch.setattr(upstream, "V2_MIN_SIZE", source.stat().st_size + (1 if version == "v1" else 0))
        file, output = convert(gsvckpt, source)
        assert file["upstream_before"]["model"] == file["upstream_after"]["model"] == version
        assert output.stat().st_size == upstream.V2_MIN_SIZE + 16_384 if version == "v2" else output.stat().st_size < upstream.V2_MIN_SIZE * 0.7
        assert output.stat().st_size == file["bytes_after"]
        with hparams_class():
            assert torch.load(output, weights_only=False)["info"] == "8epoch_16iteration"


def test_a_real_v2_voice_lands_in_the_window_to_the_byte(gsvckpt, tmp_path):
    source, output = tmp_path / "x_e8_s200.pth", tmp_path / "out.pth"
    root = voices.sovits_weights(voices.Maker(), "x", "v2", epoch=8, step=200)
    root["info"] = "short"
    voices.write(root, source)
    assert upstream.V2_MIN_SIZE - 100_000 < source.stat().st_size < upstream.V2_MIN_SIZE + 100_000
    file = gsvckpt.json("convert-fp16", source, "-o", output).file
    assert file["upstream_after"] == {"symbols": "v2", "model": "v2", "lora": False, "rule": "size"}
    assert upstream.V2_MIN_SIZE <= output.stat().st_size < upstream.V2_MIN_SIZE + 100_000
    source.unlink()
    output.unlink()  # pytest keeps the folders of its last runs


@pytest.mark.parametrize(("version", "code"), [("v3", 0), ("v4", 4)])
def test_a_full_v4_would_be_read_as_v3_and_is_refused(gsvckpt, tmp_path, monkeypatch, version, code):
    source = save(tmp_path / "x.pth", small(generator(version), version))
    monkeypatch.setattr(upstream, "V3_MIN_SIZE", 1000)
    monkeypatch.setattr(upstream, "V2_MIN_SIZE", 500)
    run = gsvckpt("convert-fp16", source)
    assert run.code == code, run.err
    if code:
        assert_one_error(run, source, 4)
        assert "v3" in run.err
        assert gsvckpt("convert-fp16", source, "-n").code == 4
    forced = gsvckpt("convert-fp16", source, "--force")
    assert (forced.code, "warning" in forced.err) == (0, code == 4)


def test_a_v3_that_would_leave_its_window_is_refused(gsvckpt, tmp_path, monkeypatch):
    source = save(tmp_path / "x.pth", small({**generator("v3"), "big": numbers((300, 300))}, "v3"))
    monkeypatch.setattr(upstream, "V3_MIN_SIZE", source.stat().st_size)
    monkeypatch.setattr(upstream, "V2_MIN_SIZE", 1000)
    monkeypatch.setattr("gsvckpt.sovits.upstream.MAX_PADDING", 1000)
    assert_one_error(gsvckpt("convert-fp16", source), source, 4)


def test_training_goes_on_from_the_result(gsvckpt, tmp_path):
    """The reading side of utils.load_checkpoint: the model's own dtype takes the values, the optimizer its state."""
    model = torch.nn.Linear(4, 8)
    tree = {"model": model.state_dict(), "iteration": 8, "optimizer": torch.optim.AdamW(model.parameters(), 1e-4).state_dict(), "learning_rate": 1e-4}
    torch.save(tree, tmp_path / "G_16.pth")
    _, output = convert(gsvckpt, tmp_path / "G_16.pth")
    loaded = torch.load(output, weights_only=True)
    assert loaded["iteration"] == 8
    fresh = torch.nn.Linear(4, 8)
    fresh.load_state_dict(loaded["model"])
    torch.optim.AdamW(fresh.parameters(), 1e-4).load_state_dict(loaded["optimizer"])
    assert torch.equal(fresh.weight, model.weight.half().float())


def test_adamw_that_shares_a_storage_with_the_model_keeps_it_wide(gsvckpt, tmp_path):
    model = weights({"w": (4, 4)})
    tree = {"model": model, "optimizer": {**adamw(model), "master": model["w"]}, "iteration": 1, "learning_rate": 1.0}
    file, output = convert(gsvckpt, save(tmp_path / "x.pth", tree))
    assert torch.load(output)["model"]["w"].dtype is torch.float32
    assert (file["cast"], file["kept"], file["changed"]) == (0, 1, False)
