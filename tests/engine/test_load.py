"""The Python interface against torch.load."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import weakref
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch

import gsvckpt
from gsvckpt.devices import transfer
from gsvckpt.devices.choice import torch_device
from gsvckpt.errors import ChangedError, DamagedError, MissingError, UnsupportedError, UsageError
from gsvckpt.files.streams import CHUNK

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf")

_GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64, torch.complex32, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]


def filled(dtype, *shape):
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = torch.arange(size, dtype=torch.int64).remainder(2 if dtype is torch.bool else 113).to(torch.uint8)
    return raw.view(dtype).reshape(shape)


def same(one, two):
    assert (one.dtype, one.shape, one.stride()) == (two.dtype, two.shape, two.stride())
    bits = [values.detach().contiguous().view(-1).view(torch.uint8) if values.numel() else values.new_empty(0) for values in (one, two)]
    assert torch.equal(*bits)


def save(path, tree, **options):
    torch.save(tree, path, **options)
    return path


@pytest.fixture
def views():
    base = torch.arange(4096.0).reshape(32, 128)
    return OrderedDict(
        base=base,
        tied=base,
        columns=base[:, 3:90:7],
        transposed=base.t(),
        expanded=torch.arange(3.0).expand(5, 3),
        scalar=torch.tensor(7),
        nothing=torch.empty(0, 4),
        parameter=torch.nn.Parameter(torch.ones(2, 2)),
        far=torch.arange(100_000)[99_990:],
    )


@pytest.mark.parametrize("way", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "stream"])
def test_views_are_torchs(tmp_path, views, way):
    path = save(tmp_path / "x.pth", {"weight": views, "optimizer": {"state": {}, "param_groups": []}}, **way)
    found = gsvckpt.load_state_dict(path)
    oracle = torch.load(path)["weight"]
    assert list(found) == list(oracle)
    for name, values in found.items():
        same(values, oracle[name])
    assert not any(values.requires_grad for values in found.values())
    assert found["base"].data_ptr() == found["tied"].data_ptr()
    found["transposed"][5, 7] = -1
    assert found["base"][7, 5] == -1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(tmp_path, dtype):
    path = save(tmp_path / "x.pth", {"a": filled(dtype, 3, 5), "b": filled(dtype, 8)[1:7:2]})
    found = gsvckpt.load_state_dict(path)
    for name, values in torch.load(path).items():
        same(found[name], values)
        with gsvckpt.open(path) as checkpoint:
            same(checkpoint.torch(name), values)


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    tree = {"a": filled(torch.bfloat16, 4, 4), "b": filled(torch.float32, 7)}
    save_file(tree, tmp_path / "x.safetensors")
    found = gsvckpt.load_state_dict(tmp_path / "x.safetensors")
    for name, values in tree.items():
        same(found[name], values)


def test_a_file_with_gpt_sovits_head(tmp_path):
    path = save(tmp_path / "x.pth", {"weight": {"enc_p.w": torch.ones(3)}})
    path.write_bytes(b"05" + path.read_bytes()[2:])
    assert gsvckpt.load_state_dict(path)["enc_p.w"].tolist() == [1, 1, 1]


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_an_unsafe_file_loads_without_running(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("x.pth", {"weight": {"a": torch.ones(2)}, "config": Trap()}, pickle_module=pickle)
    assert gsvckpt.load_state_dict("x.pth")["a"].tolist() == [1, 1]
    with gsvckpt.open("x.pth") as checkpoint:
        assert checkpoint.safety.verdict == "unsafe"
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize(
    ("include", "names"),
    [
        ("enc_q.*", ["enc_q.w", "enc_q.b"]),
        (["enc_q.b", "dec.?"], ["dec.w", "enc_q.b"]),
        (lambda name: name.endswith("w"), ["dec.w", "enc_q.w", "odd[0].w"]),
        ("odd[0].w", ["odd[0].w"]),
        (None, ["dec.w", "enc_q.w", "enc_q.b", "odd[0].w"]),
    ],
)
def test_include(tmp_path, include, names):
    tree = {name: torch.ones(3) for name in ("dec.w", "enc_q.w", "enc_q.b", "odd[0].w")}
    path = save(tmp_path / "x.pth", {"weight": tree})
    assert list(gsvckpt.load_state_dict(path, include=include)) == names


def test_only_what_is_included_is_read(tmp_path):
    path = save(tmp_path / "x.pth", {"a": torch.ones(1000), "b": torch.full((1000,), 2.0)})
    data = bytearray(path.read_bytes())
    data[data.index(b"\0\0\0\x40" * 500)] ^= 1  # b's checksum is now wrong
    path.write_bytes(data)
    assert gsvckpt.load_state_dict(path, include="a")["a"].sum() == 1000
    with pytest.raises(DamagedError, match="checksum") as caught:
        gsvckpt.load_state_dict(path)
    assert caught.value.path == str(path)


def test_a_small_part_of_a_large_storage_is_read_alone(tmp_path, monkeypatch):
    read = []
    real = gsvckpt.engine.load.LocalSource.read_into
    path = save(tmp_path / "x.pth", {"a": torch.arange(1_000_000)[500_001:500_011]})
    monkeypatch.setattr(gsvckpt.engine.load.LocalSource, "read_into", lambda self, at, buffer: (read.append(len(buffer)), real(self, at, buffer))[1])
    found = gsvckpt.load_state_dict(path)["a"]
    assert found.tolist() == list(range(500_001, 500_011))
    assert found.untyped_storage().nbytes() <= 96
    assert sum(read) < 100_000  # of 8 MB; most is the search for the zip's directory


@pytest.mark.parametrize("include", ["enc.w", ["nothing*"], [], lambda _: False])
def test_nothing_included(tmp_path, include):
    path = save(tmp_path / "x.pth", {"weight": {"enc_p.w": torch.ones(3)}})
    with pytest.raises(MissingError) as caught:
        gsvckpt.load_state_dict(path, include=include)
    assert caught.value.path == str(path)
    if include == "enc.w":
        assert "enc_p.w" in caught.value.hint.text


def test_no_model_in_it(tmp_path):
    with pytest.raises(MissingError, match="no model tensors"):
        gsvckpt.load_state_dict(save(tmp_path / "x.pth", {"a": 1}))


def test_errors_name_the_file(tmp_path):
    with pytest.raises(MissingError) as caught:
        gsvckpt.load_state_dict(tmp_path / "none.pth")
    assert caught.value.path == str(tmp_path / "none.pth")
    assert str(caught.value) == f"{tmp_path / 'none.pth'}: {caught.value.why}"
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DamagedError):
        gsvckpt.open(tmp_path / "x.pth")
    with pytest.raises(UsageError, match="devices: cpu"):
        gsvckpt.load_state_dict(save(tmp_path / "y.pth", {"a": torch.ones(2)}), device="cuda:77")


# --- open ---------------------------------------------------------------------------------------------------------------------------------------


def test_numpy_views_are_torchs(tmp_path, views):
    path = save(tmp_path / "x.pth", {"weight": views})
    with gsvckpt.open(path) as checkpoint:
        assert set(checkpoint.state_dict) == set(views)
        assert checkpoint.root["weight"]["base"] is checkpoint.state_dict["base"]
        for name, values in views.items():
            found = checkpoint.numpy(name)
            oracle = values.detach().numpy()
            assert (found.dtype, found.shape) == (oracle.dtype, oracle.shape)
            assert np.array_equal(found, oracle)
            assert not found.flags.writeable
            same(checkpoint.torch(checkpoint.state_dict[name]), values)
        assert np.shares_memory(checkpoint.numpy("base"), checkpoint.numpy("transposed"))
        assert checkpoint.numpy("columns").strides == (512, 28)


def test_views_outlive_the_checkpoint(tmp_path):
    path = save(tmp_path / "x.pth", {"a": torch.arange(1000)})
    checkpoint = gsvckpt.open(path)
    found = checkpoint.numpy("a")
    checkpoint.close()
    checkpoint.close()
    del checkpoint
    gc.collect()
    assert found.sum() == 499_500


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2, torch.complex32], ids=str)
def test_numpy_says_what_it_lacks(tmp_path, dtype):
    path = save(tmp_path / "x.pth", {"a": filled(dtype, 4)})
    with gsvckpt.open(path) as checkpoint, pytest.raises(UnsupportedError, match="NumPy has no") as caught:
        checkpoint.numpy("a")
    assert "torch" in caught.value.hint.text


@pytest.mark.parametrize("shape", [(1 << 61,), (2,) * 64, (0, 1 << 62)])
def test_shapes_beyond_all_measure(tmp_path, shape):
    with gsvckpt.open(save(tmp_path / "x.pth", {"a": torch.ones(1)})) as checkpoint:
        bomb = replace(checkpoint.state_dict["a"], shape=shape, stride=(0,) * len(shape))
        with pytest.raises(UnsupportedError):
            checkpoint.numpy(bomb)
        with suppress(UnsupportedError):  # torch's limit is higher
            assert checkpoint.torch(bomb).shape == shape


def test_a_dtype_that_this_torch_lacks(tmp_path, monkeypatch):
    path = save(tmp_path / "x.pth", {"a": torch.ones(4, dtype=torch.uint16)})
    monkeypatch.delattr(torch, "uint16")  # as in torch 2.2
    with pytest.raises(UnsupportedError, match="has no uint16"):
        gsvckpt.load_state_dict(path)


def test_unknown_names(tmp_path):
    with gsvckpt.open(save(tmp_path / "x.pth", {"layer.weight": torch.ones(2)})) as checkpoint, pytest.raises(MissingError) as caught:
        checkpoint.numpy("layer.wieght")
    assert "layer.weight" in caught.value.hint.text


def test_a_file_that_changed_is_not_mapped(tmp_path):
    path = save(tmp_path / "x.pth", {"a": torch.ones(2)})
    with gsvckpt.open(path) as checkpoint:
        os.utime(path, ns=(1, 1))
        with pytest.raises(ChangedError):
            checkpoint.numpy("a")


def test_opening_imports_neither_numpy_nor_torch(tmp_path):
    path = save(tmp_path / "x.pth", {"a": torch.ones(2)})
    code = "import sys, gsvckpt\nwith gsvckpt.open(sys.argv[1]) as c:\n"
    code += "    print(len(c.state_dict), c.safety.verdict, {'numpy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout == "1 safe set()\n"


# --- memory and devices -------------------------------------------------------------------------------------------------------------------------

_PEAK = """
import resource, sys, torch
import gsvckpt
gsvckpt.load_state_dict(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = gsvckpt.load_state_dict(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, sum(t.nbytes for t in found.values()) >> 10)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has another unit elsewhere")
def test_memory_is_that_of_the_tensors(tmp_path):
    small = save(tmp_path / "small.pth", {"a": torch.ones(2)})
    large = save(tmp_path / "large.pth", {str(i): torch.full((20 << 18,), float(i)) for i in range(15)})
    run = subprocess.run([sys.executable, "-c", _PEAK, small, large], capture_output=True, text=True, check=True)
    grown, needed = map(int, run.stdout.split())
    assert needed == 300 << 10
    assert grown < needed + (64 << 10)


def test_staging_fills_as_reading_does(tmp_path, views):
    """The way to other devices, walked to the host: rings of buffers, parts that begin inside a storage."""
    path = save(tmp_path / "x.pth", {"long": torch.arange(700_000), **views})
    with gsvckpt.open(path) as checkpoint:
        ranges = transfer._ranges(checkpoint.state_dict.values())
        parts = {s: transfer._Part(s, begin, end, torch.empty(end - begin, dtype=torch.uint8)) for s, (begin, end) in ranges.items()}
        transfer.fill_through(parts.values(), torch_device("cpu"), jobs=2)
        direct = gsvckpt.load_state_dict(path)
        for name, tensor in checkpoint.state_dict.items():
            same(transfer._view(tensor, torch.empty(0, dtype=direct[name].dtype), parts.get(tensor.storage)), direct[name])


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("device", ["cpu", _GPU])
def test_small_pieces_share_a_buffer_and_large_ones_are_cut(tmp_path, device, jobs):
    sizes = [0, 1, 2, 3, CHUNK // 2 - 1, CHUNK // 2, 5, CHUNK // 2 + 1, CHUNK - 1, 7, CHUNK, CHUNK + 1, 11, 3 * CHUNK + 13, *range(900, 1300)]
    values = {str(i): torch.randint(0, 256, (size,), dtype=torch.uint8) for i, size in enumerate(sizes)}
    with gsvckpt.open(save(tmp_path / "x.pth", values)) as checkpoint:
        tensors = checkpoint.state_dict
        parts = transfer._reserve(transfer._ranges(tensors.values()), torch.device(device))
        transfer.fill_through(parts.values(), torch.device(device), jobs=jobs)
        for name, tensor in tensors.items():
            if tensor.numel:
                assert torch.equal(parts[tensor.storage].memory.cpu(), values[name]), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gets_the_same_bytes(tmp_path, views):
    path = save(tmp_path / "x.pth", {"long": torch.arange(5_000_000), **views})
    found, direct = gsvckpt.load_state_dict(path, device="cuda"), gsvckpt.load_state_dict(path)
    for name, values in direct.items():
        assert found[name].is_cuda
        same(found[name].cpu() if values.is_contiguous() else found[name].clone().cpu(), values if values.is_contiguous() else values.clone())
    assert found["base"].data_ptr() == found["tied"].data_ptr()


def test_a_device_without_room_is_an_error_that_says_how_much_is_needed(tmp_path, monkeypatch):
    path = save(tmp_path / "x.pth", {str(i): torch.zeros(1_000_000) for i in range(5)})
    real, kept = torch.empty, []

    def empty(*size, **rest):
        if len(kept) == 3:  # blanks do not count
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        found = real(*size, **rest)
        kept.extend([weakref.ref(found)] if size[0] else [])
        return found

    monkeypatch.setattr(transfer.torch, "empty", empty)
    with pytest.raises(UsageError, match=r"x\.pth: device: the tensors need 0\.02 GB$") as caught:
        gsvckpt.load_state_dict(path)
    assert "include" in caught.value.hint.text
    assert caught.value.path == str(path)
    assert [found() for found in kept] == [None] * 3  # also while the error is still held


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_full_gpu_is_an_error_that_says_how_much_it_has_left(tmp_path):
    path = save(tmp_path / "x.pth", {str(i): torch.zeros(8 << 20) for i in range(16)})
    taken = torch.empty(torch.cuda.mem_get_info()[0] - (200 << 20), dtype=torch.uint8, device="cuda")
    with pytest.raises(UsageError, match=r"the tensors need 0\.54 GB, cuda has 0\.[0-9]+ GB left"):
        gsvckpt.load_state_dict(path, device="cuda")
    del taken
    torch.cuda.empty_cache()
    assert gsvckpt.load_state_dict(path, device="cuda")["7"].is_cuda


def test_auto_is_what_is_there(tmp_path):
    path = save(tmp_path / "x.pth", {"a": torch.ones(2)})
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert gsvckpt.load_state_dict(path, device="auto")["a"].device.type == expected
    with gsvckpt.open(path) as checkpoint:
        assert checkpoint.torch("a", device="auto").device.type == expected


def test_a_closed_checkpoint_says_so(tmp_path):
    checkpoint = gsvckpt.open(save(tmp_path / "x.pth", {"a": torch.ones(2)}))
    checkpoint.close()
    for fetch in (checkpoint.numpy, checkpoint.torch):
        with pytest.raises(UsageError, match="is closed") as caught:
            fetch("a")
        assert caught.value.path == str(tmp_path / "x.pth")


def test_a_file_that_changes_while_it_is_loaded(tmp_path, monkeypatch):
    path = save(tmp_path / "x.pth", {"a": torch.ones(2)})
    real = transfer.chunks

    def chunks(*args, **options):
        os.utime(path, ns=(1, 1))
        return real(*args, **options)

    monkeypatch.setattr(transfer, "chunks", chunks)
    with pytest.raises(ChangedError):
        gsvckpt.load_state_dict(path)


def test_a_name_is_looked_up_without_looking_at_all(tmp_path):
    class Counted(dict):
        def __iter__(self):
            pytest.fail("looked at every name")

    with gsvckpt.open(save(tmp_path / "x.pth", {"a": torch.ones(2)})) as checkpoint:
        vars(checkpoint)["state_dict"] = Counted(checkpoint.state_dict)
        assert checkpoint.numpy("a").sum() == 2
