"""A torch device against the host, bit for bit: torch's own cpu here, CUDA where there is one."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from gsvckpt.devices import accelerator
from gsvckpt.devices.accelerator import Accelerator
from gsvckpt.devices.choice import Work, choose, choose_for
from gsvckpt.devices.device import Matrix
from gsvckpt.devices.host import Host
from gsvckpt.dtypes import DTYPES

from .lazy import LazyEvent, LazyStream, chosen, queue

HOST = Host()
FLOATS = ["float64", "float32", "float16", "bfloat16"]
OTHERS = ["int64", "int16", "bool", "complex64", "complex32", "float8_e4m3fn"]
_NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, _NO_CUDA])])
def device(request, monkeypatch):
    monkeypatch.setattr(accelerator, "BLOCK", 1 << 16)  # several blocks
    return Accelerator(torch.device(request.param), pytest.fail)


def patterns(name, *, nan=True, seed=0):
    """Every kind of value: all bits random, then ordinary ones."""
    generator = torch.Generator().manual_seed(seed)
    kind = getattr(torch, name)
    size = 70_001 * kind.itemsize
    wild = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    wild = wild % 2 if name == "bool" else wild
    values = wild.view(kind)
    if kind.is_floating_point and kind.itemsize > 1:
        values = torch.cat([values, torch.randn(70_001, generator=generator).to(kind), torch.tensor([0.0, -0.0, 65519, 65520, 1e-8]).to(kind)])
        values = values if nan else values[~values.isnan()]
    return values


def raw_of(values):
    return memoryview(bytearray(values.contiguous().view(torch.uint8).numpy().tobytes()))


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16"])
def test_cast(device, name, nan, clamp):
    raw = raw_of(patterns(name, nan=nan))
    one, two = (bytearray(len(raw) // DTYPES[name].itemsize * 2) for _ in range(2))
    assert device.cast(raw, DTYPES[name], memoryview(one), DTYPES["float16"], clamp=clamp) == HOST.cast(
        raw, DTYPES[name], memoryview(two), DTYPES["float16"], clamp=clamp
    )
    assert one == two


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_cast_of_all_patterns_of_the_upper_bits(device, name):
    for low in (0, 0xFFF, 0x1000, 0x1001):
        bits = (np.arange(1 << 19, dtype=np.uint32) << 13) | np.uint32(low)
        values = torch.from_numpy(bits.view(np.float32)).to(getattr(torch, name))
        raw = raw_of(values[~values.isnan()])
        one, two = (bytearray(len(raw) // DTYPES[name].itemsize * 2) for _ in range(2))
        assert device.cast(raw, DTYPES[name], memoryview(one), DTYPES["float16"], clamp=False) == HOST.cast(
            raw, DTYPES[name], memoryview(two), DTYPES["float16"], clamp=False
        )
        assert one == two


@pytest.mark.parametrize("name", FLOATS + OTHERS)
def test_measure_and_histogram(device, name):
    raw = raw_of(patterns(name))
    found, expected = device.measure(raw, DTYPES[name]), HOST.measure(raw, DTYPES[name])
    exact = ("count", "nan", "infinite", "zero", "low", "high")
    assert [getattr(found, field) for field in exact] == [getattr(expected, field) for field in exact]
    assert found.squares == pytest.approx(expected.squares, rel=1e-9)
    low, high = expected.low, expected.high
    assert device.histogram(raw, DTYPES[name], low, high, 16) == HOST.histogram(raw, DTYPES[name], low, high, 16)
    assert device.histogram(raw, DTYPES[name], -1.0, 1.0, 7) == HOST.histogram(raw, DTYPES[name], -1.0, 1.0, 7)
    assert device.histogram(raw, DTYPES[name], 1.0, 1.0, 7) == HOST.histogram(raw, DTYPES[name], 1.0, 1.0, 7)


def test_no_values_at_all(device):
    nothing, float32 = memoryview(bytearray()), DTYPES["float32"]
    assert device.measure(nothing, float32) == HOST.measure(nothing, float32)
    assert device.histogram(nothing, float32, 0, 1, 3) == [0, 0, 0]
    assert device.cast(nothing, float32, nothing, DTYPES["float16"], clamp=False) == HOST.cast(
        nothing, float32, nothing, DTYPES["float16"], clamp=False
    )
    assert device.max_difference(nothing, float32, nothing, float32) == 0.0


@pytest.mark.parametrize(("one", "two"), [("float32", "float32"), ("float64", "bfloat16"), ("float32", "int64"), ("int16", "int16")])
def test_max_difference(device, one, two):
    left, right = (patterns(name, seed=seed)[:70_001] for seed, name in enumerate((one, two)))
    for a, b in ((left, right), (left.to(torch.int16), right.to(torch.int16))):
        kinds = [DTYPES[str(values.dtype).removeprefix("torch.")] for values in (a, b)]
        assert device.max_difference(raw_of(a), kinds[0], raw_of(b), kinds[1]) == HOST.max_difference(raw_of(a), kinds[0], raw_of(b), kinds[1])


def test_threads_do_not_disturb_each_other(device):
    jobs = [raw_of(patterns("float32", seed=seed)) for seed in range(4)]
    found = {}

    def work(i):
        found[i] = device.histogram(jobs[i], DTYPES["float32"], -1, 1, 9)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: HOST.histogram(raw, DTYPES["float32"], -1, 1, 9) for i, raw in enumerate(jobs)}


@pytest.fixture
def lazily(monkeypatch):
    """A device, torch's cpu, whose queue does nothing before somebody waits for it."""
    real = torch.Tensor.copy_

    def copy_(self, source, non_blocking=False):
        if not non_blocking:
            return real(self, source)
        queue().copies.append(lambda: real(self, source))
        return self

    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    monkeypatch.setattr(torch.cuda, "stream", chosen)
    monkeypatch.setattr(accelerator, "BLOCK", 1 << 12)
    device = Accelerator(torch.device("cpu"), pytest.fail)
    lane = device._lane()
    lane._stream, lane._done = LazyStream(), LazyEvent(blocking=True)
    return device


def test_nothing_is_looked_at_before_it_has_come(lazily):
    values, other = torch.randn(50_001), torch.randn(50_001)
    raw, float32 = raw_of(values), DTYPES["float32"]
    one, two = bytearray(100_002), bytearray(100_002)
    assert lazily.cast(raw, float32, memoryview(one), DTYPES["float16"], clamp=False) == HOST.cast(
        raw, float32, memoryview(two), DTYPES["float16"], clamp=False
    )
    assert one == two
    found, expected = lazily.measure(raw, float32), HOST.measure(raw, float32)
    assert (found.low, found.high, found.zero) == (expected.low, expected.high, expected.zero)
    assert lazily.histogram(raw, float32, -3.0, 3.0, 9) == HOST.histogram(raw, float32, -3.0, 3.0, 9)
    assert lazily.max_difference(raw, float32, raw_of(other), float32) == HOST.max_difference(raw, float32, raw_of(other), float32)


def test_a_full_device_gets_smaller_blocks(device, monkeypatch):
    real, tried = accelerator._measure, []

    def measure(given):
        tried.append(given.numel())
        if given.numel() > 20_000:
            raise torch.cuda.OutOfMemoryError
        return real(given)

    monkeypatch.setattr(accelerator, "_measure", measure)
    raw = raw_of(patterns("float32"))
    assert device.measure(raw, DTYPES["float32"]).count == len(raw) // 4
    assert tried[:4] == [1 << 16, 1 << 15, 1 << 14, 1 << 14]


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError(), RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")])
def test_a_device_without_any_memory_leaves_the_work_to_the_host(device, monkeypatch, error):
    def measure(_):
        raise error

    said = []
    monkeypatch.setattr(device, "_warn", said.append)
    monkeypatch.setattr(accelerator, "_measure", measure)
    raw = raw_of(patterns("float32"))
    for _ in range(2):
        assert device.measure(raw, DTYPES["float32"]) == HOST.measure(raw, DTYPES["float32"])
    assert said == [f"{device.name} has no memory left; computing on the cpu"]


def test_other_errors_of_a_device_are_no_reason_to_go_on(device, monkeypatch):
    def measure(_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(accelerator, "_measure", measure)
    with pytest.raises(RuntimeError, match="illegal"):
        device.measure(raw_of(patterns("float32")), DTYPES["float32"])


@pytest.mark.parametrize("to", ["float16", "bfloat16"])
def test_ordinary_values_are_cast_on_the_device_alone(device, monkeypatch, to):
    raw = raw_of(torch.randn(200_001))
    one, two = bytearray(400_002), bytearray(400_002)
    expected = HOST.cast(raw, DTYPES["float32"], memoryview(two), DTYPES[to], clamp=False)
    monkeypatch.setattr(Host, "cast", lambda *_, **__: pytest.fail("the host casts"))
    assert device.cast(raw, DTYPES["float32"], memoryview(one), DTYPES[to], clamp=False) == expected
    assert one == two


@pytest.mark.gpu
@_NO_CUDA
def test_cuda_is_found_by_name():
    assert choose("cuda").name.startswith("cuda")
    assert choose("cuda:0").name == "cuda:0"


@pytest.mark.gpu
@_NO_CUDA
def test_work_that_is_worth_it_goes_to_cuda():
    device, why = choose_for(Work("cast", 10**12))
    assert device.name.startswith("cuda")
    assert " s there, " in why


@pytest.mark.gpu
@_NO_CUDA
def test_blocks_fit_what_another_process_leaves():
    """Nearly all of the device's memory is taken: the numbers are the same, and nothing fails."""
    device = Accelerator(torch.device("cuda"), lambda _: None)
    taken = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.999), dtype=torch.uint8, device="cuda")
    raw = raw_of(torch.randn(3_000_001))
    found = device.measure(raw, DTYPES["float32"])
    del taken
    torch.cuda.empty_cache()
    expected = HOST.measure(raw, DTYPES["float32"])
    assert (found.low, found.high, found.count) == (expected.low, expected.high, expected.count)


@pytest.mark.gpu
@_NO_CUDA
def test_products_are_what_torch_computes_on_the_device():
    generator = torch.Generator().manual_seed(1)
    base, up, down = (torch.randn(*shape, generator=generator) for shape in ((1024, 512), (1024, 32), (32, 512)))
    matrices = [Matrix(raw_of(values), DTYPES["float32"], *values.shape) for values in (base, up, down)]
    found = torch.frombuffer(bytearray(Accelerator(torch.device("cuda"), pytest.fail).add_product(*matrices)), dtype=torch.float32)
    assert torch.equal(found.view(1024, 512), (base.cuda() + up.cuda() @ down.cuda()).cpu())
