"""Checkpoints in several files with an index: read as one, and written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from support.builders import tensor, torch_zip
from test_properties import same_bytes

from gsvckpt.engine import write_sharded
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import Engine
from gsvckpt.files import temporary
from gsvckpt.formats.pickle.equality import first_difference

from .samples import environment, generator, leftovers, save, small

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and limits")
TREE = {f"layer.{n}": tensor("float32", (100,), range(n, n + 100)) for n in range(10)}


def index_of(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())


def test_shards_are_what_other_programs_expect(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", TREE)
    file = gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "900", "-o", tmp_path / "out").file
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [*(f"model-0000{n}-of-00005.safetensors" for n in range(1, 6)), "model.safetensors.index.json"]
    assert file["bytes_after"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    index = index_of(tmp_path / "out")
    assert index["metadata"]["total_size"] == 4000
    for name, value in torch.load(source).items():
        assert torch.equal(safetensors.torch.load_file(tmp_path / "out" / index["weight_map"][name])[name], value)
    assert not list(tmp_path.glob(".gsvckpt*"))


@pytest.mark.parametrize("named", ["folder", "index"])
def test_a_voice_comes_back_from_its_shards_as_it_was(gsvckpt, tmp_path, named):
    source = save(tmp_path / "voice.pth", small(generator("v2Pro"), "v2Pro"), head=b"05")
    gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "2kB", "-o", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) > 3
    where = tmp_path / "out" if named == "folder" else tmp_path / "out" / "model.safetensors.index.json"
    gsvckpt.json("migrate", where, "--to", "torch", "-o", tmp_path / "back.pth")
    with open_checkpoint(source) as one, open_checkpoint(tmp_path / "back.pth") as two:
        assert first_difference(one.root, two.root, same_bytes) is None
    assert (tmp_path / "back.pth").read_bytes()[:2] == b"05"


def test_torch_shards_are_read_as_one(gsvckpt, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    names = list(TREE)
    for number, part in enumerate((names[:4], names[4:]), 1):
        (folder / f"pytorch_model-{number:05}-of-00002.bin").write_bytes(torch_zip({name: TREE[name] for name in part}))
    weight_map = {name: f"pytorch_model-{1 if name in names[:4] else 2:05}-of-00002.bin" for name in names}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": 4000}, "weight_map": weight_map}))
    file = gsvckpt.json("migrate", folder, "--to", "safetensors").file
    assert file["output"] == str(tmp_path / "model.migrated.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "model.migrated.safetensors")
    assert {name: value.tolist() for name, value in loaded.items()} == {name: list(range(int(name[-1]), int(name[-1]) + 100)) for name in names}


def broken(folder, change):
    save(folder.parent / "x.pth", TREE)
    index = index_of(folder)
    change(index)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index["weight_map"].update({"layer.0": "../secret"}), "outside the folder"),
        (lambda index: index["weight_map"].update({"layer.0": "model-00002-of-00002.safetensors"}), "is in model-00001-of-00002.safetensors"),
        (lambda index: index["weight_map"].pop("layer.0"), "does not say so"),
        (lambda index: index["weight_map"].update({"more": "model-00002-of-00002.safetensors"}), "should be in"),
        (lambda index: index["weight_map"].update({"layer.0": "model-00009-of-00002.safetensors"}), "no such file"),
        (lambda index: index.pop("weight_map"), "no weight_map"),
    ],
    ids=range(6),
)
def test_an_index_that_lies_is_refused(gsvckpt, tmp_path, change, said):
    source = save(tmp_path / "x.pth", TREE)
    gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "2kB", "-o", tmp_path / "out")
    broken(tmp_path / "out", change)
    run = gsvckpt("migrate", tmp_path / "out", "-o", tmp_path / "back.safetensors")
    assert run.code == 3
    assert said in run.err
    assert not (tmp_path / "back.safetensors").exists()


def test_a_shard_that_was_cut_off_is_refused(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", TREE)
    gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "2kB", "-o", tmp_path / "out")
    part = tmp_path / "out" / "model-00002-of-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-5])
    run = gsvckpt("migrate", tmp_path / "out")
    assert run.code == 3
    assert part.name in run.err


@pytest.mark.parametrize("size", ["0", "-3", "abc", "5 parsecs", ""])
def test_a_size_that_is_none_is_a_usage_error(gsvckpt, tmp_path, size):
    assert gsvckpt("migrate", save(tmp_path / "x.pth", TREE), "--to", "safetensors", f"--max-shard-size={size}").code == 2


def test_shards_of_torch_are_not_written(gsvckpt, tmp_path):
    assert gsvckpt("migrate", save(tmp_path / "x.pth", TREE), "--max-shard-size", "1k").code == 2


SHARDED = ("--to", "safetensors", "--max-shard-size", "2kB")


@pytest.mark.parametrize("options", [[], ["--force"]], ids=["", "force"])
def test_a_folder_that_is_there_is_never_touched_and_a_dry_run_says_so(gsvckpt, tmp_path, options):
    source = save(tmp_path / "x.pth", TREE)
    (tmp_path / "x.migrated").mkdir()
    (tmp_path / "x.migrated" / "mine").write_text("x")
    run = gsvckpt("migrate", source, *SHARDED, *options)
    assert run.code == 4
    assert "--force" not in run.err  # it would not help
    (warning,) = gsvckpt.json("migrate", source, *SHARDED, *options, "-n").file["warnings"]
    assert "exists already, so a real run would stop here (name a folder that is not there yet" in warning
    assert [path.name for path in (tmp_path / "x.migrated").iterdir()] == ["mine"]


def test_an_empty_folder_is_filled(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", TREE)
    (tmp_path / "x.migrated").mkdir()
    assert gsvckpt.json("migrate", source, *SHARDED, "-n").file["warnings"] == []
    assert gsvckpt.json("migrate", source, *SHARDED).file["written"] is True
    assert (tmp_path / "x.migrated" / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("options", [[], ["--force"], ["-n"], ["-n", "--force"]], ids=" ".join)
def test_no_file_takes_the_place_of_a_folder(gsvckpt, tmp_path, options):
    """As --force does not help either, nothing says that it would."""
    source = save(tmp_path / "x.pth", TREE)
    (tmp_path / "x.migrated.pth").mkdir()
    run = gsvckpt("migrate", source, "--dtype", "float16", *options)
    assert (run.code, "--force" in run.err) == (0 if "-n" in options else 4, False)
    assert "is a folder" in run.err


@POSIX
def test_there_may_be_more_shards_than_files_that_can_be_open(tmp_path):
    """Most systems allow 256 or 1,024."""
    source = save(tmp_path / "x.pth", {f"layer.{n}": tensor("float32", (2,)) for n in range(150)})
    code = (
        "import resource, sys; from gsvckpt.cli.app import main; resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80)); sys.exit(main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", code, "migrate", str(source), "--to", "safetensors", "--max-shard-size", "8", "-o", str(tmp_path / "out")]
    run = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(list((tmp_path / "out").iterdir())) == 151
    with open_checkpoint(source) as one, open_checkpoint(tmp_path / "out") as two:
        assert first_difference(one.root, two.root, same_bytes) is None


def test_more_shards_than_are_read_are_not_written(gsvckpt, tmp_path, monkeypatch):
    monkeypatch.setattr(write_sharded, "MOST_SHARDS", 4)
    source = save(tmp_path / "x.pth", TREE)
    for options in ([], ["-n"]):
        run = gsvckpt("migrate", source, "--to", "safetensors", "--max-shard-size", "900", *options)
        assert (run.code, "5 files" in run.err) == (2, True)
    assert gsvckpt("migrate", source, "--to", "safetensors", "--max-shard-size", "1200").code == 0


@POSIX
def test_of_two_runs_that_write_one_folder_the_loser_is_refused(tmp_path):
    source = save(tmp_path / "x.pth", {f"layer.{n}": tensor("float32", (2000,)) for n in range(40)})
    argv = [sys.executable, "-m", "gsvckpt", "migrate", str(source), "--to", "safetensors", "--max-shard-size", "8k"]
    runs = [subprocess.Popen(argv, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert sorted(run.wait(60) for run in runs) == [0, 4, 4]
    assert len(list((tmp_path / "x.migrated").iterdir())) == 41
    assert leftovers(tmp_path) == []


@POSIX
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM] if hasattr(signal, "SIGHUP") else [])
def test_a_terminal_that_goes_away_leaves_nothing(gsvckpt, tmp_path, monkeypatch, number):
    """A shell sends SIGHUP again while its folder is tidied up."""
    source = save(tmp_path / "x.pth", TREE)
    remove, write, previous = temporary.remove_folder, Engine.write_part, signal.getsignal(number)

    def stop(*args):
        write(*args)
        signal.raise_signal(number)

    def stop_again(folder):
        signal.raise_signal(number)
        remove(folder)

    monkeypatch.setattr(Engine, "write_part", stop)
    monkeypatch.setattr(temporary, "remove_folder", stop_again)
    run = gsvckpt("migrate", source, *SHARDED)
    assert (run.code, run.out, len(run.err.splitlines())) == (130, "", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
    assert signal.getsignal(number) is previous


@POSIX
def test_what_nohup_ignores_stays_ignored(gsvckpt, tmp_path, monkeypatch):
    source = save(tmp_path / "x.pth", TREE)
    write = Engine.write_part
    monkeypatch.setattr(Engine, "write_part", lambda *args: (signal.raise_signal(signal.SIGHUP), write(*args)))
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert gsvckpt("migrate", source, *SHARDED).code == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_an_index_is_not_replaced_by_a_file(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", TREE)
    gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "2kB", "-o", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for command in ("migrate", "convert-fp16"):
        for where in (tmp_path / "out", tmp_path / "out" / "model.safetensors.index.json"):
            assert gsvckpt(command, where, "--in-place", "--force").code == 4
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_full_disk_leaves_nothing(gsvckpt, tmp_path, monkeypatch):
    from gsvckpt.files.publish import Target

    source = save(tmp_path / "x.pth", TREE)
    written = 0

    def write_at(self, offset, data, original=Target.write_at):
        nonlocal written
        written += len(data)
        if written > 3000:
            raise OSError(28, "No space left on device")
        original(self, offset, data)

    monkeypatch.setattr(Target, "write_at", write_at)
    run = gsvckpt("migrate", source, "--to", "safetensors", "--max-shard-size", "2kB")
    assert run.code == 5
    assert run.err.startswith(f"gsvckpt: {tmp_path}/x.migrated/model-00002-of-00002.safetensors: cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_the_source_of_bytes_in_several_files_reads_across_them(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", TREE)
    gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "2kB", "-o", tmp_path / "out")
    whole = b"".join(path.read_bytes() for path in sorted((tmp_path / "out").glob("*.safetensors")))
    with open_checkpoint(tmp_path / "out") as checkpoint:
        buffer = bytearray(len(whole))
        checkpoint.source.read_into(0, memoryview(buffer))
        assert (bytes(buffer), checkpoint.source.size) == (whole, len(whole))
        middle = bytearray(3000)
        checkpoint.source.read_into(1000, memoryview(middle))
        assert bytes(middle) == whole[1000:4000]
