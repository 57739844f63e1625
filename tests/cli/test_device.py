"""--device through the commands: what is told of it, and that the result is the host's. torch's own cpu stands for a GPU where none is."""

from __future__ import annotations

import re

import pytest
import torch
from support.builders import tensor

from gsvckpt.devices import accelerator, choice
from gsvckpt.engine.pool import run as dispatch

from .samples import generator, save, small

TOLD = re.compile(r"^device: cpu: less than 4 GiB are to be computed \([0-9.]+ [kM]?B\)$", re.MULTILINE)


@pytest.fixture
def voice(tmp_path):
    return save(tmp_path / "voice.pth", small(generator("v2"), "v2"))


@pytest.fixture
def torchs_cpu(monkeypatch):
    """`cuda` is torch's cpu, which takes the same way as a GPU but for pinned memory and queues."""
    monkeypatch.setattr(choice, "torch_device", lambda _: torch.device("cpu"))


@pytest.mark.parametrize(
    "argv", [("inspect", "--stats"), ("convert-fp16", "--dry-run"), ("migrate", "--dtype", "bfloat16", "--dry-run")], ids=" ".join
)
def test_auto_says_with_v_what_it_picked_and_why(gsvckpt, voice, argv):
    assert len(TOLD.findall(gsvckpt(argv[0], voice, *argv[1:], "--device", "auto", "-v").err)) == 1
    assert "device" not in gsvckpt(argv[0], voice, *argv[1:], "--device", "auto").err


def test_auto_says_so_when_two_files_are_compared(gsvckpt, voice, tmp_path):
    other = save(tmp_path / "other.pth", small(generator("v2"), "v2"))
    assert len(TOLD.findall(gsvckpt("inspect", voice, "--diff", other, "--device", "auto", "-v").err)) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_statistics_of_many_say_the_same_of_each(gsvckpt, voice, tmp_path, monkeypatch, jobs):
    monkeypatch.setattr(dispatch, "START", 0)
    monkeypatch.setattr(choice, "may_have_gpu", lambda: False)
    for number in range(8):
        save(tmp_path / f"{number}.pth", {"w": tensor("float32", (2,), [1.0, number])})
    run = gsvckpt("inspect", tmp_path, "--stats", "--json", "--device", "auto", "-v", "-j", str(jobs))
    assert len(TOLD.findall(run.err)) == 9
    assert gsvckpt("inspect", tmp_path, "--stats", "--json", "-j", str(jobs)).out == run.out


def test_statistics_of_many_take_the_gpu_where_that_is_sooner(gsvckpt, voice, tmp_path, torchs_cpu, monkeypatch):
    monkeypatch.setattr(choice, "AUTO_FROM", 0)
    monkeypatch.setattr(choice, "may_have_gpu", lambda: True)
    save(tmp_path / "other.pth", {"w": tensor("float32", (2,), [1.0, 2.0])})
    assert (
        gsvckpt("inspect", tmp_path, "--stats", "--json", "--device", "auto", "-v").err.count("there is a GPU, and 4 GiB or more are to be computed")
        == 2
    )


def test_verify_says_why_it_needs_no_device(gsvckpt, voice):
    run = gsvckpt("verify", voice, "--device", "auto", "-v")
    assert run.err == "device: cpu: it finds NaN faster than a device could receive the bytes\n"


def test_of_several_files_each_line_names_its_own(gsvckpt, voice, tmp_path):
    other = save(tmp_path / "other.pth", small(generator("v2"), "v2"))
    run = gsvckpt("convert-fp16", voice, other, "--dry-run", "-v")
    told = [line for line in run.err.splitlines() if line.startswith("device:")]
    assert told == ["device: cpu: the default (8.0 kB of voice.pth)", "device: cpu: the default (8.0 kB of other.pth)"]


def test_nothing_is_told_of_a_device_where_nothing_is_computed(gsvckpt, tmp_path):
    half = save(tmp_path / "half.pth", small(generator("v2", "float16"), "v2"))
    assert "device:" not in gsvckpt("convert-fp16", half, "--dry-run", "--device", "auto", "-v").err


_GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])


@pytest.fixture(params=["torch's cpu", _GPU])
def cuda(request, monkeypatch):
    if request.param != "cuda":
        monkeypatch.setattr(choice, "torch_device", lambda _: torch.device("cpu"))


def test_what_a_device_computes_is_what_the_host_does(gsvckpt, voice, tmp_path, cuda, monkeypatch):
    monkeypatch.setattr(accelerator, "BLOCK", 1 << 10)
    outputs = [tmp_path / name for name in ("cpu.pth", "cuda.pth")]
    found = [gsvckpt.json("convert-fp16", voice, "-o", output, "--device", output.stem).file for output in outputs]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    for file in found:
        del file["output"]
    assert found[0] == found[1]
    stats = [gsvckpt.json("inspect", voice, "--tensors", "--stats", "--device", name).file["state"] for name in ("cpu", "cuda")]
    for one, two in zip(*stats, strict=True):
        assert one == {**two, "stats": {**two["stats"], **{key: pytest.approx(two["stats"][key], rel=1e-9) for key in ("mean", "std")}}}


def test_a_full_device_leaves_the_work_to_the_host_with_one_line_of_warning(gsvckpt, voice, tmp_path, torchs_cpu, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    expected = tmp_path / "cpu.pth"
    assert gsvckpt("convert-fp16", voice, "-o", expected).code == 0
    monkeypatch.setattr(accelerator, "_cast", full)
    output = tmp_path / "cuda.pth"
    run = gsvckpt("convert-fp16", voice, "-o", output, "--device", "cuda")
    assert run.code == 0
    assert [line for line in run.err.splitlines() if "memory" in line] == [
        f"gsvckpt: {output}: warning: cpu has no memory left; computing on the cpu"
    ]
    assert output.read_bytes() == expected.read_bytes()


def test_auto_takes_the_gpu_where_that_is_sooner(gsvckpt, voice, torchs_cpu, monkeypatch):
    monkeypatch.setattr(choice, "AUTO_FROM", 0)
    monkeypatch.setattr("gsvckpt.devices.choice.may_have_gpu", lambda: True)
    run = gsvckpt("inspect", voice, "--stats", "--device", "auto", "-v")
    assert run.code == 0
    assert re.fullmatch(r"device: cpu: there is a GPU, and 4 GiB or more are to be computed \([0-9.]+ kB\)\n", run.err)  # torch's cpu has that name
