"""The container before torch 1.6. torch still writes it on request, so it is the judge here as well."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from support.builders import Bytes, Name, Pid, Store, View, elements, pickled, read, storage_bytes, tensor, torch_stream, torch_zip
from support.oracle import DTYPES, SAMPLES, assert_same, assert_sees, filled

from gsvckpt.commands.verify.file import verify_file
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import Engine
from gsvckpt.errors import DamagedError, GsvError, UnsupportedError
from gsvckpt.formats import torch_stream as module
from gsvckpt.transforms.plan import begin

OLD = {"_use_new_zipfile_serialization": False}


@pytest.mark.parametrize("sample", SAMPLES)
def test_reads_what_torch_wrote_and_writes_it_as_a_zip(tmp_path: Path, sample: str) -> None:
    tree = SAMPLES[sample]()
    torch.save(tree, tmp_path / "in.pth", **OLD)
    with open_checkpoint(tmp_path / "in.pth") as checkpoint:
        assert checkpoint.container.format == "torch-stream"
        assert_sees(checkpoint.root, tree)
        Engine().write(begin(checkpoint), str(tmp_path / "out.pth"), overwrite=False)
    assert_same(torch.load(tmp_path / "out.pth", weights_only=False), tree)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tree = {"a": filled(dtype, 3, 5), "t": filled(dtype, 4, 6).t()[1:, ::2]}
    torch.save(tree, tmp_path / "in.pth", **OLD)
    with open_checkpoint(tmp_path / "in.pth") as checkpoint:
        assert_sees(checkpoint.root, tree)


def test_the_first_look_grows_until_the_pickles_end(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch_stream({"text": "x" * 5000, "w": tensor("float32", (2,), [1, 2])})
    monkeypatch.setattr(module, "_FIRST_WINDOW", 64)
    assert elements(read(data).root["w"]) == [b"\0\0\x80\x3f", b"\0\0\0\x40"]


def test_pickles_without_an_end_are_refused_before_all_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WINDOW", 64)
    monkeypatch.setattr("gsvckpt.files.budget.MOST_PICKLE", 512)
    source = Bytes(torch_stream({"text": "x" * 100_000}))
    with pytest.raises(UnsupportedError, match="more than 512 bytes"):
        module.read(source)
    assert max(count for _, count in source.reads) <= 512


def test_storages_lie_in_the_order_of_the_list() -> None:
    tree = {"a": tensor("int8", (2,), [1, 2]), "b": tensor("int16", (1,), [3])}
    root = read(torch_stream(tree)).root
    assert (storage_bytes(root["a"].storage), storage_bytes(root["b"].storage)) == (b"\1\2", b"\3\0")


def test_views_share_their_storage() -> None:
    store = Store("int8", b"\1\2\3")
    root = read(torch_stream([View(store, (3,), (1,)), View(store, (1,), (1,), 2)])).root
    assert root[0].storage is root[1].storage


def test_a_stream_is_little_endian_whatever_it_says_of_its_machine(tmp_path: Path) -> None:
    data = torch_stream({"a": tensor("int32", (2,), [1, 2])}, little=False)
    assert storage_bytes(read(data).root["a"].storage) == struct.pack("<2i", 1, 2)
    (tmp_path / "x.pth").write_bytes(data)
    assert torch.load(tmp_path / "x.pth")["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch_stream({"w": tensor("float32", (4,))}, counts={0: 5}), "announced with 5 elements, described with 4"),
        (torch_stream({"w": tensor("float32", (4,))}, counts={0: -1}), "announced with -1 elements"),
        (torch_stream({"w": tensor("float32", (4,))}, keys=[]), "does not match the tensors"),
        (torch_stream({"w": tensor("float32", (4,))}, keys=["0", "0"]), "does not match the tensors"),
        (torch_stream({"w": tensor("float32", (4,))}, keys=[["0"]]), "does not match the tensors"),
        (torch_stream({"w": tensor("float32", (4,))})[:-1], "0 of 1 storages are complete"),
        (torch_stream([tensor("int8", (1,)), tensor("int8", (1,))])[:-5], "1 of 2 storages are complete"),
        (pickled(0x1950A86A20F9469CFC6C) + pickled(1002) + pickled({}) + pickled({}) + pickled([]), "does not begin with torch's"),
        (pickled(0x1950A86A20F9469CFC6C) + pickled(1001), "the pickle ends early"),
    ],
    ids=range(9),
)
def test_contradictions_are_damage(data: bytes, message: str) -> None:
    with pytest.raises(DamagedError, match=message):
        read(data)


def test_errors_know_the_names_met_so_far() -> None:
    with pytest.raises(GsvError) as caught:
        read(torch_stream({"w": tensor("float32", (4,))})[:-1])
    known = caught.value.known
    assert "torch._utils._rebuild_tensor_v2" in map(str, known.globals)
    assert known.container.format == "torch-stream"


# --- whole modules ---------------------------------------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.more = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 3), torch.nn.BatchNorm1d(2))


@pytest.mark.filterwarnings("ignore")  # torch warns of sources that it cannot find
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a dict"])
def test_a_whole_module_is_read_and_written_as_a_zip(tmp_path: Path, inside: bool) -> None:
    """Torch writes each class as a persistent id with its source, where only storages have one in a zip."""
    torch.save({"model": Net(), "step": 3} if inside else Net(), tmp_path / "in.pth", **OLD)
    with open_checkpoint(tmp_path / "in.pth") as checkpoint:
        names = {str(name) for name in checkpoint.globals}
        layers = {"linear.Linear", "container.Sequential", "conv.Conv1d", "batchnorm.BatchNorm1d"}
        assert {f"torch.nn.modules.{name}" for name in layers} | {"torch._utils._rebuild_tensor_v2"} <= names
        Engine().write(begin(checkpoint), str(tmp_path / "out.pth"), overwrite=False)
    before, after = (torch.load(tmp_path / name, weights_only=False) for name in ("in.pth", "out.pth"))
    assert_same(*((found["model"] if inside else found).state_dict() for found in (before, after)))
    result = verify_file(tmp_path / "in.pth")
    assert (result.status, result.safety.verdict) == ("suspect", "unknown")


def module_stream(cls: Name, *source: object) -> bytes:
    return torch_stream([Pid(("module", cls, *source)), {"w": tensor("float32", (2,))}, Name("late", "name")])


SOURCE = "import os\nopen('/tmp/gsvckpt-ran', 'w')\nraise SystemExit(99)\n"


def test_the_source_in_it_is_never_run_and_what_it_names_is_judged(tmp_path: Path) -> None:
    (tmp_path / "in.pth").write_bytes(module_stream(Name("builtins", "eval"), "net.py", SOURCE))
    result = verify_file(tmp_path / "in.pth")
    assert (result.status, result.safety.verdict) == ("unsafe", "unsafe")
    assert {judged.name: judged.verdict for judged in result.safety.globals} == {
        "builtins.eval": "unsafe",
        "late.name": "unknown",
        "torch.FloatStorage": "safe",
    } | {
        "torch._utils._rebuild_tensor_v2": "safe",
        "collections.OrderedDict": "safe",
    }
    assert not Path("/tmp/gsvckpt-ran").exists()  # noqa: S108 - what the source would make


@pytest.mark.parametrize("source", [(None, None), ("net.py", None), ("net.py", SOURCE)], ids=["none", "file", "both"])
def test_sources_that_torch_found_or_not(source: tuple[object, ...]) -> None:
    name, rest, _ = read(module_stream(Name("net", "Net"), *source)).root
    assert (str(name), rest["w"].shape) == ("net.Net", (2,))


@pytest.mark.parametrize("pid", [("module",), ("module", "Net", None, None), ("module", Name("n", "N"), 1, None), ("module", Name("n", "N"), None)])
def test_what_only_looks_like_a_module_is_damage(pid: tuple[object, ...]) -> None:
    with pytest.raises(DamagedError, match="not a storage"):
        read(torch_stream([Pid(pid)]))


def test_no_module_stands_so_in_a_zip() -> None:
    with pytest.raises(DamagedError, match="not a storage"):
        read(torch_zip([Pid(("module", Name("net", "Net"), None, None))]))
