"""Divide the saves of one name into runs: a later save with less training begins a new run. Pure.

A name is used again when a voice is trained again: then the old epochs 8 and 12 lie beside the new epoch 4, and the new one is the newest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from gsvckpt.engine.saves import Save

_COPIED_PER_SECOND = 10_000_000  # bytes, of a slow stick: copying sets the times of files anew, in the order of their names
_TIMES_TELL = 2.0  # seconds: FAT keeps times no finer


_UNTOLD = "the files' times do not tell whether these are one run, so they count as one"


class Divided(NamedTuple):
    """`runs` of one group, the oldest first, whose groups have their dates where there are several. `note`: the times of its files cannot tell."""

    runs: tuple[tuple[Save, ...], ...]
    note: str = ""


def divide_runs(saves: Sequence[Save]) -> Divided:
    """Divide saves of one group into runs, by the time inside the files where all have one, else by the times of the files, if these differ by more
    than copying them all would have taken.
    """
    inside = all(save.saved is not None for save in saves)
    slack = 0.0 if inside else sum(save.size for save in saves) / _COPIED_PER_SECOND + _TIMES_TELL * len(saves)
    runs: list[list[Save]] = []
    note = ""
    furthest: Save | None = None  # the save of the most training in the run so far; of equals the last
    for save in sorted(saves, key=lambda save: (_clock(save, inside=inside), save.age)):
        anew = furthest is not None and _is_before(save, furthest)
        if furthest is None or (anew and _clock(save, inside=inside) - _clock(furthest, inside=inside) > slack):
            runs.append([save])
            furthest = save
        else:
            note = _UNTOLD if anew else note
            runs[-1].append(save)
            furthest = furthest if anew else save
    return Divided(_named(runs, inside=inside), note)


def _named(runs: Sequence[Sequence[Save]], *, inside: bool) -> tuple[tuple[Save, ...], ...]:
    """The saves of each run, in a group of the run's dates."""
    if len(runs) == 1:
        return (tuple(runs[0]),)
    clocks = [[_clock(save, inside=inside) for save in run] for run in runs]
    dates = [_dates(min(run), max(run)) for run in clocks]
    if len(set(dates)) < len(dates):  # several runs of one day
        dates = [f"{date}, run {number}" for number, date in enumerate(dates, 1)]
    return tuple(tuple(replace(save, group=save.group._replace(dates=date)) for save in run) for run, date in zip(runs, dates, strict=True))


def _clock(save: Save, *, inside: bool) -> float:
    """When it was saved, in seconds since 1970."""
    return save.saved if inside and save.saved is not None else save.mtime_ns / 1e9


def _is_before(one: Save, other: Save) -> bool:
    """Whether one save has seen less training than another, as far as both tell."""
    if one.epoch is not None and other.epoch is not None and one.epoch != other.epoch:
        return one.epoch < other.epoch
    return one.step is not None and other.step is not None and one.step < other.step


def _dates(first: float, last: float) -> str:
    begin, end = (time.strftime("%Y-%m-%d", time.localtime(clock)) for clock in (first, last))
    return begin if begin == end else f"{begin} to {end}"
