"""Whole files at random: checkpoints as torch and GPT-SoVITS write them, and what could make readers part over them."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zlib
from collections import OrderedDict

import torch
from support.builders import Entry, hparams, pickled, tensor, torch_entries, torch_stream, torch_zip, under_safetensors, zipped

from . import generated

EVIL = b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."
HEADS = [b"PK", b"PK", b"05", b"06", b"00", b"03", b"99"]
NAMES = [
    "archive/DATA.PKL",
    "ARCHIVE/data.pkl",
    "archive/b/data.pkl",
    "b/data.pkl",
    "archive/data.pkl",
    "archive/x.pkl",
    "archive/Version",
    "a/data/0",
]
_VOICE = {"weight": {"enc_p.a": tensor("float16", (2, 3), range(6)), "dec.b": tensor("float32", (4,), range(4))}, "info": "2epoch"}


def saved(rng: random.Random) -> bytes:
    """A file of torch.save."""
    tree = OrderedDict(a=torch.arange(6, dtype=torch.float32).reshape(2, 3).t(), b=torch.tensor(7), c={"d": [1, 2.5, "x", None, (True, b"y")]})
    tree["e"] = rng.choice([tree["a"], torch.zeros(0), torch.ones(2, dtype=torch.bfloat16), torch.tensor([True]), torch.arange(300)[::7]])
    buffer = io.BytesIO()
    torch.save(tree, buffer, pickle_protocol=rng.choice([2, 2, 2, 3, 4, 5]), _use_new_zipfile_serialization=rng.random() < 0.7)
    return buffer.getvalue()


def voice(rng: random.Random) -> bytes:
    """A file such as GPT-SoVITS writes."""
    tree = {**_VOICE, "config": rng.choice([{"version": "v2"}, hparams({"version": "v2Pro"})])}
    return torch_zip(tree, head=rng.choice(HEADS)) if rng.random() < 0.8 else torch_stream(tree)


def with_record(rng: random.Random) -> bytes:
    """A checkpoint with one more record somewhere."""
    entries = torch_entries(_VOICE, prefix=rng.choice(["archive", "archive/b", "b"]))
    code = rng.choice([EVIL, pickled({"a": 1}), torch_zip(EVIL), torch_zip(EVIL, head=b"05"), b"note", zlib.compress(EVIL)[2:-4]])
    method = 8 if code[:1] not in (b"\x80", b"P", b"0", b"n") else 0
    lies = rng.choice([{}, {}, {"flags": 0}, {"flags": 0x0809}, {"crc": 0}, {"method": 12}]) if not method else {"method": 8, "size": len(EVIL)}
    entries.insert(rng.randrange(len(entries) + 1), Entry(rng.choice(NAMES), code, **lies))
    return zipped(entries, head=rng.choice(HEADS), comment=rng.choice([b"", b"", EVIL]), zip64=rng.random() < 0.2)


def with_pickle(rng: random.Random) -> bytes:
    """A zip or a stream around some pickle."""
    code = rng.choice([generated.honest, generated.crafted, lambda rng: generated.mutated(rng, generated.honest(rng))])(rng)
    return rng.choice([lambda code: torch_zip(code, head=rng.choice(HEADS)), torch_stream])(code)


def by_case(rng: random.Random) -> bytes:
    """Two pickles, of which torch takes the one that an exact comparison of names does not find."""
    name = rng.choice(["archive/DATA.PKL", "archive/Data.pkl", "Archive/data.pkl", "archive/data.pkl"])
    hidden = [Entry(name, rng.choice([EVIL, pickled({})])), Entry("archive/version", b"3\n"), Entry("archive/byteorder", b"little")]
    shown = torch_entries(_VOICE, prefix=rng.choice(["archive/b", "b", "ARCHIVE", "archive"]))
    return zipped(rng.choice([[*hidden, *shown], [*shown, *hidden]]), head=rng.choice(HEADS))


def by_frame(rng: random.Random) -> bytes:
    """A pickle that has another one in a text, before or behind whose length a frame ends."""
    inner = b"0" + EVIL[2:-1] + b"0X\0\0\0\0"
    text = bytes(rng.randrange(4)) + inner
    head = b"}X\x04\0\0\0info"
    rest = b"X" + struct.pack("<I", len(text)) + text + b"s."
    cut = len(head) + rng.randrange(12)
    code = b"\x80\x04\x95" + struct.pack("<Q", cut) + head + rest
    return rng.choice([lambda code: torch_zip(code, head=rng.choice(HEADS)), torch_stream])(code)


def by_long_frame(rng: random.Random) -> bytes:
    """A stream whose first pickle has a frame that goes on behind it, up to another pickle."""
    magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    data = torch_stream({"weight": tensor("uint8", (4_000,), EVIL * (4_000 // len(EVIL)) + bytes(4_000 % len(EVIL)))})
    rest = data[len(pickled(0x1950A86A20F9469CFC6C)) :]
    return b"\x80\x04\x95" + struct.pack("<Q", len(magic) + rng.choice([0, rng.randrange(400), rng.randrange(3_000)])) + magic + rest


def trailed(rng: random.Random, data: bytes) -> bytes:
    """With something behind it, so that its end is further from the end of the file."""
    far = rng.choice([1, 500, 4_000, 65_400, 65_535, 65_557, 66_500, 69_000, 69_500, 69_562, 69_563, 69_600, 70_000])
    return data + rng.choice([bytes(far), EVIL, torch_zip(EVIL), EVIL + bytes(far), torch_zip(EVIL)[:300]])


def inside_safetensors(rng: random.Random) -> bytes:
    """A safetensors file whose data are a zip; by its length of header it may be a zip for GPT-SoVITS, too."""
    length = rng.choice([200, 0x0403 + (1 << 16)]) if rng.random() < 0.9 else 0x04030000 + 0x2020
    return under_safetensors(torch_zip(rng.choice([EVIL, _VOICE])) + bytes(rng.choice([0, 10, 66_500, 69_000, 70_500])), length)


def as_tar(rng: random.Random, data: bytes) -> bytes:
    """The same file with a first block that is a tar's, where its pickle allows."""
    out = bytearray(data)
    if len(out) < 1024:
        out += bytes(1024 - len(out))
    code = rng.choice([EVIL, pickled(0)])
    members = bytearray()
    for name in ("storages", "tensors", "pickle"):
        member = tarfile.TarInfo(name)
        member.size = len(code)
        members += member.tobuf(tarfile.USTAR_FORMAT) + code + bytes(-len(code) % 512)
    block = bytearray(out[:512])
    block[124:136], block[148:156], block[156:157], block[257:265] = b"00000000000\0", b" " * 8, b"0", b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block + members + bytes(1024) + out[512:]) if rng.random() < 0.5 else bytes(block + out[512:])


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Changes near the places where readers look: the first bytes, the pickle, the directory, the end."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        near = rng.choice([0, 0, max(len(out) - 120, 0), max(len(out) - 700, 0), rng.randrange(len(out))])
        at = min(near + rng.randrange(120), len(out) - 1)
        kind = rng.randrange(5)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[:4] = rng.choice([b"PK\x03\x04", b"PK\x05\x06", b"05\x03\x04", b"00\x03\x04", b"\x80\x04\x95\x00", b"N.\x03\x04"])
        elif kind == 3:
            out[at:at] = rng.choice([b"\x95" + struct.pack("<Q", rng.randrange(200)), b"\x80\x04", EVIL, b"PK\x05\x06" + bytes(18)])
        else:
            found = out.find(rng.choice([b"data.pkl", b"archive", b"version"]), at // 2)
            if found >= 0:
                out[found] ^= 0x20
    return bytes(out)


def files(rng: random.Random, count: int) -> list[tuple[bytes, bool]]:
    """Files, and whether each is as torch writes it."""
    found: list[tuple[bytes, bool]] = []
    for _ in range(count):
        kind = rng.random()
        base = rng.choice([saved, voice, with_record, with_pickle, by_case, by_frame, by_long_frame])
        if kind < 0.2:
            found.append((saved(rng), True))
        elif kind < 0.4:
            found.append((base(rng), False))
        elif kind < 0.45:
            found.append((inside_safetensors(rng), False))
        elif kind < 0.55:
            found.append((trailed(rng, base(rng)), False))
        elif kind < 0.65:
            found.append((as_tar(rng, base(rng)), False))
        else:
            found.append((mutated(rng, base(rng)), False))
    return found
