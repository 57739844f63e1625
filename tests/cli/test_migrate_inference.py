"""gsvckpt migrate --to-inference: to the bit what GPT-SoVITS itself would have saved beside a training file, or nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from support.builders import Make, Name, hparams, tensor, torch_stream
from support.oracle import assert_same, hparams_class
from support.readers import Detection, HParams, detect, load_gpt, load_sovits, load_three_ways, zip_is_clean

from gsvckpt.dtypes import DTYPES
from gsvckpt.model import Global, Opaque, Tensor
from gsvckpt.sovits.layouts import layout
from tests.support.voices import Maker, generator_training, gpt_weights, sovits_config, write

from .samples import assert_one_error, discriminator, generator, gpt, leftovers, lora, numbers, s1_training, s2_training, save, small
from .test_migrate_states import load

BASES = {"v1": "PK", "v2": "PK", "v2Pro": "05", "v2ProPlus": "06", "v3": "PK"}


@cache
def maker() -> Maker:
    return Maker()


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, which do not outlive the test."""
    yield tmp_path / "alice"
    shutil.rmtree(tmp_path)


def config_at(path: Path, version: str, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**sovits_config("alice", version, 8), **more}), encoding="utf-8")
    return path


def expanded(shape: tuple[int, ...], value: float = 0.25) -> Tensor:
    """A tensor of any size over one number, in memory and in a file."""
    return Tensor(maker().constant(value, (1,)).storage, DTYPES["float32"], shape, (0,) * len(shape))


def checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            found = zlib.crc32(chunk, found)
    return found


def extract(gsvckpt, source, *options):
    """The JSON object of a run, which a dry run foretold, which wrote one file beside an untouched source, and that file."""
    before = checksum(source), sorted(os.listdir(source.parent))
    planned = gsvckpt.json("migrate", source, "--to-inference", *options, "--dry-run").file
    assert sorted(os.listdir(source.parent)) == before[1]
    file = gsvckpt.json("migrate", source, "--to-inference", *options).file
    output = Path(file["output"])
    assert file == {**planned, "written": True}
    assert file["bytes_after"] == output.stat().st_size
    assert (checksum(source), leftovers(source.parent)) == (before[0], [])
    assert sorted(os.listdir(source.parent)) == sorted({*before[1], *([output.name] if output.parent == source.parent else [])})
    return file, output


def unwrapped(value: object) -> object:
    """HParams as dicts, where every dict has to be one (utils.py:342-347)."""
    if isinstance(value, HParams):
        return {key: unwrapped(part) for key, part in vars(value).items()}
    assert not isinstance(value, dict)
    return value


def assert_halved(weight, model, names):
    """These tensors of the model, in this order, as `.half()` gives them."""
    assert list(weight) == names
    for name, value in weight.items():
        assert value.dtype is torch.float16
        assert torch.equal(value.contiguous().view(torch.int16), model[name].half().contiguous().view(torch.int16)), name


def assert_like_upstreams(output, source, names, *, info, rank=None, version):
    """The tree of process_ckpt.py:41-60."""
    root = load_three_ways(output, weights_only=False)
    assert type(root) is OrderedDict
    assert list(root) == ["weight", "config", "info", *(["lora_rank"] if rank else [])]
    assert type(root["weight"]) is dict
    assert_halved(root["weight"], torch.load(source, mmap=True)["model"], names)
    assert unwrapped(root["config"]) == {**sovits_config("alice", version, 8), "pretrain": None, "resume_step": None}
    assert (root["info"], root.get("lora_rank")) == (info, rank)
    assert zip_is_clean(output)


# --- files of real size, as GPT-SoVITS reads them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", BASES)
def test_a_generator_becomes_the_voice_that_gpt_sovits_would_have_saved(gsvckpt, folder, version):
    tree = generator_training(maker(), version, 8, 16)
    if version != "v2":  # one with an optimizer is enough: they are large
        tree["optimizer"] = None
    source = write(tree, folder / f"logs_s2_{version}" / "G_16.pth")
    config_at(folder / "config.json", version)
    file, output = extract(gsvckpt, source)
    names = [name for name in layout(f"sovits-{version}") if "enc_q" not in name]
    assert output == source.with_name("alice_e8_s16.pth")
    assert_like_upstreams(output, source, names, info="8epoch_16iteration", version=version)
    assert output.read_bytes()[:2].decode() == BASES[version]
    assert detect(output) == Detection("v1" if version == "v1" else "v2", version, is_lora=False)
    weight, info = load_sovits(output)
    assert (list(weight), info.config["model"]["version"]) == (names, version)
    assert (file["upstream_before"], file["upstream_after"]["model"], file["warnings"]) == (None, version, [])
    assert gsvckpt("verify", output).code == 0


@pytest.mark.parametrize(("version", "rank", "head"), [("v3", 32, "03"), ("v4", 64, "04")])
def test_a_lora_run_gives_a_lora_file_without_its_frozen_base(gsvckpt, folder, version, rank, head):
    trained = layout(f"lora-{version}", rank)
    state = layout(f"lora-training-{version}", rank).items()
    model = OrderedDict((name, maker().tensor(name, shape) if name in trained else expanded(shape)) for name, (_, shape) in state)
    tree = {"model": model, "iteration": 8, "optimizer": None, "learning_rate": 1e-4}
    source = write(tree, folder / f"logs_s2_{version}_lora_{rank}" / "G_16.pth")
    config_at(folder / "config.json", version)
    file, output = extract(gsvckpt, source)
    assert output == source.with_name(f"alice_e8_s16_l{rank}.pth")
    assert_like_upstreams(output, source, [name for name in model if name in trained], info="8epoch_16iteration", rank=rank, version=version)
    assert output.read_bytes()[:2].decode() == head
    assert load_sovits(output)[1].lora_rank == rank
    assert file["upstream_after"] == {"symbols": "v2", "model": version, "lora": True, "rule": "head"}
    assert file["warnings"] == []
    assert gsvckpt("verify", output).code == 0


def gpt_training(version: str) -> dict[str, object]:
    """What Lightning writes of a model of real size, without the state of its optimizer."""
    state = OrderedDict(maker().state(f"gpt-{version}", "float32"))
    state._metadata = OrderedDict({"": {"version": 1}})
    tree = {"epoch": 1, "global_step": 12, "pytorch-lightning_version": "2.6.6", "state_dict": state, "loops": {}, "callbacks": {}}
    place = Opaque(Global("pathlib", "PosixPath"), "reduce", ("logs", "alice", f"logs_s1_{version}"))
    config = gpt_weights(maker(), "alice", version, 2)["config"]
    tree |= {"optimizer_states": [], "lr_schedulers": [], "hparams_name": "kwargs"}
    return tree | {"hyper_parameters": {"config": config, "output_dir": place, "is_train": True}}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_gpt_run_gives_gpt_weights_with_the_config_it_carries(gsvckpt, folder, version):
    source = write(gpt_training(version), folder / f"logs_s1_{version}" / "ckpt" / "epoch=1-step=12.ckpt")
    _, output = extract(gsvckpt, source)
    assert output == source.parents[1] / "alice-e2.ckpt"  # GPT-SoVITS empties `ckpt`
    root, before = load_gpt(output), torch.load(source, mmap=True, weights_only=False)
    assert type(root) is OrderedDict
    assert list(root) == ["weight", "config", "info"]
    assert type(root["weight"]) is OrderedDict
    assert not hasattr(root["weight"], "_metadata")  # upstream fills it key by key (s1_train.py:66-70)
    assert_halved(root["weight"], before["state_dict"], list(before["state_dict"]))
    assert (root["config"], root["info"]) == (before["hyper_parameters"]["config"], "GPT-e2")
    load_three_ways(output, weights_only=True)
    assert zip_is_clean(output)
    assert gsvckpt("verify", output).code == 0


@pytest.mark.parametrize("options", [["--config", "any.json"], ["--step", "0"]])
def test_what_a_gpt_run_has_no_use_for_is_said(gsvckpt, folder, options):
    source = write(gpt_training("v2"), folder / "logs_s1_v2" / "ckpt" / "epoch=1-step=12.ckpt")
    assert not extract(gsvckpt, source)[0]["warnings"]
    assert ["its own" in warning for warning in extract(gsvckpt, source, *options, "--force")[0]["warnings"]] == [True]


# --- where the config comes from -----------------------------------------------------------------------------------------------------------------


def g(path: Path, version: str = "v2Pro", **more: object) -> Path:
    return save(path, {**s2_training(generator(version, enc_q=True)), **more})


def test_a_generator_in_float16_gives_the_same_voice(gsvckpt, tmp_path):
    source = g(tmp_path / "G_16.pth")
    config_at(tmp_path / "config.json", "v2Pro")
    expected = extract(gsvckpt, source)[1].read_bytes()
    assert gsvckpt("convert-fp16", source, "-o", tmp_path / "half.pth").code == 0
    assert extract(gsvckpt, tmp_path / "half.pth", "--step", "16", "-o", tmp_path / "again.pth")[1].read_bytes() == expected


def settings_of(output: Path) -> dict[str, object]:
    with_class = load_three_ways(output, weights_only=False)
    return unwrapped(with_class["config"])


@pytest.mark.parametrize("place", ["logs/alice/logs_s2_v2Pro", "logs/alice", "logs", ""])
def test_the_nearest_config_beside_or_above_is_taken(gsvckpt, tmp_path, place):
    source = g(tmp_path / "logs/alice/logs_s2_v2Pro/G_16.pth")
    config_at(tmp_path / place / "config.json", "v2Pro", s2_ckpt_dir="nearest")
    if place in ("logs", ""):  # above the experiment it belongs to something else
        run = gsvckpt("migrate", source, "--to-inference")
        assert_one_error(run, source, 3)
        return
    config_at(tmp_path / "config.json", "v1", s2_ckpt_dir="farther")
    file, output = extract(gsvckpt, source)
    assert settings_of(output)["s2_ckpt_dir"] == "nearest"
    told = next(change["to"] for change in file["changes"] if change["where"] == "config")
    assert told == str(tmp_path / place / "config.json")


@pytest.mark.parametrize(
    "form", ["json", "json with a mark", "toml that inspect prints", "weights with HParams", "weights with a dict", "weights in safetensors"]
)
def test_a_config_that_is_named_is_taken_instead(gsvckpt, tmp_path, form):
    source = g(tmp_path / "alice/logs_s2_v2Pro/G_16.pth")
    config_at(tmp_path / "alice/config.json", "v1")
    settings = {**sovits_config("alice", "v2Pro", 8), "s2_ckpt_dir": "named"}
    nested = {key: hparams(value) if isinstance(value, dict) else value for key, value in settings.items()}
    named = tmp_path / "elsewhere" / "settings"
    if form.startswith("json"):
        named.parent.mkdir()
        named.write_text(json.dumps(settings), encoding="utf-8-sig" if "mark" in form else "utf-8")
    else:
        config = settings if form.endswith("dict") else hparams(nested)
        save(named, {"weight": generator("v2Pro", "float16"), "config": config, "info": "4epoch_8iteration"}, head=b"05")
        if form.startswith("toml"):
            named.with_name("printed").write_text(gsvckpt("inspect", "--config", named).out, encoding="utf-8")
            named = named.with_name("printed")
        if form.endswith("safetensors"):
            named = Path(gsvckpt.json("migrate", named, "--to", "safetensors").file["output"])
    _, output = extract(gsvckpt, source, "--config", named)
    assert settings_of(output) == {**settings, "pretrain": None, "resume_step": None}


@pytest.mark.parametrize(
    ("place", "settings", "doubted"),
    [
        ("logs/alice/logs_s2_v2Pro/G_16.pth", {"name": "bob", "s2_ckpt_dir": "logs/bob", "exp_dir": "logs/bob"}, True),
        ("logs/alice/logs_s2_v2Pro/G_16.pth", {"name": "alice", "s2_ckpt_dir": "logs/alice", "exp_dir": "logs/alice"}, False),
        ("logs/alice/logs_s2_v2Pro/G_16.pth", {"name": "bob", "s2_ckpt_dir": "logs/alice", "exp_dir": "logs/bob"}, False),  # copied from bob's
        ("logs/alice/logs_s2_v2Pro/G_16.pth", {"name": "", "s2_ckpt_dir": "", "exp_dir": None}, False),
        ("downloads/G_16.pth", {"name": "bob", "s2_ckpt_dir": "logs/bob", "exp_dir": "logs/bob"}, False),
    ],
)
def test_a_config_of_another_experiment_is_doubted(gsvckpt, tmp_path, place, settings, doubted):
    source = g(tmp_path / place)
    named = config_at(tmp_path / "named.json", "v2Pro")
    changed = json.loads(named.read_text()) | {key: settings[key] for key in ("name", "s2_ckpt_dir")}
    changed["data"]["exp_dir"] = settings["exp_dir"]
    named.write_text(json.dumps(changed))
    file, _ = extract(gsvckpt, source, "--config", named)
    told = [warning for warning in file["warnings"] if "is the config of" in warning]
    assert told == ([f"{named} is the config of bob, but this checkpoint is of alice by its path"] if doubted else [])
    (tmp_path / "logs/alice").mkdir(parents=True, exist_ok=True)
    named.rename(source.parent / "config.json")  # one that was found is the run's, whatever its folder is called now
    assert not any("is the config of" in warning for warning in extract(gsvckpt, source, "-o", tmp_path / "again.pth")[0]["warnings"])


def test_what_the_run_had_beyond_its_config_stays(gsvckpt, tmp_path):
    source = g(tmp_path / "alice/logs_s2_v2Pro/G_16.pth")
    config_at(tmp_path / "alice/config.json", "v2Pro", pretrain="base.pth", resume_step=4, odd=[{"a": 1}, None, "声音"])
    settings = load_three_ways(extract(gsvckpt, source)[1], weights_only=False)["config"]
    assert (settings.pretrain, settings.resume_step) == ("base.pth", 4)
    assert settings.odd == [{"a": 1}, None, "声音"]  # lists stay as they are, and so do dicts inside


@pytest.mark.parametrize(
    ("tensors", "config", "versions"),
    [
        ("v1", "v2", True),
        ("v2", "v1", True),
        ("v2Pro", "v2", True),
        ("v2Pro", "v2ProPlus", True),
        ("v2ProPlus", "v2Pro", True),
        ("v3", "v4", True),
        ("v3", "v2", True),
        ("v2Pro", "v2ProPlus", False),
        ("v2ProPlus", "v2Pro", False),
        ("v2Pro", "v2", False),
    ],
)
@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
def test_a_config_of_another_version_is_refused(gsvckpt, tmp_path, tensors, config, versions, named):
    state = {**generator(tensors, enc_q=True), "ref_enc.fc.fc.weight": numbers((1024 if "Pro" in tensors else 512, 2))}
    source = save(tmp_path / f"alice/logs_s2_{tensors}/G_16.pth", s2_training(state))
    place = config_at(tmp_path / ("other.json" if named else "alice/config.json"), config)
    if not versions:
        settings = json.loads(place.read_text())
        del settings["version"], settings["model"]["version"]
        place.write_text(json.dumps(settings))
    for more in ([], ["-n"], ["--force"]):
        run = gsvckpt("migrate", source, "--to-inference", *(["--config", place] if named else []), *more)
        assert_one_error(run, place, 4)
        assert "--config" in run.err
        assert os.listdir(source.parent) == ["G_16.pth"]


def test_without_a_config_nothing_is_written(gsvckpt, tmp_path):
    source = g(tmp_path / "a/b/c/d/G_16.pth")
    run = gsvckpt("migrate", source, "--to-inference")
    assert_one_error(run, source, 3)
    assert "--config" in run.err
    assert os.listdir(source.parent) == ["G_16.pth"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, 3),
        (b"", 2),
        (b"{", 2),
        (b"[]", 2),
        (b"{}", 2),
        (b'{"train": {}, "data": {}, "model": {}}', 2),
        (b'{"train": {"a": 1}, "data": {"a": 1}}', 2),
        (b'{"train": 1, "data": 2, "model": 3}', 2),
        (b"\x80\x02}q\x00.", 2),
        (b"{" * 100_000, 2),
        (b'{"a": "\xff"}', 2),
    ],
    ids=range(11),
)
def test_what_is_no_config_is_told_with_its_name(gsvckpt, tmp_path, text, code):
    source = g(tmp_path / "alice/logs_s2_v2Pro/G_16.pth")
    named = tmp_path / "settings.json"
    if text is not None:
        named.write_bytes(text)
    run = gsvckpt("migrate", source, "--to-inference", "--config", named)
    assert_one_error(run, named, code)
    assert os.listdir(source.parent) == ["G_16.pth"]


def test_v3_and_v4_need_a_word_from_somewhere(gsvckpt, tmp_path):
    settings = sovits_config("alice", "v3", 8)
    del settings["version"], settings["model"]["version"], settings["save_weight_dir"]
    source = save(tmp_path / "run" / "G_16.pth", s2_training(generator("v3")))
    (tmp_path / "run/config.json").write_text(json.dumps(settings))
    run = gsvckpt("migrate", source, "--to-inference")
    assert_one_error(run, source, 4)
    assert "v3" in run.err
    assert "v4" in run.err


@pytest.mark.parametrize("version", ["v2", "v4"])
def test_a_result_that_gpt_sovits_would_misread_is_refused_and_force_insists(gsvckpt, tmp_path, version):
    """A v2 voice below its size window, and full v4 weights, for which it has no sign at all."""
    source = g(tmp_path / f"alice/logs_s2_{version}/G_16.pth", version)
    config_at(tmp_path / "alice/config.json", version)
    run = gsvckpt("migrate", source, "--to-inference")
    assert_one_error(run, source, 4)
    assert f"this {version} file" in run.err
    assert "--force" in run.err
    assert os.listdir(source.parent) == ["G_16.pth"]
    assert gsvckpt("migrate", source, "--to-inference", "--force").code == 0
    assert load(source.with_name("alice_e8_s16.pth"))["info"] == "8epoch_16iteration"


# --- what small weights cannot come from ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (s2_training(discriminator()), "D is only needed for training"),
        (small(generator("v2Pro"), "v2Pro"), "already"),
        (small(lora(), "v3", lora_rank=4), "already"),
        ({"weight": gpt(), "config": {"train": {"exp_name": "alice"}}, "info": "GPT-e8"}, "already"),
        ({"weight": generator("v2Pro", enc_q=True), "config": hparams({})}, "G_*.pth"),
        ({"weight": discriminator()}, "G_*.pth"),
        (generator("v2Pro", enc_q=True), "G_*.pth"),
        ({"state_dict": gpt()}, "epoch=*"),
        ({"w": numbers((2, 2))}, "G_*.pth"),
        (["nothing"], "G_*.pth"),
    ],
    ids=["D", "voice", "LoRA", "GPT weights", "G base", "D base", "state dict", "GPT state dict", "another", "none"],
)
def test_any_other_file_is_refused_in_words_that_help(gsvckpt, tmp_path, tree, said):
    source = save(tmp_path / "x.pth", tree)
    config_at(tmp_path / "config.json", "v2Pro")
    for more in ([], ["--dry-run"], ["--force"], ["-o", tmp_path / "out.pth"]):
        run = gsvckpt("migrate", source, "--to-inference", *more)
        assert_one_error(run, source, 4)
        assert said in run.err
        assert sorted(os.listdir(tmp_path)) == ["config.json", "x.pth"]


def test_a_gpt_run_that_lost_its_settings_or_its_epoch(gsvckpt, tmp_path):
    tree = s1_training(gpt(dtype="float32"))
    for key, name in (("hyper_parameters", "epoch=1-step=12.ckpt"), ("epoch", "last.ckpt")):
        source = save(tmp_path / name, {other: value for other, value in tree.items() if other != key})
        run = gsvckpt("migrate", source, "--to-inference")
        assert_one_error(run, source, 4)
        assert key in run.err
    assert sorted(os.listdir(tmp_path)) == ["epoch=1-step=12.ckpt", "last.ckpt"]


def test_a_lora_run_that_lacks_a_part_of_its_lora(gsvckpt, tmp_path):
    model = {name: expanded(shape) for name, (_, shape) in layout("lora-training-v3", 4).items() if "blocks.21.attn.to_v.lora_B" not in name}
    tree = {"model": OrderedDict(model), "iteration": 8, "optimizer": None, "learning_rate": 1e-4}
    source = write(tree, tmp_path / "alice/logs_s2_v3_lora_4/G_16.pth")
    config_at(tmp_path / "alice/config.json", "v3")
    run = gsvckpt("migrate", source, "--to-inference")
    assert_one_error(run, source, 4)
    assert "lacks 1 of the 258 tensors" in run.err
    assert "transformer_blocks.21.attn.to_v.lora_B.default.weight" in run.err


def test_a_generator_without_its_epoch(gsvckpt, tmp_path):
    tree = s2_training(generator("v2Pro", enc_q=True))
    del tree["iteration"]
    source = save(tmp_path / "G_16.pth", tree)
    config_at(tmp_path / "config.json", "v2Pro")
    assert_one_error(gsvckpt("migrate", source, "--to-inference"), source, 4)


# --- steps and names -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["G_233333333333.pth", "G_latest.pth", "copy of G.pth"])
def test_where_the_name_tells_no_step_the_optimizer_does_and_that_is_said(gsvckpt, tmp_path, name):
    source = g(tmp_path / "alice/logs_s2_v2Pro" / name)
    config_at(tmp_path / "alice/config.json", "v2Pro")
    file, output = extract(gsvckpt, source)
    assert (output.name, load(output)["info"]) == ("alice_e8_s16.pth", "8epoch_16iteration")
    (warning,) = file["warnings"]
    assert "step 16" in warning


@pytest.mark.parametrize("form", ["stream", "deflated", "gpu"])
def test_a_run_in_any_container_gives_the_same_voice(gsvckpt, tmp_path, form):
    tree = s2_training(generator("v2Pro", enc_q=True))
    source = save(tmp_path / "G_233333333333.pth", tree)
    config_at(tmp_path / "config.json", "v2Pro")
    expected = extract(gsvckpt, source)[1].read_bytes()
    (tmp_path / "alice_e8_s16.pth").unlink()
    if form == "stream":
        source.write_bytes(torch_stream(tree))
    elif form == "deflated":
        data = source.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
    else:
        tree["model"] = OrderedDict((name, replace(view, store=replace(view.store, location="cuda:0"))) for name, view in tree["model"].items())
        save(source, tree)
    _, output = extract(gsvckpt, source, *(["--plain"] if form == "gpu" else []))
    if form == "gpu":
        found, wanted = torch.load(io.BytesIO(b"PK" + output.read_bytes()[2:]), weights_only=True), io.BytesIO(b"PK" + expected[2:])
        with hparams_class():
            assert_same(found["weight"], torch.load(wanted, weights_only=False)["weight"])
        assert found["config"] == {**sovits_config("alice", "v2Pro", 8), "pretrain": None, "resume_step": None}
    else:
        assert output.read_bytes() == expected


@pytest.mark.parametrize("counts", [[4.0, 16.0, 12.0], [7], [0.0]])
def test_the_largest_count_counts(gsvckpt, tmp_path, counts):
    state = {n: {"step": count if isinstance(count, int) else tensor("float32", (), [count])} for n, count in enumerate(counts)}
    source = g(tmp_path / "G_233333333333.pth", optimizer={"state": state, "param_groups": []})
    config_at(tmp_path / "config.json", "v2Pro")
    assert load(extract(gsvckpt, source)[1])["info"] == f"8epoch_{int(max(counts))}iteration"


@pytest.mark.parametrize("optimizer", [None, {"state": {}, "param_groups": []}, {"state": {0: {"step": "many"}}, "param_groups": []}], ids=range(3))
def test_where_nothing_tells_the_step_it_has_to_be_named(gsvckpt, tmp_path, optimizer):
    source = g(tmp_path / "G_233333333333.pth", optimizer=optimizer)
    config_at(tmp_path / "config.json", "v2Pro")
    run = gsvckpt("migrate", source, "--to-inference")
    assert_one_error(run, source, 4)
    assert "--step" in run.err
    assert sorted(os.listdir(tmp_path)) == ["G_233333333333.pth", "config.json"]
    file, output = extract(gsvckpt, source, "--step", "0")
    assert (output.name, file["warnings"]) == ("alice_e8_s0.pth", [])


@pytest.mark.parametrize("name", ["G_16.pth", "G_233333333333.pth"])
@pytest.mark.parametrize("commands", ["strip-optimizer", "convert-fp16", "strip-optimizer convert-fp16", "convert-fp16 strip-optimizer"])
def test_the_step_survives_our_own_names(gsvckpt, tmp_path, name, commands):
    source = g(tmp_path / name)
    config_at(tmp_path / "config.json", "v2Pro")
    expected = extract(gsvckpt, source)[1]
    expected.unlink()
    for command in commands.split():
        source = Path(gsvckpt.json(command, source).file["output"])
    output = extract(gsvckpt, source)[1]
    assert output.name == expected.name
    assert load(output)["info"] == "8epoch_16iteration"


def test_a_step_that_is_named_is_taken(gsvckpt, tmp_path):
    source = g(tmp_path / "G_16.pth")
    config_at(tmp_path / "config.json", "v2Pro")
    assert extract(gsvckpt, source, "--step", "99")[1].name == "alice_e8_s99.pth"
    assert gsvckpt("migrate", source, "--to-inference", "--step", "-1").code == 2
    assert gsvckpt("migrate", source, "--step", "1").code == 2
    assert gsvckpt("migrate", source, "--config", tmp_path / "config.json").code == 2


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("声音", "声音_e8_s16.pth"),
        (None, "bob_e8_s16.pth"),
        ("", "bob_e8_s16.pth"),
        (7, "bob_e8_s16.pth"),
        ("../../../evil", ".._.._.._evil_e8_s16.pth"),
        ("a\\b:c\n", "a_b_c__e8_s16.pth"),
        ("x" * 300, f"{'x' * 100}_e8_s16.pth"),
        ("声" * 100, f"{'声' * 66}_e8_s16.pth"),
    ],
    ids=range(8),
)
def test_the_name_is_that_of_the_experiment_and_stays_in_its_folder(gsvckpt, tmp_path, told, expected):
    source = g(tmp_path / "logs/bob/logs_s2_v2Pro/G_16.pth")
    config_at(tmp_path / "logs/bob/config.json", "v2Pro", name=told)
    _, output = extract(gsvckpt, source)
    assert output == source.with_name(expected)
    assert sorted(path.name for path in tmp_path.rglob("*.pth")) == sorted(["G_16.pth", expected])


def test_a_gpt_run_is_named_after_its_experiment(gsvckpt, tmp_path):
    tree = s1_training(gpt(dtype="float32"))
    source = save(tmp_path / "logs/bob/logs_s1_v2/ckpt/epoch=1-step=12.ckpt", tree)
    assert extract(gsvckpt, source)[1].name == "bob-e2.ckpt"
    tree["hyper_parameters"]["config"]["train"] = {"exp_name": "alice"}
    tree["hyper_parameters"]["output_dir"] = Make(Name("pathlib", "WindowsPath"), ("logs", "alice"))
    save(source, tree)
    output = extract(gsvckpt, source)[1]
    assert output.name == "alice-e2.ckpt"
    assert load(output)["config"]["train"] == {"exp_name": "alice"}


def test_an_experiment_called_like_a_file_to_resume_from_takes_no_such_name(gsvckpt, tmp_path):
    """Training would resume from what the glob G_*.pth finds."""
    source = g(tmp_path / "run/G_16.pth")
    config_at(tmp_path / "run/config.json", "v2Pro", name="G_alice")
    _, output = extract(gsvckpt, source)
    assert sorted(path.name for path in source.parent.glob("G_*.pth")) == ["G_16.pth"]
    assert load(output)["info"] == "8epoch_16iteration"


def test_one_name_of_ones_own_and_several_in_a_folder(gsvckpt, tmp_path):
    sources = [g(tmp_path / f"logs_s2_v2Pro/G_{step}.pth", iteration=step // 2) for step in (8, 16)]
    config_at(tmp_path / "config.json", "v2Pro")
    assert extract(gsvckpt, sources[0], "-o", tmp_path / "mine.pth")[1] == tmp_path / "mine.pth"
    (tmp_path / "voices").mkdir()
    files = gsvckpt.json("migrate", *sources, "--to-inference", "-o", tmp_path / "voices").document["files"]
    assert [Path(file["output"]).name for file in files] == ["alice_e4_s8.pth", "alice_e8_s16.pth"]
    assert sorted(os.listdir(tmp_path / "voices")) == ["alice_e4_s8.pth", "alice_e8_s16.pth"]


def test_two_sources_that_come_to_the_same_name_do_not_overwrite_each_other(gsvckpt, tmp_path):
    sources = [g(tmp_path / run / "logs_s2_v2Pro/G_16.pth") for run in ("one", "two")]
    for run in ("one", "two"):
        config_at(tmp_path / run / "config.json", "v2Pro")
    assert gsvckpt("migrate", sources[0], "--to-inference", "-o", f"{tmp_path}/voices/").code == 0
    before = (tmp_path / "voices/alice_e8_s16.pth").read_bytes()
    assert_one_error(gsvckpt("migrate", sources[1], "--to-inference", "-o", f"{tmp_path}/voices/"), tmp_path / "voices/alice_e8_s16.pth", 4)
    assert (tmp_path / "voices/alice_e8_s16.pth").read_bytes() == before


def test_what_is_there_already_is_never_overwritten_but_by_force(gsvckpt, tmp_path):
    source = g(tmp_path / "G_16.pth")
    config_at(tmp_path / "config.json", "v2Pro")
    there = tmp_path / "alice_e8_s16.pth"
    there.write_bytes(b"the best voice I ever had")
    for more in ([], ["--check"], ["--dry-run"]):
        run = gsvckpt("migrate", source, "--to-inference", *more)
        assert (run.code, there.read_bytes()) == ({"--check": 1, "--dry-run": 0}.get("".join(more), 4), b"the best voice I ever had")
    assert_one_error(gsvckpt("migrate", source, "--to-inference"), there, 4)
    assert gsvckpt("migrate", source, "--to-inference", "--force").code == 0
    assert load(there)["info"] == "8epoch_16iteration"


def test_a_value_beyond_float16_keeps_its_tensor_whole_or_is_limited(gsvckpt, tmp_path):
    model = {**generator("v2Pro", enc_q=True), "dec.large": tensor("float32", (3,), [1e6, -7e4, 1.0])}
    source = save(tmp_path / "G_16.pth", s2_training(model))
    config_at(tmp_path / "config.json", "v2Pro")
    file, output = extract(gsvckpt, source)
    weight = load(output)["weight"]
    assert [entry["name"] for entry in file["overflowed"]] == ["dec.large"]
    assert (weight["dec.large"].dtype, weight["dec.large"].tolist()) == (torch.float32, [1e6, -7e4, 1.0])
    assert {value.dtype for name, value in weight.items() if name != "dec.large"} == {torch.float16}
    assert gsvckpt("migrate", source, "--to-inference", "--on-overflow", "clamp", "--force").code == 0
    assert load(output)["weight"]["dec.large"].tolist() == [65504.0, -65504.0, 1.0]
    output.unlink()
    assert_one_error(gsvckpt("migrate", source, "--to-inference", "--on-overflow", "error"), source, 4)
    assert not output.exists()
