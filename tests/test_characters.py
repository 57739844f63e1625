"""Characters that turn or hide text are escaped in every text that is shown or written; letters of all scripts stay. Hostile names, by real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from cli.samples import Program, environment, generator, s2_training, save, weights

from gsvckpt.characters import escape_json, escape_shown, escape_toml, escape_yaml, is_plain
from gsvckpt.commands.bundle.yaml import to_yaml
from gsvckpt.commands.verify.checksum_files import read_checksums, write_checksums
from gsvckpt.commands.verify.manifest import NAME, ManifestEntry, read_manifest, record
from gsvckpt.files.toml import parse
from gsvckpt.formats.safetensors import lay_out_shards

TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
CONTROLS = "\x1b\x07\x7f\x80\x85\x9b\x9f\u2028\u2029"
HIDING = "\u200b\u200c\u200d\u2060\u2064\ufeff\u00ad\u034f\u180b\u180e\u3164\u115f\uffa0\U000e0041\U000e0001\u2800\ufff9"
HOSTILE = TURNING + CONTROLS + HIDING
PLAIN = [
    "声音_e8_s200",
    "聲音·甲",
    "まちがい",
    "목소리",
    "голос",
    "صوت",
    "קול",
    "ñandú",
    "é",
    "😀",
    "葛\U000e0100城",
    "❤\ufe0f",
    "हिन्दी",
    "𠮷野家",
    "x y",
]
ODD = [f"a{char}b" for char in HOSTILE] + ["x\ufe0f", "声\ufe00\ufe01", "\ufe00", "😀\U000e0100\U000e0101", "\u200b\ufe0f"]


@pytest.mark.parametrize("text", PLAIN)
def test_letters_of_all_scripts_stay(text: str) -> None:
    assert is_plain(text)
    assert [spell(text) for spell in (escape_shown, escape_toml, escape_json, escape_yaml)] == [text] * 4


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_what_turns_or_hides_text_is_escaped_and_reads_back(text: str) -> None:
    assert not is_plain(text)
    for shown in (escape_shown(text), escape_toml(f'k = "{text}"'), escape_json(f'"{text}"'), escape_yaml(f'"{text}"')):
        assert is_plain(shown)
    if text.isprintable() or unicodedata.category(text[1]) != "Cc":
        assert parse("x", escape_toml(f'k = "{text}"')) == {"k": text}
    assert json.loads(escape_json(json.dumps(text, ensure_ascii=False))) == text
    assert yaml.safe_load(to_yaml({"k": text})) == {"k": text}
    assert is_plain(to_yaml({text: [text]}).replace("\n", ""))


def test_every_character_that_unicode_calls_ignorable_or_a_control_is_one_of_them() -> None:
    """By category, so that no class of them is forgotten; spaces of other widths are escaped as well."""
    for point in (*range(0x80, 0x3100), *range(0xFE00, 0x10000), *range(0xE0000, 0xE0200)):
        char = chr(point)
        if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs"):
            assert not is_plain(f"a{char}"), hex(point)


# --- what is written -------------------------------------------------------------------------------------------------------------------------------

NAMES = ["声音_e8.pth", "a\u202ehtp.exe.pth", "b\u200b.pth", "b.pth", "c\u2066d.pth", "n\x9bm.pth", "l\u2028m.pth", "葛\U000e0100.pth"]
POSIX = pytest.mark.skipif(os.name == "nt", reason="such names are none on Windows")


def assert_plain(data: bytes) -> str:
    text = data.decode()
    assert [line for line in text.split("\n") if not is_plain(line)] == []
    return text


def test_a_manifest(tmp_path: Path) -> None:
    entries = [ManifestEntry(name, number, number, tensors={f"w\u202e{number}": "0" * 32, "声": "1" * 32}) for number, name in enumerate(NAMES)]
    for once in (entries[:4], entries[4:], entries):  # renewed, what was there stays
        record(str(tmp_path), once)
    text = assert_plain((tmp_path / NAME).read_bytes())
    assert '"声音_e8.pth"' in text
    assert '"a\\u202ehtp.exe.pth"' in text
    assert read_manifest(str(tmp_path / NAME)).entries == {entry.name: entry for entry in entries}


def test_what_others_wrote_into_a_manifest_stays_word_for_word(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('owner = "\u202eme"\n', encoding="utf-8")
    record(str(tmp_path), [ManifestEntry(NAMES[1], 1, 1)])
    assert (tmp_path / NAME).read_text(encoding="utf-8").startswith('owner = "\u202eme"\n')


@POSIX
@pytest.mark.parametrize("tool", ["sha256sum", "md5sum"])
def test_a_checksum_file_is_checked_by_the_tool_itself(tmp_path: Path, tool: str) -> None:
    """It knows no escape but for line ends and backslashes, so names stand as they are, below a comment that shows what is in them."""
    names = [*NAMES, "x\ny\u202e.pth", "back\\slash\u200b.pth"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    listed = []
    for name in names:
        told = subprocess.run([tool], input=name.encode(), capture_output=True, check=True).stdout
        listed.append((str(tmp_path / name), told.split()[0].decode()))
    path = tmp_path / ("x.md5" if tool == "md5sum" else "SUMS")
    write_checksums(str(path), listed, overwrite=False)
    subprocess.run([tool, "-c", "--strict", "--quiet", path.name], cwd=tmp_path, check=True)
    read = read_checksums(str(path))
    assert ({(line.path, line.digest) for line in read.listed.values()}, read.malformed) == (set(listed), ())
    lines = path.read_text(encoding="utf-8").split("\n")
    for above, line in zip(["", *lines], lines, strict=False):
        name = line.lstrip("\\")[len(listed[0][1]) + 2 :]
        if not line.startswith("#"):
            assert above.startswith("#") is not is_plain(name)
            assert not above.startswith("#") or above.endswith(f": {escape_shown(name)}")
        else:
            assert is_plain(line)


def test_the_index_of_shards() -> None:
    from support.builders import read, torch_zip

    checkpoint = read(torch_zip(weights({"声.w": (2, 2), "a\u202e.w": (2, 2), "b\u200b": (2,)})))
    _, index = lay_out_shards(checkpoint.root, lambda storage: storage.dtype, {"note": "\u2066x"}, "PK", (), {}, 8)
    text = assert_plain(index)
    assert '"声.w"' in text
    assert list(json.loads(text)["weight_map"]) == ["声.w", "a\u202e.w", "b\u200b"]


@POSIX
def test_hostile_names_through_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gsvckpt, folder = Program(capsys), tmp_path / "voices"
    for name in NAMES:
        save(folder / name, weights({"w\u202e": (2, 2 + NAMES.index(name))}))
    assert gsvckpt("verify", folder, "--record", "--backup", tmp_path / "copies", "--write-checksums", tmp_path / "SUMS").code == 0
    assert set(read_manifest(str(folder / NAME)).entries) == set(NAMES)
    assert set(read_manifest(str(tmp_path / "copies" / "voices" / NAME)).entries) == set(NAMES)
    for path in tmp_path.rglob(NAME):
        assert_plain(path.read_bytes())
    for form in ("table", "json", "junit", "sarif"):
        run = gsvckpt("verify", folder, "--format", form)
        assert run.code == 0
        text = assert_plain(run.out.encode())
        if form == "json":
            assert {os.path.basename(file["path"]) for file in json.loads(text)["files"]} == set(NAMES)
        if form == "junit":
            assert "声音_e8.pth" in text
            ET.fromstring(text)  # noqa: S314 - our own


@POSIX
def test_hostile_names_in_the_trash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gsvckpt = Program(capsys)
    for epoch in range(3):
        save(tmp_path / f"a\u202e声-e{epoch}.ckpt", weights({"w": (2, 2)}))
    assert gsvckpt("prune", tmp_path, "--keep-last", "1", "--yes").code == 0
    (journal,) = tmp_path.rglob("journal.jsonl")
    assert_plain(journal.read_bytes())
    assert gsvckpt("prune", tmp_path, "--undo").code == 0
    assert len(list(tmp_path.glob("a\u202e声-e*.ckpt"))) == 3


@POSIX
def test_hostile_names_in_a_bundle(tmp_path: Path) -> None:
    experiment = tmp_path / "logs" / "ali\u202ece声"
    save(experiment / "logs_s2_v2" / "G_16.pth", s2_training(generator("v2", enc_q=True)))
    (experiment / "train.log").write_text("epoch 1\n", encoding="utf-8")
    command = [sys.executable, "-m", "gsvckpt", "migrate", str(experiment), "--bundle", str(tmp_path / "voice"), "--json"]
    run = subprocess.run(command, capture_output=True, env=environment(), check=False)
    assert run.returncode == 3, run.stderr.decode()  # there are no small weights
    written = [path for path in (tmp_path / "voice").rglob("*") if path.suffix in (".toml", ".yaml", ".json", ".txt")]
    assert written
    for path in written:
        assert_plain(path.read_bytes())
