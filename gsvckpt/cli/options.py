"""Options that several commands share, each declared once, and the values they become."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, get_type_hints

import typer

from gsvckpt.engine.resources import Resources, require_device
from gsvckpt.errors import GsvError, MissingError, as_error
from gsvckpt.files.progress import Progress, Silent
from gsvckpt.files.wildcards import read_paths
from gsvckpt.report.console import print_error, print_line, print_warning
from gsvckpt.report.output import LostOutput
from gsvckpt.units import size

if TYPE_CHECKING:  # inspect starts without them
    from gsvckpt.devices.choice import Work
    from gsvckpt.engine.placement import Computing


_PATHS = frozenset({"paths", "sources", "folders"})  # the parameters that take files


class Settings(NamedTuple):
    """How a command is to run: the options that every command has."""

    json: Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what is wrong.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print more detail.")] = False
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Show progress [default: on a terminal, when the work takes long].", show_default=False),
    ] = None
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="cpu|cuda|cuda:N|auto",
            envvar="GSVCKPT_DEVICE",
            help="Compute numbers on this device. auto takes a GPU if there is one and the work is large enough; -v says which.",
            callback=require_device,
            rich_help_panel="Engine",
        ),
    ] = "cpu"
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            metavar="N",
            envvar="GSVCKPT_JOBS",
            help="Use this many threads [default: the number of cores].",
            show_default=False,
            rich_help_panel="Engine",
        ),
    ] = None
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="ADDRESS",
            envvar="GSVCKPT_CLUSTER",
            help="Run on a Dask cluster whose workers see the same storage: tcp://HOST:PORT.",
            show_default=False,
            rich_help_panel="Engine",
        ),
    ] = None

    @property
    def resources(self) -> Resources:
        """What the command may work with."""
        return Resources(self.device, self.jobs, self.cluster)

    def locate(self, path: str) -> str:
        """The path as it may be sent: absolute if another machine will open it."""
        return self.resources.locate(path)

    @property
    def workers(self) -> int:
        """The number of threads: as asked, else the cores this process may use."""
        return self.resources.workers

    @contextmanager
    def watch(self, label: str) -> Iterator[Progress]:
        """A progress display for one file, or a silent one."""
        wanted = sys.stderr.isatty() and not self.quiet if self.progress is None else self.progress
        if not wanted:
            yield Silent()
            return
        from gsvckpt.report.progress import Bar  # rich.progress takes 20 ms to import

        bar = Bar(label)
        try:
            yield bar
        finally:
            bar.close()


class Outputs(NamedTuple):
    """What is to be written where: the options of the commands that rewrite files."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Write to this file, or to this folder if there are several sources.", rich_help_panel="Output"
        ),
    ] = None
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the source in one step.", rich_help_panel="Output")] = False
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an existing output, and write what gsvckpt would refuse to write.", rich_help_panel="Output")
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would be written, and write nothing.", rich_help_panel="Output")] = False
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if something would change.", rich_help_panel="Output")] = False


def shared_options(without: Collection[str] = ()) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Let a command take `settings: Settings` and `outputs: Outputs` whole, and its command line have their options one by one.

    Typer learns the options from a function's signature, and calls it with the value of each. So it is given a function whose signature names the
    options of a group in the place of the group, and which calls the command with the group. Those in `without` are no options of the command.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        groups: dict[str, type[Settings | Outputs]] = {}
        parameters: list[Parameter] = []
        for parameter in signature(command, eval_str=True).parameters.values():
            if parameter.annotation in (Settings, Outputs):
                groups[parameter.name] = parameter.annotation
                parameters += (option for option in _options_of(parameter.annotation) if option.name not in without)
            else:
                parameters.append(parameter)

        @wraps(command)
        def take(**values: Any) -> int:
            for name in _PATHS.intersection(values):
                values[name] = read_paths(values[name])
            for name, group in groups.items():
                values[name] = group(**{option: values.pop(option) for option in group._fields if option in values})
            return command(**values)

        take.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # known to inspect, which typer asks
        return take

    return decorate


def _options_of(group: type[Settings | Outputs]) -> Iterator[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for name, default in group._field_defaults.items():
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])


def open_device(settings: Settings, work: Work) -> Computing:
    """The device for some work; `-v` reports it. Raises UsageError for one that is not there."""
    from gsvckpt.engine import placement

    found = placement.open_device(settings.device, work, settings.resources.threads, warn=partial(print_warning, ""))
    if settings.verbose:
        tell_device(found.device.name, f"{found.why} ({size(work.nbytes)})")
    return found


def tell_device(name: str, why: str) -> None:
    """One line on stderr."""
    print_line(f"device: {name}: {why}")


R = TypeVar("R")


def try_each(
    paths: Sequence[str], work: Callable[[str], R], failed: Sequence[GsvError] = (), *, blame: type[GsvError] = MissingError
) -> tuple[list[R | GsvError], int]:
    """Run `work` on every path; one bad file does not stop the others, nor does what `failed` before.

    An OSError of the system becomes an error of the class `blame`. Returns the results or errors, those of `failed` first, and the worst exit code
    of the errors. Raises LostOutput when nothing more can be printed.
    """
    results: list[R | GsvError] = [*failed]
    for error in failed:
        print_error(error)
    worst = max((error.exit_code for error in failed), default=0)
    for path in paths:
        try:
            results.append(work(path))
        except LostOutput as lost:  # noqa: PERF203 - one bad file must not stop the others
            lost.code = max(lost.code, worst)
            raise
        except (GsvError, OSError) as caught:
            error = as_error(caught, path, blame)
            print_error(error)
            results.append(error)
            worst = max(worst, error.exit_code)
    return results, worst
