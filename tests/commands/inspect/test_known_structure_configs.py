"""Known structures whose configs differ: what is told of them is what reading them tells, whatever a config is made of."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.samples import generator, gpt, sovits_config
from support.builders import Raw, pickled, torch_zip
from support.structures import is_known, look, pickle_of, remember, with_pickle

from gsvckpt.commands.inspect import known_structure
from gsvckpt.commands.inspect.structure_cache import StructureCache

NAME = b"X\x06\x00\x00\x00config"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def filled(make: Callable[[str], bytes], size: int = 800) -> Raw:
    """A config of `size` bytes, made with so much text."""
    return Raw(make("." * (size - len(make("")))))


def crafted(code: bytes, end: bytes = b"u", size: int = 800) -> Raw:
    """A dict with something under `x`, and whatever the `end` does."""
    return filled(lambda dots: b"}(" + text("pad") + text(dots) + text("x") + code + end, size)


def tree(config: object) -> dict[str, object]:
    """Weights of v3, whose version and kind depend on the config. What is behind it refers to what is remembered before it."""
    return {
        "before": Raw(b"]q\x05" + text("v4") + b"q\x06a"),
        "weight": generator("v3", "float16"),
        "config": config,
        "behind": Raw(b"](h\x05h\x06e"),
        "info": "8epoch_16iteration",
    }


def memo(number: int) -> bytes:
    return b"q" + bytes([number])


HONEST = {
    "another text": crafted(text("y")),
    "a version": crafted(text("z"), b"u" + text("version") + text("v4") + b"s"),
    "another version": crafted(text("z"), b"u" + text("version") + text("v3") + b"s"),
    "another type": crafted(b"K\x01"),
    "a float as a key": crafted(b"}G@\x04" + bytes(6) + b"Ns"),
    "a text of half a character": crafted(b"X\x03\x00\x00\x00\xed\xa0\x80"),
    "another order": filled(lambda dots: pickled({"x": "y", "version": "v4", "pad": dots})[2:-1]),
    "a list": filled(lambda dots: pickled([1, dots])[2:-1]),
    "None in place of a text": filled(lambda dots: text(dots) + b"0N"),
    "many lists": crafted(b"]" * 253 + b"a" * 252),
    "a set": crafted(b"\x8f"),
    "a frame": crafted(b"\x95" + bytes(8) + b"N"),
}
OTHERS = {
    "code that runs": crafted(b"cos\nsystem\n" + text("true") + b"\x85R"),
    "code that runs, by INST": crafted(b"(" + text("true") + b"ios\nsystem\n"),
    "code that runs, by STACK_GLOBAL": crafted(text("os") + text("system") + b"\x93" + text("true") + b"\x85R"),
    "a harmless name": crafted(b"cutils\nHParams\n)\x81"),
    "an object built": crafted(b"cutils\nHParams\n)\x81}b"),
    "attributes of the dict": crafted(b"N", b"u}b"),
    "attributes of its key": crafted(b"}b"),
    "remembered over a list from before": crafted(b"]" + memo(5)),
    "remembered over a text from before": crafted(text("v3") + memo(6)),
    "remembered by PUT": crafted(b"]p5\n"),
    "remembered by MEMOIZE": crafted(b"]\x94"),
    "refers to a list from before": crafted(b"h\x05"),
    "refers to a text from before": crafted(b"h\x06"),
    "refers to what comes behind it": crafted(b"h\x63"),
    "changes a list from before": crafted(b"h\x05K\x01a"),
    "another entry of the root": crafted(b"N", b"u" + text("iteration") + b"K\x07"),
    "an object too many": crafted(b"N", b"uN"),
    "an early end": crafted(b"N", b"u."),
    "an early end inside": crafted(b".", b"u"),
    "a container left open": crafted(b"N", b"u("),
    "a container closed that was open": crafted(b"N", b"uu"),
    "takes itself away": crafted(b"N", b"u0"),
    "takes its key away": crafted(b"N", b"u00"),
    "takes all away": crafted(b"N", b"u1"),
    "doubled": crafted(b"N", b"u2"),
    "swallows what follows": Raw(b"X" + struct.pack("<I", 810) + b"." * 795),
    "a name without an end": crafted(b"N", b"uc"),
    "a wrong protocol": crafted(b"\x80\x09N"),
    "an unknown opcode": crafted(b"\xff"),
    "an extension": crafted(b"\x82\x01"),
    "a storage": crafted(b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01tQ"),
    "an unknown storage": crafted(text("?") + b"Q"),
    "pairs": crafted(b"ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R"),
    "a huge key": crafted(b"}\x8a\x09" + bytes(8) + b"\x01Ns"),
    "a list as a key": crafted(b"}]Ns"),
    "deeper than anybody walks": crafted(b"]" * 300 + b"a" * 299),
    "optimizer state": filled(lambda dots: b"}(" + text("pad") + text(dots) + text("state") + b"}" + text("param_groups") + b"]u"),
}


def start(folder: Path) -> tuple[Path, StructureCache, bytes]:
    path = folder / "alice_e8_s16.pth"
    path.write_bytes(data := torch_zip(tree(crafted(text("x")))))
    return path, remember(path), data


@pytest.mark.parametrize("whole", [True, False], ids=["read at once", "read in parts"])
@pytest.mark.parametrize("kind", HONEST)
def test_another_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, whole: bool) -> None:
    monkeypatch.setattr(known_structure, "_WHOLE", 1 << 22 if whole else 0)
    path, known, data = start(tmp_path)
    path.write_bytes(changed := torch_zip(tree(HONEST[kind])))
    assert len(changed) == len(data)
    assert is_known(path, known)
    assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_config_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What the file's own bytes may mean elsewhere, in its pickle or in what is told of it, is told by reading all of it."""
    path, known, data = start(tmp_path)
    path.write_bytes(changed := torch_zip(tree(OTHERS[kind])))
    assert len(changed) == len(data)
    assert not is_known(path, known)
    assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


def test_the_version_is_that_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, known, _ = start(tmp_path)
    said = []
    for version in ("v4", "v3"):
        path.write_bytes(torch_zip(tree(crafted(text("z"), b"u" + text("version") + text(version) + b"s"))))
        assert is_known(path, known)
        (line, _) = look(path, known, monkeypatch)
        said.append(line.facts.version)
    assert said == ["v4", "v3"]


def test_as_deep_as_anybody_walks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, known, _ = start(tmp_path)
    served = []
    for depth in range(250, 260):
        path.write_bytes(torch_zip(tree(crafted(b"]" * depth + b"a" * (depth - 1)))))
        served.append(is_known(path, known))
        assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)
    assert {True, False} == set(served)


def small_tree(config: object) -> dict[str, object]:
    return {"weight": gpt(), "config": config, "info": "GPT-e8"}


SMALL = {
    "dict": {"exp_name": "voice1", "train": {"epochs": 10, "if_dpo": True, "lr": 0.5}, "none": None, "list": [1, (2, 3)]},
    "HParams": sovits_config("v2"),
    "with a memo": Raw(b"}q\x07(" + text("a") + memo(8) + text("b") + memo(9) + text("c") + b"](h\x08h\x09eu"),
}


@pytest.mark.parametrize("kind", SMALL)
def test_every_byte_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "alice-e8.ckpt"
    path.write_bytes(data := torch_zip(small_tree(SMALL[kind])))
    known = remember(path)
    before = pickle_of(data)
    begin, end = before.index(NAME) + len(NAME), before.index(text("info"))
    rng = random.Random(kind)
    served = 0
    for at in range(begin, end):
        for bits in rng.sample(range(1, 256), 2):
            path.write_bytes(with_pickle(data, before[:at] + bytes([before[at] ^ bits]) + before[at + 1 :]))
            served += is_known(path, known)
            assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch), (at, bits)
    assert served >= 3  # letters


def test_a_config_beyond_the_limit_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "alice-e8.ckpt"
    monkeypatch.setattr(known_structure, "_LARGEST_CONFIG", 300)
    for size, served in ((301, False), (300, True)):
        path.write_bytes(torch_zip(small_tree(crafted(text("x"), size=size))))
        known = remember(path)
        path.write_bytes(torch_zip(small_tree(crafted(text("y"), size=size))))
        assert is_known(path, known) is served
