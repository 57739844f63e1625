"""A policy: the rules that decide which saves stay. A save stays if any rule keeps it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from gsvckpt.engine.saves import Save
from gsvckpt.errors import UsageError

DemoteTo = Literal["stripped", "inference"]


RULES = ("last", "best", "every", "within", "keep", "max_size", "demote_after")


class Every(NamedTuple):
    """`5`: every fifth epoch, or step of a trainer that counts no epochs; `500steps`: by steps in any case."""

    number: int
    steps: bool = False

    def __str__(self) -> str:
        return f"{self.number}steps" if self.steps else str(self.number)


def parse_every(text: str, where: str) -> Every:
    """`5` or `500steps`. Raises UsageError, at `where`."""
    match = re.fullmatch(r" *([0-9]{1,12}) *(steps?|epochs?)? *", text, re.IGNORECASE)
    if match is None or int(match[1]) < 1:
        raise UsageError(f"{text[:20]!r} must be a number of epochs or steps", where=where, hint="5, or 500steps")
    return Every(int(match[1]), (match[2] or "").lower().startswith("step"))


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules: a save stays if any rule keeps it. `within` is in seconds, `max_size` in bytes; None is a rule that was not given.

    With `demote_after`, saves that no rule keeps and that are older than so many are made smaller instead of removed.
    """

    last: int | None = None
    best: int | None = None
    every: Every | None = None
    within: int | None = None
    keep: tuple[str, ...] = ()
    max_size: int | None = None
    demote_after: int | None = None
    demote_to: DemoteTo | None = None
    metric: str | None = None
    mode: Literal["min", "max"] | None = None

    @property
    def empty(self) -> bool:
        """Whether no rule says what to keep or to shrink."""
        return all(getattr(self, name) in (None, ()) for name in RULES)

    def over(self, below: Policy) -> Policy:
        """This policy, completed by `below` for rules that it does not set."""
        chosen = {field.name: getattr(self if getattr(self, field.name) != field.default else below, field.name) for field in fields(self)}
        return Policy(**chosen)


class Scores(NamedTuple):
    """What a metric says of the saves of a group, by their place in it; saves without one are not in it. NaN is none.

    `watched`: training itself watched it, on its own data; nobody has listened.
    """

    metric: str = ""
    lowest: bool = False
    values: Mapping[Save, float] = {}
    watched: bool = False
