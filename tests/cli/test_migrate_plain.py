"""gsvckpt migrate --plain and --scrub-paths: files that open anywhere without a class, and that tell nothing of their owner's disk."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import types
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.builders import Make, Name, Raw, Store, View, hparams, packed, tensor
from support.oracle import assert_same, hparams_class
from support.readers import detect, load_gpt, load_sovits, load_three_ways, resume_s1, resume_s2, zip_is_clean

from gsvckpt.model import Tensor
from gsvckpt.sovits.layouts import layout
from tests.support.voices import Maker, gpt_weights, sovits_weights, write

from .samples import assert_one_error, generator, gpt, numbers, s1_training, s2_training, save, shared, small
from .test_migrate_states import load

POSIX, WINDOWS = Name("pathlib", "PosixPath"), Name("pathlib", "WindowsPath")


@cache
def maker() -> Maker:
    return Maker()


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, which do not outlive the test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def migrate(gsvckpt, source, *options):
    """The JSON object of a run and its output, of which a second run would change nothing."""
    data = source.read_bytes()
    planned = gsvckpt.json("migrate", source, *options, "-n").file
    file = gsvckpt.json("migrate", source, *options).file
    output = Path(file["output"])
    assert file == {**planned, "written": True}
    assert (file["bytes_after"], source.read_bytes()) == (output.stat().st_size, data)
    again = gsvckpt.json("migrate", output, *options).file
    assert (again["changed"], again["output"], again["changes"]) == (False, None, [])
    assert gsvckpt("migrate", output, *options, "-o", source.with_name("again")).code == 0
    assert source.with_name("again").read_bytes() == output.read_bytes()
    source.with_name("again").unlink()
    return file, output


def unaided(path):
    """As a stranger's program opens it: no classes, no map of devices, and only the head restored."""
    return torch.load(io.BytesIO(b"PK" + path.read_bytes()[2:]), weights_only=True)


def classes(path):
    """The classes that a file's pickle names, but for those that torch's own storages are made with."""
    data = path.read_bytes()
    return [name for name in (b"HParams", b"pathlib", b"PosixPath", b"WindowsPath", b"cuda") if name in data]


def dicts(value):
    """HParams as dicts."""
    if type(value).__name__ == "HParams":
        return dicts(vars(value))
    return {key: dicts(part) for key, part in value.items()} if isinstance(value, dict) else value


def assert_same_state(one, two):
    """As `assert_same`, for tensors of real size."""
    assert type(one) is type(two)
    assert list(one) == list(two)
    for name, value in one.items():
        assert (value.dtype, value.shape, value.stride()) == (two[name].dtype, two[name].shape, two[name].stride())
        assert torch.equal(value, two[name]), name


def on_gpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: replace(held, storage=replace(held.storage, location="cuda:0")) for name, held in state.items()}


# --- files of real size, as GPT-SoVITS reads them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "options"), [("v1", ["--plain"]), ("v2", ["--plain", "--scrub-paths"]), ("v2Pro", ["--plain", "--scrub-paths"])])
def test_a_voice_opens_unaided_and_stays_what_it_is_to_gpt_sovits(gsvckpt, folder, version, options):
    tree = sovits_weights(maker(), "alice", version, 8, 16)
    source = write({**tree, "weight": on_gpu(tree["weight"])}, folder / "alice_e8_s16.pth", version)
    assert set(classes(source)) == {b"HParams", b"cuda"}
    _, output = migrate(gsvckpt, source, *options)
    assert classes(output) == []
    assert (b"alice" in output.read_bytes()) == (len(options) == 1)
    assert detect(output) == detect(source)
    weight, info = load_sovits(output)
    before, known = load_sovits(source)
    assert list(weight) == list(before)
    assert all(torch.equal(weight[name].view(torch.int16), before[name].view(torch.int16)) for name in before)
    scrubbed = {"name": "voice", "s2_ckpt_dir": "logs/voice", "data": {**known.config["data"], "exp_dir": "logs/voice"}} if len(options) > 1 else {}
    assert info == known._replace(config={**known.config, **scrubbed})
    assert type(load_three_ways(output, weights_only=True)["config"]["model"]) is dict
    assert all(value.device.type == "cpu" for value in unaided(output)["weight"].values())
    assert zip_is_clean(output)
    assert gsvckpt("verify", output).code == 0


def test_gpt_weights_that_were_saved_on_a_gpu(gsvckpt, folder):
    tree = gpt_weights(maker(), "alice", "v2", 8)
    source = write({**tree, "weight": OrderedDict(on_gpu(tree["weight"]))}, folder / "alice-e8.ckpt")
    file, output = migrate(gsvckpt, source, "--plain", "--scrub-paths")
    assert {"step": "plain", "where": "295 storages", "from": "cuda:0", "to": "cpu"} in file["changes"]
    root = load_gpt(output)
    assert root["config"]["output_dir"] == "logs/voice/logs_s1_v2"  # tells the version
    assert (root["config"]["train"]["exp_name"], root["config"]["train"]["half_weights_save_dir"]) == ("voice", "GPT_weights_v2")
    assert output.name == "voice-e8.ckpt"
    assert b"alice" not in output.read_bytes()
    assert type(root["weight"]) is OrderedDict
    assert_same_state(root["weight"], torch.load(source, map_location="cpu", weights_only=False)["weight"])


# --- classes -------------------------------------------------------------------------------------------------------------------------------------


def expanded(shape, location="cpu"):
    """A float32 tensor of any size over one number."""
    return View(Store("float32", packed("float32", [0.25]), location), shape, (0,) * len(shape))


def lightning(place: Make | str, *, location: str = "cpu") -> dict[str, object]:
    """A GPT run in all names and shapes."""
    state = OrderedDict((name, expanded(shape, location)) for name, (_, shape) in layout("gpt-v2").items())
    tree = s1_training(state)
    tree["optimizer_states"] = []
    tree["hyper_parameters"] |= {"output_dir": place}
    callback = {
        "best_model_path": "/home/me/GPT-SoVITS/logs/alice/logs_s1_v2/ckpt/epoch=1-step=12.ckpt",
        "best_k_models": {"epoch=1-step=12.ckpt": expanded((), location)},
    }
    tree["callbacks"] = {"my_model_ckpt{'monitor': 'top_3_acc', 'mode': 'max'}": callback}
    return tree


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Make(POSIX, ("logs", "alice", "logs_s1_v2")), "logs/alice/logs_s1_v2"),
        (Make(POSIX, ("/", "home", "me")), "/home/me"),
        (Make(POSIX, ("/home/me/声音",)), "/home/me/声音"),
        (Make(WINDOWS, ("C:\\", "me", "logs")), "C:\\me\\logs"),
        (Make(WINDOWS, ("logs", "alice")), "logs\\alice"),
        (Make(Name("pathlib._local", "PosixPath"), ("logs", "alice")), "logs/alice"),  # Python 3.13
        (Make(Name("pathlib._local", "WindowsPath"), ("D:\\x", "y")), "D:\\x\\y"),
        (Make(Name("pathlib", "PurePosixPath"), ("a", "b")), "a/b"),
        (Make(Name("pathlib", "PureWindowsPath"), ("a", "b")), "a\\b"),
        (Make(POSIX), "."),
    ],
    ids=range(10),
)
def test_a_gpt_run_resumes_again_under_a_lightning_that_allows_no_classes(gsvckpt, tmp_path, place, text):
    source = save(tmp_path / "epoch=1-step=12.ckpt", lightning(place))
    with pytest.raises(RuntimeError, match="Weights only"):
        resume_s1(source, strict_pickle=True)
    file, output = migrate(gsvckpt, source, "--plain")
    assert file["changes"] == [
        {"step": "plain", "where": "hyper_parameters/output_dir", "from": f"{place.name.module}.{place.name.name}", "to": "text"}
    ]
    root = resume_s1(output, strict_pickle=True)
    assert root["hyper_parameters"]["output_dir"] == text
    assert classes(output) == []
    expected = unaided(save(tmp_path / "text.ckpt", lightning(text)))
    assert list(root) == list(expected)
    assert_same_state(root.pop("state_dict"), expected.pop("state_dict"))
    assert_same(root, expected)


def test_paths_that_are_keys_become_text_and_keep_their_places(gsvckpt, tmp_path):
    found = {"first": 1, Make(POSIX, ("/", "home", "me", "a.ckpt")): numbers(()), Make(WINDOWS, ("C:\\", "b.ckpt")): [2], "last": 3}
    _, output = migrate(gsvckpt, save(tmp_path / "x.pth", {"w": numbers((2, 2)), "found": found}), "--plain")
    assert list(unaided(output)["found"]) == ["first", "/home/me/a.ckpt", "C:\\b.ckpt", "last"]
    assert unaided(output)["found"]["C:\\b.ckpt"] == [2]


def test_two_keys_that_would_become_one_are_refused(gsvckpt, tmp_path):
    tree = {"w": numbers((2, 2)), "found": {Make(POSIX, ("a", "b")): 1, "a/b": 2}}
    source = save(tmp_path / "x.pth", tree)
    for more in ([], ["-n"], ["--in-place"], ["--force"]):
        assert_one_error(gsvckpt("migrate", source, "--plain", *more), source, 3)
        assert os.listdir(tmp_path) == ["x.pth"]


def test_a_config_of_hparams_is_the_same_dict_however_deep(gsvckpt, tmp_path):
    inner = hparams({"n": 1, "list": [hparams({"x": None}), (hparams({}), 2)], "dict": {"h": hparams({"y": "声"})}})
    tree = OrderedDict(
        weight=generator("v1"), config=hparams({"train": inner, "again": inner, "path": Make(POSIX, ("a",))}), info="8epoch_16iteration"
    )
    source = save(tmp_path / "x.pth", tree)
    _, output = migrate(gsvckpt, source, "--plain")
    found = unaided(output)
    inner = {"n": 1, "list": [{"x": None}, ({}, 2)], "dict": {"h": {"y": "声"}}}
    assert found["config"] == {"train": inner, "again": inner, "path": "a"}
    assert type(found) is OrderedDict
    assert_same(found["weight"], load(source)["weight"])


@pytest.mark.parametrize("head", [b"05", b"PK"])
def test_a_voice_of_a_fork_with_its_head_opens_unaided(gsvckpt, tmp_path, head):
    source = save(tmp_path / "x.pth", small(generator("v2Pro", "float16"), "v2Pro"), head=head)
    _, output = migrate(gsvckpt, source, "--plain")
    assert output.read_bytes()[:2] == b"05"
    with hparams_class():
        before = torch.load(io.BytesIO(b"PK" + source.read_bytes()[2:]), weights_only=False)
    assert_same(unaided(output), OrderedDict(weight=before["weight"], config=dicts(before["config"]), info=before["info"]))


def test_objects_of_other_classes_stay_as_they_are(gsvckpt, tmp_path):
    size = Make(Name("torch", "Size"), ((2, 3),))
    unknown = Make(Name("somebody", "Thing"), new=True, state={"x": hparams({"y": 1})})
    source = save(tmp_path / "x.pth", {"w": numbers((2, 2)), "size": size, "h": hparams({"size": size})})
    _, output = migrate(gsvckpt, source, "--plain")
    assert unaided(output)["h"] == {"size": torch.Size([2, 3])}
    assert type(unaided(output)["size"]) is torch.Size
    output.unlink()
    source = save(tmp_path / "x.pth", {"w": numbers((2, 2)), "thing": unknown})
    file, output = migrate(gsvckpt, source, "--plain")
    with pytest.raises(Exception, match="somebody"):
        unaided(output)
    assert b"HParams" not in output.read_bytes()
    assert file["warnings"] == [
        "torch.load(weights_only=True) refuses the remaining classes: somebody.Thing (1); strip-optimizer --drop thing removes what they are in"
    ]
    assert not gsvckpt.json("migrate", source, "--scrub-paths", "-n").file["warnings"]  # nobody was promised anything
    assert not gsvckpt.json("migrate", source, "--plain", "--to", "safetensors", "-n").file["warnings"]  # which torch does not open


def test_what_other_trainers_leave_in_a_file_becomes_plain(gsvckpt, tmp_path):
    """Settings as namespaces, devices, and NumPy's numbers, in values and in keys."""
    best = {np.int64(3): np.float32(0.1), "flag": np.bool_(True), torch.device("cuda:1"): [np.float64(2.5), np.uint8(7)]}
    args = argparse.Namespace(lr=np.float64(1e-4), out=PurePosixPath("/home/me"), inner=types.SimpleNamespace(device=torch.device("cpu"), n=None))
    source = tmp_path / "x.pth"
    torch.save({"w": torch.ones(2), "args": args, "best": best}, source)
    with pytest.raises(Exception, match="Weights only"):
        unaided(source)
    file, output = migrate(gsvckpt, source, "--plain")
    found = unaided(output)
    assert found["args"] == {"lr": 1e-4, "out": "/home/me", "inner": {"device": "cpu", "n": None}}
    assert found["best"] == {3: float(np.float32(0.1)), "flag": True, "cuda:1": [2.5, 7]}
    assert [type(value) for value in (*found["best"], found["best"]["flag"])] == [int, str, str, bool]
    assert file["warnings"] == []
    assert {"step": "plain", "where": "keys of dicts", "from": "1 objects", "to": "number"} in file["changes"]


def test_an_object_that_is_a_key_cannot_become_a_dict(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"w": numbers((2, 2)), "k": {(hparams({"a": 1}), 1): 2}})
    run = gsvckpt("migrate", source, "--plain")
    assert_one_error(run, source, 3)
    assert "<utils.HParams>" in run.err
    assert os.listdir(tmp_path) == ["x.pth"]


def test_a_malicious_file_does_not_become_innocent(gsvckpt, tmp_path):
    run_it = Make(Name("os", "system"), ("touch /tmp/gsvckpt-was-here",))
    for tree in ({"w": numbers((2, 2)), "x": run_it}, {"w": numbers((2, 2)), "x": hparams({"y": run_it})}):
        source = save(tmp_path / "x.pth", tree)
        assert_one_error(gsvckpt("migrate", source, "--plain"), source, 4)
        assert os.listdir(tmp_path) == ["x.pth"]


# --- devices -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["cuda:0", "cuda:7", "cuda", "mps", "xpu:0", "meta"])
def test_tags_of_devices_go_and_tied_tensors_stay_tied(gsvckpt, tmp_path, location):
    store = Store("float32", packed("float32", range(24)), location)
    half = Store("float16", packed("float16", range(4)), location)
    parameter = Make(Name("torch._utils", "_rebuild_parameter"), (View(half, (2, 2), (2, 1)), True, OrderedDict()))
    tree = {
        "model": OrderedDict(a=View(store, (4, 6), (6, 1)), t=View(store, (6, 4), (1, 6)), part=View(store, (2, 3), (12, 2), 1), p=parameter),
        "aside": [View(store, (24,), (1,), grad=True), {"b": tensor("int64", (2,), [1, 2])}],
    }
    source = save(tmp_path / "x.pth", tree)
    if location != "meta":  # which torch takes for a tensor without numbers
        with pytest.raises(RuntimeError, match=r"[Dd]eseriali|don't know how to restore|not recognized"):
            unaided(source)
    _, output = migrate(gsvckpt, source, "--plain")
    found = unaided(output)
    model, whole = found["model"], found["aside"][0]
    assert len({value.untyped_storage().data_ptr() for value in (*list(model.values())[:3], whole)}) == 1
    for value, (shape, stride, start) in zip(
        (*model.values(), whole),
        [((4, 6), (6, 1), 0), ((6, 4), (1, 6), 0), ((2, 3), (12, 2), 1), ((2, 2), (2, 1), 0), ((24,), (1,), 0)],
        strict=True,
    ):
        assert (tuple(value.shape), value.stride(), value.storage_offset(), value.device.type) == (shape, stride, start, "cpu")
    assert whole.requires_grad
    assert whole.tolist() == list(range(24))
    assert isinstance(model["p"], torch.nn.Parameter)
    assert model["p"].tolist() == [[0, 1], [2, 3]]
    assert found["aside"][1]["b"].tolist() == [1, 2]


def test_sovits_training_goes_on_from_what_was_saved_on_a_gpu(gsvckpt, tmp_path):
    state = OrderedDict((name, expanded(shape, "cuda:0")) for name, (_, shape) in layout("sovits-v2").items())
    tree = {"model": state, "iteration": 8, "optimizer": None, "learning_rate": 1e-4}
    source = save(tmp_path / "G_16.pth", tree)
    _, output = migrate(gsvckpt, source, "--plain")
    assert (output.name, resume_s2(output)) == ("migrated-G_16.pth", (1e-4, 8))
    assert_same_state(unaided(output)["model"], torch.load(source, map_location="cpu")["model"])
    assert classes(output) == []


def test_tags_go_together_with_a_cast(gsvckpt, tmp_path):
    store = Store("float32", packed("float32", [1 / 3, 2, 3, 4]), "cuda:0")
    source = save(tmp_path / "x.pth", {"model": {"a": View(store, (2, 2), (2, 1)), "b": View(store, (4,), (1,))}, "config": hparams({"x": 1})})
    _, output = migrate(gsvckpt, source, "--plain", "--dtype", "float16")
    found = unaided(output)
    assert found["config"] == {"x": 1}
    assert found["model"]["a"].untyped_storage().data_ptr() == found["model"]["b"].untyped_storage().data_ptr()
    assert torch.equal(found["model"]["b"], torch.tensor([1 / 3, 2, 3, 4]).half())


def test_what_is_extracted_from_a_run_is_made_plain_too(gsvckpt, tmp_path):
    tree = s1_training(
        OrderedDict((name, replace(view, store=replace(view.store, location="cuda:0"))) for name, view in gpt(dtype="float32").items())
    )
    tree["hyper_parameters"]["config"]["train"]["exp_name"] = "alice"
    tree["hyper_parameters"]["config"]["output_dir"] = "logs/alice/logs_s1_v2"
    source = save(tmp_path / "epoch=1-step=12.ckpt", tree)
    assert gsvckpt("migrate", source, "--to-inference", "--plain", "--scrub-paths").code == 0
    found = unaided(tmp_path / "voice-e2.ckpt")
    assert (found["config"]["train"]["exp_name"], found["config"]["output_dir"], found["info"]) == ("voice", "logs/voice/logs_s1_v2", "GPT-e2")
    assert {value.dtype for value in found["weight"].values()} == {torch.float16}


# --- what a file tells of its owner --------------------------------------------------------------------------------------------------------------

HOME = "/home/me/GPT-SoVITS/"
PRIVATE = (b"/home", b"Users", b"me/", b"me\\", b"\\\\", b"server", b"GPT-SoVITS/")


def gpt_run(name: str, folder: str = HOME, form: Name = POSIX) -> dict[str, object]:
    """A GPT run with every place in which one names its experiment and folders."""
    join = "\\" if form == WINDOWS else "/"
    run = folder + join.join(("logs", name, "logs_s1_v2"))
    config = {
        "train": {"exp_name": name, "half_weights_save_dir": "GPT_weights_v2", "epochs": 2},
        "pretrained_s1": f"{folder}GPT_SoVITS{join}pretrained_models{join}s1v3.ckpt",
        "train_semantic_path": join.join(("logs", name, "6-name2semantic.tsv")),
        "train_phoneme_path": f"{folder}logs{join}{name}{join}2-name2text.txt",
        "output_dir": run,
    }
    tree = lightning(Make(form, (PureWindowsPath if form == WINDOWS else PurePosixPath)(run).parts), location="cuda:0")
    tree["hyper_parameters"]["config"] = config
    files = [f"{run}{join}ckpt{join}epoch={n}-step={6 * n + 6}.ckpt" for n in range(2)]
    tree["callbacks"] = {
        "my_model_ckpt{'monitor': 'top_3_acc', 'mode': 'max'}": {
            "best_model_path": files[1],
            "dirpath": f"{run}{join}ckpt",
            "best_k_models": {path: expanded(()) for path in files},
            "kth_best_model_path": files[0],
            "last_model_path": "",
        }
    }
    return tree


def told(data: bytes, name: str) -> list[bytes]:
    """What of the owner is still to be found in a file."""
    return [word for word in (*PRIVATE, name.encode()) if word in data]


@pytest.mark.parametrize("name", ["alice", "声音", "a voice (1)", "Alice.v2"])
@pytest.mark.parametrize(("home", "form"), [(HOME, POSIX), ("C:\\Users\\me\\GPT-SoVITS\\", WINDOWS), ("\\\\server\\me\\", WINDOWS)], ids=range(3))
def test_no_folder_and_no_experiment_stays_in_a_gpt_run(gsvckpt, tmp_path, name, home, form):
    source = save(tmp_path / "epoch=1-step=12.ckpt", gpt_run(name, home, form), prefix=name)
    assert name.encode() in told(source.read_bytes(), name)
    _, output = migrate(gsvckpt, source, "--scrub-paths")
    assert told(output.read_bytes(), name) == []
    root = resume_s1(output, strict_pickle=True)
    before = gpt_run(name, home, form)
    assert list(root) == list(before)
    settings, join = root["hyper_parameters"]["config"], "\\" if form == WINDOWS else "/"
    assert settings["train"] == {"exp_name": "voice", "half_weights_save_dir": "GPT_weights_v2", "epochs": 2}
    assert (settings["pretrained_s1"], settings["train_semantic_path"]) == (
        "s1v3.ckpt",
        join.join(("logs", "voice", "6-name2semantic.tsv")),
    )
    assert settings["train_phoneme_path"] == "2-name2text.txt"
    assert (settings["output_dir"], root["hyper_parameters"]["output_dir"]) == ("logs_s1_v2", "logs_s1_v2")  # they tell the version
    ((key, callback),) = root["callbacks"].items()
    assert key in before["callbacks"]
    assert list(callback["best_k_models"]) == ["epoch=0-step=6.ckpt", "epoch=1-step=12.ckpt"]
    assert (callback["best_model_path"], callback["dirpath"]) == ("epoch=1-step=12.ckpt", "ckpt")
    assert_same_state(root["state_dict"], unaided(save(tmp_path / "plain.ckpt", lightning("")))["state_dict"])


def test_no_folder_and_no_experiment_stays_in_a_voice(gsvckpt, tmp_path):
    config = {
        "train": hparams({"pretrained_s2G": f"{HOME}GPT_SoVITS/pretrained_models/s2Gv3.pth", "lora_rank": "32", "gpu": "0"}),
        "data": hparams({"exp_dir": "logs/alice", "training_files": f"{HOME}logs/alice/list.txt"}),
        "model": hparams({"version": "v1"}),
        "s2_ckpt_dir": "logs/alice",
        "save_weight_dir": "SoVITS_weights_v2",
        "name": "alice",
        "version": "v1",
        "pretrain": Make(POSIX, ("/", "home", "me", "x.pth")),
        "paths": [f"file://{HOME}x", "~/me/y", ("C:/Users/me/z",), {"/home/me/k": {"deep": "logs/alice/alice_e8_s16.pth"}}],
        "url": "https://example.org/me/",
    }
    tree = OrderedDict(weight=generator("v1"), config=hparams(config), info="8epoch_16iteration")
    source = save(tmp_path / "x.pth", tree, prefix="alice_e8_s16")
    file, output = migrate(gsvckpt, source, "--scrub-paths")
    assert told(output.read_bytes().replace(b"https://example.org/me/", b""), "alice") == []
    assert not any("alice" in str(change) or "/home" in str(change) for change in file["changes"])  # a report is shared, too
    found = load(output)
    assert type(found["config"]).__name__ == "HParams"  # --plain was not asked for
    found = dicts(found["config"])
    assert found["train"] == {"pretrained_s2G": "s2Gv3.pth", "lora_rank": "32", "gpu": "0"}
    assert (found["data"], found["model"]) == ({"exp_dir": "logs/voice", "training_files": "list.txt"}, {"version": "v1"})
    assert (found["name"], found["s2_ckpt_dir"], found["save_weight_dir"], found["version"]) == ("voice", "logs/voice", "SoVITS_weights_v2", "v1")
    assert (found["pretrain"], found["url"]) == ("x.pth", "https://example.org/me/")
    assert found["paths"] == ["x", "y", ("z",), {"k": {"deep": "logs/voice/voice_e8_s16.pth"}}]
    assert_same(load(output)["weight"], load(source)["weight"])


@pytest.mark.parametrize(
    "name", ["model", "weight", "config", "v1", "v2", "train", "name", "info", "cfm", "dec", "enc_p", "state_dict", "epoch", "data"]
)
def test_a_voice_with_the_name_of_a_key_loses_nothing_but_its_name(gsvckpt, tmp_path, name):
    config = {
        "train": hparams({"epochs": 8, "note": name}),
        "data": hparams({"exp_dir": f"logs/{name}"}),
        "model": hparams({"version": "v1", "kind": name}),
        "name": name,
        "version": "v1",
        "s2_ckpt_dir": f"logs/{name}",
        "run": f"logs/{name}/logs_s2_v1",
    }
    source = save(tmp_path / "x.pth", OrderedDict(weight=generator("v1"), config=hparams(config), info="8epoch_16iteration"))
    _, output = migrate(gsvckpt, source, "--scrub-paths")
    before, after = load(source), load(output)
    assert_same(after["weight"], before["weight"])
    expected = dicts(before["config"]) | {"name": "voice", "s2_ckpt_dir": "logs/voice", "run": "logs/voice/logs_s2_v1"}
    expected["data"]["exp_dir"] = "logs/voice"
    assert dicts(after["config"]) == expected
    assert (list(after), after["info"]) == (["weight", "config", "info"], "8epoch_16iteration")


def test_the_outputs_name_does_not_tell_the_experiment_either(gsvckpt, tmp_path):
    tree = small(generator("v1"), "v1")
    source = save(tmp_path / "alice_e8_s16.pth", tree)
    assert Path(gsvckpt.json("migrate", source, "--scrub-paths", "-n").file["output"]).name == "voice_e8_s16.pth"
    assert gsvckpt("migrate", source, "--scrub-paths", "-o", f"{tmp_path / 'out'}{os.sep}").code == 0
    assert os.listdir(tmp_path / "out") == ["voice_e8_s16.pth"]
    assert gsvckpt("migrate", source, "--scrub-paths", "-o", tmp_path / "alice.pth").code == 0  # what was chosen stays
    assert gsvckpt("migrate", source, "--scrub-paths", "--in-place").code == 0
    assert sorted(os.listdir(tmp_path)) == ["alice.pth", "alice_e8_s16.pth", "out"]
    other = save(tmp_path / "logs/alice/G_16.pth", s2_training(generator("v1")) | {"note": "/home/me/x"})
    assert Path(gsvckpt.json("migrate", other, "--scrub-paths", "-n").file["output"]).name == "migrated-G_16.pth"


@pytest.mark.parametrize("said", [{"name": "bob"}, {"config": '{"train": {"exp_name": "bob"}, "at": "C:\\\\me\\\\x"}'}, {}], ids=range(3))
def test_the_header_of_a_foreign_safetensors_file(gsvckpt, tmp_path, said):
    source = tmp_path / "bob_e8_s16.safetensors"
    header = {**said, "source": "bob, converted from /home/me/logs/bob/bob.pth", "url": "https://example.org/a/b"}
    save_file({"w": torch.ones(2)}, source, header)
    file = gsvckpt.json("migrate", source, "--scrub-paths").file
    output = Path(file["output"])
    assert output.name == "voice_e8_s16.safetensors"
    with safe_open(output, "pt") as opened:
        found = opened.metadata()
    assert (found["source"], found["url"]) == ("voice, converted from voice.pth", "https://example.org/a/b")
    assert told("\n".join(found.values()).encode(), "bob") == []
    assert gsvckpt.json("migrate", output, "--scrub-paths").file["changed"] is False


@pytest.mark.parametrize("name", ["model", "v2", "callbacks", "epoch", "logs_s1_v2", "GPT_weights", "ckpt"])
def test_a_gpt_run_with_such_a_name_resumes(gsvckpt, tmp_path, name):
    source = save(tmp_path / "x.ckpt", gpt_run(name))
    _, output = migrate(gsvckpt, source, "--scrub-paths")
    root = resume_s1(output, strict_pickle=True)
    assert list(root) == list(gpt_run(name))
    assert root["hyper_parameters"]["config"]["train"]["epochs"] == 2
    assert told(output.read_bytes(), "/" + name) == []


@pytest.mark.parametrize("name", ["alice", "logs", "logs_s1"])
def test_what_tells_the_version_stays_whatever_the_voice_is_called(gsvckpt, tmp_path, name):
    _, output = migrate(gsvckpt, save(tmp_path / "x.ckpt", gpt_run(name)), "--scrub-paths")
    settings = unaided(output)["hyper_parameters"]
    assert (settings["output_dir"], settings["config"]["output_dir"]) == ("logs_s1_v2", "logs_s1_v2")


def test_the_experiment_is_known_from_where_the_file_lies(gsvckpt, tmp_path):
    config = {"train": {"epochs": 2}, "train_semantic_path": "logs/bob/6-name2semantic.tsv", "out": "logs/bob"}
    tree = {"weight": gpt(), "config": config, "info": "GPT-e8"}
    _, output = migrate(gsvckpt, save(tmp_path / "bob-e8.ckpt", tree), "--scrub-paths")
    assert unaided(output)["config"] == {
        "train": {"epochs": 2},
        "train_semantic_path": "logs/voice/6-name2semantic.tsv",
        "out": "logs/voice",
    }


def test_folders_that_would_become_one_key_are_refused(gsvckpt, tmp_path):
    tree = {"w": numbers((2, 2)), "best": {"/home/me/a/x.ckpt": 1, "/home/me/b/x.ckpt": 2}}
    source = save(tmp_path / "x.pth", tree)
    for more in ([], ["-n"], ["--in-place"]):
        assert_one_error(gsvckpt("migrate", source, "--scrub-paths", *more), source, 3)
        assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("place", ["x.pth", "logs/enc/x.pth"])
def test_tensors_that_are_named_like_paths_keep_their_names(gsvckpt, tmp_path, place):
    """TensorFlow's way of naming, in a voice that is called like a part of its model, too."""
    tree = {"model": {"enc/w": numbers((2, 2)), "dec/w": numbers((2,)), "a\\b": numbers((1,))}, "note": "and/or", "home": "/home/me/x"}
    _, output = migrate(gsvckpt, save(tmp_path / place, tree), "--scrub-paths")
    found = unaided(output)
    assert (list(found["model"]), found["note"], found["home"]) == (["enc/w", "dec/w", "a\\b"], "and/or", "x")


def test_where_there_is_nothing_private_there_is_nothing_to_change(gsvckpt, tmp_path):
    base = numbers((4, 4))
    tree = {"w": base, "tied": shared("float32", (4,), base.store), "config": {"epochs": 2, "version": "v2", "ratio": "16/9", "lines": "a\n/home"}}
    for option in ("--plain", "--scrub-paths"):
        file = gsvckpt.json("migrate", save(tmp_path / "x.pth", tree), option).file
        assert (file["changed"], file["output"]) == (False, None)


def test_a_pickle_that_repeats_and_contains_itself(gsvckpt, tmp_path):
    """`BINPUT` 0 is the list; its last item is itself."""
    loop = Raw(b"]q\x00(X\x0a\x00\x00\x00/home/me/xcpathlib\nPosixPath\n(X\x01\x00\x00\x00/X\x01\x00\x00\x00atRh\x00e")
    source = save(tmp_path / "x.pth", {"w": numbers((2, 2)), "loop": loop})
    _, output = migrate(gsvckpt, source, "--plain", "--scrub-paths")
    found = unaided(output)["loop"]
    assert found[:2] == ["x", "/a"]  # a folder at the root is in no folder
    assert found[2] is found


def test_a_run_that_is_not_of_gpt_sovits(gsvckpt, tmp_path):
    tree = {**s2_training({"w": numbers((2, 2))}), "args": {"name": "run7", "out": "/data/me/run7", "exp_name": "x"}}
    _, output = migrate(gsvckpt, save(tmp_path / "epoch_001.pth", tree), "--scrub-paths")
    assert unaided(output)["args"]["out"] == "voice"
    assert b"/data/me" not in output.read_bytes()
