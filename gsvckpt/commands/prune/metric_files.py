"""Read tables of metrics for saves, as people and loggers write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import NamedTuple

from gsvckpt.errors import MissingError, UsageError
from gsvckpt.files import budget

_PLACES = {"epoch": ("epoch",), "step": ("step", "global_step"), "file": ("file", "path", "name"), "experiment": ("experiment",)}
_LINE = 2  # cells' worth of memory that a line takes beside its cells
_MOST_COLUMNS = 10_000
_FORM = "the first line names the columns: epoch,val_loss"
_OBJECTS = "write one object on each line"


class Row(NamedTuple):
    """A line of a table: `places` are texts by what they tell, `cells` those of the other columns. Empty ones are left out."""

    where: str
    places: Mapping[str, str]
    cells: Mapping[str, str]

    def number(self, column: str) -> float:
        """The number in a cell. Raises UsageError where there is something else."""
        return _number(self.cells[column], column, self.where)

    def whole(self, place: str) -> int | None:
        """The integer in a cell; None if there is none, and for the fractions of epochs that some loggers write."""
        number = _number(self.places[place], place, self.where) if place in self.places else math.nan
        return int(number) if number.is_integer() else None


class _Line(NamedTuple):
    """A line as it was read: its cells that are not empty, and the names of their columns, which lines share."""

    number: int
    names: tuple[str, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` are those that may be metrics; `places` are the columns that tell a place, by what they tell."""

    path: str
    columns: tuple[str, ...]
    places: Mapping[str, str]
    lines: tuple[_Line, ...]

    def rows_of(self, experiment: str) -> Iterator[Row]:
        """The rows that name this experiment, or none."""
        columns = frozenset(self.columns)
        for line in self.lines:
            cells = dict(zip(line.names, line.cells, strict=True))
            places = {place: cells[name] for place, name in self.places.items() if name in cells}
            if places.get("experiment", experiment) == experiment:
                yield Row(f"{self.path}:{line.number}", places, {name: text for name, text in cells.items() if name in columns})


def read_table(path: str, metric: str | None = None) -> Table:
    """The table in a file: CSV with commas, semicolons or tabs, or JSON lines. With `metric`, no other column of numbers is kept.

    Columns epoch, step (or global_step) and file (or path, or name) tell the save, experiment the training. Raises UsageError, whose `where` is FILE
    or FILE:LINE, for what is no table or tells of no save, and MissingError.
    """
    text = _texts(path)
    empty, first = 0, ""
    for first in text:
        if first.strip():
            break
        empty += 1
    rows = (_json_rows if first.lstrip().startswith("{") else _csv_rows)(path, first, chain(repeat("", empty), [first], text))
    wanted = {metric, *(name for names in _PLACES.values() for name in names)} if metric is not None else None
    seen: dict[str, None] = {}  # all columns, in order
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    lines = []
    left = budget.MOST_CELLS
    for number, row in rows:
        seen.update(dict.fromkeys(row))
        kept = {name: cell for name, cell in row.items() if cell and (wanted is None or name in wanted or _spell(name) in wanted)}
        left -= len(kept) + _LINE
        if left < 0 or len(seen) > _MOST_COLUMNS:
            raise UsageError(f"has more than {budget.MOST_CELLS:,} cells", where=f"{path}:{number}", hint="keep the lines and columns that matter")
        names = tuple(kept)
        lines.append(_Line(number, shared.setdefault(names, names), tuple(kept.values())))
    spelt = {_spell(name): name for name in seen}
    places = {place: spelt[known] for place, all_known in _PLACES.items() for known in reversed(all_known) if known in spelt}
    if not places.keys() - {"experiment"}:
        raise UsageError("has no column epoch, step or file, to tell which save a line is about", where=path, hint=_FORM)
    columns = tuple(name for name in seen if name and name not in places.values())  # pandas gives the column of its index no name
    return Table(path, columns, places, tuple(lines))


def _spell(name: str) -> str:
    return name.lower().replace(" ", "_")


def _texts(path: str) -> Iterator[str]:
    """The lines of a file, without what ends them. An endless one is refused before it is read."""
    number = 0
    try:
        with open(path, "rb") as file:
            while raw := file.readline(budget.LONGEST_LINE + 1):
                number += 1
                if len(raw) > budget.LONGEST_LINE:
                    raise UsageError(f"has a line of more than {budget.LONGEST_LINE:,} bytes", where=f"{path}:{number}", hint=_FORM)
                if number > budget.MOST_CELLS:
                    raise UsageError(f"has more than {budget.MOST_CELLS:,} lines", where=path)
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError("is not UTF-8 text", where=f"{path}:{number}", hint="save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise MissingError(f"cannot be read: {why}", path=path) from error


def _csv_rows(path: str, header: str, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    import csv

    reader = csv.reader(lines, delimiter=max(",;\t", key=header.count), skipinitialspace=True, strict=True)
    names: list[str] = []
    try:
        for cells in ([cell.strip() for cell in cells] for cells in reader):
            if not any(cells):
                continue
            if not names:
                names = cells
            elif len(cells) > len(names):
                why = f"has {len(cells)} cells, where the first line names {len(names)} columns"
                raise UsageError(why, where=f"{path}:{reader.line_num}", hint=_FORM)
            else:
                yield reader.line_num, dict(zip(names, cells + [""] * (len(names) - len(cells)), strict=True))
    except csv.Error as error:
        raise UsageError(f"is not valid CSV: {error}", where=f"{path}:{reader.line_num}", hint=_FORM) from error


def _json_rows(path: str, _: str, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    import json

    for number, row in enumerate(lines, 1):
        if not row.strip():
            continue
        try:
            values = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"is not valid JSON: {error}", where=f"{path}:{number}", hint=_OBJECTS) from error
        if not isinstance(values, dict):
            raise UsageError("is not a JSON object", where=f"{path}:{number}", hint=_OBJECTS)
        yield number, {name.strip(): "" if value is None else str(value).strip() for name, value in values.items()}


def find_column(table: Table, rows: Sequence[Row]) -> str:
    """The one column that has nothing but numbers in these rows; "" where there are no rows. Raises UsageError where there are several or none."""
    found = [column for column in table.columns if _is_numeric([row.cells[column] for row in rows if column in row.cells])]
    if len(found) > 1:
        raise UsageError(f"{table.path} has several columns of numbers: {', '.join(found)}", where="--metric", hint=f"name one: --metric {found[0]}")
    if not found and rows:
        raise UsageError(f"{table.path} has no column of numbers to rank by: {', '.join(table.columns) or 'no more columns'}", where="--metrics")
    return found[0] if found else ""


def _is_numeric(cells: Sequence[str]) -> bool:
    try:
        return len([float(cell) for cell in cells]) > 0
    except ValueError:
        return False


def _number(text: str, name: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{text[:20]!r} in column {name!r} must be a number", where=where, hint="leave empty what is not known") from None
