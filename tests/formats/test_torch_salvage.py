"""What is whole in a file that was cut off, against what torch can still read of its bytes."""

from __future__ import annotations

import io

import pytest
import torch
from support.builders import Bytes, Entry, storage_bytes, tensor, torch_entries, torch_zip, zipped

from gsvckpt.errors import GsvError
from gsvckpt.formats.torch_salvage import find_salvaged
from gsvckpt.model import MISSING, Tensor, walk

TREE = {f"layer.{n}": tensor("float32", (4, 5), range(n, n + 20)) for n in range(5)}


def test_a_whole_file_is_all_there() -> None:
    salvaged = find_salvaged(Bytes(torch_zip(TREE)))
    assert (salvaged.complete, salvaged.tensors) == (5, 5)


@pytest.mark.parametrize("zip_of", [lambda: torch_zip(TREE), lambda: torch_zip(TREE, head=b"05"), "torch"], ids=["built", "head 05", "torch"])
def test_cut_anywhere_whole_tensors_have_their_bytes(zip_of) -> None:
    data = torch_saved() if zip_of == "torch" else zip_of()
    whole = {}
    full = find_salvaged(Bytes(data))
    expected = [storage_bytes(leaf.storage) for _, leaf in walk(full.checkpoint.root) if isinstance(leaf, Tensor)]
    for end in range(len(data)):
        try:
            salvaged = find_salvaged(Bytes(data[:end]))
        except GsvError:
            continue
        found = [leaf for _, leaf in walk(salvaged.checkpoint.root) if isinstance(leaf, Tensor)]
        whole[end] = salvaged.complete
        assert salvaged.complete == sum(leaf.storage.offset != MISSING for leaf in found)
        for leaf, raw in zip(found, expected, strict=True):
            assert leaf.storage.offset == MISSING or storage_bytes(leaf.storage) == raw
    counts = [whole[end] for end in sorted(whole)]
    assert counts == sorted(counts)  # more bytes never mean fewer tensors
    assert set(counts) == set(range(6))


def torch_saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({f"layer.{n}": torch.arange(n, n + 20.0) for n in range(5)}, buffer)
    return buffer.getvalue()


def test_a_damaged_directory_costs_nothing() -> None:
    data = torch_zip(TREE)
    assert find_salvaged(Bytes(data[: data.find(b"PK\x01\x02")] + bytes(200))).complete == 5


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", zipped([Entry("a/other", b"x"), *torch_entries(TREE)])[:300]])
def test_without_a_pickle_in_front_nothing_is_known(data: bytes) -> None:
    with pytest.raises(GsvError):
        find_salvaged(Bytes(data))
