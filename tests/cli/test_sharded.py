"""A sharded checkpoint is one for inspect and verify, too: what is missing or altered in any of its files shows."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from support.builders import tensor

import gsvckpt as api
from gsvckpt.errors import UsageError

from .samples import environment, generator, save, small

INDEX = "model.safetensors.index.json"
TREE = {f"layer.{n}": tensor("float32", (100,), range(n, n + 100)) for n in range(10)}


@pytest.fixture
def voice(gsvckpt, tmp_path):
    """A voice in one file, and the folder of its shards."""
    source = save(tmp_path / "voice.pth", small(generator("v2Pro"), "v2Pro"), head=b"05")
    gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "2kB", "-o", tmp_path / "out")
    return source, tmp_path / "out"


@pytest.fixture
def model(gsvckpt, tmp_path):
    """A plain state dict in one file, and the folder of its shards."""
    source = save(tmp_path / "model.pth", TREE)
    gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "900", "-o", tmp_path / "out")
    return source, tmp_path / "out"


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def statuses(run):
    return {file["path"].rpartition("/")[2]: file["status"] for file in run.document["files"]}


def test_inspect_shows_a_folder_of_shards_as_one(gsvckpt, voice):
    source, folder = voice
    whole, one = gsvckpt.json("inspect", source).file, gsvckpt.json("inspect", folder).file
    assert (one["kind"], one["version"], one["parameters"], one["tensors"]) == tuple(
        whole[key] for key in ("kind", "version", "parameters", "tensors")
    )
    assert one["path"] == str(folder / INDEX)
    assert f"in {len(shards(folder))} files" in gsvckpt("inspect", folder).out


def test_an_inventory_has_one_row_for_it(gsvckpt, voice, tmp_path):
    source, folder = voice
    document = gsvckpt.json("inspect", tmp_path, "-r").document
    assert [file["path"] for file in document["files"]] == [str(source), str(folder / INDEX)]


def test_verify_looks_at_the_whole_and_at_every_shard(gsvckpt, model):
    _, folder = model
    run = gsvckpt.json("verify", folder)
    assert set(statuses(run)) == {INDEX, *(shard.name for shard in shards(folder))}
    whole = run.document["files"][0]
    assert (whole["kind"], whole["version"]) == ("state-dict", None)
    assert gsvckpt.json("verify", folder / INDEX).document["files"] == run.document["files"]


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_missing_shard_is_noticed(gsvckpt, voice, command):
    _, folder = voice
    gone = shards(folder)[1]
    gone.unlink()
    run = gsvckpt(command, folder)
    assert run.code == (1 if command == "verify" else 3)
    assert gone.name in run.out + run.err
    assert "incomplete" in run.out + run.err


def test_a_missing_shard_is_damage_to_the_whole_only(gsvckpt, model):
    _, folder = model
    shards(folder)[1].unlink()
    found = statuses(gsvckpt.json("verify", folder, exit_code=1))
    assert found.pop(INDEX) == "damaged"
    assert "damaged" not in found.values()


def test_an_altered_index_is_noticed(gsvckpt, model):
    _, folder = model
    index = json.loads((folder / INDEX).read_text())
    name = next(iter(index["weight_map"]))
    del index["weight_map"][name]
    (folder / INDEX).write_text(json.dumps(index))
    files = gsvckpt.json("verify", folder, exit_code=1).document["files"]
    whole = next(file for file in files if file["path"].endswith(INDEX))
    assert whole["status"] == "damaged"
    assert name in json.dumps(whole["findings"])


@pytest.mark.parametrize("text", ["{}", "not JSON", '{"weight_map": {}}'])
def test_an_index_that_names_nothing_is_damaged(gsvckpt, model, text):
    _, folder = model
    (folder / INDEX).write_text(text)
    assert statuses(gsvckpt.json("verify", folder, exit_code=1))[INDEX] == "damaged"


def test_another_programs_index_is_no_checkpoint(gsvckpt, model):
    _, folder = model
    (folder / "search.index.json").write_text("{}")
    assert "search.index.json" not in statuses(gsvckpt.json("verify", folder))


def test_names_and_shapes_are_those_of_the_whole(gsvckpt, voice):
    source, folder = voice
    alone, whole = (gsvckpt("verify", path, "--layout", "v2Pro", "--json").document["files"] for path in (source, folder))

    def named(file):
        return sorted(found["check"] for found in file["findings"] if found["check"].startswith("layout"))

    assert named(alone[0]) == named(whole[0]) != []
    assert not any(map(named, whole[1:]))


def test_a_sharded_checkpoint_is_compared_as_a_whole(gsvckpt, model, tmp_path):
    source, folder = model
    run = gsvckpt.json("verify", folder, "--against", source, "--checks", "against,record")
    assert set(statuses(run).values()) == {"sound"}
    gsvckpt.json("verify", source, "--against", folder, "--checks", "against,record")
    save(tmp_path / "other.pth", TREE | {"layer.4": tensor("float32", (100,), range(100))})
    file = gsvckpt.json("verify", folder, "--against", tmp_path / "other.pth", "--checks", "against", exit_code=1).document["files"][0]
    assert [found["check"] for found in file["findings"]] == ["against.values"]


def test_recorded_backed_up_and_brought_back(gsvckpt, model, tmp_path):
    _, folder = model
    gsvckpt.json("verify", folder, "--record", "--backup", tmp_path / "copies")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shards(folder)[0].unlink()
    shards(folder)[1].write_bytes(b"\0" * 100)
    (folder / INDEX).write_text("{}")
    gsvckpt.json("verify", folder, exit_code=1)
    assert set(statuses(gsvckpt.json("verify", folder, "--restore-from", tmp_path / "copies")).values()) == {"sound"}
    assert {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".damaged")} == before


def test_quick_reads_no_shard_but_misses_one(gsvckpt, model):
    _, folder = model
    assert statuses(gsvckpt.json("verify", folder, "--quick"))[INDEX] == "sound"
    shards(folder)[0].unlink()
    assert statuses(gsvckpt.json("verify", folder, "--quick", exit_code=1))[INDEX] == "damaged"


def test_python_opens_it_as_one(model):
    source, folder = model
    expected = torch.load(source)
    with api.open(folder) as checkpoint:
        views = {name: checkpoint.numpy(name) for name in checkpoint.state_dict}
        for name, value in expected.items():
            assert torch.equal(torch.from_numpy(views[name].copy()), value)
            assert torch.equal(checkpoint.torch(name), value)
    loaded = api.load_state_dict(folder / INDEX)
    assert {name: value.tolist() for name, value in loaded.items()} == {name: value.tolist() for name, value in expected.items()}
    with pytest.raises(UsageError, match="closed"):
        checkpoint.torch(next(iter(expected)))


def test_a_shard_that_ends_early_is_salvaged_by_its_own_name(gsvckpt, model):
    """The hint is a command that works: of the index nothing can be salvaged."""
    shard = shards(model[1])[0]
    shard.write_bytes(shard.read_bytes()[:-4])
    wanted = f"gsvckpt migrate {shard} --salvage"
    for command in (("inspect", model[1]), ("migrate", model[1]), ("migrate", model[1], "--salvage"), ("migrate", model[1] / INDEX, "--salvage")):
        run = gsvckpt(*command)
        assert (run.code, wanted in run.err) == (3, True), run.err
    files = gsvckpt.json("verify", model[1] / INDEX, exit_code=1).document["files"]
    findings = next(file["findings"] for file in files if file["path"].endswith(INDEX))
    assert [wanted == finding["hint"]["command"] for finding in findings] == [True]
    assert gsvckpt("migrate", shard, "--salvage").code == 1


def test_sound_shards_need_no_salvage(gsvckpt, model, tmp_path):
    assert gsvckpt.json("migrate", model[1], "--salvage", "-o", tmp_path / "one.safetensors").file["whole"] is True


def test_a_folder_has_its_name_in_the_table(gsvckpt, model, tmp_path):
    assert " out " in gsvckpt("migrate", f"{model[1]}/", "-o", tmp_path / "one.safetensors").out


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_more_shards_than_files_may_be_open(gsvckpt, tmp_path):
    source = save(tmp_path / "many.pth", {f"layer.{n}": tensor("float32", (100,), range(100)) for n in range(120)})
    gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "500", "-o", tmp_path / "out")
    command = 'ulimit -Sn 64; exec "$0" -m gsvckpt inspect "$1" --quiet'
    done = subprocess.run(["sh", "-c", command, sys.executable, tmp_path / "out"], capture_output=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("named", [INDEX, "other.safetensors.index.json"])
def test_an_index_that_names_an_index_hides_nothing(gsvckpt, tmp_path, named):
    for name in (INDEX, "other.safetensors.index.json"):
        (tmp_path / name).write_text(json.dumps({"weight_map": {"x": named}}))
    assert len(gsvckpt.json("inspect", tmp_path, exit_code=3).document["files"]) == 2
    assert "sound" not in statuses(gsvckpt.json("verify", tmp_path, exit_code=1)).values()


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_missing_shard_is_damage_to_the_whole(gsvckpt, model, command, indexed):
    folder = model[1]
    gone = shards(folder)[1]
    gone.unlink()
    if not indexed:
        (folder / INDEX).unlink()
    run = gsvckpt(command, folder)
    assert run.code == {"inspect": 3, "verify": 1}[command]
    assert gone.name in run.out + run.err
    assert "the checkpoint is incomplete" in run.out + run.err
    document = gsvckpt.json(command, folder, exit_code=run.code).document
    assert "get it again, into the same folder" in json.dumps(document)


def test_shards_without_an_index_are_named_as_parts(gsvckpt, model):
    folder = model[1]
    (folder / INDEX).unlink()
    total = len(shards(folder))
    files = gsvckpt.json("inspect", folder).document["files"]
    assert [file["part"] for file in files] == [{"number": number, "of": total} for number in range(1, total + 1)]
    assert f"part 2 of {total}" in gsvckpt("inspect", shards(folder)[1]).out
    assert gsvckpt("verify", folder).code == 0


def test_the_index_of_another_save_is_told(gsvckpt, model, tmp_path):
    gsvckpt.json("migrate", model[0], "--to", "safetensors", "--max-shard-size", "3000", "-o", tmp_path / "larger")
    (tmp_path / "larger" / INDEX).write_bytes((model[1] / INDEX).read_bytes())
    run = gsvckpt("verify", tmp_path / "larger")
    assert run.code == 1
    assert "it is the index of another save" in " ".join(run.out.split())
    assert gsvckpt("migrate", tmp_path / "larger", "-o", tmp_path / "x.safetensors").code == 3
    assert not (tmp_path / "x.safetensors").exists()


def test_a_tensor_in_another_shard_is_said_where_it_is(gsvckpt, model):
    index = json.loads((model[1] / INDEX).read_text())
    first, second = shards(model[1])[:2]
    name = next(name for name, shard in index["weight_map"].items() if shard == first.name)
    index["weight_map"][name] = second.name
    (model[1] / INDEX).write_text(json.dumps(index))
    run = gsvckpt("verify", model[1])
    assert run.code == 1
    assert f"is in {first.name}, but the index says that it is in {second.name}" in " ".join(run.out.split())
    index["weight_map"]["nowhere"] = second.name
    index["weight_map"][name] = first.name
    (model[1] / INDEX).write_text(json.dumps(index))
    assert "no file of this checkpoint has it" in " ".join(gsvckpt("verify", model[1]).out.split())


@pytest.mark.parametrize("name", ["model.safetensors.index.fp16.json", "pytorch_model.safetensors.index.non_ema.json"])
def test_an_index_of_a_variant_is_one(gsvckpt, model, tmp_path, name):
    (model[1] / INDEX).rename(model[1] / name)
    assert gsvckpt.json("inspect", model[1]).file["path"] == str(model[1] / name)
    back = gsvckpt.json("migrate", model[1], "--to", "torch", "-o", tmp_path / "back.pth").file["output"]
    assert torch.load(back).keys() == torch.load(model[0]).keys()
    shards(model[1])[0].unlink()
    assert gsvckpt("verify", model[1]).code == 1


@pytest.mark.parametrize("name", ["one.safetensors", "one.pth", "one.CKPT"])
def test_a_folder_is_never_called_like_a_file(gsvckpt, model, tmp_path, name):
    sources = [*shards(model[1])[:2]]
    run = gsvckpt("migrate", *sources, "--to", "torch", "-o", tmp_path / name)
    assert run.code == 2
    assert f"{name} is the name of one file, but there are 2 sources" in run.err
    run = gsvckpt("migrate", model[1], "--to", "safetensors", "--max-shard-size", "900", "-o", tmp_path / name)
    assert run.code == 2
    assert f"{name} is the name of one file" in run.err
    assert not (tmp_path / name).exists()
    assert gsvckpt("migrate", *sources, "--to", "torch", "-o", f"{tmp_path / name}/").code == 0
    assert gsvckpt("migrate", model[1], "--to", "safetensors", "-o", tmp_path / "whole.safetensors").code == 0
    assert (tmp_path / "whole.safetensors").is_file()
