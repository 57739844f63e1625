"""What files that are built to exhaust time or memory cost each command. Each is below 100 MB, and is made with the builders of the tests."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice, product
from pathlib import Path

from tests.bench.measure import ENVIRONMENT, RSS_UNIT
from tests.support.builders import Entry, pickled, safetensors_raw, tensor, torch_zip, zipped

SECONDS, BYTES = 10, 500_000_000  # what a command may take for such a file
_PATIENCE = 120  # seconds after which a command is ended
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"


@dataclass(frozen=True)
class Hostile:
    """A bomb: `write` makes it at a path, whose name is `file`. `commands` are those that are run on it, else all that read checkpoints."""

    name: str
    what: str
    file: str
    write: Callable[[Path], None]
    commands: tuple[tuple[str, ...], ...] = ()


def jobs() -> tuple[Hostile, ...]:
    zips = {
        "classes": ("3.9 million names of classes", lambda: _zip(b"".join(b"cu\n%s\n0" % name for name in islice(_names(4), 3_900_000)) + b"}")),
        "tensors": ("1.5 million tensors over one storage", lambda: _tensors(1_500_000)),
        "memo": ("7.9 million objects remembered", lambda: _zip(b"N" + b"".join(b"r" + struct.pack("<I", n) for n in range(7_900_000)) + b"0}")),
        "dicts": ("1.8 million dicts", lambda: _zip(b"](" + b"}NNs" * 900_000 + b"e](" + b"}NNs" * 900_000 + b"e\x86")),
        "objects": ("a million objects with state", lambda: _zip(b"cutils\nHParams\nq\x000](" + b"h\x00)\x81}NNsb" * 985_000 + b"e")),
        "steps": ("one object with 195,000 steps", lambda: _zip(b"cutils\nHParams\n)\x81" + b"}NNsb" * 195_000)),
        "collisions": ("20 dicts of the same 10,000 colliding keys", _collisions),
        "floats": ("300,000 floats as keys, each colliding with 33", _floats),
        "long-keys": ("two equal keys of 16 MB, each set 200,000 times", _long_keys),
        "tuples": ("2 million tuples", lambda: _zip(b"](" + b"N\x85" * 950_000 + b"e](" + b"N\x85" * 950_000 + b"e\x86")),
        "long-texts": ("a text of 16 MB, referred to 900,000 times", lambda: _zip(_long(1) + b"0](" + b"h\x01" * 900_000 + b"e")),
        "wide-texts": ("90 MB of text with one wide letter in each", lambda: _zip(b"](" + _wide() * 5 + b"e")),
        "hashes": ("a tuple of 64 numbers hashed 400,000 times", lambda: _zip(b"(" + b"K\x01" * 64 + b"tq\x010}" + b"h\x01Ns" * 400_000)),
        "long-names": ("70 tensors with names of a megabyte", lambda: _named(70, 1 << 20)),
        "known-classes": (
            "4,990 classes",
            lambda: _zip(b"](" + b"".join(b"cu\n%s\n" % n for n in islice(_names(4), 4_990)) + b"e"),
        ),
        "floats-in-list": ("4 million numbers in a list", lambda: _zip(b"](" + b"K\x01" * 4_000_000 + b"e")),
        "records": ("990,000 records", lambda: _records(990_000)),
    }
    texts = {
        "header": ("1.2 million tensors in the header", lambda: _header(f'"{n:07}":{_EMPTY}' for n in range(1_200_000))),
        "entries": ("6 million empty entries in the header", lambda: _header(f'"{n}":{{}}' for n in range(6_000_000))),
        "metadata": ("a text of 90 MB in the metadata", lambda: _header(['"__metadata__":{"a":"' + "x" * 90_000_000 + '"}'])),
        "wide-metadata": (
            "30 MB of metadata, one letter of it wide",
            lambda: _header(['"__metadata__":{"a":"😀' + "x" * 30_000_000 + '"}']),
        ),
        "depth": ("5 million brackets in the header", lambda: _header(['"a":' + "[" * 5_000_000 + "]" * 5_000_000])),
        "shape": (
            "a shape of 20 million dimensions",
            lambda: _header([_EMPTY.replace("[0]", f"[{'1,' * 20_000_000}1]").join(('"a":', ""))]),
        ),
        "long-header": ("60 names of a megabyte in the header", lambda: _header(f'"{n}{"x" * (1 << 20)}":{_EMPTY}' for n in range(60))),
        "tree": ("5 million lists in the tree", lambda: _tree("[" + "[]," * 5_000_000 + "0]")),
        "tree-dicts": ("340,000 dicts in the tree", lambda: _tree("[" + '{"dict":{}},' * 340_000 + "0]")),
        "tree-numbers": ("2 million numbers in the tree", lambda: _tree("[" + "1," * 2_000_000 + "0]")),
    }
    return (
        *(_job(f"hostile-{name}", what, f"{name}.pth", make) for name, (what, make) in zips.items()),
        _job("hostile-stream", "800,000 storages in a file of torch before 1.6", "stream.pth", lambda: _stream(800_000)),
        *(_job(f"hostile-{name}", what, f"{name}.safetensors", make) for name, (what, make) in texts.items()),
        _job("hostile-index", "1.5 million entries of an index", "model.safetensors.index.json", _index),
        _text("toml", "keys of 50,000 parts", "gsvckpt.toml", lambda: b"a" + b".a" * 50_000 + b"=1\n", ("verify", "."), ("prune", "-n", ".")),
        _text("csv", "94 MB of lines", "log.csv", lambda: b"epoch,loss\n" + b"1,2.5\n" * 15_600_000, *_METRICS),
        _text("json-lines", "94 MB of lines", "log.jsonl", lambda: b'{"epoch":1,"loss":2.5}\n' * 4_000_000, *_METRICS),
        _text("line", "one line of 94 MB", "log.csv", lambda: b"epoch,loss\n1," + b"2" * 94_000_000, *_METRICS),
        _text("checksums", "47 million lines", "SUMS", lambda: b"x\n" * 47_000_000, ("verify", "--checksums", "FILE", "small.pth")),
        _text("rules", "a pattern that never ends", "rules.toml", lambda: b"[[rule]]\nrename = '(a|aa)+$'\nto = 'x'\n", _RULES),
        _text("settings", "a megabyte of blanks", "weight.json", lambda: b"a:\n" + b" " * 1_000_000 + b":", ("prune", "-n", "--keep-last", "1", ".")),
    )


_EMPTY = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
_RULES = ("migrate", "small.pth", "--rules", "FILE", "-o", "out.pth")
_METRICS = (
    ("prune", "-n", "--keep-best", "1", "--metrics", "FILE", "."),
    ("prune", "-n", "--keep-best", "1", "--metric", "other", "--metrics", "FILE", "."),
)
_COMMANDS = (
    ("inspect", "FILE"),
    ("inspect", "--tensors", "FILE"),
    ("inspect", "--globals", "FILE"),
    ("inspect", "--json", "FILE"),
    ("inspect", "-r", "."),
    ("verify", "FILE"),
    ("verify", "--quick", "FILE"),
    ("convert-fp16", "FILE", "-o", "out.pth"),
    ("strip-optimizer", "FILE", "-o", "out.pth"),
    ("migrate", "FILE", "--to", "safetensors", "-o", "out.safetensors"),
    ("prune", "-n", "--keep-last", "1", "."),
)


def measure(job: Hostile) -> dict[str, object]:
    """Run every command on one bomb, once: seconds, peak memory and exit code of each."""
    with tempfile.TemporaryDirectory(prefix="gsvckpt-hostile-") as folder:
        place = Path(folder, job.file)
        subprocess.run([sys.executable, "-m", __name__, job.name, str(place)], check=True)  # elsewhere: what makes it takes memory, too
        if job.commands:
            Path(folder, "small.pth").write_bytes(torch_zip({"a" * 300 + "!": tensor("float32", (2,), range(2))}))
        runs = []
        for words in job.commands or _COMMANDS:
            for output in ("out.pth", "out.safetensors"):
                Path(folder, output).unlink(missing_ok=True)
            seconds, peak, code = _run([job.file if word == "FILE" else word for word in words], folder)
            runs.append({"name": " ".join(words[: -2 if "-o" in words else None]), "seconds": round(seconds, 3), "peak": peak, "code": code})
            runs[-1]["met"] = seconds <= SECONDS and peak <= BYTES
        return {"name": job.name, "what": f"{job.what}, {place.stat().st_size / 1_000_000:.1f} MB", "runs": runs}


def _run(words: list[str], folder: str) -> tuple[float, int, int]:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "gsvckpt", *words]
    environment = {**ENVIRONMENT, "PYTHONPATH": os.getcwd()}
    child = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended = 0
    while not ended:
        ended, status, usage = os.wait4(child.pid, os.WNOHANG)
        if not ended and time.perf_counter() - begin > _PATIENCE:
            child.kill()
        time.sleep(0.01)
    child.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - begin, usage.ru_maxrss * RSS_UNIT, child.returncode


# --- the bombs -----------------------------------------------------------------------------------------------------------------------------------


def _job(name: str, what: str, file: str, make: Callable[[], bytes]) -> Hostile:
    return Hostile(name, what, file, lambda path: _write(path, make()))


def _text(name: str, what: str, file: str, make: Callable[[], bytes], *commands: tuple[str, ...]) -> Hostile:
    return Hostile(f"hostile-{name}", what, file, lambda path: _write(path, make()), commands)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _zip(code: bytes) -> bytes:
    return torch_zip(b"\x80\x02" + code + b".")


def _names(length: int) -> Iterator[bytes]:
    return ("".join(letters).encode() for letters in product(_LETTERS, repeat=length))


_STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"
_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\nq\x000(" + _STORAGE + b"K\0))\x89ccollections\nOrderedDict\n)Rtq\x010"


def _entries(code: bytes) -> bytes:
    files = {"data.pkl": b"\x80\x02" + code + b".", "byteorder": b"little", "data/0": bytes(4), "version": b"3\n"}
    return zipped([Entry(f"archive/{name}", data) for name, data in files.items()])


def _tensors(number: int) -> bytes:
    return _entries(_TENSOR + b"}(" + b"".join(b"X\x04\0\0\0" + name + b"h\0h\1R" for name in islice(_names(4), number)) + b"u")


def _named(number: int, length: int) -> bytes:
    name = b"X" + struct.pack("<I", length + 4)
    return _entries(_TENSOR + b"}(" + b"".join(name + end + b"x" * length + b"h\0h\1R" for end in islice(_names(4), number)) + b"u")


def _collisions() -> bytes:
    """Pairs of numbers with one hash, for CPython since 3.8 on 64 bits (Objects/tupleobject.c)."""
    one, two, five, mask = 11400714785074694791, 14029467366897019727, 2870177450012600261, (1 << 64) - 1
    inverse = pow(two, -1, 1 << 64)

    def second(first: int) -> int:
        lane = (five + first * two) & mask
        return ((12345678901234567 - (((lane << 31) | (lane >> 33)) * one)) * inverse) & mask

    pairs = islice(((first, second(first)) for first in count(1 << 40) if second(first) < 1 << 60), 10_000)
    made = b"".join(b"\x8a\x08%s\x8a\x08%s\x86r%s0" % (_eight(a), _eight(b), struct.pack("<I", n)) for n, (a, b) in enumerate(pairs))
    entries = b"".join(b"j" + struct.pack("<I", n) + b"N" for n in range(10_000))
    return _zip(made + b"](" + (b"}(" + entries + b"u") * 20 + b"e")


def _eight(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)


def _floats() -> bytes:
    values = (mantissa * 2.0 ** (61 * n) for mantissa in range(1, 1 << 20, 2) for n in range(-16, 16))
    return _zip(b"}(" + b"".join(b"G" + struct.pack(">d", value) + b"N" for value in islice(values, 300_000)) + b"u")


def _long(number: int) -> bytes:
    return b"X" + struct.pack("<I", (1 << 24) - 1) + b"x" * ((1 << 24) - 1) + b"q" + bytes([number])


def _long_keys() -> bytes:
    return _zip(_long(1) + b"0" + _long(2) + b"0}" + b"h\x01Nsh\x02Ns" * 200_000)


def _wide() -> bytes:
    return b"X" + struct.pack("<I", 15_000_004) + "😀".encode() + b"x" * 15_000_000


def _records(number: int) -> bytes:
    data, directory = bytearray(), bytearray()
    pickle = b"\x80\x02}."
    for name in (*(b"a/%d" % n for n in range(number)), b"a/data.pkl"):
        content = pickle if name.endswith(b"pkl") else b""
        at = len(data)
        data += struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, len(content), len(content), len(name), 0) + name + content
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, len(content), len(content), len(name), 0, 0, 0, 0, 0, at) + name
    end = len(data) + len(directory)
    data += directory + struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, number + 1, number + 1, len(directory), end - len(directory))
    data += struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    return bytes(data + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


def _stream(number: int) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    first = b"(X\x07\0\0\0storageq\x00ctorch\nByteStorage\nq\x01X\x07\0\0\x000000000X\x03\0\0\0cpuq\x02K\0NtQ"
    rest = b"".join(b"(h\0h\1X\x07\0\0\0%07dh\2K\0NtQ" % n + (b"e(" if n % 1000 == 0 else b"") for n in range(1, number))
    keys = b"".join(b"X\x07\0\0\0%07d" % n + (b"e(" if n % 1000 == 0 else b"") for n in range(number))
    head = pickled(0x1950A86A20F9469CFC6C) + pickled(1001) + pickled(system)
    return head + b"\x80\x02](" + first + rest + b"e.\x80\x02](" + keys + b"e." + bytes(8 * number)


def _header(entries: Iterator[str] | list[str]) -> bytes:
    return safetensors_raw(f"{{{','.join(entries)}}}".encode())


def _tree(text: str) -> bytes:
    quoted = text.replace('"', '\\"')
    return _header([f'"__metadata__":{{"gsvckpt.tree":"{quoted}"}}'])


def _index() -> bytes:
    entries = ",".join(f'"{n}":"f{n}.safetensors"' for n in range(1_500_000))
    return f'{{"metadata":{{}},"weight_map":{{{entries}}}}}'.encode()


if __name__ == "__main__":
    name, place = sys.argv[1:]
    next(job for job in jobs() if job.name == name).write(Path(place))
