"""Where numbers and texts of a pickle stand, with pickletools as the judge."""

from __future__ import annotations

import pickle
import pickletools
import struct

import pytest

from gsvckpt.pickles.places import Place, find_places

KEYS = ("epoch", "info", "step")


def dump(value: object, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("number", [0, 1, 255, 256, 65_535, 65_536, 2**31 - 1, -1, -(2**31), 2**31, 2**62, -(2**62)])
def test_values_by_key(protocol: int, number: int) -> None:
    data = dump({"a": [1, 2.5], "epoch": number, "info": "8épochs", "other": "text"}, protocol)
    found = find_places(data, KEYS)
    assert {key: place.read(data) for key, place in found.values.items()} == {"epoch": number, "info": "8épochs"}


def test_a_value_put_there_is_what_is_unpickled() -> None:
    data = bytearray(dump({"epoch": 8, "info": "8epochs", "rate": 0.5}))
    found = find_places(bytes(data), KEYS)
    data[found.values["epoch"].begin] = 9
    data[found.values["info"].begin] = ord("9")
    data[found.floats[0] : found.floats[0] + 8] = struct.pack(">d", 0.25)
    assert pickle.loads(data) == {"epoch": 9, "info": "9epochs", "rate": 0.25}


@pytest.mark.parametrize("protocol", [2, 3])
def test_all_floats(protocol: int) -> None:
    data = dump([0.5, {"G": b"GGGGGGGGGGGG", "x": 1e300, "y": ("G" * 300, 2.0)}, 7], protocol)
    judged = [place + 1 for opcode, _, place in pickletools.genops(data) if opcode.name == "BINFLOAT"]
    assert list(find_places(data, KEYS).floats) == judged
    assert len(judged) == 3


@pytest.mark.parametrize(
    "value",
    [
        {"epoch": None},
        {"epoch": True},
        {"epoch": 0.5},
        {"epoch": b"8"},
        {"epoch": {"epoch": 1}},
        {"x": "epoch"},
        {"x": "epoch", "epoch": 8},
        [{"epoch": 8}, {"epoch": 9}],
    ],
    ids=str,
)
def test_what_is_no_single_number_or_text(value: object) -> None:
    assert find_places(dump(value), KEYS).values == {}


def test_globals_are_passed_over() -> None:
    data = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01}q\x02X\x05\x00\x00\x00epochq\x03K\x08sb."
    found = find_places(data, KEYS)
    assert found.values == {"epoch": Place(data.index(b"K\x08") + 1, data.index(b"K\x08") + 2)}


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}X\x05\x00\x00\x00epochK\x080K\x09s.",  # POP: the number that follows is not the value
        b"\x80\x02}Vepoch\nK\x08s.",
        b"\x80\x02}U\x05epochK\x08s.",
        b"(dp0\nVepoch\nI8\ns.",
        b"\x80\x02\xff.",
        dump({"epoch": 8}, 4),  # texts are remembered without a number
    ],
)
def test_opcodes_that_torch_does_not_write(data: bytes) -> None:
    assert find_places(data, KEYS) is None
