"""prune on whole folders of GPT-SoVITS at random: what is no save, and the newest sound save of each run, is never planned for removal, and what is
planned is what the rules say. What each file is, and what the rules are, is told without any code of the program.

GSVCKPT_PRUNE_SEED=N runs the one tree that a failure names.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pytest
import soak

from .evidence_trees import DAY, Save, Tree, make_tree

TREES = soak.count(2000)
CHUNKS = 10
FIRST = int(soak.SEED)
ONE = os.environ.get("GSVCKPT_PRUNE_SEED")
SCOPES = (".", "GPT-SoVITS", "GPT-SoVITS", "GPT-SoVITS/logs")
GLOBS = ("*_e[2-5]_*", "*16*", "*-e?.ckpt", "G_*", "epoch=*", "checkpoint-*00", "step-[1-3]*", "alice*")


@dataclass
class Rules:
    """What a user asks for. `loosely`: options of which only the promises are judged here."""

    last: int | None = None
    every: int | None = None
    steps: bool = False
    within: int | None = None  # days
    keep: str | None = None
    loosely: tuple[str, ...] = ()

    def words(self) -> list[str]:
        told = {"--keep-last": self.last, "--keep-every": self.every and f"{self.every}{'steps' if self.steps else ''}", "--keep": self.keep}
        told["--keep-within"] = self.within and f"{self.within}d"
        return [word for name, value in told.items() if value is not None for word in (name, str(value))] + list(self.loosely)


def random_rules(rng: random.Random) -> Rules:
    rules = Rules()
    for name in rng.sample(("last", "last", "last", "every", "within", "keep"), rng.choice((1, 1, 2, 3))):
        if name == "every":
            rules.steps = rng.random() < 0.4
            rules.every = rng.choice((16, 50, 64, 200) if rules.steps else (2, 3, 5))
        else:
            setattr(rules, name, {"last": rng.randint(1, 3), "within": rng.randint(1, 60), "keep": rng.choice(GLOBS)}[name])
    if rng.random() < 0.2:
        rules.loosely = rng.choice((("--max-size", str(rng.randint(1, 200_000))), ("--demote-after", "1")))
    return rules


def kept_by(rules: Rules, sound: list[Save]) -> tuple[bool, set[Save]]:
    """Whether a rule is about these saves of one run, the newest first, and which of them one keeps."""
    about, kept = False, set[Save]()
    if rules.last is not None:
        about, kept = True, kept | set(sound[: rules.last])
    if rules.every is not None:
        by_steps = rules.steps or all(one.epoch is None for one in sound)
        place = {one: one.step if by_steps else one.epoch for one in sound}
        about = about or any(number is not None for number in place.values())
        last = {place[one]: one for one in reversed(sound)}  # of several saves of one epoch the newest
        kept |= {one for number, one in last.items() if number is not None and number % rules.every == 0}
    if rules.within is not None and sound:
        about = True
        kept |= {one for one in sound if one.mtime >= sound[0].mtime - rules.within * DAY}
    if rules.keep is not None:
        about = True
        kept |= {one for one in sound if any(fnmatchcase(os.path.basename(name), rules.keep) for name in (*one.files, one.folder))}
    return about, kept


def expected(rules: Rules, members: list[Save]) -> tuple[set[Save], bool]:
    """Of one run's saves those that must go, and whether none of it may go."""
    ordered = sorted(members, key=lambda one: (one.order, one.mtime), reverse=True)
    sound = [one for one in ordered if not one.hurt]
    about, kept = kept_by(rules, sound)
    guarded = any(one.guarded for one in ordered if one.hurt != "known")
    if not about or (not kept and not guarded):
        return set(), True
    return {one for one in sound[1:] if one not in kept and not one.guarded}, False


def check(tree: Tree, scope: str, rules: Rules, plan) -> set[str]:
    """Judge a plan. The files that it takes."""
    root = tree.root
    fates = {
        os.path.relpath(path, root): fate
        for group in plan["groups"]
        for fate in ("keep", "remove", "demote")
        for entry in group[fate]
        for path in entry["paths"]
    }
    gone = {name for name, fate in fates.items() if fate == "remove"}
    shrunk = {name for name, fate in fates.items() if fate == "demote"}
    of_saves = {name for one in tree.saves for name in one.files}
    strays = tree.strays if scope != "GPT-SoVITS/logs" else set()
    assert not (gone | shrunk) - of_saves - strays, "what is no save is to go"
    assert strays <= gone, "what an interrupted save left stays"
    runs: dict[tuple[str, bool], list[Save]] = {}
    for one in tree.saves:
        if scope == "." or one.files[0].startswith(f"{scope}/"):
            runs.setdefault((one.run, one.again), []).append(one)
    assert gone - strays <= {name for members in runs.values() for one in members for name in one.files}, "what was not asked about is to go"
    for run, members in runs.items():
        must, none_may = expected(rules, members)
        newest = max((one for one in members if not one.hurt), key=lambda one: (one.order, one.mtime), default=None)
        for one in members:
            parted = {name in gone for name in one.files}
            assert len(parted) == 1, f"{one} is parted"
            goes = parted.pop()
            changes = goes or any(name in shrunk for name in one.files)
            assert not (one is newest and changes), f"{one} is the newest sound one of {run}"
            assert not (one.guarded and changes), f"{one} is guarded"
            assert not (one.hurt == "known" and changes), f"{one} is damaged"
            if not rules.loosely and one.hurt != "hidden":
                rests = any(other.hurt for other in members) and not any(name in gone for other in members for name in other.files)
                assert goes == (one in must) or rests, f"{one} {'goes' if goes else 'stays'}, against {rules}, in {run}"
                assert not (goes and none_may), f"{one} goes, where the rules keep none of {run}"
    return gone


def judge(gsvckpt, base, rng: random.Random) -> int:
    """Plan a prune of one tree, and in some carry it out. How many files the plan takes."""
    tree = make_tree(base / "tree", rng)
    rules, scope = random_rules(rng), rng.choice(SCOPES)
    before = sorted(tree.root.rglob("*"))
    files = {path for path in before if path.is_symlink() or not path.is_dir()}
    os.chdir(tree.root)
    words = ["prune", rng.choice((str(tree.root / scope), scope, f"./{scope}", f"{scope}/")), *rules.words()]
    dry = gsvckpt(*words, "--dry-run", "--json")
    assert sorted(tree.root.rglob("*")) == before
    if dry.code == 3:
        assert "holds no checkpoint" in dry.err
        assert not [one for one in tree.saves if scope == "." or one.files[0].startswith(f"{scope}/")]
        return 0
    assert dry.code == 0, dry.err
    gone = check(tree, scope, rules, dry.document)
    if not rules.loosely and rng.random() < 0.1:
        assert gsvckpt(*words, "--purge", "--yes", "--json").code == 0
        assert {path for path in tree.root.rglob("*") if path.is_symlink() or not path.is_dir()} == files - {tree.root / name for name in gone}
    return len(gone)


@pytest.mark.parametrize("chunk", [0] if ONE else range(CHUNKS))
def test_nothing_goes_but_old_saves(gsvckpt, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # no power fails here
    monkeypatch.chdir(tmp_path)
    seeds = [int(ONE)] if ONE else [FIRST + number for number in range(chunk, TREES, CHUNKS)]
    gone = 0
    for seed in seeds:
        base = tmp_path / str(seed)
        base.mkdir()
        try:
            gone += judge(gsvckpt, base, random.Random(seed))
        except BaseException as error:
            os.chdir(tmp_path)
            raise AssertionError(f"tree {seed} (GSVCKPT_PRUNE_SEED={seed} runs it alone): {error}") from error
        os.chdir(tmp_path)
        shutil.rmtree(base)
    soak.tally("prune on whole folders of GPT-SoVITS, each file labelled", trees=len(seeds), files_planned_for_removal=gone)
