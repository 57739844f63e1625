"""gsvckpt migrate --to safetensors and --to torch: what users and scripts see of it."""

from __future__ import annotations

import json

import pytest
import safetensors
import safetensors.torch
import torch
from support.builders import read, tensor
from test_properties import same_bytes

from gsvckpt.engine.open import open_checkpoint
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.sovits.names import resumes

from .samples import discriminator, generator, gpt, hparams, s1_training, s2_training, save, small

KINDS = {
    "alice_e8_s16.pth": (lambda: small(generator("v2Pro"), "v2Pro"), b"05"),
    "alice-e2.ckpt": (lambda: {"weight": gpt(), "config": {"train": {"exp_name": "alice"}}, "info": "GPT-e2"}, b"PK"),
    "epoch=1-step=12.ckpt": (lambda: s1_training(gpt(dtype="float32")), b"PK"),
    "G_16.pth": (lambda: s2_training(generator("v2", enc_q=True)), b"PK"),
    "D_16.pth": (lambda: s2_training(discriminator(6)), b"PK"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_comes_back_as_it_was(gsvckpt, tmp_path, name):
    make, head = KINDS[name]
    source = save(tmp_path / name, make(), head=head)
    there = gsvckpt.json("migrate", source, "--to", "safetensors", "-o", tmp_path / "there.safetensors").file
    gsvckpt.json("migrate", there["output"], "--to", "torch", "-o", tmp_path / "back.pth")
    with open_checkpoint(source) as one, open_checkpoint(there["output"]) as two, open_checkpoint(tmp_path / "back.pth") as three:
        assert first_difference(one.root, two.root, same_bytes) is None
        assert first_difference(one.root, three.root, same_bytes) is None
        assert three.container.head == head.decode()
    for other in ("there.safetensors", "back.pth"):
        assert gsvckpt("verify", tmp_path / other, "--against", source, "--checks", "against").code == 0  # the same content digest
    assert there["bytes_after"] == (tmp_path / "there.safetensors").stat().st_size
    before, after = (gsvckpt.json("inspect", path).file for path in (source, tmp_path / "there.safetensors"))
    assert {key: before[key] for key in ("kind", "version", "tensors", "parameters", "dtypes")} == {
        key: after[key] for key in ("kind", "version", "tensors", "parameters", "dtypes")
    }
    assert after["upstream"] is None  # GPT-SoVITS opens no such file


@pytest.mark.parametrize(
    ("name", "there", "back"),
    [
        ("alice_e8_s16.pth", "alice_e8_s16.safetensors", "alice_e8_s16.migrated.pth"),
        ("alice-e2.ckpt", "alice-e2.safetensors", "alice-e2.migrated.ckpt"),
        ("G_16.pth", "G_16.safetensors", "migrated-G_16.pth"),
        ("epoch=1-step=12.ckpt", "epoch=1-step=12.safetensors", "migrated-epoch=1-step=12.ckpt"),
    ],
)
def test_names_follow_the_container_and_are_none_that_training_picks_up(gsvckpt, tmp_path, name, there, back):
    make, head = KINDS[name]
    output = gsvckpt.json("migrate", save(tmp_path / name, make(), head=head), "--to", "safetensors").file["output"]
    assert output == str(tmp_path / there)
    assert gsvckpt.json("migrate", output, "--to", "torch").file["output"] == str(tmp_path / back)
    assert not any(resumes(path) for path in (there, back))


def test_a_safetensors_file_that_is_there_stays(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"w": tensor("float32", (2,))})
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    assert gsvckpt("migrate", source, "--to", "safetensors").code == 4
    assert (tmp_path / "x.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "options", "output"),
    [
        ("x", (), "x.migrated.safetensors"),
        ("x.data", (), "x.data.migrated.safetensors"),
        ("x.bin", ("--include", "*"), "x.safetensors"),
        ("x.pth", ("--salvage",), "x.salvaged.safetensors"),
    ],
)
def test_only_an_extension_that_changes_stands_for_the_word(gsvckpt, tmp_path, name, options, output):
    source = save(tmp_path / name, {"w": tensor("float32", (2,))})
    assert gsvckpt.json("migrate", source, "--to", "safetensors", "-n", *options).file["output"] == str(tmp_path / output)


@pytest.mark.parametrize("output", ["x.pth", "x.ckpt", "x"])
def test_a_name_must_not_promise_another_container(gsvckpt, tmp_path, output):
    source = save(tmp_path / "in.pth", {"w": tensor("float32", (2,))})
    assert gsvckpt("migrate", source, "--to", "safetensors", "-o", tmp_path / output).code == 2
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "in.safetensors")
    assert gsvckpt("migrate", tmp_path / "in.safetensors", "--to", "torch", "-o", tmp_path / "y.safetensors").code == 2
    assert gsvckpt("migrate", source, "--to", "safetensors", "--in-place").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pth", "in.safetensors"]


def test_the_header_speaks_to_other_programs(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", small(generator("v2"), "v2"))
    gsvckpt.json("migrate", source, "--to", "safetensors", "-o", tmp_path / "x.safetensors")
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["info"] == "8epoch_16iteration"
    assert json.loads(metadata["config"])["model"]["version"] == "v2"


def test_somebody_elses_file_becomes_a_plain_state_dict(gsvckpt, tmp_path):
    values = {"b": torch.arange(3), "a": torch.ones(2, 2, dtype=torch.bfloat16)}
    safetensors.torch.save_file(values, tmp_path / "x.safetensors", {"format": "pt", "license": "mine"})
    file = gsvckpt.json("migrate", tmp_path / "x.safetensors", "--to", "torch").file
    loaded = torch.load(tmp_path / "x.migrated.pth", weights_only=True)
    assert {name: value.tolist() for name, value in loaded.items()} == {name: value.tolist() for name, value in values.items()}
    assert any(change["where"] == "metadata" and change["from"] == "license" for change in file["changes"])


def test_no_private_path_stays_in_the_header(gsvckpt, tmp_path):
    tree = small(generator("v2"), "v2") | {"config": hparams({"version": "v2", "name": "secretvoice", "s2_ckpt_dir": "/home/me/logs/secretvoice"})}
    source = save(tmp_path / "x.pth", tree)
    gsvckpt.json("migrate", source, "--to", "safetensors", "-o", tmp_path / "open.safetensors")
    gsvckpt.json("migrate", tmp_path / "open.safetensors", "--scrub-paths", "-o", tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    assert b"secretvoice" not in data
    assert b"/home/me" not in data
    assert b"secretvoice" in (tmp_path / "open.safetensors").read_bytes()


def test_code_does_not_travel_in_a_header(gsvckpt, tmp_path):
    """A recipe that torch.load would run is as unsafe in a safetensors file as in a pickle, once it is made a pickle again."""
    tree = {"dict": {"w": {"tensor": "w"}, "x": {"object": ["os", "system"], "how": "reduce", "args": ["touch pwned"], "steps": []}}}
    header = {"__metadata__": {"gsvckpt.tree": json.dumps(tree)}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(4)
    assert [str(name) for name in read(data).globals] == ["os.system"]
    (tmp_path / "x.safetensors").write_bytes(data)
    assert gsvckpt.json("inspect", tmp_path / "x.safetensors").file["safety"]["verdict"] == "unsafe"
    assert gsvckpt("verify", tmp_path / "x.safetensors").code == 1
    run = gsvckpt("migrate", tmp_path / "x.safetensors", "--to", "torch")
    assert (run.code, "os.system" in run.err) == (4, True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
