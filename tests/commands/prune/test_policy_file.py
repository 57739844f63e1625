"""Policies from files: what counts for which group, and the line of every mistake. Sizes and durations as people write them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsvckpt.commands.prune.policy import Every, Policy
from gsvckpt.commands.prune.policy_file import Policies, read_policies
from gsvckpt.commands.verify.manifest import MARK, NAME, ManifestEntry, record
from gsvckpt.engine.saves import Group
from gsvckpt.errors import MissingError, UsageError
from gsvckpt.files.toml import find_line
from gsvckpt.units import parse_duration, parse_size

ALICE = Group("/logs/alice/logs_s2_v2", "alice", "sovits-training", "v2")
BOB = Group("/logs/bob/logs_s1", "bob", "gpt-training")


def read(folder: Path, text: str | bytes, name: str = "policy.toml") -> Policies:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_policies(str(folder / name))


# --- what they say -------------------------------------------------------------------------------------------------------------------------------


def test_every_key(tmp_path: Path) -> None:
    text = """
        [prune]
        keep-last = 3
        keep-best = 2
        metric = "loss/g/total"
        mode = "min"
        keep-every = 10
        keep-within = "7d"
        keep = ["*best*", "alice-e10.ckpt"]
        max-size = "20GB"
        demote-after = 1
        demote-to = "inference"
    """
    everything = Policy(3, 2, Every(10), 604_800, ("*best*", "alice-e10.ckpt"), 20 * 10**9, 1, "inference", "loss/g/total", "min")
    assert read(tmp_path, text) == Policies(everything, path=str(tmp_path / "policy.toml"))
    assert read(tmp_path, "[prune]\n").path is None
    own = text.replace("[prune]", "[prune.groups.'*']").replace('max-size = "20GB"', "")
    assert read(tmp_path, own).of(BOB, Policy(max_size=20 * 10**9)) == everything
    assert read(tmp_path, "[prune]\nkeep = '*x'\nmax-size = 512").general == Policy(keep=("*x",), max_size=512)
    assert read(tmp_path, "prune.keep-last = 2").general == read(tmp_path, "prune = {keep-last = 2}").general == Policy(last=2)


def test_the_command_line_is_over_the_groups_table_and_that_over_all(tmp_path: Path) -> None:
    policies = read(
        tmp_path,
        """
        [prune]
        keep-last = 5
        keep-every = 10
        [prune.groups."alice/*"]
        keep-last = 1
        mode = "max"
        [prune.groups.bob]
        keep-best = 2
        [prune.groups."*/v2"]
        keep-last = 9
        """,
    )
    assert policies.of(ALICE, Policy()) == Policy(last=1, every=Every(10), mode="max")
    assert policies.of(ALICE, Policy(last=7, keep=("x",))) == Policy(last=7, every=Every(10), mode="max", keep=("x",))
    assert policies.of(BOB, Policy()) == Policy(last=5, best=2, every=Every(10))  # by its name alone
    assert policies.of(ALICE._replace(name="carol"), Policy()) == Policy(last=9, every=Every(10))
    assert policies.of(ALICE._replace(name="Alice", version=None), Policy()) == Policy(last=5, every=Every(10))
    assert policies.of(ALICE._replace(name="alice/x"), Policy()).last == 1
    assert Policies().of(BOB, Policy(last=1)) == Policy(last=1)


@given(
    st.lists(
        st.tuples(st.sampled_from(["*", "alice", "alice/*", "*/v2", "bob*", "*training*", "[ab]*", "ALICE"]), st.integers(1, 9)),
        unique_by=lambda pair: pair[0],
    )
)
@settings(max_examples=60, deadline=None)
def test_the_first_table_that_matches_counts(tmp_path_factory: pytest.TempPathFactory, tables: list[tuple[str, int]]) -> None:
    from fnmatch import translate
    from re import match

    text = "[prune]\n" + "".join(f'[prune.groups."{glob}"]\nkeep-last = {count}\n' for glob, count in tables)
    policies = read(tmp_path_factory.getbasetemp(), text)
    for group, label in ((ALICE, "alice/sovits-training/v2"), (BOB, "bob/gpt-training")):
        expected = [count for glob, count in tables if match(translate(glob), label) or match(translate(glob), group.name)]
        assert policies.of(group, Policy()).last == (expected[0] if expected else None)


# --- in a manifest -------------------------------------------------------------------------------------------------------------------------------


def test_a_manifest_may_have_a_policy_and_other_tables(tmp_path: Path) -> None:
    assert read(tmp_path, "owner = 'me'\n[files]\n'a' = {size = 1}\n", NAME) == Policies()
    assert read(tmp_path, "# no table [prune]\nowner = 'prune'\n", NAME) == Policies()
    assert read(tmp_path, "[other]\nx = 1\n[prune]\nkeep-last = 3\n", NAME).general.last == 3
    record(str(tmp_path), [ManifestEntry("G_1.pth", 1, 1)])
    assert read_policies(str(tmp_path / NAME)).general.last == 3
    text = (tmp_path / NAME).read_text()
    assert read(tmp_path, text + "\nthis is no TOML", NAME).general.last == 3  # what is recorded is not looked at
    assert read(tmp_path, text.replace("[prune]\nkeep-last = 3\n", "") + "\n[prune]\nkeep-last = 4\n", NAME).general.last == 4
    assert MARK in text


def test_a_policy_for_a_manifest_is_judged_as_any(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, "[files]\n[prune]\nkeep-lst = 3\n", NAME)
    assert (caught.value.where, caught.value.hint.text) == (f"{tmp_path / NAME}:3", "did you mean keep-last?")


# --- mistakes and their lines --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "why", "hint"),
    [
        ("", 1, "has no table [prune]", "begin with a line [prune], and a line keep-last = 3 below it"),
        ("\nkeep-last = 3", 2, "unknown key `keep-last`", "begin with a line [prune], and a line keep-last = 3 below it"),
        ("[prun]\nkeep-last = 3", 1, "unknown key `prun`", "did you mean prune?"),
        ("[prune]\n[files]", 2, "unknown key `files`", "begin with a line [prune], and a line keep-last = 3 below it"),
        ("prune = 3", 1, "`prune` must be a table", "begin with"),
        ("[[prune]]\nkeep-last = 3", 1, "`prune` must be a table", "begin with"),
        ("[prune]\nkeep-last = 3\nkeep-lats = 3", 3, "unknown key `keep-lats`", "did you mean keep-last?"),
        ("[prune]\nzzz = 3", 2, "unknown key `zzz`", "known ones: keep-last, keep-best, "),
        ("[prune]\nkeep-last = 0", 2, "`keep-last` must be a whole number of at least 1", "keep-last = 3"),
        ("[prune]\nkeep-best = -1", 2, "`keep-best` must be a whole number of at least 1", "keep-best = 3"),
        ("[prune]\nkeep-every = 1.5", 2, "`keep-every` must be text", "put it between quotes"),
        ("[prune]\ndemote-after = true", 2, "`demote-after` must be a whole number of at least 1", ""),
        ("[prune]\nkeep-last = '3'", 2, "`keep-last` must be a whole number of at least 1", ""),
        ("[prune]\nmode = 'low'", 2, "`mode` must be one of min, max", 'mode = "min"'),
        ("[prune]\nmode = ['min']", 2, "`mode` must be one of min, max", ""),
        ("[prune]\ndemote-to = 'small'", 2, "`demote-to` must be one of stripped, inference", 'demote-to = "stripped"'),
        ("[prune]\nkeep = []", 2, "`keep` must be a glob or a list of globs", 'keep = ["*best*", "*-e10.ckpt"]'),
        ("[prune]\nkeep = ['a', 3]", 2, "`keep` must be a glob", ""),
        ("[prune]\nkeep = ['']", 2, "`keep` must be a glob", ""),
        ("[prune]\nkeep = 3", 2, "`keep` must be text", "put it between quotes"),
        ("[prune]\nmetric = ''", 2, "`metric` is empty", ""),
        ("[prune]\nkeep-within = 7", 2, "`keep-within` must be text", "put it between quotes"),
        ("[prune]\nkeep-within = '7'", 2, "'7' must be a duration", "7d, 36h, 2w or 90min"),
        ("[prune]\nmax-size = 'big'", 2, "'big' must be a size", "500MB, 4GiB or a number of bytes"),
        ("[prune]\nmax-size = 0", 2, "'0' must be a size", ""),
        ("[prune]\nmax-size = true", 2, "`max-size` must be text", ""),
        ("[prune]\ngroups = 3", 2, "`groups` must be a table", 'name them in headers: [prune.groups."alice/*"]'),
        ("[prune.groups]\nalice = 3", 2, "`alice` must be a table", ""),
        ("[prune.groups.'']\nkeep-last = 3", 1, "a group's glob is empty", ""),
        ("[prune]\n\n[prune.groups.'a/*']\nkeep-last = 1\nmax-size = '1GB'", 5, "`max-size` applies to all groups together", "put it below [prune]"),
        ("[prune]\nkeep-last = 3\n[prune.groups.'a']\nkeep-last = 1\n[prune.groups.'b']\nkeep-last = 0", 6, "`keep-last` must be a whole number", ""),
        ("[prune.groups.'x=[#]*']\n# keep-bst\nkeep-bst = 1", 3, "unknown key `keep-bst`", "did you mean keep-best?"),
        ('[prune]\ngroups = {a = {"keep-last" = 0}}', 2, "`keep-last` must be a whole number", ""),
        ("[prune]\ngroups.a.groups = {}", 2, "unknown key `groups`", ""),
        ("[prune\nkeep-last = 3", 1, "is not valid TOML", ""),
        (b"[prune]\n# \xff", 2, "is not UTF-8 text", "save it as UTF-8"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_mistakes(tmp_path: Path, text: str | bytes, line: int, why: str, hint: str, newline: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text if isinstance(text, bytes) else text.replace("\n", newline))
    assert caught.value.where == f"{tmp_path / 'policy.toml'}:{line}"
    assert caught.value.why.startswith(why)
    assert caught.value.hint.text.startswith(hint)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        read_policies(str(tmp_path / "none.toml"))
    with pytest.raises(MissingError):
        read_policies(str(tmp_path / NAME))


def test_the_line_of_any_key() -> None:
    text = 'a = 1\n[b]\nc.d = """\ne = 1\n"""\n"x.y" = {z = 2}\n[b.f]\n[[g]]\nh = 1\n[[g]]\nh = 2'
    expected = {
        "": 1,
        "a": 1,
        "b": 2,
        "b c": 3,
        "b c d": 3,
        "b x.y": 6,
        "b x.y z": 6,
        "b f": 7,
        "g": 8,
        "g h": 9,
        "b missing": 2,
        "missing": 1,
        "e": 1,
    }
    assert {keys: find_line(text, keys.split()) for keys in expected} == expected


# --- quantities ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7d", 604_800),
        ("36h", 129_600),
        ("2w", 1_209_600),
        ("90min", 5400),
        ("45s", 45),
        (" 1.5 D ", 129_600),
        ("1d12h", 129_600),
        ("1w 2d", 777_600),
        ("2 days", 172_800),
        ("1 hour", 3600),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text, "--keep-within") == seconds


@pytest.mark.parametrize(
    "text", ["", "7", "d", "0d", "-7d", "7m", "7 monats", "1d-2h", "7d x", "0.1s", "9" * 5000 + "d", "inf d", "s", "7ds", "\u0667d"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text, "--keep-within")
    assert (caught.value.where, caught.value.hint.text) == ("--keep-within", "7d, 36h, 2w or 90min")


@given(st.integers(1, 10**9), st.sampled_from([("w", 604_800), ("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)]))
def test_a_duration_is_its_number_of_units(count: int, save: tuple[str, int]) -> None:
    assert parse_duration(f"{count}{save[0]}", "x") == count * save[1]


@given(st.text(max_size=12), st.sampled_from([parse_size, parse_duration]))
def test_any_text_is_a_quantity_or_a_usage_error(text: str, parse) -> None:
    with suppress(UsageError):
        assert parse(text, "x") > 0
