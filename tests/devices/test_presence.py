"""Whether there may be a GPU, told without torch from files: a driver's, and torch's own about how it was built."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from gsvckpt.devices import choice
from gsvckpt.devices.choice import may_have_gpu

CPU = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"
CUDA = "__version__ = '2.9.1'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n"
ROCM = "cuda: Optional[str] = None\nhip: Optional[str] = '6.4.43482'\n"
OLD = "__version__ = '2.1.0+cu118'\ndebug = False\ncuda = '11.8'\nhip = None\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a driver, and a torch of one's choice in front of the real one."""
    driver = tmp_path / "nvidia0"
    driver.touch()
    monkeypatch.setattr(choice, "_has_driver", driver.exists)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.syspath_prepend(tmp_path)

    def install(version):
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch/__init__.py").write_text("raise AssertionError('torch was imported')")
        if version is not None:
            (tmp_path / "torch/version.py").write_text(version)
        return driver

    return install


@pytest.mark.parametrize(("version", "expected"), [(CPU, False), (CUDA, True), (ROCM, True), (OLD, True), ("", False), (None, False)])
def test_how_torch_was_built(machine, version, expected):
    machine(version)
    assert may_have_gpu() is expected


def test_without_a_driver_there_is_none(machine):
    machine(CUDA).unlink()
    assert not may_have_gpu()


@pytest.mark.parametrize(("hidden", "expected"), [("", False), ("-1", False), (" ", False), ("0", True), ("GPU-8932f937", True)])
def test_a_gpu_hidden_from_cuda_does_not_count(machine, monkeypatch, hidden, expected):
    machine(CUDA)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert may_have_gpu() is expected


def test_torch_that_is_broken_or_missing_is_no_torch(monkeypatch):
    monkeypatch.setattr(choice, "_has_driver", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not may_have_gpu()


def test_what_is_there_is_found_and_torch_not_imported_for_it():
    code = "import sys\nfrom gsvckpt.devices.choice import may_have_gpu\nprint(may_have_gpu(), 'torch' in sys.modules)"
    found, imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert imported == "False"
    assert found == "True" or not torch.cuda.is_available()
