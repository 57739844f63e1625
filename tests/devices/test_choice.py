"""Which device a name means."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gsvckpt.devices.choice import choose, torch_device
from gsvckpt.errors import UsageError


def test_cpu_and_auto_import_neither_numpy_nor_torch():
    code = "import sys\nfrom gsvckpt.devices.choice import choose\n"
    code += "print(choose('cpu').name, choose('auto').name, {'numpy', 'torch'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "cpu cpu set()\n"


def test_host_computes_at_the_first_number():
    import struct

    from gsvckpt.dtypes import DTYPES

    raw = memoryview(bytearray(struct.pack("<3f", 1, -2, 70_000)))
    device, out, float32 = choose("cpu"), bytearray(6), DTYPES["float32"]
    assert device.cast(raw, float32, memoryview(out), DTYPES["float16"], clamp=True).overflowed == 1
    assert struct.unpack("<3e", out) == (1, -2, 65504)
    assert device.measure(raw, float32).high == 70_000
    assert device.histogram(raw, float32, -2, 70_000, 2) == [2, 1]
    assert device.max_difference(raw, float32, memoryview(bytearray(12)), float32) == 70_000


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:0:1", "cpu cuda", "warp9"])
def test_malformed_names_are_usage_errors_with_a_hint(name):
    with pytest.raises(UsageError, match="is no device") as caught:
        choose(name)
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["cuda:200", "cuda:9999", "xpu:77", "meta"])
def test_absent_devices_are_usage_errors_that_list_what_is_there(name):
    with pytest.raises(UsageError, match=rf"there is no {name} device here; devices: cpu"):
        choose(name)


def test_no_cuda_at_all(monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match=r"^there is no cuda device here; devices: cpu$"):
        choose("cuda")


def test_without_torch_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="needs torch") as caught:
        choose("cuda")
    assert "pip install torch" in caught.value.hint
    assert choose("auto").name == "cpu"


def test_torch_device_of_the_host():
    assert torch_device("cpu").type == "cpu"
