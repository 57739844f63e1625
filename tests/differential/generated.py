"""Pickles at random: honest ones of every pickler and protocol, and what a stranger could make of them."""

from __future__ import annotations

import collections
import datetime as dt
import pathlib
import pickle
import pickletools
import random
import struct
import uuid

NAMES = [b"cos\nsystem\n", b"cbuiltins\nset\n", b"ccollections\nOrderedDict\n", b"c__builtin__\nbytearray\n", b"cutils\nHParams\n"]
PIECES = [
    *NAMES,
    *(b"I%s\n" % text for text in (b"010", b"0x1f", b" 7", b"+1", b"1_0", b"00", b"01", b"-0", b"9" * 30, b"0o7", b"08")),
    *(b"L%s\n" % text for text in (b"010L", b"5L", b"5", b" 5L", b"5l", b"1_0L", b"-0L")),
    *(b"F%s\n" % text for text in (b"1.5", b"1_0.5", b" 1", b"inf", b"nan", b"1e5", b"0x1p3", b"Infinity", b"1.", b".5", b"1E5")),
    *(b"%s%s\n" % (code, text) for code in (b"p", b"g") for text in (b"0", b"1", b" 1", b"01", b"1_0", b"+1")),
    *(b"S%s\n" % text for text in (b"'a'", b'"b"', b"'a'b'", b"'\\x41'", b"'\\101'", b"''", b"'\\''", b"'a' ")),
    *(b"(" + rest + b"ios\nsystem\n" for rest in (b"", b"N", b"K\x05")),
    *(b"(cutils\nHParams\n" + rest + b"o" for rest in (b"", b"N")),
    *(b"V%s\n" % text for text in (b"a", b"\\u0041", b"\\", b"\xe9", b"")),
    b"K\x01", b"M\x01\x00", b"M\x00\x01", b"J\x01\x00\x00\x00", b"J\xff\xff\xff\xff", b"\x8a\x01\x05", b"\x8a\x02\x05\x00", b"\x8a\x00",
    b"\x8a\x08\x01\x00\x00\x00\x00\x00\x00\x00", b"\x8b\x01\x00\x00\x00\x05", b"N", b"\x88", b"\x89", b"]", b"}", b")", b"\x8f", b"(", b"0",
    b"1", b"2", b"X\x01\x00\x00\x00a", b"\x8c\x01b", b"\x8d\x01\x00\x00\x00\x00\x00\x00\x00c", b"U\x01d", b"T\x01\x00\x00\x00e", b"C\x01f",
    b"B\x01\x00\x00\x00g", b"\x8e\x01\x00\x00\x00\x00\x00\x00\x00h", b"\x96\x01\x00\x00\x00\x00\x00\x00\x00i", b"q\x00", b"q\x01",
    b"r\x00\x00\x00\x00", b"r\x00\x01\x00\x00", b"h\x00", b"h\x01", b"j\x00\x00\x00\x00", b"\x94", b"a", b"e", b"s", b"u", b"t", b"l", b"d",
    b"\x85", b"\x86", b"\x87", b"R", b"b", b"\x81", b"\x92", b"o", b"\x90", b"\x91", b"\x93", b"Q", b"Px\n", b".", b"\x80\x02", b"\x80\x04",
    b"ios\nsystem\n", b"G?\xf0\x00\x00\x00\x00\x00\x00",
]  # fmt: skip


class Thing:
    """An object with a state."""

    def __init__(self, state: object) -> None:
        self.state = state


def value(rng: random.Random, depth: int = 0) -> object:
    """A value of the kinds that checkpoints hold."""
    simple = depth > 3 or rng.random() < 0.4
    if simple:
        return rng.choice(
            [
                None, True, False, rng.randrange(-300, 300), rng.randrange(-(1 << 70), 1 << 70), 1 << rng.randrange(80), -(1 << rng.randrange(80)),
                rng.choice([127, 128, 255, 256, 65535, 65536, -128, -129]), rng.random(), rng.choice([0.0, -0.0, float("inf"), 1e300]), "weight",
                "é\n\\ \x1a", "x" * rng.choice([0, 255, 256]), b"", b"ab\x00\xff", bytearray(b"xyz"), rng.choice(["\ud800", "\U0001f600"]), ...,
            ]
        )  # fmt: skip
    items = [value(rng, depth + 1) for _ in range(rng.randrange(5))]
    kind = rng.randrange(11)
    if kind < 2:
        return items
    if kind == 2:
        return tuple(items)
    if kind < 6:
        return {rng.choice(["a", "b", 1, 2.5, (1, 2), None, b"k"]): item for item in items}
    if kind == 6:
        ordered = collections.OrderedDict((str(index), item) for index, item in enumerate(items))
        ordered._metadata = {"": {"version": 1}}
        return ordered
    if kind == 7:
        return rng.choice([{1, 2, "a"}, frozenset([3, "b"]), set()])
    if kind == 8:
        return Thing(items)
    if kind == 9:
        shared = [*items]
        shared.append(rng.choice([shared, (shared, 1), {"me": shared}]))
        return [shared, shared]
    stamp = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc)
    return rng.choice(
        [pathlib.PurePosixPath("/a/b"), stamp, uuid.UUID(int=5), collections.defaultdict(int, {"a": 1}), collections.deque([1, 2], 5), int]
    )


def honest(rng: random.Random) -> bytes:
    """One pickle as some pickler writes it."""
    found = value(rng)
    if rng.random() < 0.03:
        found = [found, "y" * rng.choice([70_000, 130_000]), b"z" * 70_000, list(range(1500))]  # more than one frame
    protocol = rng.randrange(6)
    dump = rng.choice([pickle.dumps, pickle._dumps])
    try:
        data = dump(found, protocol)
        return pickletools.optimize(data) if rng.random() < 0.3 else data
    except (TypeError, pickle.PicklingError, UnicodeEncodeError, ValueError):  # Ellipsis and lone surrogates in old protocols
        return pickle.dumps([1, "a"], protocol)


def crafted(rng: random.Random) -> bytes:
    """Opcodes one behind another, hardly ever a sound pickle; a sound one in many is of interest."""
    body = b"".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 12)))
    data = rng.choice([b"", b"\x80\x02", b"\x80\x04", b"\x80\x05"]) + body + b"."
    return framed(rng, data) if rng.random() < 0.5 else data


def framed(rng: random.Random, data: bytes) -> bytes:
    """The same with a frame somewhere, that may end anywhere."""
    at = min(2, len(data) - 1) if data[:1] == b"\x80" and rng.random() < 0.7 else rng.randrange(len(data))
    left = len(data) - at
    length = rng.choice([left, left, left - 1, left + 1, rng.randrange(left + 1), rng.randrange(left + 40), 0, 1 << 20, 1 << 62])
    return data[:at] + b"\x95" + struct.pack("<Q", max(length, 0)) + data[at:]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """One to three changes."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(out) or 1)
        kind = rng.randrange(8)
        if kind == 0 and out:
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at:at] = rng.choice(PIECES)
        elif kind == 2:
            del out[at : at + rng.randrange(1, 6)]
        elif kind == 3:
            out[-1:] = rng.choice(PIECES) + b"."
        elif kind == 4:
            out[:] = framed(rng, bytes(out) or b".")
        elif kind == 5:
            begin = rng.randrange(len(out) or 1)
            out[at:at] = out[begin : begin + rng.randrange(1, 20)]
        elif kind == 6:
            out[2:2] = rng.choice(PIECES) + rng.choice([b"", b"0", b"\x94"])
        else:
            frame = out.find(b"\x95")
            if frame >= 0 and len(out) >= frame + 9:
                length = int.from_bytes(out[frame + 1 : frame + 9], "little") + rng.choice([-2, -1, 1, 2, 5, 40])
                out[frame + 1 : frame + 9] = struct.pack("<Q", max(length, 0))
    return bytes(out)


def pickles(rng: random.Random, count: int) -> list[tuple[bytes, bool]]:
    """Pickles, and whether each is as a pickler wrote it. Some have another one behind them."""
    found: list[tuple[bytes, bool]] = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.25:
            found.append((honest(rng), True))
        elif kind < 0.55:
            found.append((crafted(rng), False))
        elif kind < 0.9:
            found.append((mutated(rng, honest(rng)), False))
        else:
            found.append((mutated(rng, honest(rng)) + honest(rng), False))
    return found
