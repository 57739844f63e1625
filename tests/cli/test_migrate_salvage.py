"""gsvckpt migrate --salvage: what is whole of a damaged file, and never more."""

from __future__ import annotations

import io
import json
import shutil
from collections import OrderedDict

import pytest
import torch
from support.builders import Store, tensor, torch_stream, torch_zip
from support.oracle import hparams_class
from support.voices import sovits_config

from .samples import generator, numbers, s2_training, save, shared, small

TREE = {
    "weight": OrderedDict((f"layer.{n}", tensor("float32", (400,), range(n, n + 400))) for n in range(6)),
    "config": {"model": {"version": "v2"}},
    "info": "8epoch_16iteration",
}


def damaged(kind: str, keep: float = 1.0) -> bytes:
    if kind == "torch":
        buffer = io.BytesIO()
        torch.save({"weight": {f"layer.{n}": torch.arange(n, n + 400.0) for n in range(6)}, "info": "x"}, buffer)
        data = buffer.getvalue()
    else:
        data = {"zip": torch_zip(TREE), "headed": torch_zip(TREE, head=b"05"), "stream": torch_stream(TREE)}[kind]
    return data[: int(len(data) * keep)]


@pytest.mark.parametrize("kind", ["zip", "headed", "stream", "torch"])
@pytest.mark.parametrize("keep", [0.75, 0.85])
def test_what_is_whole_of_a_cut_file_comes_out_with_its_bytes(gsvckpt, tmp_path, kind, keep):
    (tmp_path / "x.pth").write_bytes(damaged(kind, keep))
    run = gsvckpt.json("migrate", tmp_path / "x.pth", "--salvage", exit_code=1)
    after = torch.load(tmp_path / "x.salvaged.pth", weights_only=False)["weight"]
    lost = [change["where"] for change in run.file["changes"] if change["step"] == "salvage" and change["to"] == "lost"]
    assert 0 < len(after) < 6
    assert set(after) | set(lost) == {f"layer.{n}" for n in range(6)}
    assert lost == [f"layer.{n}" for n in range(len(after), 6)]
    for name, value in after.items():
        assert value.tolist() == list(range(int(name[-1]), int(name[-1]) + 400))
    assert (run.file["whole"], run.file["written"]) == (False, True)
    assert any("incomplete" in warning for warning in run.file["warnings"])


def test_an_altered_tensor_is_lost_though_torch_would_load_it(gsvckpt, tmp_path):
    data = bytearray(damaged("zip"))
    at = data.find(tensor("float32", (400,), range(3, 403)).store.data)
    data[at + 5] ^= 1
    (tmp_path / "x.pth").write_bytes(data)
    file = gsvckpt.json("migrate", tmp_path / "x.pth", "--salvage", exit_code=1).file
    assert [change["where"] for change in file["changes"]] == ["layer.3"]
    assert list(torch.load(tmp_path / "x.salvaged.pth")["weight"]) == [f"layer.{n}" for n in (0, 1, 2, 4, 5)]


def test_another_file_completes_it_and_that_is_said(gsvckpt, tmp_path):
    (tmp_path / "x.pth").write_bytes(damaged("zip", 0.8))
    base = save(
        tmp_path / "base.pth",
        {"weight": {f"layer.{n}": tensor("float32", (400,), [9.0] * 400) for n in range(6)} | {"enc_q.w": tensor("float32", (3,))}},
    )
    file = gsvckpt.json("migrate", tmp_path / "x.pth", "--salvage", "--like", base, "--fill", exit_code=1).file
    after = torch.load(tmp_path / "x.salvaged.pth")["weight"]
    assert (after["layer.0"].tolist(), after["layer.5"].tolist()) == (list(range(400)), [9.0] * 400)
    assert file["whole"] is False
    assert list(after) == [f"layer.{n}" for n in range(6)]  # the base's own `enc_q` is not wanted
    assert any("not the model that was saved" in warning for warning in file["warnings"])


def test_what_is_filled_stands_where_it_stood(gsvckpt, tmp_path):
    tree = small(generator("v2"), "v2")
    sound = save(tmp_path / "sound.pth", tree)
    shutil.copy(sound, tmp_path / "x.pth")
    names = list(tree["weight"])
    alter(tmp_path / "x.pth", names[0], tree)
    output = gsvckpt.json("migrate", tmp_path / "x.pth", "--salvage", "--like", sound, "--fill", exit_code=1).file["output"]
    with hparams_class():
        assert list(torch.load(output, weights_only=False)["weight"]) == names


def test_half_of_an_optimizer_is_of_no_use(gsvckpt, tmp_path):
    moments = {n: {"exp_avg": tensor("float32", (400,))} for n in range(6)}
    tree = {"model": TREE["weight"], "iteration": 8, "optimizer": {"state": moments, "param_groups": [{"params": [0]}]}, "learning_rate": 1e-4}
    data = torch_zip(tree)
    (tmp_path / "G_16.pth").write_bytes(data[: int(len(data) * 0.8)])
    file = gsvckpt.json("migrate", tmp_path / "G_16.pth", "--salvage").file
    after = torch.load(tmp_path / "salvaged-G_16.pth")
    assert (after["optimizer"], list(after["model"])) == (None, [f"layer.{n}" for n in range(6)])
    assert file["whole"] is True  # of the model nothing is lost


def test_a_sound_file_needs_no_salvage(gsvckpt, tmp_path):
    file = gsvckpt.json("migrate", save(tmp_path / "x.pth", TREE), "--salvage").file
    assert (file["changed"], file["output"], file["whole"]) == (False, None, True)


@pytest.mark.parametrize("data", [b"", b"<html>", damaged("zip", 0.05), damaged("stream", 0.1)], ids=["empty", "page", "zip", "stream"])
def test_where_nothing_is_left_nothing_is_written(gsvckpt, tmp_path, data):
    (tmp_path / "x.pth").write_bytes(data)
    run = gsvckpt("migrate", tmp_path / "x.pth", "--salvage")
    assert (run.code, run.out) == (3, "")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_a_malicious_half_is_refused(gsvckpt, tmp_path):
    from support.builders import Make, Name

    data = torch_zip({"weight": TREE["weight"], "x": Make(Name("os", "system"), ("touch pwned",))})
    (tmp_path / "x.pth").write_bytes(data[: int(len(data) * 0.8)])
    run = gsvckpt("migrate", tmp_path / "x.pth", "--salvage")
    assert run.code == 4
    assert "os.system" in run.err or "posix.system" in run.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_it_never_takes_the_place_of_the_damaged_file(gsvckpt, tmp_path):
    (tmp_path / "x.pth").write_bytes(damaged("zip", 0.8))
    assert gsvckpt("migrate", tmp_path / "x.pth", "--salvage", "--in-place").code == 2
    assert (tmp_path / "x.pth").read_bytes() == damaged("zip", 0.8)


def test_an_altered_pickle_is_believed_in_nothing(gsvckpt, tmp_path):
    """Its names, shapes and config may be others than were saved, and every tensor might be whole."""
    data = bytearray(damaged("zip"))
    at = data.index(b"8epoch")
    data[at : at + 1] = b"9"
    (tmp_path / "x.pth").write_bytes(data)
    run = gsvckpt("migrate", tmp_path / "x.pth", "--salvage")
    assert (run.code, "altered" in run.err) == (3, True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_the_model_does_not_go_with_what_is_lost_beside_it(gsvckpt, tmp_path):
    tree = {
        "model": {"state_dict": {"a": tensor("float32", (10,)), "b": tensor("float32", (10,))}, "buffers": [tensor("float32", (3000,))]},
        "epoch": 3,
    }
    (tmp_path / "x.pth").write_bytes(torch_zip(tree)[:-8000])
    assert gsvckpt("migrate", tmp_path / "x.pth", "--salvage").code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_a_folder_of_outputs_tells_what_was_salvaged(gsvckpt, tmp_path):
    (tmp_path / "G_16.pth").write_bytes(damaged("zip", 0.8))
    file = gsvckpt.json("migrate", tmp_path / "G_16.pth", "--salvage", "-o", f"{tmp_path}/out/", exit_code=1).file
    assert file["output"] == f"{tmp_path}/out/salvaged-G_16.pth"


def test_numbers_of_another_byte_order_are_not_salvaged(gsvckpt, tmp_path):
    (tmp_path / "x.pth").write_bytes(torch_zip(TREE, extras={"byteorder": b"big"})[:-2500])
    run = gsvckpt("migrate", tmp_path / "x.pth", "--salvage")
    assert (run.code, "big-endian" in run.err) == (3, True)


@pytest.mark.parametrize("options", [[], ["-n"], ["-q"]])
def test_what_is_lost_shows_in_the_exit_code(gsvckpt, tmp_path, options):
    sound = save(tmp_path / "sound.pth", TREE)
    (tmp_path / "x.pth").write_bytes(damaged("zip", 0.8))
    assert gsvckpt("migrate", sound, "--salvage", *options).code == 0
    assert gsvckpt("migrate", sound, tmp_path / "x.pth", "--salvage", "-o", f"{tmp_path}/out/", *options).code == 1
    assert gsvckpt("migrate", tmp_path / "x.pth", tmp_path / "none.pth", "--salvage", "-o", f"{tmp_path}/again/", *options).code == 3


def test_a_damaged_first_header_costs_nothing(gsvckpt, tmp_path):
    data = bytearray(damaged("headed"))
    data[:40] = bytes(40)
    (tmp_path / "x.pth").write_bytes(data)
    file = gsvckpt.json("migrate", tmp_path / "x.pth", "--salvage").file
    assert [(change["where"], change["to"]) for change in file["changes"]] == [("container", "written again")]
    assert file["whole"] is True
    after = torch.load(tmp_path / "x.salvaged.pth", weights_only=True)["weight"]
    assert {name: value.tolist() for name, value in after.items()} == {f"layer.{n}": list(range(n, n + 400)) for n in range(6)}


@pytest.mark.parametrize("tree", [TREE, TREE["weight"]], ids=["voice", "state dict"])
def test_a_cut_safetensors_file_is_salvaged_as_a_torch_file_is(gsvckpt, tmp_path, tree):
    """Its tree, which the header holds, comes back without what is lost."""
    gsvckpt.json("migrate", save(tmp_path / "source.pth", tree), "--to", "safetensors", "-o", tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[: -2 * 1600 - 1])
    file = gsvckpt.json("migrate", tmp_path / "x.safetensors", "--salvage", exit_code=1).file
    lost = [change["where"] for change in file["changes"] if change["to"] == "lost"]
    assert (lost, file["whole"], file["written"]) == ([f"layer.{n}" for n in (3, 4, 5)], False, True)
    assert any("3 of the model's 6 tensors are complete" in warning for warning in file["warnings"])
    gsvckpt.json("migrate", tmp_path / "x.salvaged.safetensors", "--to", "torch", "-o", tmp_path / "back.pth")
    after = torch.load(tmp_path / "back.pth", weights_only=True)
    assert {name: value.tolist() for name, value in after.get("weight", after).items()} == {f"layer.{n}": list(range(n, n + 400)) for n in range(3)}
    assert after.get("info") == tree.get("info")


def test_bytes_behind_a_safetensors_file_are_left_out(gsvckpt, tmp_path):
    gsvckpt.json("migrate", save(tmp_path / "source.pth", TREE), "--to", "safetensors", "-o", tmp_path / "sound.safetensors")
    data = (tmp_path / "sound.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data + bytes(5))
    assert gsvckpt.json("migrate", tmp_path / "x.safetensors", "--salvage").file["whole"] is True
    assert (tmp_path / "x.salvaged.safetensors").read_bytes() == data


def test_a_safetensors_file_without_its_whole_header_is_refused(gsvckpt, tmp_path):
    gsvckpt.json("migrate", save(tmp_path / "source.pth", TREE), "--to", "safetensors", "-o", tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:100])
    run = gsvckpt("migrate", tmp_path / "x.safetensors", "--salvage")
    assert (run.code, run.out) == (3, "")
    assert "nothing can be salvaged: the file ends early: 100 bytes" in run.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.pth", "x.safetensors"]


@pytest.mark.parametrize("kind", ["zip", "stream", "safetensors"])
def test_a_file_that_ends_early_is_told_of_with_what_helps(gsvckpt, tmp_path, kind):
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        gsvckpt.json("migrate", save(tmp_path / "source.pth", TREE), "--to", kind, "-o", path)
        path.write_bytes(path.read_bytes()[:-2000])
    else:
        path.write_bytes(damaged(kind, 0.8))
    for command in ("inspect", "migrate", "strip-optimizer"):
        assert "--salvage" in gsvckpt(command, path).err
    findings = gsvckpt.json("verify", path, exit_code=1).file["findings"]
    told = [finding["hint"]["command"] for finding in findings if finding["check"] == "container.truncated"]
    assert ["--salvage" in command for command in told] == [False, True]  # said once
    assert "--salvage" not in gsvckpt("migrate", path, "--salvage", "--exclude", "layer.*").err


def test_what_salvage_cannot_help_is_not_told_so(gsvckpt, tmp_path):
    """Nothing is left of a file that was cut within its pickle."""
    (tmp_path / "x.pth").write_bytes(damaged("zip", 0.02))
    assert all("--salvage" not in finding["hint"]["command"] for finding in gsvckpt.json("verify", tmp_path / "x.pth", exit_code=1).file["findings"])
    run = gsvckpt("migrate", tmp_path / "x.pth", "--salvage")
    assert (run.code, "hint: get the file again\n" in run.err) == (3, True)


@pytest.mark.parametrize(("altered", "helps"), [([3], True), (range(6), False)], ids=["one", "all"])
def test_verify_names_salvage_where_an_altered_file_has_something_whole(gsvckpt, tmp_path, altered, helps):
    data = bytearray(damaged("zip"))
    for n in altered:
        data[data.find(tensor("float32", (400,), range(n, n + 400)).store.data) + 5] ^= 1
    (tmp_path / "x.pth").write_bytes(data)
    found = [finding for finding in gsvckpt.json("verify", tmp_path / "x.pth", exit_code=1).file["findings"] if finding["check"] == "record.crc"]
    assert len(found) == len(altered)
    assert all(("--salvage" in finding["hint"]["command"], "--record" in finding["hint"]["command"]) == (helps, False) for finding in found)
    assert gsvckpt("migrate", tmp_path / "x.pth", "--salvage").code == (1 if helps else 4)
    assert "--salvage" in gsvckpt("migrate", tmp_path / "x.pth", "-o", tmp_path / "out.pth").err


def test_a_head_that_was_mended_is_not_told_of_the_output(gsvckpt, tmp_path):
    source = save(tmp_path / "x_e8_s16.pth", small(generator("v2Pro"), "v2Pro"), head=b"06")
    file = gsvckpt.json("migrate", source, "--force").file
    assert [change["where"] for change in file["changes"]] == ["first two bytes"]
    assert not [warning for warning in file["warnings"] if "head" in warning]
    kept = gsvckpt.json("migrate", source, "--head", "06", "--dtype", "float16", "--force", "-o", tmp_path / "kept.pth").file
    assert [warning for warning in kept["warnings"] if "head" in warning]


def alter(path, name, tree):
    """Flip a bit of one tensor's bytes in a file."""
    data = bytearray(path.read_bytes())
    data[data.index(tree["weight"][name].store.data)] ^= 1
    path.write_bytes(data)


def test_what_size_tells_the_version_is_salvaged_too_and_has_its_size_when_completed(gsvckpt, tmp_path):
    """GPT-SoVITS tells v2 from v1 by the size, and one lost tensor may take a file below the line."""
    large = shared("float16", (42_475_000,), Store("float16", bytes(84_950_000)))
    tree = small({**generator("v2"), "enc_p.proj.weight": numbers((400,)), "enc_p.large": large}, "v2")
    sound = tmp_path / "sound.pth"
    gsvckpt.json("migrate", save(tmp_path / "source.pth", tree), "-o", sound)
    shutil.copy(sound, tmp_path / "x.pth")
    alter(tmp_path / "x.pth", "enc_p.proj.weight", tree)
    assert gsvckpt.json("migrate", tmp_path / "x.pth", "--salvage", exit_code=1).file["written"]
    file = gsvckpt.json("migrate", tmp_path / "x.pth", "--salvage", "--like", sound, "--fill", "-o", tmp_path / "out.pth", exit_code=1).file
    assert (file["upstream_after"]["model"], (tmp_path / "out.pth").stat().st_size) == ("v2", sound.stat().st_size)


@pytest.mark.parametrize("options", [[], ["--plain"]])
def test_a_model_is_of_its_version_though_what_tells_it_is_lost(gsvckpt, tmp_path, options):
    tree = small(generator("v2Pro"), "v2Pro")
    sound = save(tmp_path / "sound.pth", tree, head=b"05")
    shutil.copy(sound, tmp_path / "x.pth")
    alter(tmp_path / "x.pth", "sv_emb.weight", tree)
    gsvckpt.json("migrate", tmp_path / "x.pth", "--salvage", *options, exit_code=1)
    assert (tmp_path / "x.salvaged.pth").read_bytes()[:2] == b"05"
    file = gsvckpt.json("migrate", tmp_path / "x.pth", "--salvage", "--like", sound, "--fill", *options, "-o", tmp_path / "out.pth", exit_code=1).file
    assert file["upstream_after"]["model"] == "v2Pro"


@pytest.mark.parametrize("container", ["safetensors", "stream"])
def test_where_nothing_has_a_checksum_that_is_said(gsvckpt, tmp_path, container):
    """Bytes that are missing in the middle of such a file leave everything behind them in the wrong place."""
    path = tmp_path / ("x.safetensors" if container == "safetensors" else "x.pth")
    if container == "safetensors":
        gsvckpt.json("migrate", save(tmp_path / "source.pth", TREE), "--to", "safetensors", "-o", path)
        path.write_bytes(path.read_bytes()[:-2000])
    else:
        path.write_bytes(damaged("stream", 0.8))
    file = gsvckpt.json("migrate", path, "--salvage", exit_code=1).file
    assert any("no checksums" in warning for warning in file["warnings"])


def test_what_is_lost_is_completed_before_small_weights_are_made_of_it(gsvckpt, tmp_path):
    """A training file's tensors complete a training file, not the small weights that come of it: those have no enc_q, and are float16."""
    state = generator("v2Pro", enc_q=True)
    whole = save(tmp_path / "G_1.pth", s2_training(state, 1))
    data = bytearray(save(tmp_path / "G_2.pth", s2_training(state, 2)).read_bytes())
    data[data.find(state["dec.conv_pre.weight"].store.data) + 5] ^= 1
    (tmp_path / "G_2.pth").write_bytes(data)
    (tmp_path / "config.json").write_text(json.dumps(sovits_config("alice", "v2Pro", 5)))
    words = ("--salvage", "--like", whole, "--fill", "--to-inference", "-o", tmp_path / "out.pth")
    gsvckpt.json("migrate", tmp_path / "G_2.pth", *words, exit_code=1)
    after = gsvckpt.json("inspect", tmp_path / "out.pth", "--tensors").file["state"]
    assert {one["name"] for one in after} == {name for name in state if "enc_q" not in name}
    assert {one["dtype"] for one in after} == {"float16"}
