"""What is printed as a hint's command can be pasted: a shell reads it to its end, and gsvckpt knows its subcommand and all of its options."""

from __future__ import annotations

import re
import shlex
from functools import cache

import typer

from gsvckpt.cli.app import COMMANDS, make_app

_PRINTED = re.compile(r"^ *hint: (gsvckpt .*)$", re.MULTILINE)


@cache
def _options(command: str) -> frozenset[str]:
    context = typer.Context(typer.main.get_command(make_app([command])))
    found = context.command.get_command(context, command)  # type: ignore[attr-defined]
    return frozenset(option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)) | {"-h", "--help"}


def commands_in(printed: str) -> list[str]:
    """The commands of the hints in what was printed, each with the text behind it."""
    return _PRINTED.findall(printed)


def problems_in(printed: str) -> list[str]:
    """Hints whose commands make no sense to a shell or to gsvckpt."""
    problems = []
    for line in commands_in(printed):
        words = shlex.split(line, comments=True)[1:]
        command = next((word for word in words if not word.startswith("-")), "")
        known = _options(command) if command in COMMANDS else frozenset({"-h", "--help"})
        if (command and command not in COMMANDS) or any(word.startswith("-") and word not in known for word in words):
            problems.append(line)
    return problems
