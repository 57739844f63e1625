"""Every reader reads the same where gsvckpt says safe: CPython's unpicklers, torch's loaders and GPT-SoVITS's patch judge it.

Every name that they ask for was seen by gsvckpt, and the values are equal. What a pickler or torch itself wrote is never doubted.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from pathlib import Path

import pytest
import soak
from support.builders import pickled

from gsvckpt.formats.pickle import frames

from . import compare, files, generated

SHARES = 10
FEW = 4  # as each imports torch
PICKLES, FILES = soak.count(200_000) // SHARES, soak.count(20_000) // FEW


@pytest.mark.parametrize("share", range(SHARES))
def test_pickles(tmp_path: Path, share: int) -> None:
    rng = random.Random(f"{soak.SEED} pickles {share}")
    cases = generated.pickles(rng, PICKLES)
    counts: Counter[str] = Counter()
    for (data, honest), theirs in zip(cases, compare.read_theirs([data for data, _ in cases], tmp_path), strict=True):
        ours = compare.read_ours(data)
        assert compare.part(ours, theirs) == "", data
        if honest and ours.error != compare.TOO_DEEP:
            assert ours.is_certain and not ours.doubts, (data, ours)
        counts += compare.count(ours, theirs)
    assert counts["certain, read by all others"] > PICKLES // 5
    assert counts["doubted"] > PICKLES // 20
    soak.tally("pickles: gsvckpt beside CPython's C and Python unpicklers", **counts)


@pytest.mark.parametrize("share", range(FEW))
def test_files(tmp_path: Path, share: int) -> None:
    rng = random.Random(f"{soak.SEED} files {share}")
    cases = files.files(rng, FILES)
    folder = tmp_path / "files"
    folder.mkdir()
    for number, (data, _) in enumerate(cases):
        (folder / f"{number:06d}.pth").write_bytes(data)
    counts: Counter[str] = Counter()
    for (path, theirs), (_, honest) in zip(compare.load_theirs(folder, tmp_path / "out").items(), cases, strict=True):
        ours = compare.open_ours(folder / path)
        parts = compare.part(ours, theirs)
        if parts or (honest and not ours.is_certain):
            raise AssertionError(f"{path} of share {share} (SEED={soak.SEED}): {parts or ours}")
        counts += compare.count(ours, theirs)
        counts["in which a loader asks for os.system"] += any("os.system" in reading.names for reading in theirs.values())
    assert counts["certain, read by all others"] > 0
    soak.tally("files: gsvckpt beside torch.load (path, bytes, mmap) and GPT-SoVITS's loader", **counts)


def test_the_comparison_sees_a_frame_that_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As gsvckpt once did: the C unpickler drops what is left of a frame that ends inside the length of a text."""
    evil = b"0cos\nsystem\n(X\x02\x00\x00\x00lstR0X\x00\x00\x00\x00"
    text = b"\0\0" + evil
    front = b"}X\x04\x00\x00\x00infoX" + struct.pack("<H", len(text))
    data = b"\x80\x04\x95" + struct.pack("<Q", len(front)) + front + b"\0\0" + text + b"s."
    (theirs,) = compare.read_theirs([data], tmp_path)
    assert compare.part(compare.read_ours(data), theirs) == ""
    monkeypatch.setattr(frames, "find_doubts", lambda *_: ())
    assert "asks for ['os.system']" in compare.part(compare.read_ours(data), theirs)


def test_the_comparison_sees_another_value(tmp_path: Path) -> None:
    (theirs,) = compare.read_theirs([b"I010\n."], tmp_path)
    assert theirs["C, memory"].value == "int 8"
    assert compare.part(compare.read_ours(b"I10\n."), theirs) != ""


def test_the_comparison_sees_another_end(tmp_path: Path) -> None:
    (theirs,) = compare.read_theirs([pickled([1])], tmp_path)
    ours = compare.read_ours(pickled([1]))
    assert compare.part(ours, theirs) == ""
    assert compare.part(ours._replace(end=3), theirs) != ""
