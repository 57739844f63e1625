"""Casts among floats and products of matrices, bit for bit what torch gives, and the audit against torch's own float64."""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gsvckpt.devices import accelerator, casts, host, products
from gsvckpt.devices.accelerator import Accelerator
from gsvckpt.devices.choice import choose
from gsvckpt.devices.device import LARGEST, Audit, Matrix
from gsvckpt.devices.host import Host
from gsvckpt.dtypes import DTYPES

FLOATS = ["float64", "float32", "float16", "bfloat16"]
PAIRS = [(one, two) for one in FLOATS for two in ("float32", "float16", "bfloat16") if one != two]
EXACT = {("float16", "float32"), ("bfloat16", "float32")}  # nothing is lost, so nothing is audited
BITS = {"float64": torch.int64, "float32": torch.int32, "float16": torch.int16, "bfloat16": torch.int16}
_MAKERS = {"host": Host, "torch": lambda: Accelerator(torch.device("cpu"), pytest.fail), "named": lambda: choose("cpu")}


@pytest.fixture(params=_MAKERS)
def device(request, monkeypatch):
    monkeypatch.setattr(host, "BLOCK", 1 << 12)  # several blocks
    monkeypatch.setattr(casts, "BLOCK", 1 << 12)
    monkeypatch.setattr(accelerator, "BLOCK", 1 << 12)
    return _MAKERS[request.param]()


def raw_of(values):
    return memoryview(bytearray(values.contiguous().view(torch.uint8).numpy().tobytes()))


def cast(device, values, to, *, clamp=False):
    kind = getattr(torch, to)
    out = bytearray(values.numel() * kind.itemsize)
    name = str(values.dtype).removeprefix("torch.")
    audit = device.cast(raw_of(values), DTYPES[name], memoryview(out), DTYPES[to], clamp=clamp)
    return audit, torch.frombuffer(out, dtype=kind) if out else torch.empty(0, dtype=kind)


def assert_bits(found, expected):
    """The same bits; of NaN only that it is one, whose spare bits torch itself sets in one way here and another there."""
    bits = BITS[str(found.dtype).removeprefix("torch.")]
    assert found.dtype is expected.dtype
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found[~found.isnan()].view(bits), expected[~expected.isnan()].view(bits))


def audit_of(values, result, limit):
    """What the audit should say, from float64 alone: `result` is torch's own, `limit` the largest finite value of its dtype."""
    exact, finite = values.double(), values.isfinite()
    kept = finite & result.isfinite()
    return Audit(
        int((finite & result.isinf()).sum()),
        int(((result == 0) & (values != 0)).sum()),
        exact[finite].abs().max().item() if finite.any() else 0.0,
        (result.double() - exact)[kept].abs().max().item() if kept.any() else 0.0,
    ), torch.where(finite & result.isinf(), torch.copysign(torch.tensor(limit, dtype=torch.float64), exact), result.double()).to(result.dtype)


def samples(name):
    """All kinds of values: every bit pattern of the small floats, random bits of the large ones, ordinary weights, and the edges of each range."""
    kind = getattr(torch, name)
    generator = torch.Generator().manual_seed(7)
    if kind.itemsize == 2:
        wild = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(kind)
    else:
        wild = torch.randint(0, 256, (30_000 * kind.itemsize,), dtype=torch.uint8, generator=generator).view(kind)
    edges = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 1e-40, 6e-8, 2.9802322e-8, 2.9802326e-8, 6.1e-5, 1e300, -1e300, 5e-324]
    edges += [sign * limit * near for sign in (1, -1) for limit in LARGEST.values() for near in (1, 1 - 1e-7, 1 + 1e-7, 1 + 2e-3, 1.0002441)]
    ties = torch.arange(1 << 12, dtype=torch.float64) * 2.0**-20 + 1  # halfway between neighbours of either small float
    return torch.cat([wild, torch.randn(9_001, generator=generator).to(kind), torch.tensor(edges, dtype=torch.float64).to(kind), ties.to(kind)])


@pytest.mark.parametrize(("name", "to"), PAIRS)
def test_every_cast_is_torchs_and_so_is_its_audit(device, name, to):
    for values in (samples(name), samples(name)[samples(name).isfinite()], torch.randn(5_003).to(getattr(torch, name))):
        audit, found = cast(device, values, to)
        expected = values.to(getattr(torch, to))
        assert_bits(found, expected)
        assert audit == (Audit() if (name, to) in EXACT else audit_of(values, expected, LARGEST[to])[0])


@pytest.mark.parametrize(("name", "to"), PAIRS)
def test_clamping_limits_what_overflows_and_touches_nothing_else(device, name, to):
    values = samples(name)
    audit, found = cast(device, values, to, clamp=True)
    wanted, clamped = audit_of(values, values.to(getattr(torch, to)), LARGEST[to])
    assert_bits(found, clamped)
    assert torch.equal(found.isinf(), values.isinf())  # an infinity that was there is no overflow
    if (name, to) in EXACT:
        assert audit == Audit()
        return
    assert (audit.overflowed, audit.underflowed, audit.largest) == (wanted.overflowed, wanted.underflowed, wanted.largest)
    kept = values.isfinite()
    assert audit.max_abs_error == (clamped.double() - values.double())[kept].abs().max().item()


@pytest.mark.parametrize(("name", "to"), [(one, two) for one, two in PAIRS if (one, two) not in EXACT])
@settings(max_examples=120, deadline=None, derandomize=True)
@given(numbers=st.lists(st.floats(), min_size=1, max_size=12), clamp=st.booleans())
def test_whatever_the_numbers_host_and_torch_agree(name, to, numbers, clamp):
    values = torch.tensor(numbers, dtype=torch.float64).to(getattr(torch, name))
    wanted, clamped = audit_of(values, values.to(getattr(torch, to)), LARGEST[to])
    for device in (Host(), Accelerator(torch.device("cpu"), pytest.fail)):
        audit, found = cast(device, values, to, clamp=clamp)
        assert_bits(found, clamped if clamp else values.to(getattr(torch, to)))
        assert (audit.overflowed, audit.underflowed, audit.largest) == (wanted.overflowed, wanted.underflowed, wanted.largest)
        assert clamp or audit.max_abs_error == wanted.max_abs_error


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16"])
def test_a_processor_set_to_drop_subnormals_casts_alike(name):
    """As libraries built with -ffast-math set it, for the whole thread that loads them."""
    values = torch.cat([torch.arange(-3000, 3000, dtype=torch.float64) * 2.0**-26, torch.randn(5_000, dtype=torch.float64)]).to(getattr(torch, name))
    expected, wanted = values.half(), cast(Host(), values, "float16")[0]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot be set so")
    try:
        audit, found = cast(Host(), values, "float16")
    finally:
        torch.set_flush_denormal(False)
    assert_bits(found, expected)
    assert audit == wanted


@pytest.mark.parametrize(("to", "limit"), LARGEST.items())
def test_the_largest_values_are_torchs(to, limit):
    assert limit == torch.finfo(getattr(torch, to)).max


@pytest.mark.parametrize(("name", "to"), PAIRS)
def test_no_values_at_all(device, name, to):
    audit, found = cast(device, torch.empty(0, dtype=getattr(torch, name)), to)
    assert (audit, found.numel()) == (Audit(), 0)


def test_audits_of_blocks_add_up_to_that_of_the_whole():
    parts = [torch.randn(1_000) * 10.0**power for power in (-9, 0, 6)]
    for to in ("float16", "bfloat16"):
        whole, _ = cast(Host(), torch.cat(parts), to)
        assert sum((cast(Host(), part, to)[0] for part in parts), Audit()) == whole


# --- products ------------------------------------------------------------------------------------------------------------------------------------


def matrix(values):
    return Matrix(raw_of(values), DTYPES[str(values.dtype).removeprefix("torch.")], *values.shape)


def product(device, base, up, down):
    data = device.add_product(matrix(base), matrix(up), matrix(down))
    assert len(data) == base.numel() * 4
    return torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(base.shape)


def random_matrices(rows, columns, rank, seed=0, kinds=(torch.float32, torch.float32, torch.float32)):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, columns), (rows, rank), (rank, columns))
    return [torch.randn(*shape, generator=generator).mul_(0.05).to(kind) for shape, kind in zip(shapes, kinds, strict=True)]


@pytest.mark.parametrize("size", [(1, 1, 1), (8, 8, 4), (7, 33, 3), (1024, 1024, 32), (2048, 1024, 128), (100, 1, 16)])
@pytest.mark.parametrize("base_kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_a_product_is_to_the_bit_what_torch_computes_in_float32(device, size, base_kind, kind):
    base, up, down = random_matrices(*size, kinds=(base_kind, kind, kind))
    before = [part.clone() for part in (base, up, down)]
    assert_bits(product(device, base, up, down), base.float() + (up.float() @ down.float()))
    assert all(torch.equal(one, two) for one, two in zip(before, (base, up, down), strict=True))


def test_a_product_is_not_rounded_on_the_way(device):
    """The sum of products has more bits than float16 holds: computing there and widening would lose them."""
    base, up, down = random_matrices(64, 64, 32, kinds=(torch.float16,) * 3)
    found = product(device, base, up, down)
    assert not torch.equal(found, found.half().float())
    assert not torch.equal(found, (base + up @ down).float())


def test_infinities_and_nan_come_through(device):
    base, up, down = random_matrices(4, 4, 2)
    base[0, 0], base[1, 1], up[2, 0] = math.inf, math.nan, math.inf
    assert_bits(product(device, base, up, down), base + up @ down)


def test_rows_of_a_matrix_are_its_rows():
    values = torch.arange(12, dtype=torch.float16).reshape(4, 3)
    part = matrix(values).rows_from(1, 2)
    assert (part.rows, part.columns, bytes(part.data)) == (2, 3, bytes(raw_of(values[1:3])))


@pytest.fixture
def tf32():
    """A process that has switched TF32 on for its own work."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield lambda: torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before


def test_tf32_is_off_while_it_computes_and_then_as_it_was(tf32, monkeypatch):
    seen, real = [], products._upload
    monkeypatch.setattr(products, "_upload", lambda *args: seen.append(tf32()) or real(*args))
    product(Host(), *random_matrices(4, 4, 2))
    assert set(seen) == {False}
    assert tf32() is True


def test_tf32_is_off_for_two_threads_at_once_and_then_as_it_was(tf32, monkeypatch):
    """One ends while the other still computes: it must not switch TF32 on under it."""
    both, first_done = threading.Barrier(2), threading.Event()
    real, seen, waited = products._upload, [], set()

    def upload(*args):
        name = threading.current_thread().name
        if name not in waited:
            waited.add(name)
            with suppress(threading.BrokenBarrierError):  # where only one may compute at a time, it does not wait for the other
                both.wait(0.3)
            if name == "second":
                first_done.wait(5)
        seen.append(tf32())
        return real(*args)

    def work():
        product(Host(), *random_matrices(4, 4, 2))
        if threading.current_thread().name == "first":
            first_done.set()

    monkeypatch.setattr(products, "_upload", upload)
    threads = [threading.Thread(target=work, name=name) for name in ("first", "second")]
    for thread in threads:
        thread.start()
        while "first" not in waited:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert set(seen) == {False}
    assert tf32() is True


def test_a_full_device_leaves_products_to_the_host(monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(accelerator, "add_product", full)
    base, up, down = random_matrices(8, 8, 4)
    said = []
    device = Accelerator(torch.device("cpu"), said.append)
    for _ in range(2):
        assert_bits(product(device, base, up, down), base + up @ down)
    assert said == ["cpu has no memory left; computing on the cpu"]


def test_what_else_goes_wrong_on_a_device_is_not_taken_for_full(monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(accelerator, "add_product", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        product(Accelerator(torch.device("cpu"), pytest.fail), *random_matrices(8, 8, 4))


def test_a_product_is_used_before_the_threads_next_takes_its_memory():
    """The engine takes each product apart before it asks for another; smaller ones, too."""
    device, sizes = Host(), [(32, 32, 4), (8, 8, 2), (64, 16, 4)]
    for size in sizes:
        base, up, down = random_matrices(*size)
        assert_bits(product(device, base, up, down), base + up @ down)


def test_threads_have_their_own_work_arrays(device):
    jobs = {seed: torch.randn(20_000, generator=torch.Generator().manual_seed(seed)) for seed in range(4)}
    found = {}

    def work(seed):
        found[seed] = [cast(device, jobs[seed], to)[1] for to in ("float16", "bfloat16") for _ in range(3)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, results in found.items():
        for result in results:
            assert_bits(result, jobs[seed].to(result.dtype))
    assert len(found) == 4
