"""Show what the writing commands did: a table with one line for each file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from gsvckpt.commands.rewrite.result import Rewritten
from gsvckpt.files.paths import folder_of, name_of
from gsvckpt.report.terminal import Folded, make_console, print_table
from gsvckpt.units import plural, printable, size

_OTHERS = (("kept", "kept"), ("unchanged", "needed no cast:"))
_LEAST_SHARE = 0.005  # below it is no whole percent
_LISTED = 5  # overflowed tensors named without --verbose


def print_rewritten(results: Sequence[Rewritten], *, verbose: bool) -> None:
    """One line a file: what it was, what it is, where it went; then what was cast or removed."""
    console = make_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("file")
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("saved", justify="right", no_wrap=True)
    table.add_column("output")
    for done in results:
        table.add_row(
            Folded(Text(printable(_name(done)))),
            size(done.bytes_before),
            size(done.bytes_after) if done.output else "-",
            _share(done),
            Folded(_place(done)),
        )
    print_table(console, table)
    for done in results:
        lines = _lines(done.details, verbose=verbose)
        if not lines and done.output is not None and not done.changed:
            lines = ["no change to its content"]
        for line in (*lines, *done.notes):
            text = Text(f"{printable(_name(done))}: {line}" if len(results) > 1 else line)
            console.print(text, soft_wrap=not console.is_terminal)
    freed = sum(done.bytes_before - done.bytes_after for done in results if done.output)
    if len(results) > 1 and freed:
        console.print(f"{plural(len(results), 'file')}, {size(abs(freed))} {'saved' if freed > 0 else 'larger'}")


def _name(done: Rewritten) -> str:
    return name_of(done.source.rstrip(f"/{os.sep}")) or done.source


def _share(done: Rewritten) -> Text:
    """What part of its size a file has lost; how much more it has is for the columns beside it to say."""
    saved = done.bytes_before - done.bytes_after
    if saved <= 0:
        return Text("larger" if saved else "-")
    share = saved / done.bytes_before
    return Text(f"{share:.0%}" if share >= _LEAST_SHARE else "< 1%", style="green")


def _place(done: Rewritten) -> Text:
    if done.output is None:
        return Text("nothing to change" if not done.changed else "-", style="dim")
    beside = folder_of(done.output) == folder_of(done.source)
    name = printable(name_of(done.output) if beside else done.output)
    return Text(f"{name} (not written: dry run)" if done.rehearsed else name, style="dim" if done.rehearsed else "bold")


def _changes(changes: object, *, verbose: bool) -> list[str]:
    """Changes by step: the first few, and how many more there are."""
    by_step: dict[str, list[str]] = {}
    for change in changes if isinstance(changes, list) else ():
        arrow = f"{printable(change['from'])} -> {printable(change['to'])}" if change["from"] else printable(change["to"])
        by_step.setdefault(change["step"], []).append(f"{printable(change['where'])}: {arrow}")
    lines: list[str] = []
    for step, told in by_step.items():
        shown = told if verbose else told[:_LISTED]
        lines += [f"{step}: {line}" for line in shown]
        lines += [f"{step}: and {len(told) - len(shown):,} more; -v lists them"] if len(shown) < len(told) else []
    return lines


def _errors(facts: Mapping[str, object]) -> str:
    error, zeros = float(str(facts["max_rel_error"])), int(str(facts["underflowed"]))
    if not error and not zeros:
        return "no value changed"
    return f"largest error {error:.1g} of a tensor's largest value; {plural(zeros, 'value')} rounded to zero"


def _lines(facts: Mapping[str, object], *, verbose: bool) -> list[str]:
    """What there is to say of one file, from the same facts as the JSON."""
    lines: list[str] = _changes(facts["changes"], verbose=verbose) if isinstance(facts.get("changes"), list) else []
    if "removed" in facts and isinstance(facts["removed"], list):
        gone = [f"{printable(item['key'])} ({size(item['bytes'])})" if item["bytes"] else printable(item["key"]) for item in facts["removed"]]
        lines += [f"removed: {', '.join(gone)}"] if gone else []
    if "cast" in facts and isinstance(facts["worst"], list) and isinstance(facts["overflowed"], list):
        if facts["cast"]:
            parts = [f"cast {plural(int(str(facts['cast'])), 'tensor')}", *(f"{word} {facts[key]:,}" for key, word in _OTHERS if facts[key])]
            lines.append(f"{', '.join(parts)}; {_errors(facts)}")
        shown = facts["overflowed"] if verbose else facts["overflowed"][:_LISTED]
        lines += [f"beyond its new range: {printable(item['name'])} ({plural(item['count'], 'value')})" for item in shown]
        if len(facts["overflowed"]) > len(shown):
            lines.append(f"and {len(facts['overflowed']) - len(shown):,} more; -v lists them")
        if verbose:
            lines += [
                f"worst: {printable(item['name'])}, error {item['max_abs_error']:.2g} = {item['max_rel_error']:.2g} of its largest value"
                for item in facts["worst"]
            ]
    return lines
