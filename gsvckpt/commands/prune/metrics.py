"""Score saves by a metric: from a table, from Lightning's callbacks in the files, or from TensorBoard's files."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from gsvckpt.commands.prune.metric_files import Table, find_column, read_table
from gsvckpt.commands.prune.policy import Scores
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.saves import Save
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
    """The metric that was asked for and the option that names it, whether high or low values are good and who says so, and a table of values."""

    metric: str | None = None
    mode: Mode | None = None
    table: Table | None = None


class _Found(NamedTuple):
    """What one source says."""

    metric: str
    values: Mapping[Save, float]
    mode: Mode | None = None


def find_scores(saves: Sequence[Save], wanted: Wanted) -> Scores:
    """The scores of one group's saves from the first source that has any: the table, the files' own callbacks, event files near them.

    NaN and infinity are none. Raises UsageError where it takes more to know which metric is meant, or whether low values are good, and MissingError
    where event files cannot be read for want of a library.
    """
    table, metric = wanted.table, wanted.metric
    for find in (_in_table, _in_callbacks, _in_events):
        found = find(saves, wanted)
        values = {save: found.values[save] for save in saves if math.isfinite(found.values.get(save, math.nan))}
        if values:
            return Scores(found.metric, _mode(found, wanted) == "min", values, watched=find is not _in_table)
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


def _in_table(saves: Sequence[Save], wanted: Wanted) -> _Found:
    if wanted.table is None or not saves:
        return _Found("", {})
    rows = tuple(wanted.table.rows_of(saves[0].group.name))
    metric = wanted.metric or find_column(wanted.table, rows)
    log = [Logged(row.number(metric), row.whole("step"), row.whole("epoch"), row.places.get("file")) for row in rows if metric in row.cells]
    told = {basename(one.file): one.value for one in log if one.file is not None}
    by_file = {save: told[name] for save in saves for name in map(basename, save.paths) if name in told}
    return _Found(metric, by_file or _by_step(saves, log) or _by_epoch(saves, log))


def _in_callbacks(saves: Sequence[Save], wanted: Wanted) -> _Found:
    """The newest files know the scores of those before them, as long as Lightning called them the best."""
    values: dict[str, float] = {}
    missing = {basename(save.paths[0]) for save in saves}
    newest: Callback | None = None
    for save in sorted(saves, key=lambda save: save.age, reverse=True):
        if not missing or save.group.kind.startswith("sovits-"):  # those are none of Lightning's
            break
        callback = _read_callback(save.paths[0], wanted.metric if newest is None else newest.monitor)
        if callback is not None:
            newest = newest or callback
            own = {basename(save.paths[0]): callback.current} if callback.current is not None and _is_own(save, callback) else {}
            told = {**own, **callback.scores}
            values |= {name: told[name] for name in missing & told.keys()}
            missing -= told.keys()
    found = {save: values[name] for save in saves if (name := basename(save.paths[0])) in values}
    return _Found("", {}) if newest is None else _Found(newest.monitor or "", found, newest.mode)


def _read_callback(path: str, metric: str | None) -> Callback | None:
    """The state that is about this metric, or about any where None is named; None where the file has none or cannot be read."""
    try:
        with open_checkpoint(path) as checkpoint:
            found = [one for one in read_callbacks(checkpoint.root) if metric in (None, one.monitor) and (one.scores or one.current is not None)]
    except (GsvError, OSError):
        return None
    return found[0] if found else None


def _is_own(save: Save, callback: Callback) -> bool:
    """Whether the current score is that of the file it stands in: not where it belongs to a file of another step, as in a `last.ckpt`."""
    names = [name for name, score in callback.scores.items() if score == callback.current]
    return not names or save.step in [parse(name).step for name in names]


def _in_events(saves: Sequence[Save], wanted: Wanted) -> _Found:
    from gsvckpt.commands.prune.tensorboard import find_event_files, read_events  # few need them

    metric = wanted.metric
    for paths in find_event_files(saves[0].group) if metric and saves else ():
        events = read_events(paths, {metric or "", _EPOCH})
        epochs = {event.step: int(event.value) + 1 for event in events if event.tag == _EPOCH and math.isfinite(event.value)}
        log = [Logged(e.value, e.step, epochs.get(e.step) if epochs else e.step, None, e.time) for e in events if e.tag == metric]
        values = _by_epoch(saves, log) if all(save.step is None for save in saves) else _by_step(saves, log)
        if values:
            return _Found(metric or "", values)
    return _Found("", {})


# --- from logged values to saves ---------------------------------------------------------------------------------------------------------------


def _by_step(saves: Sequence[Save], log: Sequence[Logged]) -> dict[Save, float]:
    """What was logged last since the save before, or since as many steps before as there usually are between two.

    Few values are logged at the step of a save: Lightning logs an epoch's one step before, GPT-SoVITS every 100 steps.
    """
    steps = sorted({save.step for save in saves if save.step is not None})
    gaps = sorted(later - earlier for earlier, later in pairwise(steps))
    usual = gaps[(len(gaps) - 1) // 2] if gaps else 1
    since = {step: max(step - usual, before) for before, step in pairwise([-1, *steps])}
    placed = [(one.step, one) for one in log if one.step is not None]
    return _last(placed, [(save, since[save.step], save.step) for save in saves if save.step is not None])


def _by_epoch(saves: Sequence[Save], log: Sequence[Logged]) -> dict[Save, float]:
    placed = [(one.epoch, one) for one in log if one.epoch is not None]
    return _last(placed, [(save, save.epoch - 1, save.epoch) for save in saves if save.epoch is not None])


def _last(placed: Sequence[tuple[int, Logged]], wanted: Sequence[tuple[Save, int, int]]) -> dict[Save, float]:
    """For each save the last value logged in a stretch, from behind its first number to its last one.

    A training that was run again logged it again; of values at the same place those count that were there when the save was saved.
    """
    order = sorted(range(len(placed)), key=lambda index: placed[index][0])
    numbers = [placed[index][0] for index in order]
    found = {}
    for save, after, until in wanted:
        mine = order[bisect_right(numbers, after) : bisect_right(numbers, until)]
        mine.sort(key=lambda index: (placed[index][1].time, placed[index][0], index))
        by_then = [index for index in mine if placed[index][1].time <= save.mtime_ns / 1e9 + _LATE]
        if mine:
            found[save] = placed[(by_then or mine)[-1]][1].value
    return found
