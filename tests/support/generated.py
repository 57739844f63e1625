"""Sections of docs that a command writes: between two marks, so that the words around them stay."""

from __future__ import annotations

from pathlib import Path


def write_section(document: Path, command: str, text: str) -> None:
    """Put `text` in place of what `command` wrote there before. Raises ValueError where the document has no such section."""
    begin, end = f"<!-- {command} writes from here -->", "<!-- to here -->"
    before = document.read_text(encoding="utf-8")
    head, mark, rest = before.partition(begin)
    if not mark or end not in rest:
        raise ValueError(f"{document.name} has no section {begin}")
    document.write_text(f"{head}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")
