"""Which device a name means."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gsvckpt.devices import choice
from gsvckpt.devices.choice import Work, choose, choose_for, torch_device
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
    with pytest.raises(UsageError, match="is not a device") as caught:
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
    with pytest.raises(UsageError, match=r"^device: there is no cuda device here; devices: cpu$"):
        choose("cuda")


def test_without_torch_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="needs torch") as caught:
        choose("cuda")
    assert 'pip install "gsvckpt[torch]"' in str(caught.value.hint)
    assert choose("auto").name == "cpu"


def test_without_torch_the_error_is_the_same_in_a_fresh_process():
    code = "import sys\nsys.modules['torch'] = None\nfrom gsvckpt.__main__ import run\nrun()"
    done = subprocess.run([sys.executable, "-c", code, "verify", "x.pth", "--device", "cuda"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "gsvckpt: device: the device cuda needs torch, which is not installed",
        'hint: pip install "gsvckpt[torch]"  # installs it',
    ]


def test_torch_device_of_the_host():
    assert torch_device("cpu").type == "cpu"


LONG = Work("stats", 10**12)


def test_auto_without_a_gpu_is_the_host_and_says_so(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    device, why = choose_for(LONG)
    assert (device.name, why) == ("cpu", "there is no GPU that torch could use")


def test_auto_looks_for_a_gpu_from_4_gib_on(monkeypatch):
    looked = []
    monkeypatch.setattr("gsvckpt.devices.choice.may_have_gpu", lambda: looked.append(1) is not None)
    for kind in ("cast", "stats", "difference"):
        assert choose_for(Work(kind, (4 << 30) - 1))[1] == "less than 4 GiB are to be computed"
        assert not looked
        assert choose_for(Work(kind, 4 << 30))[1] == "there is no GPU that torch could use"
        assert looked.pop()


def test_products_are_never_moved_as_their_last_bits_depend_on_the_device():
    device, why = choose_for(Work("product", 10**15))
    assert (device.name, why) == ("cpu", "the last bits of a product depend on the device")


def test_auto_imports_nothing_for_little_work():
    code = "import sys\nfrom gsvckpt.devices.choice import Work, choose_for\n"
    code += "print(choose_for(Work('cast', 10**9))[0].name, [m for m in sys.modules if m in ('torch', 'numpy')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "cpu []\n"


def test_auto_is_the_host_where_the_gpu_that_may_be_there_does_not_work(monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("it works")
    monkeypatch.setattr("gsvckpt.devices.choice.may_have_gpu", lambda: True)  # a driver that is too old, say
    device, why = choose_for(LONG)
    assert (device.name, why) == ("cpu", "there is no cuda device here; devices: cpu")


def test_a_device_that_is_full_from_the_start_leaves_all_to_the_host(monkeypatch):
    def full(_):
        raise RuntimeError("CUDA error: out of memory")  # as CUDA says it where not even its context fits

    said = []
    monkeypatch.setattr(choice, "torch_device", full)
    assert choose("cuda", warn=said.append).name == "cpu"
    assert said == ["cuda has no memory left; computing on the cpu"]


def test_from_python_the_warning_is_pythons():
    with pytest.warns(RuntimeWarning, match="no memory left"):
        choice.warn("cuda has no memory left; computing on the cpu")
