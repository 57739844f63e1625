"""How good the saves of a training are by a metric: from a table, from what Lightning keeps in its files, or from TensorBoard's."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from gsvckpt.commands.prune.decisions import Scores
from gsvckpt.commands.prune.metric_files import Table, find_column, read_table
from gsvckpt.commands.prune.saves import Unit
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import GsvError, UsageError, did_you_mean
from gsvckpt.sovits.lightning import Callback, read_callbacks
from gsvckpt.sovits.names import basename, parse

__all__ = ["Table", "Wanted", "find_scores", "read_table"]

Mode = Literal["min", "max"]

_LOW, _HIGH = {"loss", "err", "error", "perplexity", "mcd", "wer", "cer"}, {"acc", "accuracy", "score", "f1", "mos"}
_EPOCH = "epoch"  # the tag beside all others of Lightning's, which counts from 0
_LATE = 60  # seconds: what the end of an epoch logs comes after its save


class Logged(NamedTuple):
    """A value as it was logged, and where it belongs. `time` is in seconds; a table does not tell it."""

    value: float
    step: int | None = None
    epoch: int | None = None
    file: str | None = None
    time: float = -math.inf


class Wanted(NamedTuple):
    """What is asked for: the metric, where it is named, which values are good, where that is said, and a table to find them in."""

    metric: str | None = None
    mode: Mode | None = None
    table: Table | None = None


class _Found(NamedTuple):
    """What one source says."""

    metric: str
    values: Mapping[Unit, float]
    mode: Mode | None = None


def find_scores(units: Sequence[Unit], wanted: Wanted) -> Scores:
    """The scores of one group's units from the first source that has any: the table, the files' own callbacks, event files near them.

    NaN and infinity are none. Raises UsageError where it takes more to know which metric is meant, or whether low values are good, and MissingError
    where event files cannot be read for want of a library.
    """
    table, metric = wanted.table, wanted.metric
    for find in (_in_table, _in_callbacks, _in_events):
        found = find(units, wanted)
        values = {unit: found.values[unit] for unit in units if math.isfinite(found.values.get(unit, math.nan))}
        if values:
            return Scores(found.metric, _mode(found, wanted) == "min", values)
    if table is not None and metric is not None and metric not in table.columns:
        columns = ", ".join(table.columns)
        raise UsageError(
            f"{table.path} has no column {metric!r}", where="--metric", hint=did_you_mean(metric, table.columns, f"its columns: {columns}")
        )
    return Scores(metric or "")


def _mode(found: _Found, wanted: Wanted) -> Mode:
    """What was asked for, else what the callback says, else what such a name usually means."""
    mode = wanted.mode or found.mode
    if mode is not None:
        return mode
    words = set(re.findall(r"f1|[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", found.metric).lower()))
    if bool(words & _LOW) == bool(words & _HIGH):
        why = f"it is not known whether low or high values of {found.metric!r} are good"
        raise UsageError(why, where="--mode", hint="--mode min where low values are good, else --mode max")
    return "min" if words & _LOW else "max"


# --- the sources --------------------------------------------------------------------------------------------------------------------------------


def _in_table(units: Sequence[Unit], wanted: Wanted) -> _Found:
    if wanted.table is None or not units:
        return _Found("", {})
    rows = tuple(wanted.table.rows_of(units[0].group.name))
    metric = wanted.metric or find_column(wanted.table, rows)
    log = [Logged(row.number(metric), row.whole("step"), row.whole("epoch"), row.places.get("file")) for row in rows if metric in row.cells]
    told = {basename(one.file): one.value for one in log if one.file is not None}
    by_file = {unit: told[name] for unit in units for name in map(basename, unit.paths) if name in told}
    return _Found(metric, by_file or _by_step(units, log) or _by_epoch(units, log))


def _in_callbacks(units: Sequence[Unit], wanted: Wanted) -> _Found:
    """The newest files know the scores of those before them, as long as Lightning called them the best."""
    values: dict[str, float] = {}
    missing = {basename(unit.paths[0]) for unit in units}
    newest: Callback | None = None
    for unit in sorted(units, key=lambda unit: unit.age, reverse=True):
        if not missing or unit.group.kind.startswith("sovits-"):  # those are none of Lightning's
            break
        callback = _read_callback(unit.paths[0], wanted.metric if newest is None else newest.monitor)
        if callback is not None:
            newest = newest or callback
            own = {basename(unit.paths[0]): callback.current} if callback.current is not None and _is_own(unit, callback) else {}
            told = {**own, **callback.scores}
            values |= {name: told[name] for name in missing & told.keys()}
            missing -= told.keys()
    found = {unit: values[name] for unit in units if (name := basename(unit.paths[0])) in values}
    return _Found("", {}) if newest is None else _Found(newest.monitor or "", found, newest.mode)


def _read_callback(path: str, metric: str | None) -> Callback | None:
    """The state that is about this metric, or about any where None is named; None where the file has none or cannot be read."""
    try:
        with open_checkpoint(path) as checkpoint:
            found = [one for one in read_callbacks(checkpoint.root) if metric in (None, one.monitor) and (one.scores or one.current is not None)]
    except (GsvError, OSError):
        return None
    return found[0] if found else None


def _is_own(unit: Unit, callback: Callback) -> bool:
    """Whether the current score is that of the file it stands in: not where it belongs to a file of another step, as in a `last.ckpt`."""
    names = [name for name, score in callback.scores.items() if score == callback.current]
    return not names or unit.step in [parse(name).step for name in names]


def _in_events(units: Sequence[Unit], wanted: Wanted) -> _Found:
    from gsvckpt.commands.prune.tensorboard import find_event_files, read_events  # few need them

    metric = wanted.metric
    for paths in find_event_files(units[0].group) if metric and units else ():
        events = read_events(paths, {metric or "", _EPOCH})
        epochs = {event.step: int(event.value) + 1 for event in events if event.tag == _EPOCH and math.isfinite(event.value)}
        log = [Logged(e.value, e.step, epochs.get(e.step) if epochs else e.step, None, e.time) for e in events if e.tag == metric]
        values = _by_epoch(units, log) if all(unit.step is None for unit in units) else _by_step(units, log)
        if values:
            return _Found(metric or "", values)
    return _Found("", {})


# --- from logged values to saves ---------------------------------------------------------------------------------------------------------------


def _by_step(units: Sequence[Unit], log: Sequence[Logged]) -> dict[Unit, float]:
    """What was logged last since the save before, or since as many steps before as there usually are between two.

    Few values are logged at the step of a save: Lightning logs an epoch's one step before, GPT-SoVITS every 100 steps.
    """
    steps = sorted({unit.step for unit in units if unit.step is not None})
    gaps = sorted(later - earlier for earlier, later in pairwise(steps))
    usual = gaps[(len(gaps) - 1) // 2] if gaps else 1
    since = {step: max(step - usual, before) for before, step in pairwise([-1, *steps])}
    placed = [(one.step, one) for one in log if one.step is not None]
    return _last(placed, [(unit, since[unit.step], unit.step) for unit in units if unit.step is not None])


def _by_epoch(units: Sequence[Unit], log: Sequence[Logged]) -> dict[Unit, float]:
    placed = [(one.epoch, one) for one in log if one.epoch is not None]
    return _last(placed, [(unit, unit.epoch - 1, unit.epoch) for unit in units if unit.epoch is not None])


def _last(placed: Sequence[tuple[int, Logged]], wanted: Sequence[tuple[Unit, int, int]]) -> dict[Unit, float]:
    """For each unit the last value logged in a stretch, from behind its first number to its last one.

    A training that was run again logged it again; of values at the same place those count that were there when the unit was saved.
    """
    order = sorted(range(len(placed)), key=lambda index: placed[index][0])
    numbers = [placed[index][0] for index in order]
    found = {}
    for unit, after, until in wanted:
        mine = order[bisect_right(numbers, after) : bisect_right(numbers, until)]
        mine.sort(key=lambda index: (placed[index][1].time, placed[index][0], index))
        by_then = [index for index in mine if placed[index][1].time <= unit.mtime_ns / 1e9 + _LATE]
        if mine:
            found[unit] = placed[(by_then or mine)[-1]][1].value
    return found
