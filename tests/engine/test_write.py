"""The engine: what is written is the plan, to the byte, or nothing is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from support.builders import Store, View, packed, row_major, tensor, torch_stream, torch_zip

from gsvckpt.devices.host import Host
from gsvckpt.dtypes import DTYPES
from gsvckpt.engine import open as opening
from gsvckpt.engine import write as engine
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import Engine, Written, lay_out
from gsvckpt.errors import ChangedError, DamagedError, GsvError, OutputError, RefusedError, UnsupportedError
from gsvckpt.files import streams
from gsvckpt.files.progress import Silent
from gsvckpt.files.publish import Target
from gsvckpt.formats.zip import writer
from gsvckpt.model import Checkpoint
from gsvckpt.sovits.upstream import BEYOND, MAX_PADDING
from gsvckpt.transforms.cast import cast, select
from gsvckpt.transforms.plan import Plan, begin

HALF = DTYPES["float16"]
EDGES = [0.0, -0.0, 1.0, 65504.0, 65519.0, 65519.996, -65519.99, 1e-8, 6e-8, 5.9e-8, 2.9802322e-8, 6.1e-5, float("inf"), float("-inf"), float("nan")]


@contextmanager
def sample(folder: Path, data: bytes) -> Iterator[Checkpoint]:
    (folder / "in.pth").write_bytes(data)
    with open_checkpoint(folder / "in.pth") as checkpoint:
        yield checkpoint


def halved(checkpoint: Checkpoint, keep: tuple[str, ...] = (), *, clamp: bool = False, plan: Plan | None = None) -> Plan:
    chosen = select(checkpoint.root, dict(checkpoint.root), HALF, keep).chosen
    return cast(plan or begin(checkpoint), chosen, HALF, clamp=clamp)


def write(plan: Plan, folder: Path, name: str = "out.pth", **more: object) -> Written:
    return Engine(device=Host(), **more).write(plan, str(folder / name), overwrite=True)


def left_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- casting ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_casts_as_torch_does_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(7)
    values = np.concatenate([EDGES, rng.normal(0, 1, 5000), rng.normal(0, 3e-5, 5000), rng.uniform(-65504, 65504, 5000)])
    wanted = torch.tensor(values, dtype=torch.float64).to(getattr(torch, dtype))
    wanted[(wanted.abs() >= 65520) & wanted.isfinite()] = 0  # overflow has its own tests
    raw = bytes(wanted.view(torch.uint8).numpy())
    with sample(tmp_path, torch_zip({"w": View(Store(dtype, raw), tuple(wanted.shape), (1,))})) as checkpoint:
        write(halved(checkpoint), tmp_path)
    loaded = torch.load(tmp_path / "out.pth")["w"]
    expected = wanted.half()
    same = loaded.view(torch.int16) == expected.view(torch.int16)
    assert bool((same | (loaded.isnan() & expected.isnan())).all())
    assert loaded.dtype is torch.float16


OVERFLOWING = {"fine": tensor("float32", (3,), [1, 2, 3]), "beyond": tensor("float32", (4,), [1, 65519.99, 65520, -1e9])}


def test_overflow_keeps_the_whole_tensor(tmp_path: Path) -> None:
    with sample(tmp_path, torch_zip(OVERFLOWING)) as checkpoint:
        outcome = write(halved(checkpoint), tmp_path)
    loaded = torch.load(tmp_path / "out.pth")
    assert (loaded["fine"].dtype, loaded["beyond"].dtype) == (torch.float16, torch.float32)
    assert loaded["beyond"].tolist() == [1, pytest.approx(65519.99), 65520, -1e9]
    assert list(outcome.overflowed.values()) == [2]
    assert outcome.layout.size == (tmp_path / "out.pth").stat().st_size


def test_overflow_clamps(tmp_path: Path) -> None:
    with sample(tmp_path, torch_zip(OVERFLOWING)) as checkpoint:
        write(halved(checkpoint, clamp=True), tmp_path)
    assert torch.load(tmp_path / "out.pth")["beyond"].tolist() == [1, 65504, 65504, -65504]


def test_overflow_refuses(tmp_path: Path) -> None:
    with sample(tmp_path, torch_zip(OVERFLOWING)) as checkpoint, pytest.raises(RefusedError, match="2 values in 1 tensors") as caught:
        write(halved(checkpoint), tmp_path, on_overflow="error")
    assert caught.value.exit_code == 4
    assert left_in(tmp_path) == ["in.pth"]


def test_a_rehearsal_knows_the_outcome(tmp_path: Path) -> None:
    with sample(tmp_path, torch_zip(OVERFLOWING)) as checkpoint:
        rehearsed = Engine(device=Host()).rehearse(halved(checkpoint))
        assert left_in(tmp_path) == ["in.pth"]
        written = write(halved(checkpoint), tmp_path)
    assert rehearsed.layout.size == written.layout.size == (tmp_path / "out.pth").stat().st_size
    assert [audit.overflowed for audit in rehearsed.audits.values()] == [audit.overflowed for audit in written.audits.values()]


def test_a_rehearsal_notices_a_source_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sample(tmp_path, torch_zip(OVERFLOWING)) as checkpoint, pytest.raises(ChangedError):
        Engine(device=Host()).rehearse(halved(checkpoint), approve=lambda _: os.utime(tmp_path / "in.pth", ns=(1, 1)))


@pytest.mark.parametrize(("small", "attempts"), [(1 << 20, 1), (0, 2)], ids=["small", "large"])
def test_a_small_tensor_that_overflows_does_not_repeat_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int, attempts: int) -> None:
    monkeypatch.setattr(engine, "_SMALL", small)
    layouts: list[object] = []
    with sample(tmp_path, torch_zip(OVERFLOWING)) as checkpoint:
        outcome = Engine(device=Host()).write(halved(checkpoint), str(tmp_path / "out.pth"), overwrite=False, approve=layouts.append)
    assert len(layouts) == attempts
    assert layouts[-1] is outcome.layout
    assert list(outcome.overflowed.values()) == [2]
    assert torch.load(tmp_path / "out.pth")["beyond"].dtype is torch.float32


def test_shared_storages_stay_shared_and_kept_names_stay_whole(tmp_path: Path) -> None:
    store, other = Store("float32", packed("float32", range(6))), Store("float32", packed("float32", range(4)))
    tree = {
        "a": View(store, (2, 3), row_major((2, 3))),
        "turned": View(store, (3, 2), (1, 3)),
        "tail": View(store, (2,), (1,), 4),
        "norm.weight": View(other, (4,), (1,)),
        "norm.view": View(other, (2,), (2,), 1),
        "count": tensor("int64", (), [9]),
    }
    with sample(tmp_path, torch_zip(tree)) as checkpoint:
        write(halved(checkpoint, ("*.weight",)), tmp_path)
    loaded = torch.load(tmp_path / "out.pth")
    assert loaded["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert loaded["tail"].tolist() == [4, 5]
    assert loaded["a"].untyped_storage().data_ptr() == loaded["turned"].untyped_storage().data_ptr()
    assert {name: str(value.dtype) for name, value in loaded.items()} == {
        **dict.fromkeys(("a", "turned", "tail"), "torch.float16"),
        **dict.fromkeys(("norm.weight", "norm.view"), "torch.float32"),
        "count": "torch.int64",
    }


# --- the bytes --------------------------------------------------------------------------------------------------------------------------------

MANY = {f"w{n}": tensor("float32", (n % 7, 300), [n / 7] * (n % 7 * 300)) for n in range(60)}


def test_any_number_of_threads_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BATCH", 4096)
    for jobs in (1, 4):
        with sample(tmp_path, torch_zip(MANY)) as checkpoint:
            write(halved(checkpoint), tmp_path, f"{jobs}.pth", jobs=jobs)
    assert (tmp_path / "1.pth").read_bytes() == (tmp_path / "4.pth").read_bytes()


def test_the_source_name_and_container_leave_no_trace(tmp_path: Path) -> None:
    for name, data in {"a": torch_zip(MANY), "b": torch_zip(MANY, prefix="1745000000.1"), "c": torch_stream(MANY)}.items():
        with sample(tmp_path, data) as checkpoint:
            write(begin(checkpoint), tmp_path, name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_what_was_written_is_written_again_alike(tmp_path: Path) -> None:
    with sample(tmp_path, torch_zip(MANY)) as checkpoint:
        write(begin(checkpoint), tmp_path, "once")
    with open_checkpoint(tmp_path / "once") as checkpoint:
        write(begin(checkpoint), tmp_path, "twice")
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()


@pytest.mark.parametrize("head", [b"PK", b"05", b"03"])
def test_the_head_is_restored(tmp_path: Path, head: bytes) -> None:
    with sample(tmp_path, torch_zip(MANY, head=head)) as checkpoint:
        write(begin(checkpoint), tmp_path)
    data = (tmp_path / "out.pth").read_bytes()
    assert data[:4] == head + b"\x03\x04"
    (tmp_path / "plain.pth").write_bytes(b"PK" + data[2:])
    assert set(torch.load(tmp_path / "plain.pth")) == set(MANY)


@pytest.mark.parametrize("more", [1, 64, 5000, 100_000])
def test_padding_ends_a_fixed_way_behind_the_line(tmp_path: Path, more: int) -> None:
    with sample(tmp_path, torch_zip(MANY)) as checkpoint:
        size = lay_out(begin(checkpoint)).size
        padded = lay_out(replace(begin(checkpoint), window=(size + more, 1 << 40))).size
        assert padded == size + more + BEYOND
        write(replace(begin(checkpoint), window=(size + more, 1 << 40)), tmp_path)
    assert (tmp_path / "out.pth").stat().st_size == padded
    assert set(torch.load(tmp_path / "out.pth", mmap=True)) == set(MANY)


@pytest.mark.parametrize("low", [0, 1, MAX_PADDING * 2])
def test_a_window_that_is_reached_or_too_far_pads_nothing(tmp_path: Path, low: int) -> None:
    with sample(tmp_path, torch_zip(MANY)) as checkpoint:
        size = lay_out(begin(checkpoint)).size
        assert lay_out(replace(begin(checkpoint), window=(low and size + low - 2, 1 << 40))).size == size


def test_sizes_beyond_32_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zip64 with a limit of 2,000 bytes instead of 4 GiB: every 64-bit field is written and read back."""
    with sample(tmp_path, torch_zip(MANY)) as checkpoint:
        monkeypatch.setattr(writer, "MAX32", 2000)
        layout = lay_out(begin(checkpoint))
    closing = dict(layout.close(dict.fromkeys(dict(layout.storages), 0)))
    assert sum(b"PK\x06\x06" in piece for piece in closing.values()) == 1
    wide = [piece for piece in closing.values() if piece[:4] == b"PK\x03\x04" and piece[4:6] == b"\x2d\0"]
    assert len(wide) == 1 + sum(storage.nbytes >= 2000 for storage, _ in layout.storages)  # and the pickle
    assert all(offset % 64 == 0 for _, offset in layout.storages)


@pytest.mark.skipif(os.name == "nt", reason="needs sparse files")
def test_a_storage_of_five_gigabytes_is_laid_out_and_found_again(tmp_path: Path) -> None:
    """Only the layout's own pieces are written; the tensor is a hole in the file."""
    small = torch_zip({"a": tensor("uint8", (1,), [1]), "b": tensor("uint8", (1,), [2])})
    with sample(tmp_path, small) as checkpoint:
        first = checkpoint.root["a"].storage
        size = 5 << 30
        big = type(first)("0", first.dtype, size, "cpu", first.source, first.offset)
        root = {"a": type(checkpoint.root["a"])(big, first.dtype, (size,), (1,)), "b": checkpoint.root["b"]}
        plan = Plan(checkpoint, root, "torch-zip")
        layout = lay_out(plan)
        with open(tmp_path / "big.pth", "wb") as file:
            for offset, piece in (*layout.texts, *layout.close(dict.fromkeys(dict(layout.storages), 0))):
                file.seek(offset)
                file.write(piece)
    assert (tmp_path / "big.pth").stat().st_size == layout.size
    with open_checkpoint(tmp_path / "big.pth") as found:
        assert (found.root["a"].storage.numel, found.root["b"].storage.offset) == (size, layout.storages[1][1])
    assert torch.load(tmp_path / "big.pth", mmap=True)["a"].shape == (size,)


# --- what can go wrong ------------------------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_the_source_is_noticed_and_nothing_is_published(tmp_path: Path) -> None:
    data = bytearray(torch_zip({"w": tensor("float32", (64,), range(64))}))
    at = data.index(packed("float32", range(64)))
    data[at + 9] ^= 4
    with sample(tmp_path, bytes(data)) as checkpoint, pytest.raises(DamagedError, match="checksum") as caught:
        write(begin(checkpoint), tmp_path)
    assert caught.value.where == "storage 0"
    assert left_in(tmp_path) == ["in.pth"]


def test_a_source_without_checksums_is_copied(tmp_path: Path) -> None:
    with sample(tmp_path, torch_zip({"w": tensor("int8", (2,), [1, 2])}, crc=0)) as checkpoint:
        write(begin(checkpoint), tmp_path)
    assert torch.load(tmp_path / "out.pth")["w"].tolist() == [1, 2]


def test_a_source_that_shrinks_under_way(tmp_path: Path) -> None:
    with sample(tmp_path, torch_zip(MANY)) as checkpoint:
        os.truncate(tmp_path / "in.pth", 5000)
        with pytest.raises(DamagedError, match="ends at byte"):
            write(begin(checkpoint), tmp_path)
    assert left_in(tmp_path) == ["in.pth"]


def test_a_source_that_is_replaced_under_way(tmp_path: Path) -> None:
    with sample(tmp_path, torch_zip(MANY)) as checkpoint:
        (tmp_path / "next").write_bytes(torch_zip(MANY))
        os.replace(tmp_path / "next", tmp_path / "in.pth")
        with pytest.raises(ChangedError):
            write(begin(checkpoint), tmp_path)
    assert left_in(tmp_path) == ["in.pth"]


def test_writing_over_the_source_itself(tmp_path: Path) -> None:
    with sample(tmp_path, torch_zip(MANY)) as checkpoint:
        write(halved(checkpoint), tmp_path, "in.pth")
    assert {str(value.dtype) for value in torch.load(tmp_path / "in.pth").values()} == {"torch.float16"}


@pytest.mark.parametrize("where", ["data", "pickle", "directory"])
def test_a_disk_that_stores_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    real = Target.write_at
    marks = {"data": packed("float32", range(64)), "pickle": b"\x80\x02", "directory": b"PK\x01\x02"}

    def write_at(self: Target, offset: int, data: bytes | memoryview) -> None:
        changed = bytearray(data)
        if bytes(data).startswith(marks[where]):
            changed[30] ^= 1
        real(self, offset, bytes(changed))

    monkeypatch.setattr(Target, "write_at", write_at)
    data = torch_zip({"w": tensor("float32", (64,), range(64))})
    with sample(tmp_path, data) as checkpoint, pytest.raises(OutputError, match="does not read back") as caught:
        write(begin(checkpoint), tmp_path)
    assert caught.value.exit_code == 5
    assert left_in(tmp_path) == ["in.pth"]


@pytest.mark.parametrize("jobs", [1, 4])
def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    monkeypatch.setattr(streams, "BATCH", 4096)
    calls = iter(range(100))

    def advance(self: Silent, count: int) -> None:
        if next(calls) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Silent, "advance", advance)
    with sample(tmp_path, torch_zip(MANY)) as checkpoint, pytest.raises(KeyboardInterrupt):
        write(begin(checkpoint), tmp_path, jobs=jobs)
    assert left_in(tmp_path) == ["in.pth"]


def test_approval_comes_before_the_first_byte(tmp_path: Path) -> None:
    def refuse(layout: object) -> None:
        raise RefusedError("no")

    with sample(tmp_path, torch_zip(MANY)) as checkpoint, pytest.raises(RefusedError):
        Engine().write(begin(checkpoint), str(tmp_path / "out.pth"), overwrite=False, approve=refuse)
    assert left_in(tmp_path) == ["in.pth"]


def test_what_protocol_2_cannot_carry_is_refused(tmp_path: Path) -> None:
    code = b"\x80\x04cm\nC\n)}\x92."
    with sample(tmp_path, torch_zip(code)) as checkpoint, pytest.raises(UnsupportedError, match="made with keywords"):
        write(begin(checkpoint), tmp_path)
    assert left_in(tmp_path) == ["in.pth"]


def test_errors_learn_the_path(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(GsvError) as caught, open_checkpoint(tmp_path / "x.pth"):
        pass
    assert caught.value.path == str(tmp_path / "x.pth")


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_a_file_that_asks_for_too_much_is_damaged(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    from support.builders import Bytes

    def read(_: object, **_options: object) -> Checkpoint:
        raise error

    monkeypatch.setattr("gsvckpt.formats.sniff.read", read)
    with pytest.raises(DamagedError, match=error.__name__):
        opening.read(Bytes(b"x"))


@pytest.mark.parametrize("there", [b"what was there", None])
def test_what_is_not_accepted_is_not_published(tmp_path: Path, there: bytes | None) -> None:
    path = tmp_path / "in.pth"
    path.write_bytes(torch_zip({"w": tensor("float32", (4,), [1, 2, 3, 4])}))
    if there is not None:
        (tmp_path / "out.pth").write_bytes(there)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with open_checkpoint(path) as checkpoint:
        written = Engine().write(begin(checkpoint), str(tmp_path / "out.pth"), overwrite=True, accept=lambda _: False)
    assert written.layout.size > 0
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_what_is_not_accepted_is_not_uploaded(tmp_path: Path) -> None:
    (tmp_path / "in.pth").write_bytes(torch_zip({"w": tensor("float32", (4,), [1, 2, 3, 4])}))
    memory = fsspec.filesystem("memory")
    with open_checkpoint(tmp_path / "in.pth") as checkpoint:
        Engine().write(begin(checkpoint), "memory://dropped/out.pth", overwrite=False, accept=lambda _: False)
    assert memory.find("/dropped") == []
