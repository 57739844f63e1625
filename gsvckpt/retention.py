"""Which saves a policy keeps, and why. Pure: from units, scores and what is known to be damaged, to one decision for each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from gsvckpt.errors import RefusedError
from gsvckpt.units import Group, Unit

Fate = Literal["keep", "demote", "remove"]
DemoteTo = Literal["stripped", "inference"]
_SECOND = 1_000_000_000


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


RULES = ("last", "best", "every", "within", "keep", "max_size", "demote_after")


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
