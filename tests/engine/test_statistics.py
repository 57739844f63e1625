"""Statistics and differences, with torch as the judge."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gsvckpt.devices.choice import choose
from gsvckpt.devices.host import Host
from gsvckpt.dtypes import DTYPES, UNTYPED
from gsvckpt.engine import difference, load, statistics, strided_read
from gsvckpt.engine.difference import differences
from gsvckpt.engine.statistics import measure_tensors
from gsvckpt.errors import ChangedError, DamagedError
from gsvckpt.files import streams
from gsvckpt.files.progress import Silent
from gsvckpt.model import Storage, Tensor

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf")

HOST = Host()


class Bytes:
    """A source in memory."""

    path = "memory"

    def __init__(self, data):
        self.data = memoryview(bytes(data))
        self.size = len(self.data)

    def read_into(self, offset, buffer):
        assert offset + len(buffer) <= self.size
        buffer[:] = self.data[offset : offset + len(buffer)]


def described(values):
    """The description of a torch tensor, over a copy of its storage."""
    raw = torch.empty(0, dtype=torch.uint8).set_(values.untyped_storage())
    source = Bytes(raw.numpy().tobytes())
    dtype = DTYPES[str(values.dtype).removeprefix("torch.")]
    storage = Storage("0", UNTYPED, source.size, "cpu", source, 0)
    return Tensor(storage, dtype, tuple(values.shape), values.stride(), values.storage_offset())


def measure(values, **options):
    return measure_tensors({"a": described(values)}, HOST, 1, Silent(), **options)["a"]


def compare(one, two):
    return differences({"a": described(one)}, {"a": described(two)}, HOST, 1, Silent())


def check_stats(values):
    found = measure(values).moments
    wide = values.double().reshape(-1)
    finite = wide[wide.isfinite()]
    assert (found.count, found.nan, found.infinite) == (values.numel(), int(wide.isnan().sum()), int(wide.isinf().sum()))
    assert found.zero == int((wide == 0).sum())
    assert (found.low, found.high) == (finite.min().item(), finite.max().item())
    assert found.mean == pytest.approx(finite.mean().item(), rel=1e-9, abs=1e-12)
    assert found.std == pytest.approx(finite.std(correction=0).item(), rel=1e-6, abs=1e-6)
    assert sum(measure(values).histogram) == finite.numel()


VIEWS = {
    "plain": lambda base: base,
    "part": lambda base: base[5:20],
    "columns": lambda base: base[:, 3:90:7],
    "transposed": lambda base: base.t(),
    "steps": lambda base: base[::3, ::5].t(),
    "expanded": lambda base: base[:, :1].expand(-1, 50),
    "expanded twice": lambda base: base[4:5, :9].expand(6, 9)[None].expand(3, 6, 9),
    "diagonal": lambda base: base.diagonal(),
    "scalar": lambda base: base[2, 2],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int16, torch.float8_e5m2], ids=str)
def test_stats_of_views(view, dtype):
    base = (torch.randn(64, 128, generator=torch.Generator().manual_seed(1)) * 9).to(dtype)
    check_stats(view(base))


@pytest.mark.parametrize("chunk", [16, 48, 1 << 12])
def test_stats_do_not_depend_on_chunks(monkeypatch, chunk):
    values = torch.randn(31, 33)
    whole = measure(values)
    monkeypatch.setattr("gsvckpt.files.streams.CHUNK", chunk)
    for view in VIEWS.values():
        base = torch.randn(64, 128)
        check_stats(view(base))
    again = measure(values)
    assert again.histogram == whole.histogram
    assert again.moments.total == pytest.approx(whole.moments.total, rel=1e-9)


def test_constant_and_special_values():
    found = measure(torch.full((10,), 0.1), bins=4)
    assert found.histogram == (10, 0, 0, 0)
    assert found.moments.std == 0.0
    found = measure(torch.tensor([math.nan, math.inf]), bins=4)
    assert found.histogram == (0, 0, 0, 0)
    assert (found.moments.nan, found.moments.infinite) == (1, 1)


def test_what_has_no_numbers_is_none():
    assert measure(torch.empty(0, 3)) is None
    assert measure(torch.arange(5.0).as_strided((3, 3), (1, 1))) is None
    tensor = replace(described(torch.zeros(4, dtype=torch.uint8)), dtype=DTYPES["bits8"])
    assert measure_tensors({"a": tensor}, HOST, 1, Silent())["a"] is None


def test_a_shape_bomb_ends_at_once():
    bomb = replace(described(torch.tensor([3.0])), shape=(1 << 20, 1 << 20), stride=(0, 0))
    found = measure_tensors({"a": bomb}, HOST, 1, Silent())["a"]
    assert (found.moments.count, found.moments.mean, found.histogram[0]) == (1 << 40, 3.0, 1 << 40)
    other = replace(described(torch.tensor([4.0])), shape=bomb.shape, stride=(0, 0))
    assert differences({"a": bomb}, {"a": other}, HOST, 1, Silent()).values == (("a", 1.0),)
    across = [replace(described(torch.arange(n, n + 9000.0)), shape=(9000, 9000), stride=stride) for n, stride in ((0, (0, 1)), (1, (1, 0)))]
    (found,) = differences({"a": across[0]}, {"a": across[1]}, HOST, 1, Silent()).values
    assert math.isnan(found[1])
    overlapping = [replace(described(torch.arange(n, n + 61.0)), shape=(2,) * 60, stride=(1,) * 60) for n in (0, 1)]
    assert measure_tensors({"a": overlapping[0]}, HOST, 1, Silent())["a"] is None
    assert math.isnan(differences({"a": overlapping[0]}, {"a": overlapping[1]}, HOST, 1, Silent()).values[0][1])
    assert differences({"a": overlapping[0]}, {"a": replace(overlapping[0])}, HOST, 1, Silent()).equal


def test_tied_tensors_are_read_once():
    values = torch.randn(1000)
    tensor = described(values)
    read = []
    real = tensor.storage.source.read_into
    tensor.storage.source.read_into = lambda at, buffer: (read.append(len(buffer)), real(at, buffer))
    found = measure_tensors({"a": tensor, "b": replace(tensor), "c": replace(tensor, shape=(10, 100), stride=(1, 10))}, HOST, 2, Silent())
    assert found["a"] == found["b"] == found["c"]
    assert sum(read) == 2 * 4000


class Counting:
    def __init__(self):
        self.expected = self.gone = 0

    def expect(self, count):
        self.expected += count

    def advance(self, count):
        self.gone += count


def test_progress_reaches_its_end():
    several = (torch.randn(3_000_000), torch.zeros(9), torch.randn(8, 8)[:, ::2], torch.empty(0))
    tensors = {str(n): described(values) for n, values in enumerate(several)}
    others = {**tensors, "2": described(torch.randn(8, 4)), "1": described(torch.ones(9))}
    for use in (lambda p: measure_tensors(tensors, HOST, 2, p), lambda p: differences(tensors, others, HOST, 2, p)):
        progress = Counting()
        use(progress)
        assert progress.expected == progress.gone > 0


def test_memory_does_not_grow_with_the_tensor():
    long = described(torch.zeros(32 << 20))
    rows = described(torch.zeros(1 << 11, 1 << 12))
    columns = replace(described(torch.zeros(1 << 12, 1 << 11)), shape=(1 << 11, 1 << 12), stride=(1, 1 << 11))
    tracemalloc.start()
    measure_tensors({"a": long}, HOST, 1, Silent())
    differences({"a": rows}, {"a": columns}, HOST, 1, Silent())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 << 20  # of 128 and 32 MiB


def test_damage_is_found_on_the_way(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "x.pth")
    data = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "y.pth").write_bytes(data.replace(b"\0\0\x80\x3f\0\0\x80\x3f", b"\0\0\x80\x3f\0\0\x81\x3f", 1))
    with load.open_file(tmp_path / "x.pth") as one, load.open_file(tmp_path / "y.pth") as two:
        with pytest.raises(DamagedError, match="checksum"):
            measure_tensors(two.state_dict, HOST, 1, Silent())
        with pytest.raises(DamagedError, match="checksum"):
            differences(one.state_dict, two.state_dict, HOST, 1, Silent())


# --- differences --------------------------------------------------------------------------------------------------------------------------------


def test_names_shapes_and_dtypes():
    left = {"a": torch.ones(3), "gone": torch.ones(2), "shape": torch.ones(2, 3), "cast": torch.ones(4)}
    right = {"new": torch.ones(1), "shape": torch.ones(3, 2), "cast": torch.ones(4).half(), "a": torch.ones(3)}
    left, right = ({name: described(values) for name, values in side.items()} for side in (left, right))
    found = differences(left, right, HOST, 1, Silent())
    assert (found.only_left, found.only_right) == (("gone",), ("new",))
    assert found.changed_shape == (("shape", (2, 3), (3, 2)),)
    assert found.changed_dtype == (("cast", "float32", "float16"),)
    assert found.values == ()
    assert not found.equal
    assert differences(left, left, HOST, 1, Silent()).equal


def largest(one, two):
    gap = (one.double() - two.double()).abs()
    return gap.max().item() if gap.numel() else 0.0


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_two_layouts(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    values = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))).float()

    def laid_out(values):
        order = data.draw(st.permutations(range(len(shape))))
        inverse = [order.index(i) for i in range(len(shape))]
        step = data.draw(st.integers(1, 3))
        wide = values.permute(order).contiguous().to(data.draw(st.sampled_from([torch.float32, torch.float16, torch.int64])))
        padded = wide.repeat_interleave(step, dim=-1) if step > 1 else wide
        return padded[..., ::step].permute(inverse)

    one = laid_out(values)
    two = laid_out(values)
    assert compare(one, two).values == ()
    other = values.clone()
    other.view(-1)[data.draw(st.integers(0, values.numel() - 1))] += 7
    assert compare(one, laid_out(other)).values == (("a", 7.0),)


def test_tiles_and_sparse_views(monkeypatch):
    monkeypatch.setattr(difference, "_TOGETHER", 100)
    monkeypatch.setattr(strided_read, "_WINDOW", 256)
    one = torch.randn(60, 70)
    two = one.t().contiguous().t().clone(memory_format=torch.preserve_format)
    two[31, 17] += 0.5
    assert two.stride() == (1, 60)
    assert compare(one, two).values == (("a", pytest.approx(0.5, rel=1e-4)),)
    assert compare(one[:, ::9], two[:, ::9]).values == ()
    assert compare(one[1::3, 17], two[1::3, 17]).values == (("a", largest(one[31, 17], two[31, 17])),)


@pytest.mark.parametrize("transposed", [False, True])
def test_large_tensors_of_two_dtypes_are_compared_element_by_element(monkeypatch, transposed):
    """As `verify --against` compares a conversion: the pieces of both must hold the same elements."""
    monkeypatch.setattr(difference, "_TOGETHER", 100)
    one = torch.randn(30, 20)
    two = one.half()
    two[7, 11] += 1
    if transposed:
        two = two.t().contiguous().t()
    buffers = streams.Buffers(threading.Event(), Silent())
    assert difference.count_differences(described(two), described(one), 0, buffers) == 1


def test_gaps_do_not_count():
    one, two = torch.zeros(10, 10), torch.zeros(10, 10)
    two[:, 1] = 5
    assert compare(one[:, ::2], two[:, ::2]).equal
    assert compare(one[:, ::3], one[:, ::3]).equal
    assert compare(one[:, :2], two[:, :2]).values == (("a", 5.0),)


def test_special_values():
    one = torch.tensor([math.nan, math.inf, 0.0])
    assert compare(one, one.clone()).equal
    assert compare(one, torch.tensor([math.nan, math.inf, -0.0])).equal
    assert compare(one, torch.tensor([1.0, math.inf, 0.0])).values == (("a", math.inf),)
    assert compare(torch.empty(0, 2), torch.empty(0, 2)).equal
    bits = [replace(described(torch.tensor(raw, dtype=torch.uint8)), dtype=DTYPES["bits8"]) for raw in ([1, 2], [1, 3])]
    assert differences({"a": bits[0]}, {"a": replace(bits[0])}, HOST, 1, Silent()).equal
    assert math.isnan(differences({"a": bits[0]}, {"a": bits[1]}, HOST, 1, Silent()).values[0][1])


def test_equal_files_are_compared_without_numpy(tmp_path):
    torch.save({"a": torch.randn(100_000), "b": torch.ones(3)}, tmp_path / "x.pth")
    code = (
        "import sys, gsvckpt\nfrom gsvckpt.devices.choice import choose\n"
        "from gsvckpt.engine.difference import differences\nfrom gsvckpt.files.progress import Silent\n"
        f"with gsvckpt.open({str(tmp_path / 'x.pth')!r}) as c: print(differences(c.state_dict, c.state_dict, choose('cpu'), 2, Silent()).equal)\n"
        "print({'numpy', 'torch'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\nset()\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_finds_the_same():
    one = {str(n): described(torch.randn(1_000_000 + n)) for n in range(5)}
    two = {name: described(torch.randn(tensor.shape)) for name, tensor in one.items()}
    cuda = choose("cuda")
    assert differences(one, two, cuda, 4, Silent()) == differences(one, two, HOST, 4, Silent())
    found, expected = (measure_tensors(one, device, 4, Silent()) for device in (cuda, HOST))
    assert [stats.histogram for stats in found.values()] == [stats.histogram for stats in expected.values()]


@pytest.mark.parametrize("look", ["stats", "differences"])
def test_a_file_that_changes_while_it_is_looked_at(tmp_path, monkeypatch, look):
    torch.save({"a": torch.arange(9.0)}, tmp_path / "x.pth")
    real = statistics.chunks

    def chunks(*args, **options):
        os.utime(tmp_path / "x.pth", ns=(1, 1))
        return real(*args, **options)

    monkeypatch.setattr(statistics, "chunks", chunks)
    monkeypatch.setattr(difference, "chunks", chunks)
    unchanged = {"a": described(torch.arange(9.0))}
    use = {"stats": measure_tensors, "differences": lambda *rest: differences(unchanged, *rest)}[look]
    with load.open_file(tmp_path / "x.pth") as checkpoint, pytest.raises(ChangedError):
        use(checkpoint.state_dict, HOST, 1, Silent())
