"""20,000 mutated files through verify (see soak): always a result, never an exception, never long, never much memory."""

from __future__ import annotations

import os
import random
import resource
import time
from pathlib import Path

import pytest
import soak
from cli.samples import adamw, generator, gpt, s1_training, small
from support.builders import safetensors, tensor, torch_stream, torch_zip

from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.result import Options
from hostile.payloads import payloads

SHARES = 40
EACH = soak.count(20_000) // SHARES
MOST_SECONDS, MOST_BYTES = 5, 300_000_000


def seeds(marker: str) -> list[bytes]:
    voice = {name: tensor("float32", (2, 2), range(4)) for name in generator("v2Pro")}
    codes = list(payloads(marker).values())
    return [
        torch_zip(small(voice, "v2Pro"), head=b"05"),
        torch_zip({"model": voice, "iteration": 3, "optimizer": adamw(voice), "learning_rate": 1e-4}),
        torch_zip(s1_training({name: tensor("float32", (2, 2), range(4)) for name in gpt()})),
        torch_stream(small(voice, "v2Pro")),
        safetensors({name: ("F32", (2, 2), bytes(16)) for name in voice}, {"format": "pt"}),
        torch_zip(codes[0]),
        codes[3],
    ]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to four changes, of the kinds that disks, networks and attackers make."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        kind = rng.randrange(7)
        at = rng.randrange(len(out) or 1)
        if kind == 0 and out:
            out[at] ^= rng.randrange(1, 256)
        elif kind == 1:
            out[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 2:
            del out[at : at + rng.randrange(1, 200)]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif kind == 4:
            begin = rng.randrange(len(out) or 1)
            out[at:at] = out[begin : begin + rng.randrange(1, 300)]
        elif kind == 5:
            del out[at:]
        else:  # numbers at their limits are what sizes, counts and offsets break at
            out[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0"])
    return bytes(out)


@pytest.mark.parametrize("share", range(SHARES))
def test_mutated_files(tmp_path: Path, share: int) -> None:
    rng = random.Random(f"{soak.SEED} {share}")
    marker = tmp_path / "ran"
    whole = seeds(str(marker))
    path = tmp_path / "x.pth"
    options = Options(resume=True, config=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(EACH):
        data = mutate(rng, rng.choice(whole))
        path.write_bytes(data)
        begin = time.monotonic()
        result = verify_file(str(path), options)
        assert time.monotonic() - begin < MOST_SECONDS, f"share {share}, file {number}"
        assert result.status in ("sound", "damaged", "unsafe", "suspect", "unchecked")
        assert result.error is None
        assert path.read_bytes() == data
    assert not marker.exists()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES
    assert sorted(os.listdir(tmp_path)) == ["x.pth"]
    soak.tally("mutated files through verify", files=EACH)
