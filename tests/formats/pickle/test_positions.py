"""Where numbers and texts of a pickle stand, with pickletools as the judge."""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections import OrderedDict

import pytest

from gsvckpt.formats.pickle.positions import find_places

KEYS = ("epoch", "info", "step")
ONE = b"G" + struct.pack(">d", 1.5)


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
def test_floats_that_are_values(protocol: int) -> None:
    data = dump({"G": b"GGGGGGGGGGGG", "x": 1e300, "y": ["G" * 300, 2.0, 3.0], "z": {"lr": 4.0}}, protocol)
    judged = [place + 1 for opcode, _, place in pickletools.genops(data) if opcode.name == "BINFLOAT"]
    assert list(find_places(data, KEYS).floats) == judged
    assert len(judged) == 4


@pytest.mark.parametrize(
    "value",
    [
        {1.5: 1},
        {1: 2, 1.5: 3},
        {(1.5, 2.5): 1},
        {"betas": (0.5, 0.75)},
        {"nested": [[0.5]]},
        [1.5],
        OrderedDict({1.5: 1}),
        {"x": {2.5: "y"}},
    ],
    ids=str,
)
def test_a_float_that_may_be_a_key_is_none_of_them(value: object) -> None:
    assert find_places(dump(value), KEYS).floats == ()


@pytest.mark.parametrize(
    ("before", "listed"),
    [
        (b"", b"]q\x01(" + ONE + b"K\x01e"),
        (b"X\x01\x00\x00\x00z]q\x01s", b"h\x01(" + ONE + b"K\x01e"),
        (b"X\x01\x00\x00\x00z]q\x01s", b"h\x01" + ONE + b"aK\x01a"),
    ],
    ids=["made there", "filled there", "filled there one by one"],
)
def test_a_list_that_becomes_keys_elsewhere(before: bytes, listed: bytes) -> None:
    """OrderedDict([pair]), where the pair was the value of a dict before."""
    data = b"\x80\x02}" + before + b"X\x01\x00\x00\x00a" + listed + b"sX\x01\x00\x00\x00bccollections\nOrderedDict\n]h\x01a\x85Rs."
    made = pickle.loads(data)
    assert (made["a"], made["b"]) == ([1.5, 1], OrderedDict({1.5: 1}))
    assert find_places(data, KEYS).floats == ()


def test_a_text_that_is_referred_to_elsewhere_is_no_value() -> None:
    text = "8epochs"
    assert find_places(dump({"info": text, "other": text}), KEYS).values == {}
    assert set(find_places(dump({"other": text + "!", "info": text}), KEYS).values) == {"info"}


def test_keys_of_the_root_alone_count() -> None:
    data = dump({"other": {"epoch": 1}, "list": [{"info": "x"}], "step": 3})
    assert set(find_places(data, KEYS).values) == {"step"}
    below = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01}q\x02X\x05\x00\x00\x00epochq\x03K\x08sb."
    assert find_places(below, KEYS).values == {}


class Settings:
    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)


CONFIGS = {
    "dict": {"a": 1, "b": {"c": "d"}},
    "object": Settings(a=1, b=Settings(c="d", e=[1, 2])),
    "texts of others": {"first": 1, "second": "first"},
    "None": None,
    "text": "text",
    "list": [{"a": 1}],
    "aliases": [["a"]] * 3,
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("last", [True, False])
def test_a_passage_makes_its_object(kind: str, last: bool) -> None:
    tree = {"first": {"x": 1}, "config": CONFIGS[kind], **({} if last else {"info": "8epoch", "w": [1, 2]})}
    data = dump(tree)
    passage = find_places(data, KEYS, ("config",), 1000).passages["config"]
    alone = data[:2] + data[passage.begin : passage.end] + b"."
    for number, text in passage.texts:
        alone = alone[:2] + f"V{text}\np{number}\n0".encode() + alone[2:]
    made = pickle.loads(alone)
    assert pickle.dumps(made) == pickle.dumps(pickle.loads(data)["config"])


def test_a_passage_that_is_too_long() -> None:
    data = dump({"config": ["text"]})
    passage = find_places(data, KEYS, ("config",), 1000).passages["config"]
    size = passage.end - passage.begin
    assert find_places(data, KEYS, ("config",), size).passages == {"config": passage}
    assert find_places(data, KEYS, ("config",), size - 1).passages == {}


def test_many_of_everything_take_no_time() -> None:
    """Each of these would take minutes if every one were compared with every other, or copied for every other."""
    one, count = ONE, 30_000
    appended = b"]" + (one + b"a") * count
    lists = b"(" + b"".join(b"K\x01]r" + struct.pack("<I", n) + one + b"aK\x02j" + struct.pack("<I", n) for n in range(count)) + b"u"
    nested = b"]" * count + one + b"a" * count
    data = b"\x80\x02}X\x01\x00\x00\x00a" + appended + b"sX\x01\x00\x00\x00b}" + lists + b"sX\x01\x00\x00\x00c" + nested + b"s."
    found = find_places(data, KEYS, ("config",), len(data))
    assert len(found.floats) == count


def apart() -> dict[str, object]:
    shared = ["s"]
    return {
        "referred to behind": {"config": shared, "z": shared},
        "a part referred to behind": {"config": [shared], "z": {"y": shared}},
        "refers to a list before": {"a": shared, "config": [shared]},
        "is an object from before": {"a": shared, "config": shared},
        "not of the root": {"x": {"config": [1]}},
        "twice": {"config": [1], "x": {"config": [2]}},
        "its key elsewhere": {"config": [1], "x": "config"},
    }


@pytest.mark.parametrize("kind", apart())
def test_what_is_no_passage(kind: str) -> None:
    assert find_places(dump(apart()[kind]), KEYS, ("config",), 1000).passages == {}


CONFIG = b"X\x06\x00\x00\x00config"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"}(" + CONFIG + b"}K\x01K\x02sK\x03K\x04u.", None),  # its own item is part of it
        (b"}" + CONFIG + b"q\x01]s(h\x01]K\x05au.", "the key is set again"),
        (b"}q\x00" + CONFIG + b"]sX\x01\x00\x00\x00ah\x00" + CONFIG + b"K\x05ss.", "the key is spelt and set again"),
        (b"}" + CONFIG + b"]s\x85.", "the root is the tuple around it"),
        (b"}" + CONFIG + b"]s\x85K\x01\x86.", "the root is made of it"),
        (b"}" + CONFIG + b"]q\x01s(X\x01\x00\x00\x00ah\x01K\x05au.", "what is referred to behind it grows"),
        (b"}q\x00(" + CONFIG + b"h\x00u.", "it is the root itself"),
        (b"}K\x01" + CONFIG + b"]s.", "an object is left on the stack"),
    ],
)
def test_passages_of_crafted_pickles(data: bytes, why: str | None) -> None:
    found = find_places(b"\x80\x02" + data, KEYS, ("config",), 1000)
    passages = found.passages if found is not None else {}
    if why is None:
        assert data[passages["config"].begin - 2 : passages["config"].end - 2] == b"}K\x01K\x02s"
    else:
        assert passages == {}


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
