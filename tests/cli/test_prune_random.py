"""prune on random trees, policies and damages, judged by a model of the rules that shares no code with the program.

GSVCKPT_PRUNE_SEED=N runs the one tree that a failure names; GSVCKPT_PRUNE_TREES=N sets how many there are.
"""

from __future__ import annotations

import csv
import math
import os
import random
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pytest
import soak
import tomli

from .prune_trees import DAY, Save, Tree, disk_use, make_tree, snapshot

TREES = int(os.environ.get("GSVCKPT_PRUNE_TREES", soak.count(500)))
CHUNKS = 20
FIRST = int(soak.SEED)
ONE = os.environ.get("GSVCKPT_PRUNE_SEED")


@dataclass
class Rules:
    """A policy, as it is told on the command line and in a file."""

    last: int | None = None
    every: int | None = None
    within: int | None = None  # days
    best: int | None = None
    keep: str | None = None
    demote: int | None = None
    size: int | None = None

    def words(self) -> list[str]:
        told = {"last": self.last, "every": self.every, "best": self.best}
        found = [word for name, value in told.items() if value is not None for word in (f"--keep-{name}", str(value))]
        found += ["--keep-within", f"{self.within}d"] if self.within is not None else []
        found += ["--keep", self.keep] if self.keep is not None else []
        found += ["--demote-after", str(self.demote)] if self.demote is not None else []
        return found + (["--max-size", str(self.size)] if self.size is not None else [])

    def toml(self) -> str:
        told = {"keep-last": self.last, "keep-every": self.every, "keep-best": self.best, "demote-after": self.demote, "max-size": self.size}
        lines = [f"{name} = {value}" for name, value in told.items() if value is not None]
        lines += [f'keep-within = "{self.within}d"'] if self.within is not None else []
        return "\n".join([*lines, *([f"keep = '{self.keep}'"] if self.keep is not None else [])]) + "\n"

    def over(self, below: Rules) -> Rules:
        return Rules(**{name: value if value is not None else getattr(below, name) for name, value in vars(self).items()})


@dataclass
class Case:
    """A tree, what is asked for, and the policy of each group."""

    tree: Tree
    words: list[str]
    rules: dict[tuple[str, str, str, str], Rules]
    demotes: bool
    size: int | None


def random_rules(rng: random.Random, tree: Tree, *, whole: bool = True) -> Rules:
    rules = Rules()
    for name in rng.sample(["last", "last", "every", "within", "best", "keep"], rng.choice((1, 1, 2, 3))):
        value = {"last": rng.randint(1, 4), "every": rng.randint(1, 5), "within": rng.randint(1, 40), "best": rng.randint(1, 3)}.get(name)
        setattr(rules, name, value if value is not None else rng.choice(("*_e[2-5]_*", "*16*", "*-e?.ckpt", "*net_1*", "G_*")))
    if whole and rng.random() < 0.2:
        rules.demote = rng.randint(1, 3)
    elif whole and rng.random() < 0.2:
        rules.size = rng.randint(1, 1 + sum(one.size for one in tree.saves))
        if rng.random() < 0.5:
            rules = Rules(size=rules.size, best=rules.best)
    return rules


def make_case(base, rng: random.Random) -> Case:
    tree = make_tree(base / "tree", rng)
    rules = random_rules(rng, tree)
    chosen = {one.group: rules for one in tree.saves}
    words = rules.words()
    if chosen and rng.random() < 0.2:  # the same from a file, and a table for some groups
        own = random_rules(rng, tree, whole=False)
        name = rng.choice(list(chosen))[1].partition("/")[0]
        chosen = {group: own.over(rules) if fnmatchcase(group[1], f"{name}*") else rules for group in chosen}
        (base / "policy.toml").write_text(f'[prune]\n{rules.toml()}\n[prune.groups."{name}*"]\n{own.toml()}', encoding="utf-8")
        words = ["--policy", str(base / "policy.toml")]
    if any(one.best is not None for one in chosen.values()):
        with (base / "metrics.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("file", "val_loss"))
            table.writerows((name.rpartition("/")[2], one.score) for one in tree.saves for name in one.names[:1])
        names = [one.names[0].rpartition("/")[2] for one in tree.saves]
        scores = {name: one.score for name, one in zip(names, tree.saves, strict=True)}  # of equal names the last one told counts
        for name, one in zip(names, tree.saves, strict=True):
            one.score = scores[name]
        words += ["--metrics", str(base / "metrics.csv")]
    return Case(tree, words, chosen, rules.demote is not None, rules.size)


# --- what the rules keep --------------------------------------------------------------------------------------------------------------------------


def kept_by_rules(saves: list[Save], rules: Rules) -> tuple[bool, list[Save]]:
    """Whether any rule is about these saves (newest first), and those that one keeps. Damaged ones count for none."""
    sound = [one for one in saves if one.sound]
    kept: list[Save] = []
    applied = bool(rules.last or rules.keep) or rules.size is not None
    if rules.last:
        kept += sound[: rules.last]
    counts = [(one, one.epoch) for one in sound]
    if all(count is None for _, count in counts):  # then steps are counted
        counts = [(one, one.step) for one in sound]
    if rules.every and any(count is not None for _, count in counts):
        applied = True
        seen = set()
        for one, count in counts:
            if count is not None and count % rules.every == 0 and count not in seen:
                kept.append(one)
            seen.add(count)
    if rules.within and sound:
        applied = True
        kept += [one for one in sound if one.mtime >= sound[0].mtime - rules.within * DAY]
    if rules.keep:
        kept += [one for one in sound if any(fnmatchcase(name.rpartition("/")[2], rules.keep) for name in one.names)]
    scored = sorted((one for one in sound if not math.isnan(one.score)), key=lambda one: one.score)
    if rules.best and scored:
        applied = True
        kept += scored[: rules.best]
    return applied, kept


def shrinks(saves: list[Save], rules: Rules) -> bool:
    return rules.demote is not None


def paths_of(plan, fate: str) -> dict[str, dict]:
    return {path: entry for group in plan["groups"] for entry in group[fate] for path in entry["paths"]}


def check_plan(case: Case, plan) -> None:
    """Judge what becomes of every save."""
    root = case.tree.root
    going, shrinking, staying = ({os.path.relpath(path, root) for path in paths_of(plan, fate)} for fate in ("remove", "demote", "keep"))
    saves = {name: one for one in case.tree.saves for name in one.names}
    assert going | shrinking | staying <= saves.keys() | case.tree.dead | case.tree.untouchable
    assert going & set(case.tree.dead) == set(case.tree.dead), "what an interrupted save left goes"
    assert not (going | shrinking) & case.tree.untouchable
    extra: list[Save] = []
    for members in case.tree.groups():
        rules = case.rules[members[0].group]
        applied, kept = kept_by_rules(members, rules)
        sound = [one for one in members if one.sound]
        rests = not any(name in going | shrinking for one in members for name in one.names)  # then nobody has looked for damage that does not show
        for one in members:
            fates = {"remove" if name in going else "demote" if name in shrinking else "keep" for name in one.names}
            assert len(fates) == 1, f"{one.names} are parted"
            fate = fates.pop()
            if one.guarded:
                assert fate == "keep", f"{one.names} is guarded: {one.guarded}"
            elif one in kept:
                assert fate == "keep", f"{one.names} is kept by a rule"
            elif not one.sound:
                pass  # may go, and stays where it was found out
            elif one is sound[0]:
                assert fate == "keep", f"{one.names} is the newest sound one"
            elif not applied and not shrinks(members, rules):
                assert fate == "keep", f"{one.names}: no rule applies to its group"
            elif rests and len(sound) < len(members):
                pass
            elif keeps_nothing(members, rules) and len(members) > 1:
                assert fate == "keep", f"{one.names}: the rules keep none of its run"
            elif case.size is not None:
                extra += [one] if fate == "keep" else []
            elif shrinks(members, rules):
                linked = any(os.stat(root / name).st_nlink > 1 for name in one.names)  # shrinking one name of two frees nothing
                stays = one in sound[: rules.demote] or not one.trained or linked
                assert fate == ("keep" if stays else "demote"), f"{one.names} is to shrink"
            else:
                assert fate == "remove", f"{one.names} is kept by no rule, but stays"
    if case.size is not None:
        check_size(case, going, staying, extra)


def check_size(case: Case, going: set[str], staying: set[str], extra: list[Save]) -> None:
    """As much as fits, the newest first and the best behind it; none in place of a newer one that does not fit."""
    used = sum((case.tree.root / name).stat().st_size for name in staying)  # pretrained models count, what is no checkpoint does not
    assert not extra or used <= case.size, "more is kept than fits"
    for members in case.tree.groups():
        rest = [one for one in members if one.sound]
        scored = [one for one in rest if not math.isnan(one.score) and case.rules[members[0].group].best]
        if scored:
            best = min(scored, key=lambda one: one.score)
            rest = [rest[0], *([best] if best is not rest[0] else []), *(one for one in rest[1:] if one is not best)]
        lost = [one for one in rest if one.names[0] in going]
        if lost:
            assert used + lost[0].size > case.size, f"{lost[0].names} fits"
            assert not [one for one in extra if one in rest and rest.index(one) > rest.index(lost[0])], "an older one is kept in place of a newer one"


def keeps_nothing(members: list[Save], rules: Rules) -> bool:
    """Whether the rules keep no sound save of a run, so that it is left alone; perhaps, where damage is not known yet."""
    applied, kept = kept_by_rules(members, rules)
    return applied and not kept and not shrinks(members, rules) and not any(one.guarded and one.sound for one in members)


# --- the runs -------------------------------------------------------------------------------------------------------------------------------------


def run_case(gsvckpt, base, rng: random.Random) -> None:
    case = make_case(base, rng)
    before = snapshot(base)
    words = ["prune", str(case.tree.root), *case.words]
    dry = gsvckpt(*words, "--dry-run", "--json")
    assert snapshot(base) == before, "a dry run changed something"
    if dry.code == 3:
        assert not any(one.sound for one in case.tree.saves), dry.err
        assert "hint: " in dry.err
        return
    assert dry.code == 0, dry.err
    plan = dry.document
    check_plan(case, plan)
    purge, archive = rng.random() < 0.3, rng.random() < 0.15
    used = disk_use(base)
    more = ["--purge"] if purge else []
    more += ["--archive", str(base.parent / f"{base.name} archive")] if archive else []
    real = gsvckpt(*words, *more, "--yes", "--json")
    assert real.code == 0, real.err
    assert [plan[key] for key in ("groups", "ignored", "freed_bytes")] == [real.document[key] for key in ("groups", "ignored", "freed_bytes")]
    check_tree(case, base, before, plan)
    if archive:
        kept = (
            {entry[4] for entry in snapshot(base.parent / f"{base.name} archive").values() if entry[0] == "file"}
            if paths_of(plan, "remove")
            else set()
        )
        for path in paths_of(plan, "remove"):
            assert before[os.path.relpath(path, base)][4] in kept, f"{path} is not in the archive"
    if not purge and rng.random() < 0.6 and real.document["trash"]:
        assert gsvckpt("prune", case.tree.root, "--undo").code == 0
        assert snapshot(base) == before, "undo does not bring the same back"
        return
    if not purge:
        assert gsvckpt("prune", case.tree.root, "--empty-trash", "--yes").code == 0
    assert used - disk_use(base) == plan["freed_bytes"], "freed bytes are others than planned"
    assert not list(base.rglob(".gsvckpt*")), "something of the program's own is left"
    again = gsvckpt(*words, "--dry-run", "--json")
    if again.code == 0 and case.size is None and not case.demotes and all(one.sound for one in case.tree.saves):
        assert not paths_of(again.document, "remove"), "a second run finds more"


def check_tree(case: Case, base, before, plan) -> None:
    """What was to stay is as it was, what was to go is gone, what was to shrink did, and nothing else changed."""
    after = {name: entry for name, entry in snapshot(base).items() if ".gsvckpt-trash" not in name}
    going, shrinking = ({os.path.relpath(path, base) for path in paths_of(plan, fate)} for fate in ("remove", "demote"))
    assert not going & after.keys()
    assert before.keys() - after.keys() == going
    assert after.keys() <= before.keys()
    manifests = {name for name in before if name.endswith("gsvckpt.toml")}
    for name, entry in after.items():
        if name in shrinking or name in manifests:
            continue
        # a second name of what went counts one name less, or one elsewhere: in the trash
        assert entry[:5] == before[name][:5], f"{name} changed"
    for name in manifests:
        check_manifest(base, name, case, going | shrinking)
    sizes = {entry["paths"][0]: entry for group in plan["groups"] for entry in group["demote"]}
    for entry in sizes.values():
        paths = [os.path.relpath(path, base) for path in entry["paths"]]
        assert sum(after[path][2] for path in paths) == entry["bytes_after"] < entry["bytes"]


def check_manifest(base, name: str, case: Case, gone: set[str]) -> None:
    """It names what is there, and the user's words are in it."""
    text = (base / name).read_text(encoding="utf-8")
    folder = name.rpartition("/")[0]
    document = tomli.loads(text)
    assert text.startswith("# mine\n")
    assert document["note"] == {"who": "me"}
    recorded = {file for one in case.tree.saves for file in one.names if f"tree/{one.group[0]}" == folder}
    assert {f"{folder}/{file}" for file in document.get("files", {})} == {f"tree/{file}" for file in recorded} - gone


@pytest.mark.parametrize("chunk", [0] if ONE else range(CHUNKS))
def test_random_trees(gsvckpt, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # no power fails here, and waiting for the disk is most of the time
    seeds = [int(ONE)] if ONE else [FIRST + number for number in range(chunk, TREES, CHUNKS)]
    for seed in seeds:
        (tmp_path / str(seed)).mkdir()
        try:
            run_case(gsvckpt, tmp_path / str(seed), random.Random(seed))
        except BaseException as error:
            raise AssertionError(f"tree {seed} (GSVCKPT_PRUNE_SEED={seed} runs it alone): {error}") from error
    soak.tally("prune on random trees, judged by a model", trees=len(seeds))
