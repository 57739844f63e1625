"""Checkpoints in several files with an index: read as one, and written."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from builders import tensor, torch_zip
from test_properties import same_bytes

from gsvckpt.opening import open_checkpoint
from gsvckpt.pickles.equality import first_difference

from .samples import generator, save, small

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
        (lambda index: index["weight_map"].update({"layer.0": "model-00002-of-00002.safetensors"}), "is not there"),
        (lambda index: index["weight_map"].pop("layer.0"), "does not say so"),
        (lambda index: index["weight_map"].update({"more": "model-00002-of-00002.safetensors"}), "is not there"),
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


def test_a_folder_that_is_there_is_never_touched(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", TREE)
    (tmp_path / "x.migrated").mkdir()
    (tmp_path / "x.migrated" / "mine").write_text("x")
    run = gsvckpt("migrate", source, "--to", "safetensors", "--max-shard-size", "2kB", "--force")
    assert run.code == 4
    assert [path.name for path in (tmp_path / "x.migrated").iterdir()] == ["mine"]


def test_an_index_is_not_replaced_by_a_file(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", TREE)
    gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "2kB", "-o", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for command in ("migrate", "convert-fp16"):
        for where in (tmp_path / "out", tmp_path / "out" / "model.safetensors.index.json"):
            assert gsvckpt(command, where, "--in-place", "--force").code == 4
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_full_disk_leaves_nothing(gsvckpt, tmp_path, monkeypatch):
    from gsvckpt.publishing import Target

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
