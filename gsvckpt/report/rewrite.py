"""What the writing commands did: a table with one line a file, and JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from gsvckpt.commands.inspect.result import upstream_json
from gsvckpt.commands.rewrite.batch import Written
from gsvckpt.files.paths import folder_of, name_of
from gsvckpt.report.terminal import Folded, make_console, print_table
from gsvckpt.units import plural, printable, size

_OTHERS = (("kept", "kept"), ("unchanged", "needed no cast:"))
_LEAST_SHARE = 0.005  # below it is no whole percent
_LISTED = 5  # overflowed tensors named without --verbose


def as_json(written: Written) -> dict[str, object]:
    """One file of the JSON document."""
    return {
        "source": written.source,
        "output": written.output,
        "changed": written.changed,
        "written": written.output is not None and not written.rehearsed,
        "bytes_before": written.bytes_before,
        "bytes_after": written.bytes_after,
        "upstream_before": upstream_json(written.upstream_before),
        "upstream_after": upstream_json(written.upstream_after),
        "warnings": list(written.warnings),
        **written.details,
    }


def print_written(done: Sequence[Written], *, verbose: bool) -> None:
    """One line a file: what it was, what it is, where it went; then what was cast or removed."""
    console = make_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("file")
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("saved", justify="right", no_wrap=True)
    table.add_column("output")
    for written in done:
        table.add_row(
            Folded(Text(printable(_name(written)))),
            size(written.bytes_before),
            size(written.bytes_after) if written.output else "-",
            _share(written),
            Folded(_place(written)),
        )
    print_table(console, table)
    for written in done:
        lines = _lines(written.details, verbose=verbose)
        if not lines and written.output is not None and not written.changed:
            lines = ["nothing to change in what it holds"]
        for line in lines:
            text = Text(f"{printable(_name(written))}: {line}" if len(done) > 1 else line)
            console.print(text, soft_wrap=not console.is_terminal)
    freed = sum(written.bytes_before - written.bytes_after for written in done if written.output)
    if len(done) > 1 and freed:
        console.print(f"{plural(len(done), 'file')}, {size(abs(freed))} {'saved' if freed > 0 else 'larger'}")


def _name(written: Written) -> str:
    return name_of(written.source.rstrip(f"/{os.sep}")) or written.source


def _share(written: Written) -> Text:
    """What part of its size a file has lost; how much more it has is for the columns beside it to say."""
    saved = written.bytes_before - written.bytes_after
    if saved <= 0:
        return Text("larger" if saved else "-")
    share = saved / written.bytes_before
    return Text(f"{share:.0%}" if share >= _LEAST_SHARE else "< 1%", style="green")


def _place(written: Written) -> Text:
    if written.output is None:
        return Text("nothing to change" if not written.changed else "-", style="dim")
    beside = folder_of(written.output) == folder_of(written.source)
    name = printable(name_of(written.output) if beside else written.output)
    return Text(f"{name} (not written: dry run)" if written.rehearsed else name, style="dim" if written.rehearsed else "bold")


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
