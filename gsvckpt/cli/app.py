"""The program: its subcommands, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from gsvckpt import __version__
from gsvckpt.cli import convert_fp16, inspect, strip_optimizer
from gsvckpt.errors import GsvError, UsageError
from gsvckpt.report.console import print_error, print_line

INTERRUPTED = 130
_EXIT_CODES = """
**Exit codes**

0 done · 1 --check or --diff found something · 2 usage · 3 an input is missing, damaged or not understood · 4 refused · 5 an output could not be
written · 130 interrupted
"""

app = typer.Typer(
    name="gsvckpt",
    help="A checkpoint toolbox for GPT-SoVITS, and for any PyTorch checkpoint. It never runs a byte of the files it reads.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS = {
    "inspect": (inspect.inspect, inspect.EXAMPLES),
    "convert-fp16": (convert_fp16.convert_fp16, convert_fp16.EXAMPLES),
    "strip-optimizer": (strip_optimizer.strip_optimizer, strip_optimizer.EXAMPLES),
}
for _name, (_command, _examples) in _COMMANDS.items():
    app.command(_name, epilog=_examples)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"gsvckpt {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line, the process's own where `argv` is None, and return its exit code. Never a traceback for bad input."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal or pipe whose encoding lacks a character
    try:
        previous = signal.signal(signal.SIGTERM, _interrupt)
    except ValueError:  # not in the main thread
        previous = None
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if not arguments:
            app(args=["--help"], prog_name="gsvckpt", standalone_mode=False)
            return UsageError.exit_code
        # Without `args` typer expands wildcards itself on Windows, whose shells do not.
        code = app(args=None if argv is None else arguments, prog_name="gsvckpt", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        command = [word for word in arguments[:1] if word in _COMMANDS]
        print_error(UsageError(_message(error), hint=" ".join(["gsvckpt", *command, "--help"])))
        return UsageError.exit_code
    except GsvError as error:
        print_error(error)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output left, as `head` does
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code
        print_line("gsvckpt: interrupted; nothing was left behind")
    return int(code or 0)


def _message(error: Exception) -> str:
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    return " ".join(str(text).split())


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
