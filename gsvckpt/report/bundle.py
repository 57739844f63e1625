"""Show what a bundle holds: a table with one line for each file."""

from __future__ import annotations

import os

from rich import box
from rich.table import Table
from rich.text import Text

from gsvckpt.commands.bundle.contents import Bundle, BundleItem
from gsvckpt.report.terminal import Folded, make_console, print_table
from gsvckpt.units import plural, printable, size

_WIDEST = 36  # columns that names in the bundle may take before they are folded


def print_bundle(bundle: Bundle) -> None:
    """One line a file, and what they come to."""
    console = make_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    widest = max(len(item.path) for item in bundle.items)
    table.add_column("file", no_wrap=widest <= _WIDEST)
    table.add_column("from")
    table.add_column("size", justify="right", no_wrap=True, min_width=8)
    for item in bundle.items:
        table.add_row(Folded(Text(printable(item.path))), Folded(_origin(bundle, item)), size(item.size))
    print_table(console, table)
    where = f"{printable(bundle.output)}{' (not written: dry run)' if bundle.rehearsed else ''}"
    console.print(f"{plural(len(bundle.items), 'file')}, {size(bundle.size)}: {where}", soft_wrap=not console.is_terminal)


def _origin(bundle: Bundle, item: BundleItem) -> Text:
    """Where a file comes from, below the experiment or GPT-SoVITS's own folder."""
    if item.origin is None or item.origin == bundle.source:
        return Text("-", style="dim")
    inside = os.path.relpath(item.origin, bundle.source)
    if inside.startswith(os.pardir):
        inside = os.path.relpath(item.origin, bundle.root)
    shown = item.origin if inside.startswith(os.pardir) else inside
    return Text(f"{printable(shown)}{' (extracted)' if item.how == 'extracted' else ''}")
