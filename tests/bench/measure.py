"""Run commands in fresh processes, one after the other in turns, and measure time and memory of each.

Nothing large is imported here: Linux counts the memory of the process that starts a child as the child's until it has begun its own program.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

# Settings such as PYTHONDONTWRITEBYTECODE would have this checkout compiled at every start, which no installed package is.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in
_LOOKS = 0.004  # seconds between two looks at a process's own memory


@dataclass(frozen=True)
class Command:
    """What is run. `output` is the file it writes, removed before each run so that none has to overwrite."""

    name: str
    arguments: tuple[str, ...]
    output: Path | None = None


@dataclass(frozen=True)
class Costs:
    """What one run used, in bytes. `anonymous` is memory that no file backs, the largest that was seen, of all its processes together, and `single`
    that of one; `read` and `written` went through system calls. None where the system does not tell.
    """

    anonymous: int | None = None
    single: int | None = None
    read: int | None = None
    written: int | None = None


@dataclass
class Samples:
    """Seconds and peak resident bytes of each run, and what one more run, which was not timed, used."""

    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    costs: Costs = field(default_factory=Costs)

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

    def ratio(self, other: Samples) -> float:
        """The median of the ratios pair by pair: what slows the machine for a while slows both of a pair."""
        return median(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))


class FailedError(Exception):
    """A command ended with an error; what it said is the text."""


def run(command: Command, cold: Sequence[Path] = ()) -> tuple[float, int]:
    """Run once; (seconds, peak bytes). The files `cold` are not in the cache when it begins. Raises FailedError."""
    child, begin = _start(command, cold)
    with child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise FailedError(f"{command.name} ended with {child.returncode}: {said.decode(errors='replace').strip()[-400:]}")
    return seconds, usage.ru_maxrss * RSS_UNIT


def weigh(command: Command) -> Costs:
    """What a run uses, found by looking at it all the time, which slows it: so no run that is timed."""
    if not os.path.exists("/proc/self/io"):
        run(command)
        return Costs()
    child, _ = _start(command)
    largest = single = 0
    with child:
        assert child.stderr is not None
        os.set_blocking(child.stderr.fileno(), False)
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            family = [*map(_anonymous, (child.pid, *_children(child.pid)))]
            largest, single = max(largest, sum(family)), max(single, *family)
            with suppress(BlockingIOError):
                child.stderr.read()  # lest it waits for somebody to read
            time.sleep(_LOOKS)
        counted = dict(line.split(": ") for line in Path(f"/proc/{child.pid}/io").read_text().splitlines())  # a dead child can still be asked
        if child.wait():
            raise FailedError(f"{command.name} ended with {child.returncode}")
    return Costs(largest, single, int(counted["rchar"]), int(counted["wchar"]))


def _start(command: Command, cold: Sequence[Path] = ()) -> tuple[subprocess.Popen[bytes], float]:
    if command.output is not None:
        command.output.unlink(missing_ok=True)
    if command.output is not None or cold:
        os.sync()  # nobody pays for what another left to be written
    for path in cold:
        forget(path)
    begin = time.perf_counter()
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command.arguments, env=ENVIRONMENT, **streams), begin


def can_forget() -> bool:
    return hasattr(os, "posix_fadvise")


def forget(path: Path) -> None:
    """Have the system drop a file, or those of a folder, from its cache."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def _anonymous(pid: int) -> int:
    with suppress(OSError, StopIteration):
        text = Path(f"/proc/{pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024
    return 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                found += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return [*found, *(grandchild for child in found for grandchild in _children(child))]


def compare(commands: list[Command], rounds: int, *, warm_up: bool, cold: Sequence[Path] = ()) -> dict[str, Samples]:
    """Run all commands in turn, `rounds` times, with `warm_up` after one that fills the page cache and is weighed; no output is left."""
    found = {command.name: Samples() for command in commands}
    try:
        if warm_up:
            for command in commands:
                found[command.name].costs = weigh(command)
        for _ in range(rounds):
            for command in commands:
                seconds, peak = run(command, cold)
                found[command.name].seconds.append(seconds)
                found[command.name].peaks.append(peak)
    finally:
        for command in commands:
            if command.output is not None:
                command.output.unlink(missing_ok=True)
    return found
