"""Compressed zips, which torch never writes but people make: read as if their records were stored, in little memory, and written plainly."""

from __future__ import annotations

import io
import threading
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import Bytes, read, tensor, torch_zip
from support.oracle import assert_same, training
from test_properties import same_bytes

from gsvckpt.cli.app import main
from gsvckpt.engine import open as opening
from gsvckpt.engine.write import Engine
from gsvckpt.errors import DamagedError, GsvError, UnsupportedError
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.formats.zip.inflate import Inflated
from gsvckpt.model import Record
from gsvckpt.transforms.plan import begin

CONTENT = bytes(range(251)) * 4_000  # a little over four windows of whatever size up to 256 KiB


def deflated(data: bytes, *, level: int = 6) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def opened(packed: bytes, size: int, *, before: bytes = b"head", behind: bytes = b"other records") -> Inflated:
    return Inflated(Bytes(before + packed + behind), Record("archive/data/0", len(before), size, 0, 8))


def part(inflated: Inflated, offset: int, count: int) -> bytes:
    buffer = bytearray(count)
    inflated.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def compressed(data: bytes, *, only: str = "") -> bytes:
    """The same zip with deflated records."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED if only in name else zipfile.ZIP_STORED)
    return out.getvalue()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, len(CONTENT)), st.integers(0, 400_000)), min_size=1, max_size=5),
    st.sampled_from([0, 1, 9]),
    st.sampled_from([b"", b"x", b"x" * 300_000]),
)
def test_any_part_in_any_order_is_that_of_the_content(reads, level, behind) -> None:
    inflated = opened(deflated(CONTENT, level=level), len(CONTENT), behind=behind)
    for offset, count in reads:
        count = min(count, len(CONTENT) - offset)  # noqa: PLW2901 - nobody reads beyond what the record holds
        assert part(inflated, offset, count) == CONTENT[offset : offset + count]


def test_reading_on_begins_nowhere_anew() -> None:
    source = Bytes(deflated(CONTENT, level=0))
    inflated = Inflated(source, Record("r", 0, len(CONTENT), 0, 8))
    for offset in range(0, len(CONTENT), 50_000):
        part(inflated, offset, min(50_000, len(CONTENT) - offset))
    assert sum(count for _, count in source.reads) <= source.size
    assert part(inflated, len(CONTENT) - 1, 1) == CONTENT[-1:]  # read a moment ago, so it has to begin anew
    assert part(inflated, 0, 1) == CONTENT[:1]
    assert source.reads[-1][0] == 0


def test_the_end_of_a_record_is_told_with_its_name() -> None:
    inflated = opened(deflated(CONTENT), len(CONTENT) + 10)
    with pytest.raises(DamagedError, match="ends after 1,004,000 of 1,004,010") as caught:
        part(inflated, len(CONTENT) - 5, 15)
    assert (caught.value.where, caught.value.check) == ("archive/data/0", "record.crc")


@pytest.mark.parametrize("keep", [0, 1, 100])
def test_a_file_that_ends_inside_a_record(keep: int) -> None:
    packed = deflated(CONTENT)
    with pytest.raises(DamagedError):
        part(opened(packed[:keep], len(CONTENT), behind=b""), 0, len(CONTENT))


def test_what_is_no_deflated_data() -> None:
    with pytest.raises(DamagedError, match="no valid compressed data") as caught:
        part(opened(b"\xff" * 100, 10), 0, 10)
    assert caught.value.where == "archive/data/0"


def test_a_bomb_takes_no_memory() -> None:
    size = 1 << 27
    inflated = opened(deflated(bytes(size)), size)
    buffer = bytearray(1 << 16)
    tracemalloc.start()
    inflated.read_into(size - len(buffer), memoryview(buffer))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_several_threads_at_once() -> None:
    inflated = opened(deflated(CONTENT), len(CONTENT))
    wrong = []

    def work(begin: int) -> None:
        places = range(begin, len(CONTENT) - 10_000, 200_000)
        wrong.extend(at for at in places if part(inflated, at, 10_000) != CONTENT[at : at + 10_000])

    threads = [threading.Thread(target=work, args=(begin,)) for begin in (0, 50_000, 100_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- whole files ---------------------------------------------------------------------------------------------------------------------------------

TREE = {"weight": {"a": tensor("float32", (90, 30), range(2700)), "b": tensor("int64", (0,)), "c": tensor("float16", (3,), [1, 2, 3])}, "n": 7}


@pytest.mark.parametrize("only", ["", "data.pkl", "data/0", "data/1", "version"])
def test_the_tree_is_that_of_the_plain_zip(only: str) -> None:
    data = torch_zip(TREE)
    checkpoint = opening.read(Bytes(compressed(data, only=only)), inflate=True)
    assert first_difference(read(data).root, checkpoint.root, same_bytes) is None
    assert checkpoint.container.compressed == (1 if only else len(checkpoint.records))


def test_without_being_asked_it_is_no_checkpoint_that_is_read() -> None:
    with pytest.raises(UnsupportedError, match="compressed"):
        read(compressed(torch_zip(TREE)))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("only", ["", "/data/", "data.pkl", "byteorder"])
def test_a_file_of_torchs_own_comes_out_plain_and_the_same(tmp_path: Path, only: str, in_place: bool) -> None:
    """With the record `byteorder`, which torch has written since 2.1, and which may be compressed, too."""
    torch.save(training(), tmp_path / "plain.pth")
    source = tmp_path / "x.pth"
    source.write_bytes(compressed((tmp_path / "plain.pth").read_bytes(), only=only))
    output = source if in_place else tmp_path / "x.migrated.pth"
    wanted = ["--in-place"] if in_place else ["-o", str(output)]  # with -o an output is due even where only `byteorder` was compressed
    assert main(["migrate", str(source), "-q", *wanted]) == 0
    assert_same(torch.load(output), torch.load(tmp_path / "plain.pth"))
    with zipfile.ZipFile(output) as file:
        assert {record.compress_type for record in file.infolist()} == {zipfile.ZIP_STORED}
    assert main(["migrate", str(output), "-q", "--check"]) == 0
    assert main(["verify", str(output), "-q"]) == 0


def test_every_flipped_byte_is_noticed_or_does_no_harm(tmp_path: Path) -> None:
    """Not one altered value comes through: each storage has the checksum that the zip states, of what was packed."""
    data = compressed(torch_zip({"w": tensor("float32", (12,), range(12)), "v": tensor("int8", (300,), [7] * 300)}), only="/data/")
    plain = opening.read(Bytes(data), inflate=True)
    first, output = data.index(b"archive/data/0"), tmp_path / "x.migrated.pth"
    for at in range(first, first + 200):
        (tmp_path / "x.pth").write_bytes(data[:at] + bytes([data[at] ^ 0x24]) + data[at + 1 :])
        if main(["migrate", str(tmp_path / "x.pth"), "-q"]) == 0:
            assert first_difference(plain.root, read(output.read_bytes()).root, same_bytes) is None
            output.unlink()
        assert not output.exists()


def test_the_checksum_of_what_was_packed_counts(tmp_path: Path) -> None:
    """Sound deflated data of the right length, but not what the zip states."""
    wanted, other = tensor("int8", (4,), [1, 2, 3, 4]), deflated(b"\1\2\3\5")
    data = compressed(torch_zip({"w": wanted}), only="/data/")
    packed = deflated(wanted.store.data)
    assert len(packed) == len(other)
    checkpoint = opening.read(Bytes(data.replace(packed, other)), inflate=True)
    with pytest.raises(GsvError, match="checksum"):
        Engine().write(begin(checkpoint), str(tmp_path / "out.pth"), overwrite=False)
    assert list(tmp_path.iterdir()) == []
