"""Decide for each save whether it stays, and why. Pure: from saves, scores and known damage to one decision each."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from gsvckpt.commands.prune.policy import Every, Policy, Scores
from gsvckpt.engine.saves import Group, Save

Fate = Literal["keep", "demote", "remove"]
_SECOND = 1_000_000_000
_NEWEST = "the newest sound one"


class Decision(NamedTuple):
    """The decision on one save, with all reasons to keep it, or why no rule keeps it."""

    save: Save
    fate: Fate
    reasons: tuple[str, ...]


class GroupPlan(NamedTuple):
    """The decisions on a group, newest first. `note` says why nothing becomes of any."""

    group: Group
    decisions: tuple[Decision, ...]
    note: str = ""

    def of(self, fate: Fate) -> tuple[Decision, ...]:
        return tuple(decision for decision in self.decisions if decision.fate == fate)


@dataclass(frozen=True, slots=True)
class RunRules:
    """The saves of one run, newest first, and what is to be done with it: the policy that counts for it, and what a metric says of its saves."""

    group: Group
    saves: tuple[Save, ...]
    policy: Policy
    scores: Scores

    def sound(self, damaged: Mapping[Save, str]) -> tuple[Save, ...]:
        return tuple(save for save in self.saves if save not in damaged)

    @property
    def shrinks(self) -> bool:
        """Whether saves are demoted instead of removed; a save that cannot be demoted is kept."""
        return self.policy.demote_after is not None


class Ruling(NamedTuple):
    """What one rule decides on the sound saves of a run: why it keeps some and not the others."""

    keeps: Mapping[Save, str]
    against: Mapping[Save, str]


def group_saves(saves: Sequence[Save]) -> dict[Group, tuple[Save, ...]]:
    """Saves by run, in the order of the plan, each run's newest first."""
    found: dict[Group, list[Save]] = {}
    for save in saves:
        found.setdefault(save.group, []).append(save)
    order = sorted(found, key=lambda group: (group.name, group.folder, group.kind, group.version or "", group.dates))
    return {group: tuple(sorted(found[group], key=lambda save: save.age, reverse=True)) for group in order}


def decide(runs: Sequence[RunRules], damaged: Mapping[Save, str]) -> tuple[GroupPlan, ...]:
    """Decide on all saves. Damaged ones count for no rule and stay, and so do guarded ones; the newest sound one of every run stays.

    `max_size` of any policy holds over everything. A run of which the rules would keep no sound save is left alone.
    """
    rulings = [tuple(_rulings(run, run.sound(damaged))) for run in runs]
    fitting = _fit(runs, rulings, damaged)
    return tuple(_plan(run, (*own, *more), damaged) for run, own, more in zip(runs, rulings, fitting, strict=True))


def _rulings(run: RunRules, sound: tuple[Save, ...]) -> Iterator[Ruling]:
    policy = run.policy
    if policy.last is not None:
        among = _among("last", policy.last)
        yield _rule(sound, sound[: policy.last], lambda _: among, lambda _: f"not {among}")
    if policy.best is not None:
        yield from _best(run, sound, policy.best)
    if policy.every is not None:
        yield from _every(sound, policy.every)
    if policy.within is not None and sound:
        limit, said = sound[0].mtime_ns - policy.within * _SECOND, span(policy.within)
        chosen = [save for save in sound if save.mtime_ns >= limit]
        yield _rule(sound, chosen, lambda _: f"within {said} of the newest", lambda _: f"more than {said} older than the newest")
    if policy.keep:
        globs = {save: glob for save in sound for glob in reversed(policy.keep) for path in places(save) if matches(path, glob)}
        yield _rule(sound, globs, lambda save: f"matches {globs[save]}", lambda _: "matches no --keep")


def _rule(sound: Sequence[Save], chosen: Collection[Save], why: Callable[[Save], str], why_not: Callable[[Save], str]) -> Ruling:
    known = set(chosen)
    return Ruling({save: why(save) for save in chosen}, {save: why_not(save) for save in sound if save not in known})


def _every(sound: Sequence[Save], wanted: Every) -> Iterator[Ruling]:
    """By epochs; by steps where the user says so, or where no save tells its epoch."""
    by_steps = wanted.steps or not any(save.epoch is not None for save in sound)
    every, word = wanted.number, "step" if by_steps else "epoch"
    untold = ", as these saves state no epochs" if by_steps and not wanted.steps else ""
    number_of = {save: save.step if by_steps else save.epoch for save in sound}

    def why_not(save: Save) -> str:
        number = number_of[save]
        told = number is not None and number % every == 0
        return f"not the last save of {word} {number}" if told else f"its {word} is not a multiple of {every}{untold}"

    if any(number is not None for number in number_of.values()):
        last = {number_of[save]: save for save in reversed(sound)}  # of several saves of one epoch the last
        chosen = [save for number, save in last.items() if number is not None and number % every == 0]
        yield _rule(sound, chosen, lambda save: f"{word} {number_of[save]}, a multiple of {every}{untold}", why_not)


def _best(run: RunRules, sound: Sequence[Save], count: int) -> Iterator[Ruling]:
    scores = run.scores
    ranked = sorted((save for save in sound if save in scores.values), key=lambda save: save.age, reverse=True)
    ranked.sort(key=lambda save: scores.values[save], reverse=not scores.lowest)  # stable: of equals the newer
    name, among = scores.metric or "metric", _among("best", count)
    # What GPT-SoVITS watches is the accuracy on what it is trained on (t2s_lightning_module.py, `top_3_acc`).
    unheard = ", by training accuracy, which does not tell how a voice sounds" if scores.watched and run.group.kind == "gpt-training" else ""

    def told(save: Save) -> str:
        return f"{name} {scores.values[save]:g}" if save in scores.values else f"no {name}"

    if ranked:
        yield _rule(sound, ranked[:count], lambda save: f"{among} ({told(save)}{unheard})", lambda save: f"not {among} ({told(save)})")


def _fit(runs: Sequence[RunRules], rulings: Sequence[Sequence[Ruling]], damaged: Mapping[Save, str]) -> list[tuple[Ruling, ...]]:
    """`max_size`: what is kept anyway counts first, then the newest and best of each run in turns, as long as they fit."""
    limits = [run.policy.max_size for run in runs if run.policy.max_size is not None]
    if not limits:
        return [() for _ in runs]
    limit = min(limits)
    kept = {save for own in rulings for ruling in own for save in ruling.keeps}
    used = sum(save.size for run in runs for save in run.saves if save in kept or save.guards or save in damaged)
    orders = [_by_worth(run, run.sound(damaged)) for run in runs]
    full: set[int] = set()
    chosen: list[list[Save]] = [[] for _ in runs]
    for rank, number in sorted((rank, number) for number, order in enumerate(orders) for rank in range(len(order))):
        save = orders[number][rank]
        counted = save in kept or bool(save.guards)
        if number in full:
            continue
        if not counted and used + save.size > limit:
            full.add(number)  # older ones than one that does not fit are not kept in its place
            used += 0 if rank else save.size  # the newest stays all the same
            continue
        used += 0 if counted else save.size
        chosen[number].append(save)
    fits, exceeds = f"fits into {limit:,} bytes", f"does not fit into {limit:,} bytes"
    return [(_rule(run.sound(damaged), own, lambda _: fits, lambda _: exceeds),) for run, own in zip(runs, chosen, strict=True)]


def _by_worth(run: RunRules, sound: Sequence[Save]) -> list[Save]:
    """Newest first, but the best one directly behind the newest."""
    values = run.scores.values
    scored = [save for save in sound if save in values]
    best = (min if run.scores.lowest else max)(scored, key=lambda save: values[save], default=None)
    if best is None or best is sound[0]:
        return list(sound)
    return [sound[0], best, *(save for save in sound[1:] if save is not best)]


def _plan(run: RunRules, rulings: Sequence[Ruling], damaged: Mapping[Save, str]) -> GroupPlan:
    """What becomes of a run, by all that its rules say."""
    sound = run.sound(damaged)
    kept = any(ruling.keeps for ruling in rulings)
    note = ""
    if not rulings and not run.shrinks:
        note = "no metric is known for it" if run.policy.best is not None else "no rule applies to it"
    elif rulings and not run.shrinks and sound and not kept and not any(save.guards for save in sound) and len(run.saves) > 1:
        against = "; ".join(ruling.against[sound[0]] for ruling in rulings)
        note = f"the rules would keep no sound save of it ({against}), so it is left alone"
    if note:
        alone = (Decision(save, "keep", (*save.guards, *_why_damaged(save, damaged)) or (note,)) for save in run.saves)
        return GroupPlan(run.group, tuple(alone), note)
    return GroupPlan(run.group, tuple(_decide(save, run, sound, rulings, damaged) for save in run.saves))


def _why_damaged(save: Save, damaged: Mapping[Save, str]) -> tuple[str, ...]:
    return (damaged[save],) if save in damaged else ()


def _decide(save: Save, run: RunRules, sound: Sequence[Save], rulings: Sequence[Ruling], damaged: Mapping[Save, str]) -> Decision:
    kept = tuple(ruling.keeps[save] for ruling in rulings if save in ruling.keeps)
    against = tuple(ruling.against[save] for ruling in rulings if save in ruling.against)
    newest = (_NEWEST,) if sound and save is sound[0] and not kept else ()
    reasons = (*newest, *kept, *save.guards, *_why_damaged(save, damaged))
    if reasons:
        return Decision(save, "keep", reasons)
    if not run.shrinks:
        return Decision(save, "remove", against)
    count = run.policy.demote_after or 0
    if save in sound[:count]:
        return Decision(save, "keep", (f"{_among('newest', count)}, which stays as it is",))
    if not save.trained:
        return Decision(save, "keep", ("has no optimizer state to remove",))
    return Decision(save, "demote", (f"not {_among('newest', count)}", *against))


def places(save: Save) -> tuple[str, ...]:
    """The paths by which globs may mean a save: those of its files, and of the folder that it is."""
    return (save.place, *save.paths) if save.place else save.paths


def matches(path: str, glob: str) -> bool:
    """Whether a glob matches a file, however its path was spelled: by its name, and by as many of its folders as the glob names."""
    place, wanted = os.path.abspath(path).replace("\\", "/"), glob.replace("\\", "/").removeprefix("./")
    if "/" not in wanted:
        return fnmatchcase(place.rpartition("/")[2], wanted)
    return fnmatchcase(place, wanted) or fnmatchcase(place, f"*/{wanted}")


def _among(what: str, count: int | None) -> str:
    return f"the {what} one" if count == 1 else f"among the {what} {count}"


def span(seconds: int) -> str:
    """A length of time as users write it: `7d`, `36h`."""
    for unit, length in (("w", 604_800), ("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
