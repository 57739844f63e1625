"""Where the writing commands put their output, what they refuse to overwrite, and what --dry-run and --check promise."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch
from support.voices import sovits_config

from gsvckpt.sovits.names import resumes

from .samples import assert_one_error, discriminator, evil, generator, gpt, leftovers, s1_training, s2_training, save, small, weights

COMMANDS = {"convert-fp16": "fp16", "strip-optimizer": "weights"}
NO_MODES = sys.platform == "win32"


@pytest.fixture
def training(tmp_path):
    return save(tmp_path / "run.pth", s2_training(generator("v2", enc_q=True)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.pth", "x.{}.pth"),
        ("x.y.ckpt", "x.y.{}.ckpt"),
        ("noextension", "noextension.{}"),
        (".pth", ".pth.{}"),
        ("G_16.pth", "{}-G_16.pth"),
        ("D_233333333333.pth", "{}-D_233333333333.pth"),
        ("g_latest.PTH", "{}-g_latest.PTH"),
        ("epoch=1-step=12.ckpt", "{}-epoch=1-step=12.ckpt"),
        ("alice_e8_s200.pth", "alice_e8_s200.{}.pth"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_output_stands_beside_and_is_nothing_that_gpt_sovits_resumes_from(gsvckpt, tmp_path, command, name, expected):
    source = save(tmp_path / name, s2_training(generator("v2", enc_q=True)))
    file = gsvckpt.json(command, source).file
    output = tmp_path / expected.format(COMMANDS[command])
    assert (file["source"], file["output"], file["written"]) == (str(source), str(output), True)
    assert output.stat().st_size == file["bytes_after"] < file["bytes_before"] == source.stat().st_size
    assert not resumes(output.name)
    assert sorted(os.listdir(tmp_path)) == sorted([source.name, output.name])


@pytest.mark.parametrize(
    ("argv", "end"),
    [
        (["convert-fp16"], "_e8_s16.fp16.pth"),
        (["migrate", "--salvage", "--exclude", "w"], "_e8_s16.salvaged.pth"),
        (["migrate", "--to", "safetensors"], ".safetensors"),
    ],
)
def test_a_name_that_would_be_too_long_is_cut_between_two_letters(gsvckpt, tmp_path, argv, end):
    """255 bytes are what file systems take, which is 85 Chinese letters."""
    source = save(tmp_path / f"{'声' * 81}_e8_s16.pth", weights({"w": (4, 4), "v": (4, 4)}))
    assert len(source.name.encode()) == 254
    file = gsvckpt.json(*argv, source).file
    name = os.path.basename(file["output"])
    assert name.endswith(end)
    assert "_e8_s16" in name
    assert name.partition("_")[0].strip("声") == ""
    assert 250 < len(name.encode()) <= 255
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_to_a_file_a_folder_and_a_folder_to_be_made(gsvckpt, tmp_path, training, command):
    (tmp_path / "there").mkdir()
    other = save(tmp_path / "D_16.pth", s2_training(discriminator()))
    for argv, outputs in (
        (["-o", tmp_path / "named.pth", training], ["named.pth"]),
        (["-o", tmp_path / "there", training], ["there/run.pth"]),
        (["-o", f"{tmp_path}/made/", training], ["made/run.pth"]),
        (["-o", tmp_path / "many", training, other], ["many/run.pth", "many/D_16.pth"]),
    ):
        files = gsvckpt.json(command, *argv).document["files"]
        assert [file["output"] for file in files] == [str(tmp_path / name) for name in outputs]
        assert all((tmp_path / name).is_file() for name in outputs)


def test_two_sources_with_one_name_are_refused_before_anything_is_written(gsvckpt, tmp_path):
    paths = [save(tmp_path / folder / "x.pth", weights({"w": (4, 4)})) for folder in "ab"]
    assert_one_error(gsvckpt("convert-fp16", *paths, "-o", tmp_path / "out"), paths[1], 2)
    assert not (tmp_path / "out").exists()


def test_a_source_named_twice_is_one_source(gsvckpt, training):
    assert len(gsvckpt.json("convert-fp16", training, training).document["files"]) == 1


def test_several_sources_need_a_folder(gsvckpt, tmp_path, training):
    other = save(tmp_path / "D_16.pth", s2_training(discriminator()))
    assert_one_error(gsvckpt("convert-fp16", training, other, "-o", training), training, 2)


@pytest.mark.parametrize(("source", "output"), [("x.pth", "x.safetensors"), ("x.safetensors", "x.pth")])
def test_a_name_that_promises_another_container_is_refused(gsvckpt, tmp_path, source, output):
    path = tmp_path / source
    if source.endswith(".pth"):
        save(path, weights({"w": (4, 4)}))
    else:
        from safetensors.torch import save_file

        save_file({"w": torch.ones(2, 2)}, path)
    assert_one_error(gsvckpt("convert-fp16", path, "-o", tmp_path / output), tmp_path / output, 2)
    assert not (tmp_path / output).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_in_place_takes_the_name_and_keeps_the_mode(gsvckpt, tmp_path, training, command):
    before = training.stat()
    training.chmod(0o640)
    file = gsvckpt.json(command, training, "--in-place").file
    assert (file["output"], file["bytes_after"]) == (str(training), training.stat().st_size)
    assert training.stat().st_size < before.st_size
    assert training.stat().st_ino != before.st_ino or NO_MODES  # a new file: the old one was never written to
    assert NO_MODES or training.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == [training.name]
    again = gsvckpt.json(command, training, "--in-place").file
    assert (again["changed"], again["written"], again["output"]) == (False, False, None)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_exists_is_overwritten_with_force_only(gsvckpt, tmp_path, training, command):
    output = tmp_path / "out.pth"
    output.write_bytes(b"precious")
    assert_one_error(gsvckpt(command, training, "-o", output), output, 4)
    failed = gsvckpt.json(command, training, "-o", output, exit_code=4).file
    assert (failed["source"], failed["output"], failed["error"]["kind"]) == (str(training), str(output), "refused")
    assert output.read_bytes() == b"precious"
    assert gsvckpt(command, training, "-o", output, "--force").code == 0
    torch.load(output, weights_only=True)


def test_the_source_itself_is_no_output(gsvckpt, tmp_path, training):
    data = training.read_bytes()
    for output in (training, tmp_path, f"{tmp_path}/./run.pth"):
        for force in ((), ("--force",)):
            run = gsvckpt("convert-fp16", training, "-o", output, *force)
            assert_one_error(run, "run.pth", 4)
            assert "--in-place" in run.err
    assert training.read_bytes() == data


@pytest.mark.skipif(NO_MODES, reason="needs symbolic links")
def test_a_symlinked_output_stays_a_symlink(gsvckpt, tmp_path, training):
    target, link = tmp_path / "elsewhere" / "target.pth", tmp_path / "link.pth"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to(target)
    assert gsvckpt("convert-fp16", training, "-o", link, "--force").code == 0
    assert link.is_symlink()
    torch.load(target, weights_only=True)
    assert gsvckpt("strip-optimizer", link, "--in-place").code == 0
    assert link.is_symlink()
    assert torch.load(target, weights_only=True)["optimizer"] is None
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("destination", ["beside", "named", "in place"])
def test_a_dry_run_foretells_every_byte_and_writes_none(gsvckpt, tmp_path, training, command, destination):
    options = {"beside": [], "named": ["-o", tmp_path / "new" / "out.pth"], "in place": ["--in-place"]}[destination]
    (tmp_path / "new").mkdir()
    data = training.read_bytes()
    planned = gsvckpt.json(command, training, *options, "-n").file
    assert sorted(os.listdir(tmp_path)) == ["new", training.name]
    assert os.listdir(tmp_path / "new") == []
    assert training.read_bytes() == data
    written = gsvckpt.json(command, training, *options).file
    assert (planned.pop("written"), written.pop("written")) == (False, True)
    assert planned == written
    assert os.path.getsize(written["output"]) == planned["bytes_after"]


def test_a_dry_run_of_nothing_to_change_foretells_a_copy_too(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", weights({"w": (4, 4)}, "float16"), prefix="a-long-folder-name")
    planned = gsvckpt.json("convert-fp16", source, "-o", tmp_path / "out.pth", "--dry-run").file
    written = gsvckpt.json("convert-fp16", source, "-o", tmp_path / "out.pth").file
    assert planned["bytes_after"] == written["bytes_after"] == (tmp_path / "out.pth").stat().st_size


@pytest.mark.parametrize("command", COMMANDS)
def test_check_tells_whether_there_is_something_to_do(gsvckpt, tmp_path, training, command):
    file = gsvckpt.json(command, training, "--check", exit_code=1).file
    assert (file["changed"], file["written"]) == (True, False)
    assert gsvckpt(command, training, "-o", tmp_path / "done.pth").code == 0
    assert gsvckpt(command, tmp_path / "done.pth", "--check").code == 0
    assert gsvckpt(command, training, tmp_path / "done.pth", "--check").code == 1
    assert gsvckpt(command, training, tmp_path / "nothing.pth", "--check").code == 3
    assert sorted(os.listdir(tmp_path)) == ["done.pth", "run.pth"]


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_to_change_writes_nothing_except_where_an_output_was_named(gsvckpt, tmp_path, command):
    source = save(tmp_path / "x.pth", {"weight": gpt(), "config": {}, "info": "GPT-e1"})
    file = gsvckpt.json(command, source).file
    assert (file["changed"], file["output"], file["bytes_after"]) == (False, None, file["bytes_before"])
    assert os.listdir(tmp_path) == ["x.pth"]
    assert "nothing to change" in gsvckpt(command, source).out
    file = gsvckpt.json(command, source, "-o", tmp_path / "copy.pth").file
    assert (file["changed"], file["written"], file["output"]) == (False, True, str(tmp_path / "copy.pth"))
    one, two = (torch.load(path, weights_only=True) for path in (source, tmp_path / "copy.pth"))
    assert all(torch.equal(one["weight"][name], two["weight"][name]) for name in one["weight"])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_input_gives_the_same_bytes(gsvckpt, tmp_path, training, command):
    for name in ("one.pth", "two.pth"):
        assert gsvckpt(command, training, "-o", tmp_path / name, "-j", "1" if name == "one.pth" else "4").code == 0
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unsafe_file_is_not_written_back_without_force(gsvckpt, tmp_path, command):
    source = save(tmp_path / "evil.pth", {**evil(), "optimizer": s2_training(generator("v2"))["optimizer"]})
    for options in ([], ["--in-place"], ["-n"], ["-o", tmp_path / "out.pth"]):
        assert_one_error(gsvckpt(command, source, *options), source, 4)
    assert os.listdir(tmp_path) == ["evil.pth"]
    assert gsvckpt(command, source, "-o", tmp_path / "out.pth", "--force").code == 0
    assert gsvckpt.json("inspect", tmp_path / "out.pth").file["safety"]["verdict"] == "unsafe"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_official_file_is_not_rewritten_in_place(gsvckpt, tmp_path, monkeypatch, command):
    import hashlib

    from gsvckpt.sovits import official

    source = save(tmp_path / "s2G.pth", s2_training(generator("v2", enc_q=True)))
    data = source.read_bytes()
    table = (official.OfficialFile("x/s2G.pth", len(data), hashlib.sha256(data).hexdigest(), 3),)
    monkeypatch.setattr(official, "OFFICIAL", table)
    run = gsvckpt(command, source, "--in-place")
    assert_one_error(run, source, 4)
    assert "s2G.pth" in run.err
    assert source.read_bytes() == data
    assert gsvckpt(command, source, "-o", tmp_path / "copy.pth").code == 0
    assert gsvckpt(command, source, "--in-place", "--force").code == 0
    assert source.read_bytes() != data


def test_a_lightning_file_keeps_its_extension(gsvckpt, tmp_path):
    source = save(tmp_path / "epoch=9-step=90.ckpt", s1_training(gpt(dtype="float32")))
    assert gsvckpt.json("strip-optimizer", source).file["output"].endswith("weights-epoch=9-step=90.ckpt")


def test_a_table_line_for_each_file_and_a_total(gsvckpt, tmp_path, training):
    voice = save(tmp_path / "voice.pth", small(generator("v2"), "v2"))
    out = gsvckpt("convert-fp16", training, voice).out
    assert all(name in out for name in ("run.fp16.pth", "voice.fp16.pth", "2 files"))
    assert "dry run" in gsvckpt("convert-fp16", training, "-n", "-o", tmp_path / "x.pth").out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_file_is_not_replaced_without_force(gsvckpt, training, command):
    data = training.read_bytes()
    training.chmod(0o440)
    assert_one_error(gsvckpt(command, training, "--in-place"), training, 4)
    assert training.read_bytes() == data
    assert "read-only" in gsvckpt.json(command, training, "--in-place", "-n").file["warnings"][-1]
    if not NO_MODES:
        assert gsvckpt(command, training, "--in-place", "--force").code == 0
        assert training.read_bytes() != data
    training.chmod(0o640)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dry_run_tells_what_would_stop_a_real_one(gsvckpt, tmp_path, training, command):
    (tmp_path / "there.pth").write_bytes(b"precious")
    for output, words in (("there.pth", "exists already"), ("no/such/x.pth", "there is no folder"), ("run.pth", "the source itself")):
        file = gsvckpt.json(command, training, "-n", "-o", tmp_path / output).file
        assert words in file["warnings"][-1]
    run = gsvckpt(command, training, "-n", "-o", tmp_path / "there.pth")
    assert (run.code, "--force" in run.err) == (0, True)
    assert gsvckpt.json(command, training, "-n", "-o", tmp_path / "there.pth", "--force").file["warnings"] == []


def test_a_folder_that_is_not_there_is_named(gsvckpt, tmp_path, training):
    run = gsvckpt("convert-fp16", training, "-o", tmp_path / "no" / "x.pth")
    assert_one_error(run, tmp_path / "no" / "x.pth", 5)
    assert f"there is no folder {tmp_path / 'no'}" in run.err


def test_outputs_that_differ_only_in_what_the_system_ignores_are_one(gsvckpt, tmp_path, monkeypatch):
    paths = [save(tmp_path / folder / name, weights({"w": (4, 4)})) for folder, name in (("a", "x.pth"), ("b", "X.pth"))]
    monkeypatch.setattr(os.path, "normcase", str.lower)
    assert_one_error(gsvckpt("convert-fp16", *paths, "-o", tmp_path / "out"), paths[1], 2)


# --- where GPT-SoVITS trains GPT, and removes everything when it saves next ------------------------------------------------------------------------


@pytest.fixture
def lightning(tmp_path):
    return save(tmp_path / "logs" / "我的声音" / "logs_s1_v2Pro" / "ckpt" / "epoch=9-step=90.ckpt", s1_training(gpt(dtype="float32")))


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["convert-fp16"], "fp16-epoch=9-step=90.ckpt"),
        (["strip-optimizer"], "weights-epoch=9-step=90.ckpt"),
        (["migrate", "--plain"], "migrated-epoch=9-step=90.ckpt"),
        (["migrate", "--salvage", "--plain"], "salvaged-epoch=9-step=90.ckpt"),
        (["migrate", "--to", "safetensors"], "epoch=9-step=90.safetensors"),
        (["migrate", "--to", "safetensors", "--max-shard-size", "50kB"], "epoch=9-step=90.migrated"),
        (["migrate", "--to-inference"], "我的声音-e2.ckpt"),
    ],
)
def test_outputs_of_a_gpt_run_stand_above_the_folder_that_is_emptied(gsvckpt, lightning, argv, name):
    planned = gsvckpt.json(*argv, lightning, "-n").file
    file = gsvckpt.json(*argv, lightning).file
    above = lightning.parents[1]
    assert (file["output"], file["written"]) == (str(above / name), True)
    assert planned | {"written": True} == file
    assert (above / name).exists()
    assert os.listdir(lightning.parent) == [lightning.name]
    assert "one folder up" in file["notes"][0]
    notes = [note for note in file["notes"][1:] if "pytorch-lightning" not in note]
    assert [note.rpartition(": -o ")[2] for note in notes] == ["GPT_weights_v2Pro/ writes them there"] * ("--to-inference" in argv)


def test_the_table_says_why_it_stands_elsewhere(gsvckpt, lightning, tmp_path):
    assert "one folder up" in gsvckpt("strip-optimizer", lightning).out
    run = gsvckpt("strip-optimizer", lightning)
    assert_one_error(run, lightning.parents[1] / "weights-epoch=9-step=90.ckpt", 4)
    assert "exists already" in run.err
    for options in (["-o", tmp_path / "x.ckpt"], ["--in-place"]):
        notes = gsvckpt.json("strip-optimizer", lightning, *options, "-n").file["notes"]
        assert [note for note in notes if "pytorch-lightning" not in note] == []
    assert "one folder up" not in gsvckpt("strip-optimizer", lightning, "--in-place").out


def test_two_runs_files_of_one_name_stay_apart(gsvckpt, lightning):
    other = save(lightning.parents[2] / "logs_s1_v2" / "ckpt" / lightning.name, s1_training(gpt(dtype="float32")))
    outputs = [file["output"] for file in gsvckpt.json("strip-optimizer", lightning, other).document["files"]]
    assert outputs == [str(path.parents[1] / f"weights-{path.name}") for path in (lightning, other)]
    moved = save(lightning.parents[1] / lightning.name, s1_training(gpt(dtype="float32")))
    assert_one_error(gsvckpt("convert-fp16", lightning, moved), moved, 2)
    assert not (lightning.parents[1] / f"fp16-{lightning.name}").exists()


def test_small_weights_of_sovits_are_told_their_folder_too(gsvckpt, tmp_path):
    source = save(tmp_path / "logs/alice/logs_s2_v2Pro/G_16.pth", s2_training(generator("v2Pro", enc_q=True)))
    (source.parents[1] / "config.json").write_text(json.dumps(sovits_config("alice", "v2Pro", 8)))
    assert ["SoVITS_weights_v2Pro/" in note for note in gsvckpt.json("migrate", "--to-inference", source).file["notes"]] == [True]
    assert gsvckpt.json("migrate", "--to-inference", source, "--to", "safetensors").file["notes"] == []  # which GPT-SoVITS does not list


def test_no_path_in_a_file_decides_where_an_output_goes(gsvckpt, tmp_path):
    """Lightning's own folder, and those that configs of GPT-SoVITS save in, may be another machine's, or a stranger's choice."""
    trap = tmp_path / "trap"
    trap.mkdir()
    told = {
        "dirpath": str(trap),
        "best_model_path": f"{trap}/best.ckpt",
        "last_model_path": f"{trap}/last.ckpt",
        "best_k_models": {},
        "monitor": None,
    }
    tree = s1_training(gpt(dtype="float32")) | {"callbacks": {"ModelCheckpoint{'monitor': None}": told}}
    train = {"exp_name": "../../trap/alice", "half_weights_save_dir": str(trap), "save_weight_dir": str(trap)}
    tree["hyper_parameters"] = {"config": {"train": train, "output_dir": str(trap)}, "output_dir": str(trap)}
    source = save(tmp_path / "run" / "ckpt" / "epoch=1-step=12.ckpt", tree)
    sovits = save(tmp_path / "run" / "G_16.pth", s2_training(generator("v2Pro", enc_q=True)))
    config = sovits_config("alice", "v2Pro", 8) | {"save_weight_dir": str(trap), "s2_ckpt_dir": str(trap), "name": f"{trap}/alice"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    for argv in (["convert-fp16"], ["strip-optimizer"], ["migrate", "--plain"], ["migrate", "--to-inference"], ["migrate", "--to", "safetensors"]):
        for path in (source, sovits):
            output = gsvckpt.json(*argv, path).file["output"]
            assert output is None or os.path.dirname(output) == str(path.parent)  # None: it is plain already
    assert os.listdir(trap) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "trap"]
