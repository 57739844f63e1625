"""Which saves a policy keeps, and why. Pure: from units, scores and what is known to be damaged, to one decision for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from gsvckpt.commands.prune.saves import Group, Unit
from gsvckpt.errors import RefusedError

Fate = Literal["keep", "demote", "remove"]
DemoteTo = Literal["stripped", "inference"]
_SECOND = 1_000_000_000
_NEWEST = "the newest sound one"


RULES = ("last", "best", "every", "within", "keep", "max_size", "demote_after")


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules, united: what one of them keeps stays. `within` is in seconds, `max_size` in bytes; None is a rule that was not given.

    `demote_after` shrinks, instead of removing it, what no rule keeps and what is older than so many.
    """

    last: int | None = None
    best: int | None = None
    every: int | None = None
    within: int | None = None
    keep: tuple[str, ...] = ()
    max_size: int | None = None
    demote_after: int | None = None
    demote_to: DemoteTo | None = None
    metric: str | None = None
    mode: Literal["min", "max"] | None = None

    @property
    def empty(self) -> bool:
        """Whether it says nothing of what is to stay or shrink."""
        return all(getattr(self, name) in (None, ()) for name in RULES)

    def over(self, below: Policy) -> Policy:
        """This policy, and `below` where it says nothing."""
        chosen = {field.name: getattr(self if getattr(self, field.name) != field.default else below, field.name) for field in fields(self)}
        return Policy(**chosen)


class Scores(NamedTuple):
    """What a metric says of the units of a group, by their place in it; units without one are not in it. NaN is none."""

    metric: str = ""
    lowest: bool = False
    values: Mapping[Unit, float] = {}


class Decision(NamedTuple):
    """What becomes of a unit: all reasons to keep it, or what let it go."""

    unit: Unit
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
    units: Sequence[Unit], policy_of: Callable[[Group], Policy], scores_of: Callable[[Group], Scores], damaged: Mapping[Unit, str]
) -> tuple[GroupPlan, ...]:
    """Decide on all units. Damaged ones count for no rule and stay, and so do guarded ones; the newest sound one of every group stays.

    `max_size` of any policy holds over everything. Raises RefusedError where the rules would keep nothing of a group.
    """
    groups = [_Deciding(group, members, policy_of(group), scores_of(group), damaged) for group, members in _grouped(units)]
    _fill(groups)
    for group in groups:
        group.require_some()
    return tuple(group.plan() for group in groups)


def _grouped(units: Sequence[Unit]) -> Iterator[tuple[Group, list[Unit]]]:
    found: dict[Group, list[Unit]] = {}
    for unit in units:
        found.setdefault(unit.group, []).append(unit)
    for group in sorted(found, key=lambda group: (group.name, group.folder, group.kind, group.version or "")):
        yield group, sorted(found[group], key=lambda unit: unit.age, reverse=True)


class _Deciding:
    """One group on its way to decisions: what each rule keeps, and what it says of the rest."""

    def __init__(self, group: Group, units: Sequence[Unit], policy: Policy, scores: Scores, damaged: Mapping[Unit, str]) -> None:
        self.group, self.units, self.policy, self.scores, self.damaged = group, units, policy, scores, damaged
        self.sound = [unit for unit in units if unit not in damaged]
        self.kept: dict[Unit, list[str]] = {}
        self.against: dict[Unit, list[str]] = {}
        self.applied = False
        self._rules()

    def _rules(self) -> None:
        policy, sound = self.policy, self.sound
        if policy.last is not None:
            self.apply(sound[: policy.last], lambda _: _among("last", policy.last), lambda _: f"not {_among('last', policy.last)}")
        if policy.best is not None:
            self._best(policy.best)
        if policy.every is not None and any(unit.epoch is not None for unit in sound):
            every = policy.every
            newest = {unit.epoch: unit for unit in reversed(sound)}  # of several saves of one epoch the last
            chosen = [unit for epoch, unit in newest.items() if epoch is not None and epoch % every == 0]
            self.apply(chosen, lambda unit: f"epoch {unit.epoch}, a multiple of {every}", lambda unit: _why_not_every(unit, every))
        if policy.within is not None and sound:
            limit = sound[0].mtime_ns - policy.within * _SECOND
            said = span(policy.within)
            chosen = [unit for unit in sound if unit.mtime_ns >= limit]
            self.apply(chosen, lambda _: f"within {said} of the newest", lambda _: f"more than {said} older than the newest")
        if policy.keep:
            self.apply([unit for unit in sound if self._glob(unit)], lambda unit: f"matches {self._glob(unit)}", lambda _: "matches no --keep")

    def _best(self, count: int) -> None:
        ranked = sorted((unit for unit in self.sound if unit in self.scores.values), key=lambda unit: unit.age, reverse=True)
        ranked.sort(key=lambda unit: self.scores.values[unit], reverse=not self.scores.lowest)  # stable: of equals the newer
        name = self.scores.metric or "metric"

        def told(unit: Unit) -> str:
            return f"{name} {self.scores.values[unit]:g}" if unit in self.scores.values else f"no {name}"

        if ranked:
            self.apply(
                ranked[:count], lambda unit: f"{_among('best', count)} ({told(unit)})", lambda unit: f"not {_among('best', count)} ({told(unit)})"
            )

    def _glob(self, unit: Unit) -> str:
        return next((glob for glob in self.policy.keep for path in unit.paths if matches(path, glob)), "")

    def apply(self, chosen: Sequence[Unit], why: Callable[[Unit], str], why_not: Callable[[Unit], str]) -> None:
        """A rule that keeps `chosen`, with what it says of these and of the others."""
        self.applied = True
        for unit in chosen:
            self.kept.setdefault(unit, []).append(why(unit))
        known = set(chosen)
        for unit in self.sound:
            if unit not in known:
                self.against.setdefault(unit, []).append(why_not(unit))

    @property
    def shrinks(self) -> bool:
        """Whether what would go is to shrink instead, or to stay where nothing in it can: then no file of the group is removed."""
        return self.policy.demote_after is not None

    def require_some(self) -> None:
        """Raise RefusedError where everything would go but for the newest one, which no rule of the user keeps."""
        if (
            self.applied
            and not self.shrinks
            and self.sound
            and not self.kept
            and not any(unit.guards for unit in self.units)
            and not self.damaged_here
        ):
            why = f"the policy keeps none of the {len(self.units):,} of {self.group.label}: {'; '.join(self.against[self.sound[0]])}"
            raise RefusedError(why, path=self.group.folder, hint="add --keep-last 1")

    @property
    def damaged_here(self) -> bool:
        return len(self.sound) < len(self.units)

    def plan(self) -> GroupPlan:
        if not self.applied and not self.shrinks:
            note = "no metric is known of it" if self.policy.best is not None else "no rule is about it"
            return GroupPlan(
                self.group, tuple(Decision(unit, "keep", (*unit.guards, *self._why_damaged(unit)) or (note,)) for unit in self.units), note
            )
        return GroupPlan(self.group, tuple(self._decide(unit) for unit in self.units))

    def _why_damaged(self, unit: Unit) -> tuple[str, ...]:
        return (self.damaged[unit],) if unit in self.damaged else ()

    def _decide(self, unit: Unit) -> Decision:
        reasons = [*self.kept.get(unit, ()), *unit.guards, *self._why_damaged(unit)]
        if self.sound and unit is self.sound[0] and not self.kept.get(unit):
            reasons.insert(0, _NEWEST)
        if not reasons and self.shrinks:
            count = self.policy.demote_after or 0
            if unit in self.sound[:count]:
                reasons.append(f"{_among('newest', count)}, which is left as it is")
            elif not unit.trained:
                reasons.append("holds no optimizer state to lose")
            else:
                return Decision(unit, "demote", (f"not {_among('newest', count)}", *self.against.get(unit, ())))
        if reasons:
            return Decision(unit, "keep", tuple(reasons))
        return Decision(unit, "remove", tuple(self.against.get(unit, ())))


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
    used = sum(unit.size for group in groups for unit in group.units if unit in group.kept or unit.guards or unit in group.damaged)
    ranked = sorted((rank, number) for number, group in enumerate(groups) for rank in range(len(group.sound)))
    orders = [_by_worth(group) for group in groups]
    full: set[int] = set()
    chosen: dict[int, list[Unit]] = {number: [] for number in range(len(groups))}
    for rank, number in ranked:
        unit = orders[number][rank]
        counted = unit in groups[number].kept or bool(unit.guards)
        if number in full:
            continue
        if not counted and used + unit.size > limit:
            full.add(number)  # older ones than one that does not fit are not kept in its place
            used += 0 if rank else unit.size  # the newest stays all the same
            continue
        used += 0 if counted else unit.size
        chosen[number].append(unit)
    for number, group in enumerate(groups):
        group.apply(chosen[number], lambda _: f"fits into {limit:,} bytes", lambda _: f"does not fit into {limit:,} bytes")


def _by_worth(group: _Deciding) -> list[Unit]:
    """Newest first, but the best one directly behind the newest."""
    values = group.scores.values
    scored = [unit for unit in group.sound if unit in values]
    best = (min if group.scores.lowest else max)(scored, key=lambda unit: values[unit], default=None)
    if best is None or best is group.sound[0]:
        return list(group.sound)
    return [group.sound[0], best, *(unit for unit in group.sound[1:] if unit is not best)]


def _among(what: str, count: int | None) -> str:
    return f"the {what} one" if count == 1 else f"among the {what} {count}"


def _why_not_every(unit: Unit, every: int) -> str:
    if unit.epoch is not None and unit.epoch % every == 0:
        return f"not the last save of epoch {unit.epoch}"
    return f"its epoch is no multiple of {every}"


def span(seconds: int) -> str:
    """A length of time as users write it: `7d`, `36h`."""
    for unit, length in (("w", 604_800), ("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
