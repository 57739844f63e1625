"""Known structures: what is told of a file by one before it is what reading it tells, whatever was changed in it."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from cli.samples import discriminator, generator, gpt, lora, numbers, s1_training, s2_training, small
from support.builders import Raw, tensor, torch_zip
from support.structures import is_known, look, pickle_of, remember, with_pickle
from support.voices import Maker, generator_training, gpt_weights, sovits_weights, write

from gsvckpt.commands.inspect import known_structure, structure_cache
from gsvckpt.commands.inspect.batch import Inspected
from gsvckpt.commands.inspect.breakdown import account
from gsvckpt.commands.inspect.structure_cache import StructureCache
from gsvckpt.engine.examine import examine
from gsvckpt.engine.open import open_checkpoint


def s2(epoch: int, rate: float, seed: int = 1) -> dict[str, object]:
    state = {**generator("v2", enc_q=True), "dec.large": numbers((40, 40), seed=seed)}
    return {**s2_training(state, epoch), "learning_rate": rate}


def voice(info: str, seed: int = 1) -> dict[str, object]:
    return {**small({**generator("v2Pro", "float16"), "dec.large": numbers((40, 40), "float16", seed)}, "v2Pro"), "info": info}


PAIRS = {
    "S2 training": ("G_{}.pth", s2(8, 1e-4), s2(9, 0.5e-4, seed=2)),
    "S2 weights": ("alice_e{}_s16.pth", voice("8epoch_16iteration"), voice("9epoch_17iteration", seed=2)),
    "D": ("D_{}.pth", s2_training(discriminator(), 3), s2_training(discriminator(), 100)),
    "GPT": ("alice-e{}.ckpt", {"weight": gpt(), "config": {"a": 1}, "info": "GPT-e8"}, {"weight": gpt(), "config": {"a": 1}, "info": "GPT-e9"}),
    "Lightning": ("epoch={}.ckpt", s1_training(gpt()), {**s1_training(gpt()), "epoch": 7, "global_step": 90}),
    "LoRA": ("bob_e{}_l4.pth", {**small(lora(), "v3"), "info": "8epoch_16iteration"}, {**small(lora(), "v3"), "info": "9epoch_16iteration"}),
    "state dict": ("any{}.pth", {"w": numbers((40, 40))}, {"w": numbers((40, 40), seed=7)}),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("whole", [True, False], ids=["read at once", "read in parts"])
def test_a_file_of_a_known_structure_is_told_as_if_it_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, whole: bool) -> None:
    monkeypatch.setattr(known_structure, "_WHOLE", 1 << 22 if whole else 0)
    name, one, two = PAIRS[kind]
    first, second = tmp_path / name.format(8), tmp_path / "other" / name.format(9)
    second.parent.mkdir()
    first.write_bytes(torch_zip(one))
    second.write_bytes(torch_zip(two))
    known = remember(first)
    assert is_known(second, known)
    assert look(second, known, monkeypatch) == look(second, StructureCache(), monkeypatch)
    assert look(first, known, monkeypatch) == look(first, StructureCache(), monkeypatch)


def test_real_saves_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker(tiny=True)
    paths = [tmp_path / f"G_{25 * epoch}.pth" for epoch in range(1, 5)] + [tmp_path / f"x_e{epoch}_s{epoch}.pth" for epoch in range(1, 5)]
    for epoch in range(1, 5):
        write(generator_training(maker, "v2", epoch, 25 * epoch), paths[epoch - 1])
        write(sovits_weights(maker, "x", "v2Pro", epoch, epoch), paths[epoch + 3])
    known = remember(paths[0], paths[4])
    assert sum(is_known(path, known) for path in paths) >= 5  # all of the training files, whose configs say nothing of the epoch
    for path in paths:
        assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


@pytest.mark.parametrize(("first", "second", "same"), [("alice", "bobby", True), ("alice", "bob", False), ("声音の", "聲音の", True)])
def test_real_saves_of_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str, same: bool) -> None:
    """Only the names in their configs differ; and what is told of them differs with these."""
    maker = Maker(tiny=True)
    one, two = ([tmp_path / name / "s.pth", tmp_path / name / "g.ckpt"] for name in (first, second))
    for name, (sovits, gpt_file) in ((first, one), (second, two)):
        write(sovits_weights(maker, name, "v2", 3, 30, 8), sovits)
        write(gpt_weights(maker, name, "v2", 3, 8), gpt_file)
    known = remember(*one)
    for path in two:
        assert is_known(path, known) is same
        assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


FOLDERS = {
    "1718345678.1234567": True,
    "ARCHIVE-ARCHIVE_-0": True,
    "1718345678.123456": False,  # shorter
    "1718345678.12345/7": False,
    "1718345678.12345\\7": False,
    "1718345678.12345 7": False,
}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("whole", [True, False], ids=["read at once", "read in parts"])
def test_the_folder_inside_the_zip_may_have_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, whole: bool) -> None:
    """By torch it is taken from the file's first name, in which upstream puts the time."""
    monkeypatch.setattr(known_structure, "_WHOLE", 1 << 22 if whole else 0)
    path, other = tmp_path / "G_8.pth", tmp_path / "G_9.pth"
    path.write_bytes(torch_zip(s2(8, 1e-4), prefix="1718345678.7654321"))
    other.write_bytes(torch_zip(s2(9, 1e-4, seed=2), prefix=folder))
    known = remember(path)
    assert is_known(other, known) is FOLDERS[folder]
    assert look(other, known, monkeypatch) == look(other, StructureCache(), monkeypatch)


def test_every_record_is_in_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "G_8.pth"
    path.write_bytes(torch_zip(s2(8, 1e-4), prefix="abc"))
    known = remember(path)
    data = torch_zip(s2(8, 1e-4), prefix="xyz")
    places = [at for at in range(len(data)) if data.startswith(b"xyz/", at)]
    assert len(places) > 20
    for count, at in enumerate(places):
        path.write_bytes(data[:at] + b"xyZ" + data[at + 3 :] if count else data)
        assert is_known(path, known) is (count == 0)
        assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("whole", [True, False], ids=["read at once", "read in parts"])
def test_whatever_is_changed_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, whole: bool) -> None:
    """Every byte that is no tensor data in turn, and a few of those: the answer is always that of reading the file."""
    monkeypatch.setattr(known_structure, "_WHOLE", 1 << 22 if whole else 0)
    name, one, _ = PAIRS[kind]
    path = tmp_path / name.format(8)
    data = torch_zip(one)
    path.write_bytes(data)
    known = remember(path)
    assert is_known(path, known)
    rng = random.Random(kind)
    with open_checkpoint(path) as checkpoint:
        held = {at for record in checkpoint.records if "/data/" in record.name for at in range(record.offset, record.offset + record.size)}
    framing = [at for at in range(len(data)) if at not in held]
    places = rng.sample(framing, min(len(framing), 120)) + rng.sample(sorted(held), 10)
    served = 0
    for at in places:
        changed = bytearray(data)
        changed[at] ^= rng.choice((1, 2, 0x10, 0x80, 0xFF))
        path.write_bytes(changed)
        served += is_known(path, known)
        assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch), at
    assert served >= 10  # tensor data


def test_a_wrong_checksum_of_the_pickle_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "G_8.pth"
    data = torch_zip(s2(8, 1e-4))
    path.write_bytes(data)
    known = remember(path)
    at = data.index(b"iteration\x8a\x01\x08") + len("iteration") + 2
    path.write_bytes(data[:at] + b"\x09" + data[at + 1 :])
    assert not is_known(path, known)
    (first, second) = look(path, known, monkeypatch)
    assert "checksum" in first["error"]["why"]
    assert first == second


def test_what_stands_elsewhere_under_the_same_key_is_no_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tree(outer: int, inner: int) -> dict[str, object]:
        return {"extra": {"iteration": inner}, **s2(8, 1e-4), "iteration": outer}

    path = tmp_path / "G_8.pth"
    path.write_bytes(torch_zip(tree(8, 8)))
    known = remember(path)
    for outer, inner in ((9, 8), (8, 9), (9, 9)):
        path.write_bytes(torch_zip(tree(outer, inner)))
        assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


def test_a_progress_in_floats_is_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip({"epoch": 8.0, "w": numbers((4, 4))}))
    known = remember(path)
    path.write_bytes(torch_zip({"epoch": 9.0, "w": numbers((4, 4))}))
    assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


def test_a_text_that_is_also_elsewhere_is_no_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`info` and the config's version may be one object, by reference, and change together."""
    path = tmp_path / "x.pth"
    state = generator("v3", "float16")
    known = StructureCache()
    for said in (b"v3", b"v3", b"v4"):
        info, version = Raw(b"X\x02\x00\x00\x00" + said + b"q\x01"), Raw(b"h\x01")
        path.write_bytes(torch_zip({"weight": state, "info": info, "config": {"model": {"version": version}}}))
        assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


@pytest.mark.parametrize("same", [1, 2.5])
def test_floats_that_are_keys_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: float) -> None:
    """Two keys of one value are one entry, so there is a tensor less."""
    path = tmp_path / "x.pth"
    data = torch_zip({"state_dict": {same: tensor("float32", (1,), [1]), 1.5: tensor("float32", (1,), [2])}})
    path.write_bytes(data)
    known = remember(path)
    assert is_known(path, known)
    path.write_bytes(with_pickle(data, pickle_of(data).replace(struct.pack(">d", 1.5), struct.pack(">d", same))))
    assert not is_known(path, known)
    assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


def test_a_name_decides_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version of v3 and v4 files is told by folders, and a name may contradict the content."""
    data = torch_zip({**small(generator("v3", "float16"), "v3"), "config": {}, "info": "8epoch_16iteration"})
    paths = [tmp_path / folder / name for folder in ("SoVITS_weights_v3", "SoVITS_weights_v4", "any") for name in ("a_e8_s16.pth", "a_e9_s16.pth")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    known = remember(paths[0])
    answers = [look(path, known, monkeypatch) for path in paths]
    assert answers == [look(path, StructureCache(), monkeypatch) for path in paths]
    assert len({str(answer[1].facts["warnings"]) for answer in answers if isinstance(answer[1], Inspected)}) > 1


def test_duplicates_are_those_of_the_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tree(*seeds: int) -> dict[str, object]:
        return {f"w{n}": numbers((40, 40), seed=seed) for n, seed in enumerate(seeds)}

    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip(tree(1, 2, 3)))
    known = remember(path)
    for seeds in ((1, 1, 3), (2, 2, 2), (4, 5, 6)):
        path.write_bytes(torch_zip(tree(*seeds)))
        assert is_known(path, known)
        assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


def test_memory_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for count in range(10, 18):
        paths.append(tmp_path / f"{count}.pth")
        paths[-1].write_bytes(torch_zip({f"w{n}": tensor("float32", (1,), [n]) for n in range(count)}))
    limit = 2 * weigh(paths[-1])
    monkeypatch.setattr(structure_cache, "_MOST", limit)
    known = remember(*paths)
    assert [is_known(path, known) for path in paths] == [False] * 6 + [True] * 2
    monkeypatch.setattr(structure_cache, "_MOST", weigh(paths[-1]) - 1)
    assert not is_known(paths[-1], remember(paths[-1]))


def test_sizes_that_came_once_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure_cache, "_MOST_SEEN", 2)
    paths = []
    for count in range(1, 5):
        paths.append(tmp_path / f"{count}.pth")
        paths[-1].write_bytes(torch_zip({f"w{n}": tensor("float32", (1,), [n]) for n in range(count)}))
    assert not any(is_known(path, remember(*paths)) for path in paths)
    assert all(is_known(path, remember(path)) for path in paths)
    again = remember(paths[0], paths[1])
    assert is_known(paths[0], again) and is_known(paths[1], again)


def test_what_is_never_found_again_is_kept_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one size, and each with another number that is no progress, as Lightning's files are."""
    monkeypatch.setattr(structure_cache, "_IN_VAIN", 2)
    paths = [tmp_path / f"{count}.pth" for count in range(5)]
    for count, path in enumerate(paths):
        path.write_bytes(torch_zip({"w": tensor("float32", (1,), [1]), "loops": {"batches": count}}))
    known = remember(*paths)
    assert [is_known(path, known) for path in paths] == [False, True, True, False, False]
    with open_checkpoint(paths[3]) as checkpoint:  # two were found again
        examination = examine(checkpoint)
        known.add(examination, account(examination))
    assert is_known(paths[3], known)
    for path in paths:
        assert look(path, known, monkeypatch) == look(path, StructureCache(), monkeypatch)


def test_nothing_is_kept_of_a_huge_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(data := torch_zip({"w": tensor("float32", (1,), [1])}))
    for size, kept in ((len(pickle_of(data)), True), (len(pickle_of(data)) - 1, False)):
        monkeypatch.setattr(known_structure, "_LARGEST_PICKLE", size)
        assert is_known(path, remember(path)) is kept


def test_the_weight_is_about_what_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    write(sovits_weights(Maker(tiny=True), "x", "v2", 1, 10), path)
    tracemalloc.start()
    try:
        known = remember(path)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert is_known(path, known)
    assert taken / 2 < weigh(path) < 2 * taken


def weigh(path: Path) -> int:
    with open_checkpoint(path) as checkpoint:
        examination = examine(checkpoint)
        return known_structure.find_structure(examination, account(examination)).weight


def test_nothing_is_kept_of_what_comes_once(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip({"w": tensor("float32", (1,), [1])}))
    known = StructureCache()
    with open_checkpoint(path) as checkpoint:
        examination = examine(checkpoint)
        known.add(examination, account(examination))
    assert not is_known(path, known)


@pytest.mark.parametrize("data", [b"", b"PK", struct.pack("<4s18x", b"PK\x05\x06")])
def test_what_is_no_checkpoint_has_no_known_structure(tmp_path: Path, data: bytes) -> None:
    good, bad = tmp_path / "good.pth", tmp_path / "bad.pth"
    good.write_bytes(torch_zip({"w": tensor("float32", (1,), [1])}))
    bad.write_bytes(data)
    assert not is_known(bad, remember(good))
