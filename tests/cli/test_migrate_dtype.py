"""gsvckpt migrate --dtype: every value as torch has it, the audit, what a dtype cannot hold, and that GPT-SoVITS still reads the same version."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from support.builders import Store, View, packed, tensor
from support.oracle import assert_same

from gsvckpt.sovits import upstream
from tests.support.voices import Maker, sovits_weights, write

from .samples import assert_one_error, generator, gpt, numbers, s1_training, s2_training, save, shared, small
from .test_convert_fp16 import AUDIT
from .test_migrate_states import FLOATS, load, migrate

EDGES = [0.0, -0.0, 1 / 3, math.inf, -math.inf, math.nan, 1e-8, 6e-8, 1e-40, 65504.0, -65519.9, 2.5]
TREE = {
    "double": tensor("float64", (12,), EDGES),
    "single": tensor("float32", (12,), EDGES),
    "half": tensor("float16", (6,), [1 / 3, 65504, 6e-8, math.inf, math.nan, -0.0]),
    "brain": tensor("bfloat16", (4,), [1 / 3, 65280, -0.0, 1e-30]),
    "strided": View(Store("float32", packed("float32", range(24))), (3, 4), (1, 6), 2),
    "long": tensor("int64", (1,), [1 << 40]),
    "bool": tensor("bool", (2,), [True, False]),
    "byte": tensor("uint8", (3,), [1, 2, 255]),
}


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_are_torchs_bit_for_bit_and_integers_stay(gsvckpt, tmp_path, dtype):
    source = save(tmp_path / "x.pth", TREE)
    file, after = migrate(gsvckpt, source, "--dtype", dtype)
    kind = FLOATS[dtype]
    for name, value in load(source).items():
        wanted = value.to(kind) if value.is_floating_point() else value
        assert (after[name].dtype, after[name].stride(), after[name].storage_offset()) == (wanted.dtype, value.stride(), value.storage_offset())
        found, wanted = (part.contiguous().nan_to_num(7.0) if kind is wanted.dtype else part for part in (after[name], wanted))
        assert torch.equal(found.contiguous().view(torch.uint8), wanted.contiguous().view(torch.uint8))
        assert torch.equal(after[name].isnan(), value.isnan())
    same = {"float32": 2, "float16": 1, "bfloat16": 1}[dtype]
    assert (file["cast"], file["kept"], file["unchanged"]) == (5 - same, 0, 3 + same)
    again, _ = migrate(gsvckpt, Path(file["output"]), "--dtype", dtype)
    assert (again["changed"], again["output"]) == (False, None)
    assert gsvckpt("migrate", file["output"], "--dtype", dtype, "--check").code == 0


@pytest.mark.parametrize("shape", ["voice", "G", "ckpt", "plain", "shared"])
def test_the_audit_is_that_of_convert_fp16(gsvckpt, tmp_path, shape):
    base = numbers((4, 4))
    tree = {
        "voice": small(generator("v2"), "v2"),
        "G": s2_training(generator("v2", enc_q=True)),
        "ckpt": s1_training(gpt(dtype="float32")),
        "plain": TREE,
        "shared": {"model": {"a": base, "b": numbers((2,))}, "aside": [shared("float32", (2, 2), base.store)]},
    }[shape]
    source = save(tmp_path / "x.pth", tree)
    one = gsvckpt.json("convert-fp16", source, "-o", tmp_path / "one.pth").file
    two = gsvckpt.json("migrate", source, "--dtype", "float16", "-o", tmp_path / "two.pth").file
    assert two.keys() >= AUDIT
    for file in (one, two):
        output = file.pop("output")
        file["notes"] = [note.replace(output, "OUT") for note in file["notes"]]
    assert one == {key: two[key] for key in one}
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()


@pytest.mark.parametrize(("dtype", "given"), [("bfloat16", "float32"), ("float32", "float64"), ("float16", "bfloat16")])
def test_the_audit_against_torch(gsvckpt, tmp_path, dtype, given):
    values = {"a": numbers((50, 7), given), "b": tensor(given, (3,), [1e-30, 123.456, -7e-9]), "zero": tensor(given, (2,), [0, 0])}
    source = save(tmp_path / "x.pth", values)
    file, _ = migrate(gsvckpt, source, "--dtype", dtype)
    before = load(source)
    errors = {name: (value.to(FLOATS[dtype]).double() - value.double()).abs().max().item() for name, value in before.items()}
    largest = {name: value.double().abs().max().item() for name, value in before.items()}
    relative = {name: errors[name] / largest[name] for name in errors if largest[name]}
    assert file["max_abs_error"] == max(errors.values())
    assert file["max_rel_error"] == max(relative.values())
    assert [(entry["name"], entry["largest"], entry["max_abs_error"]) for entry in file["worst"]] == [
        (name, largest[name], errors[name]) for name in sorted(relative, key=relative.get, reverse=True) if errors[name]
    ]
    assert file["underflowed"] == sum(int(((value != 0) & (value.to(FLOATS[dtype]) == 0)).sum()) for value in before.values())


def test_only_the_model_is_cast_and_ties_stay(gsvckpt, tmp_path):
    base = numbers((4, 6))
    state = {"w": base, "tied": base, "part": shared("float32", (2, 6), base.store, 12)}
    source = save(tmp_path / "G_16.pth", s2_training(state))
    _, after = migrate(gsvckpt, source, "--dtype", "bfloat16")
    before = load(source)
    assert_same(after["optimizer"], before["optimizer"])
    model = after["model"]
    assert len({value.untyped_storage().data_ptr() for value in model.values()}) == 1
    assert torch.equal(model["part"], before["model"]["w"].bfloat16()[2:])


# --- what a dtype cannot hold --------------------------------------------------------------------------------------------------------------------

LIMITS = {"float16": ("float32", 70000.0, 65504.0), "bfloat16": ("float32", 3.4e38, torch.finfo(torch.bfloat16).max)}
LIMITS["float32"] = ("float64", -1e300, torch.finfo(torch.float32).max)


@pytest.mark.parametrize("dtype", LIMITS)
def test_beyond_its_range_a_tensor_is_kept_clamped_or_refused(gsvckpt, tmp_path, dtype):
    given, beyond, limit = LIMITS[dtype]
    source = save(tmp_path / "x.pth", {"big": tensor(given, (3,), [1, beyond, math.inf]), "fine": tensor(given, (2,), [math.inf, 1])})
    for options in ([], ["--on-overflow", "keep"]):
        file, after = migrate(gsvckpt, source, "--dtype", dtype, *options, "--force")
        assert file["overflowed"] == [{"name": "big", "count": 1}]
        assert (file["cast"], file["kept"], file["unchanged"]) == (1, 1, 0)
        assert_same(after, {"big": load(source)["big"], "fine": load(source)["fine"].to(FLOATS[dtype])})
    file, after = migrate(gsvckpt, source, "--dtype", dtype, "--on-overflow", "clamp", "--force")
    assert (file["overflowed"], file["cast"]) == ([{"name": "big", "count": 1}], 2)
    assert after["big"].tolist() == [1, math.copysign(limit, beyond), math.inf]
    os.unlink(file["output"])
    run = gsvckpt("migrate", source, "--dtype", dtype, "--on-overflow", "error")
    assert_one_error(run, source, 4)
    assert dtype in run.err
    assert os.listdir(tmp_path) == ["x.pth"]


def test_nothing_but_overflow_is_nothing_to_change(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"w": tensor("float32", (2,), [1e6, 1])})
    for options in ([], ["-n"], ["--check"], ["--in-place"]):
        file, _ = migrate(gsvckpt, source, "--dtype", "float16", *options)
        assert (file["changed"], file["output"], file["overflowed"]) == (False, None, [{"name": "w", "count": 1}])
    assert os.listdir(tmp_path) == ["x.pth"]


def test_a_mistaken_dtype(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"w": numbers((2,))})
    for options in (["--dtype", "int8"], ["--dtype", "float64"], ["--dtype", "float16", "--on-overflow", "wrap"]):
        assert gsvckpt("migrate", source, *options).code == 2
    assert os.listdir(tmp_path) == ["x.pth"]


# --- sizes by which GPT-SoVITS tells versions ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """A v2 voice of real size."""
    return write(sovits_weights(Maker(), "alice", "v2", 8, 16), tmp_path_factory.mktemp("voice") / "alice_e8_s16.pth", "v2")


def test_a_v2_voice_is_read_as_v2_in_every_dtype(gsvckpt, voice, tmp_path):
    single = tmp_path / "single.pth"
    file = gsvckpt.json("migrate", voice, "--dtype", "float32", "-o", single).file
    assert file["upstream_before"]["model"] == file["upstream_after"]["model"] == "v2"
    low, high = upstream.size_window("v2")
    assert low <= single.stat().st_size < high
    for dtype in ("float16", "bfloat16"):
        predicted = gsvckpt.json("migrate", single, "--dtype", dtype, "-n").file
        file = gsvckpt.json("migrate", single, "--dtype", dtype, "-o", tmp_path / f"{dtype}.pth").file
        assert (file["upstream_after"]["model"], file["warnings"]) == ("v2", [])
        assert low <= (tmp_path / f"{dtype}.pth").stat().st_size == predicted["bytes_after"] == file["bytes_after"] < high
    assert (tmp_path / "float16.pth").read_bytes() == voice.read_bytes()  # float16 to float32 and back


@pytest.mark.parametrize("padding", [1 << 22, 1_000])
def test_an_output_too_small_for_its_window_is_padded_a_little_or_refused(gsvckpt, tmp_path, monkeypatch, padding):
    """Windows moved to where the shrunken files are."""
    source = save(tmp_path / "v.pth", small({**generator("v2"), "dec.x": numbers((1000,))}, "v2"))
    monkeypatch.setattr(upstream, "V2_MIN_SIZE", source.stat().st_size)
    monkeypatch.setattr("gsvckpt.sovits.upstream.MAX_PADDING", padding)
    run = gsvckpt("migrate", source, "--dtype", "float16")
    output = source.with_name("v.migrated.pth")
    if padding > source.stat().st_size:
        assert run.code == 0
        assert output.stat().st_size >= upstream.V2_MIN_SIZE
        assert load(output)["weight"]["dec.x"].dtype is torch.float16
    else:
        assert_one_error(run, source, 4)
        assert "v1" in run.err
        assert os.listdir(tmp_path) == ["v.pth"]


def test_an_output_that_grows_out_of_its_window_is_refused(gsvckpt, tmp_path, monkeypatch):
    source = save(tmp_path / "v.pth", small(generator("v2", "float16"), "v2"))
    size = source.stat().st_size
    monkeypatch.setattr(upstream, "V2_MIN_SIZE", size - 100)
    monkeypatch.setattr(upstream, "V3_MIN_SIZE", size + 1_000)
    run = gsvckpt("migrate", source, "--dtype", "float32")
    assert_one_error(run, source, 4)
    assert "v3" in run.err
    assert os.listdir(tmp_path) == ["v.pth"]
    assert gsvckpt("migrate", source, "--dtype", "float32", "--force").code == 0


def test_v1_in_float32_is_larger_than_any_that_gpt_sovits_knows(gsvckpt, tmp_path):
    """Weights are told by their tensors in the end; a base is not: the preparation of the data looks at its size alone."""
    voice = write(sovits_weights(Maker(), "alice", "v1", 8, 16), tmp_path / "alice_e8_s16.pth")
    file = gsvckpt.json("migrate", voice, "--dtype", "float32", "-n").file
    assert (file["upstream_before"]["model"], file["upstream_after"]["model"]) == ("v1", "v2")
    assert any("corrected from its tensors" in warning for warning in file["warnings"])
    voice.unlink()
    state = Maker().state("sovits-v1", "float16")
    base = write({"weight": state, "config": {"model": {"version": "v1"}}, "info": "pretrained"}, tmp_path / "s2G.pth")
    assert gsvckpt("migrate", base, "--plain", "-o", tmp_path / "plain.pth", "-n").code == 0
    for more in ([], ["-n"]):
        run = gsvckpt("migrate", base, "--dtype", "float32", *more)
        assert_one_error(run, base, 4)
        assert "3-get-semantic.py would mistake this v1 base for v2" in run.err
        assert os.listdir(tmp_path) == ["s2G.pth"]
    forced = gsvckpt.json("migrate", base, "--dtype", "float32", "--force", "-n").file
    assert any("3-get-semantic.py" in warning for warning in forced["warnings"])
    base.unlink()
