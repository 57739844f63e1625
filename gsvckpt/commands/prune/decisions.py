"""Which saves a policy keeps, and why. Pure: from saves, scores and what is known to be damaged, to one decision for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from gsvckpt.commands.prune.policy import Every, Policy, Scores
from gsvckpt.engine.saves import Group, Save

Fate = Literal["keep", "demote", "remove"]
_SECOND = 1_000_000_000
_NEWEST = "the newest sound one"


class Decision(NamedTuple):
    """What becomes of a save: all reasons to keep it, or what let it go."""

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


def decide(
    saves: Sequence[Save], policy_of: Callable[[Group], Policy], scores_of: Callable[[Group], Scores], damaged: Mapping[Save, str]
) -> tuple[GroupPlan, ...]:
    """Decide on all saves. Damaged ones count for no rule and stay, and so do guarded ones; the newest sound one of every group stays.

    `max_size` of any policy holds over everything. A group of which the rules would keep no sound save is left alone.
    """
    groups = [_Deciding(group, files, policy_of(group), scores_of(group), damaged) for group, files in _grouped(saves)]
    _fill(groups)
    return tuple(group.plan() for group in groups)


def _grouped(saves: Sequence[Save]) -> Iterator[tuple[Group, list[Save]]]:
    found: dict[Group, list[Save]] = {}
    for save in saves:
        found.setdefault(save.group, []).append(save)
    for group in sorted(found, key=lambda group: (group.name, group.folder, group.kind, group.version or "")):
        yield group, sorted(found[group], key=lambda save: save.age, reverse=True)


class _Deciding:
    """One group on its way to decisions: what each rule keeps, and what it says of the rest."""

    def __init__(self, group: Group, saves: Sequence[Save], policy: Policy, scores: Scores, damaged: Mapping[Save, str]) -> None:
        self.group, self.saves, self.policy, self.scores, self.damaged = group, saves, policy, scores, damaged
        self.sound = [save for save in saves if save not in damaged]
        self.kept: dict[Save, list[str]] = {}
        self.against: dict[Save, list[str]] = {}
        self.applied = False
        self._rules()

    def _rules(self) -> None:
        policy, sound = self.policy, self.sound
        if policy.last is not None:
            self.apply(sound[: policy.last], lambda _: _among("last", policy.last), lambda _: f"not {_among('last', policy.last)}")
        if policy.best is not None:
            self._best(policy.best)
        if policy.every is not None:
            self._every(policy.every)
        if policy.within is not None and sound:
            limit = sound[0].mtime_ns - policy.within * _SECOND
            said = span(policy.within)
            chosen = [save for save in sound if save.mtime_ns >= limit]
            self.apply(chosen, lambda _: f"within {said} of the newest", lambda _: f"more than {said} older than the newest")
        if policy.keep:
            self.apply([save for save in sound if self._glob(save)], lambda save: f"matches {self._glob(save)}", lambda _: "matches no --keep")

    def _every(self, wanted: Every) -> None:
        """By epochs; by steps where the user says so, or where no save tells its epoch."""
        by_steps = wanted.steps or not any(save.epoch is not None for save in self.sound)
        every, word = wanted.number, "step" if by_steps else "epoch"
        untold = ", as these tell no epochs" if by_steps and not wanted.steps else ""

        def place(save: Save) -> int | None:
            return save.step if by_steps else save.epoch

        def why_not(save: Save) -> str:
            number = place(save)
            told = number is not None and number % every == 0
            return f"not the last save of {word} {number}" if told else f"its {word} is no multiple of {every}{untold}"

        if any(place(save) is not None for save in self.sound):
            last = {place(save): save for save in reversed(self.sound)}  # of several saves of one epoch the last
            chosen = [save for number, save in last.items() if number is not None and number % every == 0]
            self.apply(chosen, lambda save: f"{word} {place(save)}, a multiple of {every}{untold}", why_not)

    def _best(self, count: int) -> None:
        ranked = sorted((save for save in self.sound if save in self.scores.values), key=lambda save: save.age, reverse=True)
        ranked.sort(key=lambda save: self.scores.values[save], reverse=not self.scores.lowest)  # stable: of equals the newer
        name = self.scores.metric or "metric"

        def told(save: Save) -> str:
            return f"{name} {self.scores.values[save]:g}" if save in self.scores.values else f"no {name}"

        unheard = ", by training accuracy, which does not tell how a voice sounds" if self._is_unheard else ""
        best = _among("best", count)
        if ranked:
            self.apply(ranked[:count], lambda save: f"{best} ({told(save)}{unheard})", lambda save: f"not {best} ({told(save)})")

    @property
    def _is_unheard(self) -> bool:
        """Whether a voice is judged by what GPT-SoVITS watches: the accuracy on what it is trained on (t2s_lightning_module.py, `top_3_acc`)."""
        return self.scores.watched and self.group.kind == "gpt-training"

    def _glob(self, save: Save) -> str:
        return next((glob for glob in self.policy.keep for path in places(save) if matches(path, glob)), "")

    def apply(self, chosen: Sequence[Save], why: Callable[[Save], str], why_not: Callable[[Save], str]) -> None:
        """A rule that keeps `chosen`, with what it says of these and of the others."""
        self.applied = True
        for save in chosen:
            self.kept.setdefault(save, []).append(why(save))
        known = set(chosen)
        for save in self.sound:
            if save not in known:
                self.against.setdefault(save, []).append(why_not(save))

    @property
    def shrinks(self) -> bool:
        """Whether what would go is to shrink instead, or to stay where nothing in it can: then no file of the group is removed."""
        return self.policy.demote_after is not None

    @property
    def would_empty(self) -> bool:
        """Whether the rules would keep no sound save of the group: then nobody has said which one is wanted."""
        guarded = any(save.guards for save in self.sound)
        return self.applied and not self.shrinks and bool(self.sound) and not self.kept and not guarded

    def plan(self) -> GroupPlan:
        if not self.applied and not self.shrinks:
            note = "no metric is known of it" if self.policy.best is not None else "no rule is about it"
            return self._left_alone(note)
        if self.would_empty and len(self.saves) > 1:
            note = f"the rules keep no sound save of it ({'; '.join(self.against[self.sound[0]])}), so it is left alone"
            return self._left_alone(note)
        return GroupPlan(self.group, tuple(self._decide(save) for save in self.saves))

    def _left_alone(self, note: str) -> GroupPlan:
        return GroupPlan(self.group, tuple(Decision(save, "keep", (*save.guards, *self._why_damaged(save)) or (note,)) for save in self.saves), note)

    def _why_damaged(self, save: Save) -> tuple[str, ...]:
        return (self.damaged[save],) if save in self.damaged else ()

    def _decide(self, save: Save) -> Decision:
        reasons = [*self.kept.get(save, ()), *save.guards, *self._why_damaged(save)]
        if self.sound and save is self.sound[0] and not self.kept.get(save):
            reasons.insert(0, _NEWEST)
        if not reasons and self.shrinks:
            count = self.policy.demote_after or 0
            if save in self.sound[:count]:
                reasons.append(f"{_among('newest', count)}, which is left as it is")
            elif not save.trained:
                reasons.append("holds no optimizer state to lose")
            else:
                return Decision(save, "demote", (f"not {_among('newest', count)}", *self.against.get(save, ())))
        if reasons:
            return Decision(save, "keep", tuple(reasons))
        return Decision(save, "remove", tuple(self.against.get(save, ())))


def places(save: Save) -> tuple[str, ...]:
    """The paths by which globs may mean a save: those of its files, and of the folder that it is."""
    return (save.place, *save.paths) if save.place else save.paths


def matches(path: str, glob: str) -> bool:
    """Whether a glob means a file, however its path was spelled: by its name, and by as many of its folders as the glob names."""
    place, wanted = os.path.abspath(path).replace("\\", "/"), glob.replace("\\", "/").removeprefix("./")
    if "/" not in wanted:
        return fnmatchcase(place.rpartition("/")[2], wanted)
    return fnmatchcase(place, wanted) or fnmatchcase(place, f"*/{wanted}")


def _fill(groups: Sequence[_Deciding]) -> None:
    """`max_size`: what is kept anyway counts first, then the newest and best of each group in turns, as long as they fit."""
    limits = [group.policy.max_size for group in groups if group.policy.max_size is not None]
    if not limits:
        return
    limit = min(limits)
    used = sum(save.size for group in groups for save in group.saves if save in group.kept or save.guards or save in group.damaged)
    ranked = sorted((rank, number) for number, group in enumerate(groups) for rank in range(len(group.sound)))
    orders = [_by_worth(group) for group in groups]
    full: set[int] = set()
    chosen: dict[int, list[Save]] = {number: [] for number in range(len(groups))}
    for rank, number in ranked:
        save = orders[number][rank]
        counted = save in groups[number].kept or bool(save.guards)
        if number in full:
            continue
        if not counted and used + save.size > limit:
            full.add(number)  # older ones than one that does not fit are not kept in its place
            used += 0 if rank else save.size  # the newest stays all the same
            continue
        used += 0 if counted else save.size
        chosen[number].append(save)
    for number, group in enumerate(groups):
        group.apply(chosen[number], lambda _: f"fits into {limit:,} bytes", lambda _: f"does not fit into {limit:,} bytes")


def _by_worth(group: _Deciding) -> list[Save]:
    """Newest first, but the best one directly behind the newest."""
    values = group.scores.values
    scored = [save for save in group.sound if save in values]
    best = (min if group.scores.lowest else max)(scored, key=lambda save: values[save], default=None)
    if best is None or best is group.sound[0]:
        return list(group.sound)
    return [group.sound[0], best, *(save for save in group.sound[1:] if save is not best)]


def _among(what: str, count: int | None) -> str:
    return f"the {what} one" if count == 1 else f"among the {what} {count}"


def span(seconds: int) -> str:
    """A length of time as users write it: `7d`, `36h`."""
    for save, length in (("w", 604_800), ("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length}{save}"
    return f"{seconds}s"
