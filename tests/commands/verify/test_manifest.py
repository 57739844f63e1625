"""The manifest: what is read back is what was recorded, others' words stay, and two that record at once lose nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gsvckpt.commands.verify.checks.of_manifest import compare
from gsvckpt.commands.verify.manifest import NAME, ManifestEntry, read_manifest, record
from gsvckpt.errors import DamagedError, OutputError, RefusedError
from gsvckpt.files.lock import locked

ENTRY = ManifestEntry(
    "G_16.pth", 100, 1_700_000_000_000_000_123, "sovits-generator-training", "v2", 8, None, {"xxh3_128": "ab" * 16, "content": "cd" * 16}
)

names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda name: name not in (".", "..")
)
entries = st.builds(
    ManifestEntry,
    names,
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
    st.none() | st.just("v2"),
    st.none() | st.integers(0, 2**40),
    st.none() | st.integers(0, 2**40),
    st.dictionaries(st.sampled_from(["xxh3_128", "sha256", "md5", "content"]), st.text("0123456789abcdef", max_size=8)),
    st.dictionaries(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8), st.text("0123456789abcdef", max_size=8)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(entries, max_size=4, unique_by=lambda entry: entry.name))
def test_what_is_recorded_is_read_back(tmp_path: Path, given_entries: list[ManifestEntry]) -> None:
    (tmp_path / NAME).unlink(missing_ok=True)
    path = record(str(tmp_path), given_entries)
    manifest = read_manifest(path)
    assert manifest is not None
    assert dict(manifest.entries) == {entry.name: entry for entry in given_entries}


def test_entries_are_renewed_and_others_stay(tmp_path: Path) -> None:
    record(str(tmp_path), [ENTRY, ENTRY._replace(name="D_16.pth")])
    record(str(tmp_path), [ENTRY._replace(size=7)])
    found = read_manifest(str(tmp_path / NAME)).entries
    assert (found["G_16.pth"].size, found["D_16.pth"].size) == (7, 100)


MARK = "# --- written by gsvckpt verify --record; what stands below is written anew each time ---\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "own", ["# my own rules\n[prune]\nkeep-last = 3 # three\n", "owner = 'me' # keep\n", "# note: " + MARK, "[filesystem]\nfiles = 3\n"]
)
def test_what_the_user_wrote_stays_word_for_word(tmp_path: Path, own: str, newline: str) -> None:
    (tmp_path / NAME).write_bytes(b"\xef\xbb\xbf" + own.replace("\n", newline).encode())
    for number in range(3):
        record(str(tmp_path), [ENTRY._replace(name=f"{number}.pth")])
        text = (tmp_path / NAME).read_bytes().decode()
        assert text.startswith(own.replace("\n", newline))
        assert ("\r" in text) == (newline == "\r\n")
    assert len(read_manifest(str(tmp_path / NAME)).entries) == 3


@pytest.mark.parametrize("added", ["\n# added\n[policy] # here\nx = 1\n", "# a last word\n"])
def test_what_is_added_at_the_end_stays(tmp_path: Path, added: str) -> None:
    record(str(tmp_path), [ENTRY])
    with (tmp_path / NAME).open("a") as file:
        file.write(added)
    for number in range(2):
        record(str(tmp_path), [ENTRY._replace(name=f"{number}.pth")])
        assert (tmp_path / NAME).read_text().count(added.strip()) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('[files."b.pth"]', '[notes]\nwhy = "b"\n\n[files."b.pth"]'),
        ('[files."b.pth"]', '# mine\n[files."b.pth"]'),
        ('[files."a.pth"]', 'owner = "x" # keep\n[files."a.pth"]'),
        ('[files."a.pth"]', '[notes]\nwhy = 1\n[files."a.pth"]'),
        (MARK, ""),
    ],
    ids=["table between", "comment between", "key", "table first", "no mark"],
)
def test_words_that_cannot_be_kept_are_never_lost(tmp_path: Path, old: str, new: str) -> None:
    record(str(tmp_path), [ENTRY._replace(name="a.pth"), ENTRY._replace(name="b.pth")])
    text = (tmp_path / NAME).read_text()
    assert old in text
    changed = text.replace(old, new) + ("# mine\n" if not new else "")
    (tmp_path / NAME).write_text(changed)
    with pytest.raises(RefusedError, match=r"your edits|others wrote"):
        record(str(tmp_path), [ENTRY])
    assert (tmp_path / NAME).read_text() == changed


def test_an_entry_that_the_user_took_out_stays_out(tmp_path: Path) -> None:
    record(str(tmp_path), [ENTRY._replace(name="a.pth"), ENTRY._replace(name="b.pth")])
    text = (tmp_path / NAME).read_text()
    (tmp_path / NAME).write_text(text[: text.index('[files."b.pth"]')])
    record(str(tmp_path), [ENTRY._replace(name="c.pth")])
    assert set(read_manifest(str(tmp_path / NAME)).entries) == {"a.pth", "c.pth"}


def test_forgetting(tmp_path: Path) -> None:
    record(str(tmp_path), [ENTRY, ENTRY._replace(name="old.pth")])
    record(str(tmp_path), [], forget=lambda name: name == "old.pth")
    assert set(read_manifest(str(tmp_path / NAME)).entries) == {"G_16.pth"}


def test_none_is_none(tmp_path: Path) -> None:
    assert read_manifest(str(tmp_path / NAME)) is None


@pytest.mark.parametrize(
    "text",
    [
        "x = ",
        "files = 3",
        "[files.a]\nsize = 1",
        "[files.a]\nsize = '1'\nmtime_ns = 1",
        "[files.'../a']\nsize = 1\nmtime_ns = 1",
        "[files.a]\nsize=1\nmtime_ns=1\nkind=2",
        "\xff",
    ],
)
def test_one_that_makes_no_sense_is_an_error_and_is_never_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedError):
        read_manifest(str(tmp_path / NAME))
    with pytest.raises(DamagedError):
        record(str(tmp_path), [ENTRY])
    assert (tmp_path / NAME).read_bytes() == text.encode("latin-1")
    assert os.listdir(tmp_path) == [NAME]


def test_many_processes_that_record_at_once_lose_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from gsvckpt.commands.verify.manifest import *\n"
        "for n in range(15): record(sys.argv[1], [ManifestEntry(f'{sys.argv[2]}-{n}.pth', n, n, digests={'xxh3_128': 'ab'})])"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, tmp_path, str(number)], cwd=Path(__file__).parents[3]) for number in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert len(read_manifest(str(tmp_path / NAME)).entries) == 60
    assert os.listdir(tmp_path) == [NAME]


def test_a_lock_that_is_never_given_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gsvckpt.files import lock

    monkeypatch.setattr(lock, "_PATIENCE", 0.05)
    with locked(str(tmp_path)), pytest.raises(OutputError, match="another process"), locked(str(tmp_path)):
        pass
    assert os.listdir(tmp_path) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    program = "import sys, os; from gsvckpt.files.lock import locked\nwith locked(sys.argv[1]): os._exit(9)"
    subprocess.run([sys.executable, "-c", program, tmp_path], check=False, cwd=Path(__file__).parents[3])
    assert os.listdir(tmp_path) == [".gsvckpt.lock"]
    with locked(str(tmp_path)):
        pass
    assert os.listdir(tmp_path) == []


NOON = 1_700_000_000_123_000_000  # ns


@pytest.mark.parametrize(
    ("size", "mtime", "digest", "check"),
    [
        (100, 1, "aa", None),
        (100, 2, "aa", None),  # touched
        (100, 1, "bb", "manifest.bit-rot"),
        (100, 2, "bb", "manifest.changed"),
        (100, 1.05, "bb", "manifest.bit-rot"),  # NTFS counts in steps of 100 ns
        (101, 1, "bb", "manifest.changed"),
        (100, 1, None, None),
        (101, 1, None, "manifest.changed"),
        (100, 2, None, "manifest.changed"),
    ],
)
def test_comparing(size: int, mtime: float, digest: str | None, check: str | None) -> None:
    entry = ManifestEntry("x", 100, NOON + 1_000, digests={"xxh3_128": "aa"})
    found = compare(entry, size, NOON + round(mtime * 1_000), {"xxh3_128": digest} if digest else {}, {})
    assert [finding.check for finding in found] == ([check] if check else [])


def test_altered_tensors_are_named() -> None:
    entry = ManifestEntry("x", 1, 1, digests={"xxh3_128": "aa"}, tensors={"dec.a": "1", "dec.b": "2"})
    (finding,) = compare(entry, 1, 1, {"xxh3_128": "bb"}, {"dec.a": "1", "dec.b": "3"})
    assert "dec.b" in finding.why
    assert "dec.a" not in finding.why
