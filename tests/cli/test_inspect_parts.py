"""gsvckpt inspect: what has to be asked for: tensors, statistics, config, names, memory."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from support.builders import Make, Name, hparams, tensor

from .samples import assert_one_error, evil, generator, gpt, lora, numbers, s1_training, s2_training, save, small, weights

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

TENSORS = {
    "dec.b": numbers((4, 3)),
    "enc.a": tensor("float16", (2,), [1, 2]),
    "enc.c": tensor("int64", (100,), range(100)),
    "dec.z": tensor("float32", (), [1]),
}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["dec.b", "enc.a", "enc.c", "dec.z"]),
        (["--sort", "name"], ["dec.b", "dec.z", "enc.a", "enc.c"]),
        (["--sort", "size"], ["enc.c", "dec.b", "enc.a", "dec.z"]),
        (["--include", "enc.*"], ["enc.a", "enc.c"]),
        (["--include", "enc.*", "--include", "*.z"], ["enc.a", "enc.c", "dec.z"]),
        (["--exclude", "enc.*", "--exclude", "*.z"], ["dec.b"]),
        (["--include", "enc.*", "--exclude", "*.c"], ["enc.a"]),
        (["--include", "enc.*", "--exclude", "enc.*"], []),
    ],
)
def test_tensors_are_listed_chosen_and_sorted(gsvckpt, tmp_path, options, names):
    path = save(tmp_path / "x.pth", TENSORS)
    state = gsvckpt.json("inspect", path, "--tensors", *options).file["state"]
    assert [entry["name"] for entry in state] == names
    assert all(entry.keys() == {"name", "dtype", "shape", "bytes"} for entry in state)
    lines = gsvckpt("inspect", path, "--tensors", *options).out.splitlines()[1:]
    assert [line.split()[-1] for line in lines] == names


def test_a_tensor_entry(gsvckpt, tmp_path):
    state = gsvckpt.json("inspect", save(tmp_path / "x.pth", TENSORS), "--tensors").file["state"]
    assert state[0] == {"name": "dec.b", "dtype": "float32", "shape": [4, 3], "bytes": 48}
    assert state[3] == {"name": "dec.z", "dtype": "float32", "shape": [], "bytes": 4}


@pytest.mark.parametrize(("depth", "modules"), [(1, {"dec", "enc"}), (2, {"dec.x", "enc.a"}), (9, {"dec.x", "enc.a"})])
def test_depth_groups_modules(gsvckpt, tmp_path, depth, modules):
    path = save(tmp_path / "x.pth", weights({"dec.x.weight": (2, 2), "dec.x.bias": (2,), "enc.a.weight": (2, 2)}))
    table = gsvckpt("inspect", path, "--depth", str(depth)).out.split("╯")[1].splitlines()
    assert {line.split()[0] for line in table if " B " in line and "can be removed" not in line} == modules


def test_a_single_module_is_opened_up(gsvckpt, tmp_path):
    path = save(tmp_path / "x.pth", weights({"model.h.weight": (2, 2), "model.embedding.weight": (2, 2)}))
    table = gsvckpt("inspect", path).out.split("╯")[1]
    assert "model.h" in table
    assert "model.embedding" in table


def test_stats_are_those_of_torch(gsvckpt, tmp_path):
    torch.manual_seed(0)
    values = torch.randn(500) * torch.tensor([1e-3, 7]).repeat(250)
    values[:20] = 0
    odd = values.clone()
    odd[30:33], odd[40:42] = math.nan, math.inf
    odd[42] = -math.inf
    tree = {
        "plain": values,
        "odd": odd,
        "half": values.half(),
        "brain": values.bfloat16(),
        "ints": torch.arange(-3, 5),
        "none": torch.full((3,), math.nan),
    }
    torch.save(tree, tmp_path / "x.pth")
    state = {entry["name"]: entry["stats"] for entry in gsvckpt.json("inspect", tmp_path / "x.pth", "--stats").file["state"]}
    for name, values in tree.items():
        stats, finite = state[name], values[values.isfinite()].double()
        assert stats.keys() == {"min", "max", "mean", "std", "nan", "inf", "zero", "histogram"}
        assert (stats["nan"], stats["inf"], stats["zero"]) == (int(values.isnan().sum()), int(values.isinf().sum()), int((values == 0).sum()))
        assert sum(stats["histogram"]) == len(finite)
        if not len(finite):
            assert [stats[key] for key in ("min", "max", "mean", "std")] == [None] * 4
            continue
        assert (stats["min"], stats["max"]) == (finite.min(), finite.max())
        assert stats["mean"] == pytest.approx(finite.mean().item(), rel=1e-6, abs=1e-12)
        assert stats["std"] == pytest.approx(finite.std(correction=0).item(), rel=1e-6)
        assert stats["histogram"] == torch.histc(finite, len(stats["histogram"])).int().tolist()
    text = gsvckpt("inspect", tmp_path / "x.pth", "--stats").out
    assert "3 NaN" in text
    assert "3 inf" in text


CONFIG = hparams(
    {"model": hparams({"version": "v2", "rates": [10, 8], "deep": {"x": None}}), "lr": 1e-4, "none": None, "on": True, "name": "声\x9b音\u202e"}
)


def test_config_as_json_and_toml(gsvckpt, tmp_path):
    path = save(tmp_path / "x.pth", {"weight": generator("v2"), "config": CONFIG})
    expected = {"model": {"version": "v2", "rates": [10, 8], "deep": {"x": None}}, "lr": 1e-4, "none": None, "on": True, "name": "声\x9b音\u202e"}
    assert gsvckpt.json("inspect", path, "--config").file["config"] == expected
    assert json.loads(gsvckpt("inspect", path, "--config", "--format", "json").out) == expected
    text = gsvckpt("inspect", path, "--config").out
    assert text.isprintable() or all(char == "\n" or char.isprintable() for char in text)
    if tomllib:
        expected["model"]["deep"] = {}
        del expected["none"]
        assert tomllib.loads(text) == expected
    assert "model.deep.x" in text  # what TOML cannot say is named


def test_config_of_a_lightning_file_has_its_yaml_and_paths_are_text(gsvckpt, tmp_path):
    path = save(tmp_path / "x.ckpt", s1_training(gpt()))
    assert gsvckpt.json("inspect", path, "--config").file["config"]["train"] == {"epochs": 2, "precision": "16-mixed"}
    other = save(tmp_path / "y.ckpt", {"weight": gpt(), "config": {"output_dir": Make(Name("pathlib", "WindowsPath"), ("C:\\", "logs"))}})
    assert gsvckpt.json("inspect", other, "--config").file["config"] == {"output_dir": "C:\\logs"}


def test_without_config_it_is_null(gsvckpt, tmp_path):
    path = save(tmp_path / "x.pth", TENSORS)
    assert gsvckpt.json("inspect", path, "--config").file["config"] is None
    assert gsvckpt("inspect", path, "--config").code == 0


def test_globals_worst_first(gsvckpt, tmp_path):
    lines = gsvckpt("inspect", save(tmp_path / "x.pth", evil()), "--globals").out.splitlines()
    rows = [line.split() for line in lines if line.split()[:1] and line.split()[0] in ("safe", "unsafe", "unknown")]
    assert rows[0][:4] == ["unsafe", "os.system", "called", "with"]
    assert ["safe", "utils.HParams", "called"] in rows


def test_memory(gsvckpt, tmp_path):
    model = generator("v2", enc_q=True)
    path = save(tmp_path / "G_1.pth", s2_training(model))
    file = gsvckpt.json("inspect", path, "--memory").file
    assert file["memory"].keys() == {"torch_load", "load_state_dict", "inference_fp16", "inference_fp32", "resume_training"}
    assert file["memory"]["inference_fp32"] == 2 * file["memory"]["inference_fp16"] == 4 * file["parameters"]
    assert file["memory"]["resume_training"] > file["memory"]["torch_load"] > file["memory"]["load_state_dict"]
    headed = save(tmp_path / "x.pth", small(lora(), "v3", lora_rank=4), b"03")
    memory = gsvckpt.json("inspect", headed, "--memory").file["memory"]
    assert memory["resume_training"] is None
    assert memory["torch_load"] > 2 * headed.stat().st_size  # GPT-SoVITS holds it three times
    assert gsvckpt("inspect", path, "--memory").code == 0


def test_what_wastes_space_and_what_gets_it_back(gsvckpt, tmp_path):
    path = save(tmp_path / "G_1.pth", s2_training(generator("v2")))
    file = gsvckpt.json("inspect", path).file
    assert file["saves"]["strip-optimizer"] == file["bytes"]["optimizer"]
    assert file["saves"]["convert-fp16"] == file["bytes"]["weights"] // 2
    out = gsvckpt("inspect", path).out
    assert "strip-optimizer" in out
    assert "convert-fp16" in out


def test_an_include_that_matches_nothing_is_a_mistake(gsvckpt, tmp_path):
    path = save(tmp_path / "x.pth", TENSORS)
    for options in (["--tensors"], ["--json"], ["--diff", path]):
        run = gsvckpt("inspect", path, "--include", "encoder.*", *options)
        assert_one_error(run, path, 2)
        assert "encoder.*" in run.err
        assert "hint: names are like enc." in run.err
    empty = save(tmp_path / "empty.pth", {"epoch": 3})
    assert gsvckpt("inspect", empty, "--tensors", "--include", "encoder.*").code == 0


def test_a_failure_says_what_the_file_is_where_that_is_known():
    from gsvckpt.engine.json_objects import failure_json
    from gsvckpt.errors import NotCheckpointError

    assert failure_json(NotCheckpointError("this is a TorchScript program", subject="torchscript"))["kind"] == "torchscript"
    assert "kind" not in failure_json(NotCheckpointError("this is a sound file"))


def test_a_model_of_thousands_of_modules_is_summed_up(gsvckpt, tmp_path):
    path = save(tmp_path / "x.pth", {f"layer{n:04}.weight": tensor("float32", (2 if n < 2 else 1,)) for n in range(1000)})
    lines = gsvckpt("inspect", path).out.splitlines()
    assert sum(line.startswith(" layer") for line in lines) == 39
    assert any("(961 more; -v lists them)" in line and " 961 " in line for line in lines)
    assert sum(line.startswith(" layer") for line in gsvckpt("inspect", path, "-v").out.splitlines()) == 1000
