"""What is known of a file that could not be read."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from gsvckpt.formats.pickle.safety import judge_all
from gsvckpt.model import Checkpoint
from gsvckpt.report.terminal import make_console
from gsvckpt.report.units import plural, printable, size


def print_known(known: Checkpoint) -> None:
    """Its size, its container, and the names in its pickle as far as that could be read."""
    container, safety = known.container, judge_all(known.globals, known.calls)
    head = f", head {printable(container.head)}" if container.head is not None else ""
    records = f", {plural(container.records, 'record')}" if container.records else ""
    names = ", ".join(f"{printable(judged.name if judged.verdict == 'safe' else str(judged))} ({judged.verdict})" for judged in safety.globals)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("size", size(known.source.size))
    facts.add_row("container", Text(f"{container.format}{head}{records}"))
    facts.add_row("names", Text(names or "none could be read"))
    make_console().print(facts)
