"""Tables of numbers about the saves of a training, as people and loggers write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gsvckpt.errors import UsageError
from gsvckpt.texts import read_text

_PLACES = {"epoch": ("epoch",), "step": ("step", "global_step"), "file": ("file", "path", "name"), "experiment": ("experiment",)}
_LARGEST = 1 << 28  # bytes
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
        """A whole number that tells a place; None where there is none, and for the parts of epochs that some log."""
        number = _number(self.places[place], place, self.where) if place in self.places else math.nan
        return int(number) if number.is_integer() else None


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` are those that may be metrics."""

    path: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def rows_of(self, experiment: str) -> tuple[Row, ...]:
        """Those that name this experiment or none."""
        return tuple(row for row in self.rows if row.places.get("experiment", experiment) == experiment)


def read_table(path: str) -> Table:
    """The table in a file: CSV with commas, semicolons or tabs, or JSON lines.

    Columns epoch, step (or global_step) and file (or path, or name) tell the save, experiment the training. Raises UsageError, whose `where` is FILE
    or FILE:LINE, for what is no table or tells of no save, and MissingError.
    """
    text = read_text(path, largest=_LARGEST)
    lines = list(_json_rows(path, text) if text.lstrip().startswith("{") else _csv_rows(path, text))
    names = dict.fromkeys(name for _, row in lines for name in row)
    spelt = {name.lower().replace(" ", "_"): name for name in names}
    places = {place: spelt[known] for place, all_known in _PLACES.items() for known in reversed(all_known) if known in spelt}
    if not places.keys() - {"experiment"}:
        raise UsageError("has no column epoch, step or file, to tell which save a line is about", where=path, hint=_FORM)
    columns = tuple(name for name in names if name and name not in places.values())  # pandas gives the column of its index no name
    return Table(path, columns, tuple(Row(f"{path}:{line}", *_divide(row, places, columns)) for line, row in lines))


def _divide(row: Mapping[str, str], places: Mapping[str, str], columns: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    told = {place: row[name] for place, name in places.items() if row.get(name)}
    return told, {name: row[name] for name in columns if row.get(name)}


def _csv_rows(path: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    import csv

    header = text.lstrip("\n").partition("\n")[0]
    reader = csv.reader(text.split("\n"), delimiter=max(",;\t", key=header.count), skipinitialspace=True, strict=True)
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
        raise UsageError(f"is no valid CSV: {error}", where=f"{path}:{reader.line_num}", hint=_FORM) from error


def _json_rows(path: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    import json

    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            values = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"is no valid JSON: {error}", where=f"{path}:{line}", hint=_OBJECTS) from error
        if not isinstance(values, dict):
            raise UsageError("is no JSON object", where=f"{path}:{line}", hint=_OBJECTS)
        yield line, {name.strip(): "" if value is None else str(value).strip() for name, value in values.items()}


def find_column(table: Table, rows: Sequence[Row]) -> str:
    """The one column that has nothing but numbers in these rows; "" where there are no rows. Raises UsageError where there are several or none."""
    found = [column for column in table.columns if _is_numeric([row.cells[column] for row in rows if column in row.cells])]
    if len(found) > 1:
        raise UsageError(f"{table.path} has several columns of numbers: {', '.join(found)}", where="--metric", hint=f"name one: --metric {found[0]}")
    if not found and rows:
        raise UsageError(f"{table.path} has no column of numbers to go by: {', '.join(table.columns) or 'no more columns'}", where="--metrics")
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
        raise UsageError(f"{text[:20]!r} in column {name!r} is no number", where=where, hint="leave empty what is not known") from None
