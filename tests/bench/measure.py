"""Run commands in fresh processes, one after the other in turns, and measure time and memory of each.

Nothing large is imported here: Linux counts the memory of the process that starts a child as the child's until it has begun its own program.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

# Settings such as PYTHONDONTWRITEBYTECODE would have this checkout compiled at every start, which no installed package is.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in


@dataclass(frozen=True)
class Command:
    """What is run. `output` is the file it writes, removed before each run so that none has to overwrite."""

    name: str
    arguments: tuple[str, ...]
    output: Path | None = None


@dataclass
class Samples:
    """Seconds and peak resident bytes of each run."""

    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """From the fastest to the slowest run, as a part of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    @property
    def peak(self) -> int:
        return max(self.peaks)


class FailedError(Exception):
    """A command ended with an error; what it said is the text."""


def run(command: Command) -> tuple[float, int]:
    """Run once; (seconds, peak bytes). Raises FailedError."""
    if command.output is not None:
        command.output.unlink(missing_ok=True)
        os.sync()  # nobody pays for what another left to be written
    begin = time.perf_counter()
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command.arguments, env=ENVIRONMENT, **streams) as child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise FailedError(f"{command.name} ended with {child.returncode}: {said.decode(errors='replace').strip()[-400:]}")
    return seconds, usage.ru_maxrss * RSS_UNIT


def compare(commands: list[Command], rounds: int, *, warm_up: bool) -> dict[str, Samples]:
    """Run all commands in turn, `rounds` times, with `warm_up` after one that only fills the page cache, and leave no output behind."""
    found = {command.name: Samples() for command in commands}
    try:
        for number in range(-warm_up, rounds):
            for command in commands:
                seconds, peak = run(command)
                if number >= 0:
                    found[command.name].seconds.append(seconds)
                    found[command.name].peaks.append(peak)
    finally:
        for command in commands:
            if command.output is not None:
                command.output.unlink(missing_ok=True)
    return found
