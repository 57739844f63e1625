"""`--rules gsv-tts-lite` and files `for` another program: weight norms fused as torch fuses them, names of its networks, and docs/recipes.md."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.builders import tensor

from .samples import environment, generator, gpt, numbers, save, small

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")  # it is what upstream uses


def network(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A vocoder's kinds of layers under `dec`, with weight norms over the first dimension, and one elsewhere."""
    torch.manual_seed(7)
    norm = torch.nn.utils.weight_norm
    net = torch.nn.Module()
    net.dec = torch.nn.ModuleDict({"ups": norm(torch.nn.ConvTranspose1d(6, 4, 5)), "conv": norm(torch.nn.Conv1d(4, 8, 3, bias=False))})
    net.flow = norm(torch.nn.Linear(3, 5))
    return net.to(dtype)


def rules(folder: Path, text: str) -> Path:
    (folder / "rules.toml").write_text(text)
    return folder / "rules.toml"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("jobs", ["1", "4"])
def test_weight_norms_are_fused_as_torch_does(gsvckpt, tmp_path, dtype, jobs):
    net = network(dtype)
    torch.save(net.state_dict(), tmp_path / "x.pth")
    output = tmp_path / "y.safetensors"
    asked = rules(tmp_path, '[[rule]]\nfuse-weight-norm = "dec.*"\n')
    assert gsvckpt("migrate", tmp_path / "x.pth", "--rules", asked, "--to", "safetensors", "-o", output, "--jobs", jobs).code == 0
    wide = network(dtype).float()
    for layer in wide.dec.values():
        torch.nn.utils.remove_weight_norm(layer)
    expected = wide.state_dict() | {
        name: value for name, value in net.state_dict().items() if not name.endswith(("dec.ups.weight", "dec.conv.weight"))
    }
    found = load_file(output)
    assert found.keys() == {*wide.state_dict()}
    for name, value in found.items():
        fused = name in ("dec.ups.weight", "dec.conv.weight")
        assert value.dtype is (torch.float32 if fused else dtype)
        assert torch.equal(value, expected[name].to(value.dtype))


def test_a_torch_file_and_a_second_cast_hold_them_too(gsvckpt, tmp_path):
    torch.save(network().state_dict(), tmp_path / "x.pth")
    asked = rules(tmp_path, '[[rule]]\nfuse-weight-norm = ["dec.*", "flow"]\n')
    assert gsvckpt("migrate", tmp_path / "x.pth", "--rules", asked, "--dtype", "float16", "-o", tmp_path / "y.pth").code == 0
    wide = network()
    for layer in (*wide.dec.values(), wide.flow):
        torch.nn.utils.remove_weight_norm(layer)
    found = torch.load(tmp_path / "y.pth", weights_only=True)
    assert found.keys() == wide.state_dict().keys()
    assert all(torch.equal(value, wide.state_dict()[name].half()) for name, value in found.items())


def test_half_a_weight_norm_is_left_and_an_odd_one_refused(gsvckpt, tmp_path):
    alone = {"dec.a.weight_v": numbers((4, 3)), "dec.b.weight_g": numbers((4, 1)), "c.weight_g": numbers((2, 1)), "c.weight_v": numbers((2, 2))}
    asked = rules(tmp_path, '[[rule]]\nfuse-weight-norm = "dec.*"\n')
    run = gsvckpt("migrate", save(tmp_path / "x.pth", alone), "--rules", asked, "-o", tmp_path / "y.pth")
    assert (run.code, "matches no tensor" in run.err) == (0, True)
    for gain, values in (((1, 3), (4, 3)), ((3, 1), (4, 3)), ((), ()), ((0, 1), (0, 3))):
        odd = {"dec.a.weight_g": numbers(gain), "dec.a.weight_v": numbers(values)}
        run = gsvckpt("migrate", save(tmp_path / "x.pth", odd), "--rules", asked, "-o", tmp_path / "y.pth", "--force")
        assert (run.code, "no weight norm" in run.err) == (4, True)
    whole = {"dec.a.weight_g": tensor("int64", (2, 1), [1, 2]), "dec.a.weight_v": tensor("int64", (2, 2), [1, 2, 3, 4])}
    assert gsvckpt("migrate", save(tmp_path / "x.pth", whole), "--rules", asked, "-o", tmp_path / "y.pth", "--force").code == 4


def test_the_name_of_the_weight_must_be_free(gsvckpt, tmp_path):
    both = {"dec.a.weight_g": numbers((4, 1)), "dec.a.weight_v": numbers((4, 3)), "dec.a.weight": numbers((4, 3))}
    asked = rules(tmp_path, '[[rule]]\nfuse-weight-norm = "dec.*"\n')
    run = gsvckpt("migrate", save(tmp_path / "x.pth", both), "--rules", asked, "-o", tmp_path / "y.pth")
    assert (run.code, "would both become" in run.err) == (4, True)


@pytest.mark.parametrize("version", ["v2", "v2Pro"])
def test_sovits_without_weight_norms_and_without_force(gsvckpt, tmp_path, version):
    vocoder = {"dec.ups.0.weight_g": numbers((4, 1, 1), "float16"), "dec.ups.0.weight_v": numbers((4, 3, 2), "float16")}
    source = save(tmp_path / "a_e8_s16.pth", small({**generator(version, "float16"), **vocoder}, version))
    output = tmp_path / "voice" / "model.safetensors"
    output.parent.mkdir()
    run = gsvckpt("migrate", source, "--to", "safetensors", "--rules", "gsv-tts-lite", "-o", output)
    assert (run.code, run.err) == (0, "")
    before = torch.load(gsvckpt_plain(gsvckpt, source), weights_only=True)["weight"]
    after = load_file(output)
    assert after.keys() == before.keys() - vocoder.keys() | {"dec.ups.0.weight"}
    fused = torch._weight_norm(before["dec.ups.0.weight_v"].float(), before["dec.ups.0.weight_g"].float(), 0)
    assert torch.equal(after["dec.ups.0.weight"], fused)
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - vocoder.keys())


def gsvckpt_plain(gsvckpt, source: Path) -> Path:
    """The same voice without classes, for torch's safe reader."""
    output = source.with_name("plain.pth")
    assert gsvckpt("migrate", source, "--plain", "--head", "PK", "--force", "-o", output).code == 0
    return output


def test_gpt_has_the_names_of_the_other_network(gsvckpt, tmp_path):
    block = "model.h.layers.0."
    names = ("self_attn.in_proj_weight", "self_attn.in_proj_bias", "self_attn.out_proj.weight", "linear1.bias", "linear2.weight", "norm1.weight")
    state = {**gpt(), **{f"{block}{name}": numbers((2,), "float16") for name in names}, "model.ar_audio_position.alpha": numbers((1,), "float16")}
    source = save(tmp_path / "a-e15.ckpt", {"weight": state, "config": {"model": {}}, "info": "GPT-e15"})
    output = tmp_path / "model.safetensors"
    assert gsvckpt("migrate", source, "--to", "safetensors", "--rules", "gsv-tts-lite", "-o", output).code == 0
    found = load_file(output)
    wanted = ("qkv.weight", "qkv.bias", "out_proj.weight", "mlp.0.bias", "mlp.2.weight", "norm1.weight")
    assert {f"t2s_transformer.blocks.0.{name}" for name in wanted} <= found.keys()
    assert "ar_audio_position.alpha" in found
    assert not any(name.startswith("model.") for name in found)


def test_a_torch_file_with_the_names_of_another_program_is_refused(gsvckpt, tmp_path):
    source = save(tmp_path / "a_e8_s16.pth", small(generator("v2", "float16"), "v2"))
    run = gsvckpt("migrate", source, "--rules", rules(tmp_path, 'for = "X"\n[[rule]]\nadd-prefix = "net."\n'), "-o", tmp_path / "y.pth")
    assert (run.code, "GPT-SoVITS needs" in run.err) == (4, True)
    text = '[[rule]]\nadd-prefix = "net."\n'
    for head, code in (("", 4), ('for = "X"\n', 0)):
        argv = ["migrate", source, "--rules", rules(tmp_path, head + text), "--to", "safetensors", "-o", tmp_path / "y.safetensors"]
        assert gsvckpt(*argv).code == code


@pytest.mark.parametrize("text", ["for = 3\n", 'for = ""\n', 'fro = "X"\n'])
def test_a_mistake_in_for_has_its_line(gsvckpt, tmp_path, text):
    run = gsvckpt("migrate", save(tmp_path / "x.pth", {"a": numbers((2,))}), "--rules", rules(tmp_path, text + '[[rule]]\ndrop = "x"\n'), "-n")
    assert (run.code, "rules.toml:1" in run.err) == (2, True)


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_the_recipes_run(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (.*)$", text, flags=re.MULTILINE)
    assert len(commands) >= 4
    save(tmp_path / "alice_e8_s200.pth", small(generator("v2", "float16"), "v2"))
    save(tmp_path / "alice-e15.ckpt", {"weight": gpt(), "config": {"model": {"n_layer": 24}}, "info": "GPT-e15"})
    for command in commands:
        line = command.replace("gsvckpt", f"{shlex.quote(sys.executable)} -m gsvckpt", 1)
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
    assert json.loads((tmp_path / "alice-sovits" / "hps.json").read_text(encoding="utf-8"))["model"]["version"] == "v2"
    assert json.loads((tmp_path / "alice-gpt" / "config.json").read_text(encoding="utf-8")) == {"model": {"n_layer": 24}}
