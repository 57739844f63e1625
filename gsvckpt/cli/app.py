"""The program: its subcommands, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated

import typer

from gsvckpt import __version__
from gsvckpt.errors import GsvError, OutputError, UsageError
from gsvckpt.report.console import print_error, print_line

INTERRUPTED = 130
_EXIT_CODES = """
**Exit codes**

0 done · 1 --check or --diff found something · 2 usage · 3 an input is missing, damaged or not understood · 4 refused · 5 an output could not be
written · 130 interrupted
"""

# Where each subcommand lives. Only the one that is asked for is imported, which halves the time to start.
COMMANDS = {"inspect": "inspect", "convert-fp16": "convert_fp16", "strip-optimizer": "strip_optimizer"}


def make_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The program with these subcommands."""
    app = typer.Typer(
        name="gsvckpt",
        help="A checkpoint toolbox for GPT-SoVITS, and for any PyTorch checkpoint. It never runs a byte of the files it reads.",
        epilog=_EXIT_CODES,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in names:
        module = import_module(f"gsvckpt.cli.{COMMANDS[name]}")
        app.command(name, epilog=module.EXAMPLES)(getattr(module, COMMANDS[name]))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"gsvckpt {__version__}\n")
        raise typer.Exit


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
    asked = [word for word in arguments[:1] if word in COMMANDS]
    code: object = 0
    try:
        app = make_app(asked or COMMANDS)
        if not arguments:
            app(args=["--help"], prog_name="gsvckpt", standalone_mode=False)
            return UsageError.exit_code
        # Without `args` typer expands wildcards itself on Windows, whose shells do not.
        code = app(args=None if argv is None else arguments, prog_name="gsvckpt", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        print_error(UsageError(_message(error), hint=" ".join(["gsvckpt", *asked, "--help"])))
        return UsageError.exit_code
    except GsvError as error:
        print_error(error)
        return error.exit_code
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        return _stop_printing()  # typer turned it into an exit with 1, which here means something else
    except BrokenPipeError:
        return _stop_printing()
    except OSError as error:  # only standard output is written without a guard of its own, for instance into a file on a full disk
        _stop_printing()
        failure = OutputError(f"cannot be written: {error.strerror or error}", path=str(error.filename or "standard output"))
        print_error(failure)
        return failure.exit_code
    except KeyboardInterrupt:  # before typer ran, or after it
        code = INTERRUPTED
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code
        print_line("gsvckpt: interrupted; nothing was left behind")
    return code if isinstance(code, int) else 0


def _stop_printing() -> int:
    """The reader of our output left, as `head` does. What is still buffered goes nowhere, or Python would complain at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _message(error: Exception) -> str:
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    return " ".join(str(text).split())


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
