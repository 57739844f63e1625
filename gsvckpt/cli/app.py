"""The program: its subcommands, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Annotated

import typer

from gsvckpt.errors import GsvError, UsageError
from gsvckpt.files.paths import is_url
from gsvckpt.files.secrets import conceal, forget
from gsvckpt.hints import Hint
from gsvckpt.report.console import print_error
from gsvckpt.report.json_document import forget_document, print_document
from gsvckpt.report.output import LostOutput, printing
from gsvckpt.version import __version__

INTERRUPTED = 130
_EXIT_CODES = """
**Exit codes**

0 done, or all sound · 1 verify, --check or --diff found something, or --salvage lost something · 2 usage · 3 an input is missing, damaged or could
not be examined · 4 refused · 5 an output could not be written · 130 interrupted
"""


_ENDS = (signal.SIGTERM, *(getattr(signal, name) for name in ("SIGHUP", "SIGBREAK") if hasattr(signal, name)))  # SIGBREAK: Ctrl-Break on Windows
_FOR_MACHINES = frozenset({"--json", "--config", "--format"})


class _Interruption(GsvError):
    """Ctrl-C, or a request to end."""

    exit_code = INTERRUPTED
    kind = "interrupted"


# Where each subcommand lives. Only the one that is asked for is imported, which halves the time to start.
COMMANDS = {
    "inspect": "inspect",
    "convert-fp16": "convert_fp16",
    "strip-optimizer": "strip_optimizer",
    "verify": "verify",
    "prune": "prune",
    "migrate": "migrate",
}


def make_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The program with these subcommands."""
    app = typer.Typer(
        name="gsvckpt",
        help="A checkpoint toolbox for GPT-SoVITS, and for any PyTorch checkpoint. It never runs code from the files it reads.",
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
    forget_document()
    forget()
    arguments = [conceal(word) for word in (sys.argv[1:] if argv is None else argv)]  # from here on nobody can show what a URL hides
    _mend_streams(arguments)
    if _is_path(arguments):
        arguments.insert(0, "inspect")
    asked = [word for word in arguments[:1] if word in COMMANDS]
    try:
        with _ending_softly(), printing():  # help and version; what commands print and which files they fail on has guards of its own
            return _run(arguments, asked)
    except LostOutput as lost:
        return _stop_printing(lost)
    finally:
        forget()


def _is_path(arguments: Sequence[str]) -> bool:
    """Whether the first word is no command but a file, as when files are dropped on the program."""
    first = arguments[0] if arguments else ""
    return bool(first) and first not in COMMANDS and not first.startswith("-") and (is_url(first) or os.path.exists(first.strip('"')))


def _run(arguments: list[str], asked: list[str]) -> int:
    try:
        app = make_app(asked or ([] if arguments == ["--version"] else COMMANDS))
        if not arguments:
            app(args=["--help"], prog_name="gsvckpt", standalone_mode=False)
            return UsageError.exit_code
        code = app(args=arguments, prog_name="gsvckpt", standalone_mode=False)  # without `args`, typer expands wildcards of any word on Windows
        with printing(code if isinstance(code, int) else 0):
            sys.stdout.flush()
    except typer.TyperException as error:
        hint = Hint(f"lists the {'options' if asked else 'commands'}", " ".join(["gsvckpt", *asked, "--help"]))
        code = _fail(UsageError(_message(error), hint=hint), arguments, asked)
    except GsvError as error:
        code = _fail(error, arguments, asked)
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        raise LostOutput(None) from None  # typer turned it into an exit with 1, which here means something else
    except KeyboardInterrupt:  # before typer ran, or after it
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code
        code = _fail(_Interruption(_interrupted(arguments)), arguments, asked)
    return code if isinstance(code, int) else 0


def _interrupted(arguments: list[str]) -> str:
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if os.environ.get("GSVCKPT_CLUSTER") or any(word.partition("=")[0] == "--cluster" for word in options):
        return "interrupted; the cluster's workers finish what they are working on"
    return "interrupted; nothing half-written was left behind"


def _fail(failure: GsvError, arguments: list[str], asked: list[str]) -> int:
    """Tell of a failure that is no single file's, where a document was asked for in a document, too."""
    print_error(failure)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--json" in options:
        with printing(failure.exit_code):
            print_document("".join(asked), failure.exit_code, [], {"error": failure.as_json()})
            sys.stdout.flush()
    return failure.exit_code


def _mend_streams(arguments: Sequence[str]) -> None:
    """Python leaves None where a stream was closed before it started (`>&-`); what would be printed there goes nowhere.

    What a machine reads is UTF-8 wherever it goes; Windows would write a file in its code page.
    """
    if _FOR_MACHINES.intersection(word.partition("=")[0] for word in arguments) and sys.stdout is not None and not sys.stdout.isatty():
        with suppress(AttributeError, ValueError):
            sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # a replaced stream may lack it
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open for as long as the program runs
        with suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(errors="backslashreplace")  # a terminal or pipe whose encoding lacks a character


def _stop_printing(lost: LostOutput) -> int:
    """What is still buffered goes nowhere, or Python would complain at its end. A reader who left, as `head` does, is no error."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if lost.error is None:
        return lost.code
    print_error(lost.error)
    return max(lost.code, lost.error.exit_code)


def _message(error: Exception) -> str:
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    return " ".join(str(text).split())


@contextmanager
def _ending_softly() -> Iterator[None]:
    """A request to end, or a terminal that goes away, ends what is done inside as Ctrl-C does. What `nohup` and others ignore stays ignored."""
    try:
        previous = {number: signal.signal(number, _interrupt) for number in _ENDS if signal.getsignal(number) != signal.SIG_IGN}
    except ValueError:  # not in the main thread
        previous = {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a shell sends SIGHUP again, which must not end the tidying up
    raise KeyboardInterrupt
