"""What is printed as a hint's command can be pasted: a real shell reads it to its end, and gsvckpt's own parser takes what the shell hands over."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from functools import cache
from html import unescape
from typing import Any

import typer

from gsvckpt.cli.app import COMMANDS, make_app

_PRINTED = re.compile(r"^ *hint: (gsvckpt .*)$", re.MULTILINE)
_UsageError: Any = typer.BadParameter.__base__  # of click, or of the copy that typer brings
_PLACEHOLDER = re.compile("<([A-Z]+)>")
_RECORD = "gsvckpt() { printf '%s\\0' gsvckpt \"$@\" END; }\n"  # stands in for the program, and prints what the shell hands over


@cache
def _context(command: str) -> typer.Context:
    outer = typer.Context(typer.main.get_command(make_app([command])))
    return typer.Context(outer.command.get_command(outer, command), info_name=command)  # type: ignore[attr-defined]


def commands_in(printed: str) -> list[str]:
    """The commands of the hints in what was printed, each with the text behind it."""
    return _PRINTED.findall(unescape(printed) if printed.startswith("<?xml") else printed)  # JUnit shows them, too


def without_placeholders(line: str) -> str:
    """The line with a word for each `<...>`, which a shell would read as a redirection."""
    return _PLACEHOLDER.sub(r"\1", line)


def problems_in(printed: str) -> list[str]:
    """Hints whose commands make no sense to a shell or to gsvckpt."""
    lines = commands_in(printed)
    if not lines:
        return []
    handed = _hand_over([without_placeholders(line) for line in lines])
    if len(handed) != len(lines):
        return lines
    return [line for line, words in zip(lines, handed, strict=True) if not _parses(words)]


def _hand_over(lines: list[str]) -> list[list[str]]:
    """What a shell makes of each line: the words that the program gets."""
    if os.name == "nt":
        return [shlex.split(line, comments=True)[1:] for line in lines]
    done = subprocess.run(["sh", "-c", _RECORD + "\n".join(lines)], capture_output=True, text=True, errors="surrogateescape", check=False)
    if done.returncode or done.stderr:
        return []
    return [part.split("\0")[:-1] for part in done.stdout.split("gsvckpt\0")[1:] for part in [part.removesuffix("END\0")]]


def _parses(words: list[str]) -> bool:
    command = next((word for word in words if not word.startswith("-")), "")
    if command not in COMMANDS:
        return not command and set(words) <= {"-h", "--help", "--version"}
    context = _context(command)
    rest = words[words.index(command) + 1 :]
    try:
        context.command.make_parser(context).parse_args(rest)
    except _UsageError:
        return False
    return True
