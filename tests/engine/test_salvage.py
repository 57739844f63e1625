"""What is salvaged of a file that is damaged at one place: everything but what lies there, and never other bytes than were saved."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.builders import Bytes, Entry, safetensors, storage_bytes, tensor, torch_stream, torch_zip, zipped

from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.salvage import find_lost, open_salvaged
from gsvckpt.errors import DamagedError, GsvError
from gsvckpt.files.progress import Silent
from gsvckpt.formats.zip.salvage import find_records, read_directory
from gsvckpt.model import Checkpoint, Tensor

TREE = {f"layer.{n}": tensor("float32", (9,), range(n + 1, n + 10)) for n in range(4)}


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({f"layer.{n}": torch.arange(n + 1.0, n + 10.0) for n in range(4)}, buffer)
    return buffer.getvalue()


def own(tmp_path: Path) -> bytes:
    """As gsvckpt writes: checksums in local headers, no descriptors."""
    from gsvckpt.engine.write import Engine
    from gsvckpt.transforms.plan import begin

    (tmp_path / "source.pth").write_bytes(torch_zip(TREE))
    with open_checkpoint(tmp_path / "source.pth") as checkpoint:
        Engine().write(begin(checkpoint), str(tmp_path / "own.pth"), overwrite=False)
    return (tmp_path / "own.pth").read_bytes()


ZIPS: dict[str, Callable[[Path], bytes]] = {
    "torch": lambda _: saved(),
    "built": lambda _: torch_zip(TREE),
    "head 05": lambda _: torch_zip(TREE, head=b"05"),
    "packed": lambda _: torch_zip(TREE, aligned=False, flags=0),
    "own": own,
}


def whole_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The bytes of every tensor that is not lost."""
    assert isinstance(checkpoint.root, dict)
    lost = find_lost(checkpoint.root, 1, Silent())
    tensors = {name: leaf for name, leaf in checkpoint.root.items() if isinstance(leaf, Tensor)}
    return {name: storage_bytes(leaf.storage) for name, leaf in tensors.items() if leaf.storage not in lost}


@pytest.mark.parametrize(("kind", "mask"), [("torch", 0xFF), ("torch", 0x01), ("built", 0x08), ("head 05", 0x40), ("packed", 0x01), ("own", 0x08)])
def test_a_damaged_byte_costs_only_what_lies_there(tmp_path: Path, kind: str, mask: int) -> None:
    path = tmp_path / "x.pth"
    data = ZIPS[kind](tmp_path)
    path.write_bytes(data)
    with open_checkpoint(path) as checkpoint:
        expected = whole_of(checkpoint)
        owners = {record.offset + at: record.name for record in checkpoint.records for at in range(record.size)}
        keys = {f"{checkpoint.container.prefix}/data/{leaf.storage.key}": name for name, leaf in checkpoint.root.items()}
    assert len(expected) == 4
    for at in (at for at in range(len(data)) if at not in owners or at % 5 == 0):  # of data, some bytes are as good as all
        path.write_bytes(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
        owner = owners.get(at, "")
        try:
            with open_salvaged(path) as checkpoint:
                found = whole_of(checkpoint)
        except GsvError:
            assert owner.endswith("data.pkl"), (at, owner)
            continue
        assert not owner.endswith("data.pkl"), at
        assert found == {name: raw for name, raw in expected.items() if name != keys.get(owner)}, (at, owner)


@pytest.mark.parametrize("kind", ["torch", "own"])
def test_the_first_header_may_be_gone_and_every_other(tmp_path: Path, kind: str) -> None:
    data = bytearray(ZIPS[kind](tmp_path))
    path = tmp_path / "x.pth"
    at = 0
    directory = data.index(b"PK\x01\x02")
    while 0 <= at < directory:
        data[at : at + 30] = bytes(30)
        at = data.find(b"PK\x03\x04", at)
        path.write_bytes(data)
        with open_salvaged(path) as checkpoint:
            assert len(whole_of(checkpoint)) == 4


def test_directory_and_headers_make_up_for_each_other(tmp_path: Path) -> None:
    """One header is gone, and the checksum in the directory's entry of another record."""
    data = bytearray(torch_zip(TREE))
    header = data.index(b"archive/data/1") - 30
    data[header : header + 30] = bytes(30)
    entry = data.rindex(b"archive/data/2") - 46
    data[entry + 16 : entry + 20] = bytes(4)
    (tmp_path / "x.pth").write_bytes(data)
    with open_salvaged(tmp_path / "x.pth") as checkpoint:
        assert len(whole_of(checkpoint)) == 4


def test_data_that_are_not_followed_by_their_descriptor_are_not_believed(tmp_path: Path) -> None:
    """The extra field's length is damaged, so everything behind it seems to lie elsewhere; and the directory is cut off."""
    data = bytearray(torch_zip(TREE))
    header = data.index(b"archive/data/1") - 30
    data[header + 28] ^= 4
    (tmp_path / "x.pth").write_bytes(data[: data.index(b"PK\x01\x02")])
    with open_salvaged(tmp_path / "x.pth") as checkpoint:
        assert list(whole_of(checkpoint)) == ["layer.0", "layer.2", "layer.3"]


def test_a_big_endian_file_without_its_first_header_is_known_by_the_directory(tmp_path: Path) -> None:
    data = bytearray(torch_zip(TREE, extras={"byteorder": b"big"}))
    data[:30] = bytes(30)
    header = data.index(b"archive/byteorder") - 30
    data[header : header + 30] = bytes(30)
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(DamagedError, match="big-endian"), open_salvaged(tmp_path / "x.pth"):
        pass


def test_a_directory_that_claims_the_same_bytes_again_and_again_is_not_read_for_ever() -> None:
    """Each of many names may be in many places, all of which would have to be read."""
    data = bytes(50_000)
    lies = [Entry(f"a/data/{n % 50}", b"", size=50_000, crc=n + 1, header=0, aligned=False) for n in range(2_000)]
    source = Bytes(zipped([Entry("a/data.pkl", data), *lies]))
    found = find_records(source, read_directory(source), {f"a/data/{n}": 50_000 for n in range(50)})
    assert found == {}
    assert sum(size for _, size in source.reads) < 12 * source.size


# --- safetensors ---------------------------------------------------------------------------------------------------------------------------------


def test_a_cut_safetensors_file_gives_what_lies_wholly_in_it(tmp_path: Path) -> None:
    data = safetensors({f"layer.{n}": ("F32", (9,), struct.pack("<9f", *range(n, n + 9))) for n in range(4)})
    path = tmp_path / "x.safetensors"
    begin = 8 + int.from_bytes(data[:8], "little")
    for end in range(len(data)):
        path.write_bytes(data[:end])
        if end < begin:
            with pytest.raises(GsvError), open_salvaged(path):
                pass
            continue
        with open_salvaged(path) as checkpoint:
            assert whole_of(checkpoint) == {f"layer.{n}": data[begin + 36 * n : begin + 36 * (n + 1)] for n in range((end - begin) // 36)}


def test_a_header_that_was_cut_off_is_refused_in_plain_words(tmp_path: Path) -> None:
    data = safetensors({"layer.0": ("F32", (9,), bytes(36))})
    (tmp_path / "x.safetensors").write_bytes(data[:20])
    said = r"nothing can be salvaged: the file ends early: 20 bytes, a header of [0-9]+ announced$"
    with pytest.raises(DamagedError, match=said), open_salvaged(tmp_path / "x.safetensors"):
        pass


def test_numbers_in_a_safetensors_header_that_lie_are_believed_in_nothing(tmp_path: Path) -> None:
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(DamagedError, match="nothing can be salvaged"), open_salvaged(tmp_path / "x.safetensors"):
        pass


def test_a_cut_stream_gives_what_lies_wholly_in_it(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(torch_stream(TREE)[:-50])
    with open_salvaged(tmp_path / "x.pth") as checkpoint:
        assert list(whole_of(checkpoint)) == ["layer.0", "layer.1"]
