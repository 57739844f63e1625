"""gsvckpt convert-fp16: what is cast and what is not, the audit, and that GPT-SoVITS still reads the same version."""

from __future__ import annotations

import pytest
import torch
from support.builders import safetensors, tensor, torch_stream
from support.oracle import assert_same, hparams_class

from .samples import assert_one_error, convert, generator, gpt, numbers, s1_training, s2_training, save, shared, small, weights

AUDIT = set("cast kept unchanged overflowed underflowed max_abs_error max_rel_error worst bytes_before bytes_after".split())
AUDIT |= {"source", "output", "upstream_before", "upstream_after"}


def test_every_key_and_the_values_of_torch(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", small(generator("v2"), "v2"))
    file, output = convert(gsvckpt, source)
    assert file.keys() >= AUDIT
    with hparams_class():
        before, after = torch.load(source, weights_only=False)["weight"], torch.load(output, weights_only=False)["weight"]
    assert list(before) == list(after)
    assert all(torch.equal(after[name], before[name].half()) for name in before)
    assert (file["cast"], file["kept"], file["unchanged"]) == (len(before), 0, 0)
    errors = {name: (value.half().float() - value).abs().max().item() for name, value in before.items()}
    relative = {name: errors[name] / value.abs().max().item() for name, value in before.items()}
    assert file["max_abs_error"] == pytest.approx(max(errors.values()))
    assert file["max_rel_error"] == pytest.approx(max(relative.values()))
    assert [entry["name"] for entry in file["worst"]] == sorted(relative, key=relative.get, reverse=True)[:5]
    assert file["underflowed"] == sum(int(((value != 0) & (value.half() == 0)).sum()) for value in before.values())


def test_only_floating_weights_change(gsvckpt, tmp_path):
    tree = {
        "double": tensor("float64", (2,), [1 / 3, 2]),
        "single": tensor("float32", (2,), [1 / 3, 2]),
        "brain": tensor("bfloat16", (2,), [1.5, 2]),
        "half": tensor("float16", (2,), [1.5, 2]),
        "long": tensor("int64", (1,), [1 << 40]),
        "bool": tensor("bool", (2,), [True, False]),
        "tiny": tensor("float32", (2,), [1e-9, 1]),
    }
    source = save(tmp_path / "x.pth", tree)
    file, output = convert(gsvckpt, source)
    assert (file["cast"], file["kept"], file["unchanged"], file["underflowed"]) == (4, 0, 3, 1)
    before, after = torch.load(source), torch.load(output)
    assert all(torch.equal(after[name], value.half() if value.is_floating_point() else value) for name, value in before.items())


def test_optimizer_state_stays_as_it_is(gsvckpt, tmp_path):
    model = generator("v2", enc_q=True)
    for name, tree, key, state in (
        ("G_1.pth", s2_training(model), "model", "optimizer"),
        ("x.ckpt", s1_training(gpt(dtype="float32")), "state_dict", "optimizer_states"),
    ):
        source = save(tmp_path / name, tree)
        _, output = convert(gsvckpt, source)
        before, after = torch.load(source, weights_only=False), torch.load(output, weights_only=False)
        assert list(before) == list(after)
        assert_same(after[state], before[state])
        assert {value.dtype for value in after[key].values()} == {torch.float16}


def test_views_and_tied_weights_stay_shared(gsvckpt, tmp_path):
    base = numbers((4, 6))
    tree = {"base": base, "tied": base, "part": shared("float32", (2, 6), base.store, 12), "other": numbers((2,))}
    _, output = convert(gsvckpt, save(tmp_path / "x.pth", tree))
    loaded = torch.load(output)
    assert loaded["base"].untyped_storage().data_ptr() == loaded["tied"].untyped_storage().data_ptr() == loaded["part"].untyped_storage().data_ptr()
    assert torch.equal(loaded["part"], loaded["base"][2:])


def test_keep_leaves_matching_tensors(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", weights({"a.norm.weight": (4,), "a.proj.weight": (4, 4), "b.norm.bias": (4,)}))
    file, output = convert(gsvckpt, source, "--keep", "*.norm.weight", "--keep", "b.*")
    assert (file["cast"], file["kept"]) == (1, 2)
    assert {name: value.dtype for name, value in torch.load(output).items()} == {
        "a.norm.weight": torch.float32,
        "a.proj.weight": torch.float16,
        "b.norm.bias": torch.float32,
    }


# --- what float16 cannot hold --------------------------------------------------------------------------------------------------------------------

COUNTS = {
    "quantizer.vq.layers.0._codebook.cluster_size": tensor("float32", (3,), [1, 65519.9, 70000]),
    "quantizer.vq.layers.0._codebook.embed_avg": tensor("float32", (2,), [-1e6, 1]),
    "w": tensor("float32", (2,), [65504, float("inf")]),
}


def test_by_default_a_tensor_beyond_float16_keeps_its_dtype_and_the_report_says_so(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", COUNTS)
    file, output = convert(gsvckpt, source)
    assert file["overflowed"] == [{"name": name, "count": 1} for name in list(COUNTS)[:2]]
    assert (file["cast"], file["kept"]) == (1, 2)
    before, after = torch.load(source), torch.load(output)
    assert [value.dtype for value in after.values()] == [torch.float32, torch.float32, torch.float16]
    assert all(torch.equal(before[name], after[name].float()) for name in before)  # the infinity that was there is no overflow
    assert "cluster_size" in gsvckpt("convert-fp16", source, "-n").out
    assert gsvckpt.json("convert-fp16", output, "--check").file["changed"] is False


def test_clamp_limits_the_values(gsvckpt, tmp_path):
    file, output = convert(gsvckpt, save(tmp_path / "x.pth", COUNTS), "--on-overflow", "clamp")
    assert {entry["name"]: entry["count"] for entry in file["overflowed"]} == dict.fromkeys(list(COUNTS)[:2], 1)
    loaded = torch.load(output)
    assert {value.dtype for value in loaded.values()} == {torch.float16}
    assert [value.tolist() for value in loaded.values()] == [[1, 65504, 65504], [-65504, 1], [65504, float("inf")]]


def test_error_refuses_the_file(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", COUNTS)
    assert_one_error(gsvckpt("convert-fp16", source, "--on-overflow", "error"), source, 4)
    assert gsvckpt.json("convert-fp16", source, "--on-overflow", "error", exit_code=4).file["error"]["kind"] == "refused"
    assert not (tmp_path / "x.fp16.pth").exists()


@pytest.mark.parametrize("policy", ["keep", "clamp"])
def test_no_policy_ever_makes_an_infinity(gsvckpt, tmp_path, policy):
    values = [65504, 65519.99, 65520, 65536, 1e30, -65520, -1e30, 3e38]
    source = save(
        tmp_path / "x.pth",
        {"f": tensor("float32", (8,), values), "b": tensor("bfloat16", (8,), values), "d": tensor("float64", (8,), [*values[:7], 1e300])},
    )
    _, output = convert(gsvckpt, source, "--on-overflow", policy)
    assert all(value.isfinite().all() for value in torch.load(output).values())


def test_nothing_but_overflow_is_nothing_to_change(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"w": tensor("float32", (2,), [1e6, 1])})
    for options in ([], ["-n"], ["--check"], ["--in-place"]):
        file = gsvckpt.json("convert-fp16", source, *options).file
        assert (file["changed"], file["output"], file["cast"], file["kept"]) == (False, None, 0, 1)
        assert file["overflowed"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_max_error_refuses_and_names_the_tensor(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"good": tensor("float32", (1,), [1]), "poor": tensor("float32", (2,), [1e-7, 5e-8])})
    run = gsvckpt("convert-fp16", source, "--max-error", "0.01")
    assert_one_error(run, source, 4)
    assert "poor" in run.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
    assert gsvckpt("convert-fp16", source, "--max-error", "0.01", "--keep", "poor").code == 0
    assert gsvckpt("convert-fp16", source, "--max-error", "0.9", "--force").code == 0


# --- what comes out ------------------------------------------------------------------------------------------------------------------------------


def test_it_opens_in_torch_in_every_way_with_the_config_exactly_as_it_was(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", small(generator("v2Pro"), "v2Pro"), b"05")
    _, output = convert(gsvckpt, source)
    data = output.read_bytes()
    assert data[:2] == b"05"
    for path, raw in ((source, source.read_bytes()), (output, data)):
        path.write_bytes(b"PK" + raw[2:])  # as GPT-SoVITS does before it loads
    with hparams_class() as hparams:
        before = torch.load(source, weights_only=False)
        with torch.serialization.safe_globals([hparams]):
            loaded = [
                torch.load(output, weights_only=False),
                torch.load(output, weights_only=False, mmap=True),
                torch.load(output, weights_only=True),
            ]
        for after in loaded:
            assert list(after) == ["weight", "config", "info"]
            assert_same([after["config"], after["info"]], [before["config"], before["info"]])
            assert after["config"].model.version == "v2Pro"
            assert_same(after["weight"], {name: value.half() for name, value in before["weight"].items()})


def test_a_file_from_before_torch_1_6_becomes_a_zip(gsvckpt, tmp_path):
    source = tmp_path / "old.pth"
    source.write_bytes(torch_stream({"w": numbers((4, 4))}))
    _, output = convert(gsvckpt, source)
    assert output.read_bytes()[:2] == b"PK"
    assert torch.equal(torch.load(output)["w"], torch.load(source)["w"].half())


def test_safetensors_stay_safetensors(gsvckpt, tmp_path):
    from safetensors import safe_open

    source = tmp_path / "x.safetensors"
    source.write_bytes(
        safetensors({"w": ("F32", (2,), tensor("float32", (2,), [1.5, 70000]).store.data), "v": ("F32", (1,), bytes(4))}, {"who": "me"})
    )
    file, output = convert(gsvckpt, source)
    assert [entry["name"] for entry in file["overflowed"]] == ["w"]
    with safe_open(output, "pt") as opened:
        assert opened.metadata() == {"who": "me"}
        assert (opened.get_tensor("w").dtype, opened.get_tensor("v").dtype) == (torch.float32, torch.float16)


def test_a_keep_that_matches_nothing_is_a_mistake(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", weights({"enc.norm.weight": (4, 4), "dec.weight": (4, 4)}))
    run = gsvckpt("convert-fp16", source, "--keep", "dec.*", "--keep", "enc.nrom.*")
    assert_one_error(run, source, 2)
    assert "enc.nrom.*" in run.err
    assert "enc.norm.weight" in run.err.splitlines()[1]
    assert not source.with_name("x.fp16.pth").exists()


def test_a_largest_error_that_is_no_number_is_a_mistake(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", weights({"w": (4, 4)}))
    assert_one_error(gsvckpt("convert-fp16", source, "--max-error", "nan"), "--max-error", 2)
    assert gsvckpt("convert-fp16", source, "--max-error", "inf").code == 0
