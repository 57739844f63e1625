"""What is measured, against what, and which ratio is asked for. Every rival does in a fresh process what one would do without gsvckpt."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

from tests.bench.files import Input
from tests.bench.measure import Command

if TYPE_CHECKING:
    from tests.bench.hostile import Hostile

MB = 1_000_000
MEMORY = 64 << 20  # what a command may use above the interpreter's own


@dataclass(frozen=True)
class Rival:
    """`limit`: gsvckpt may take at most this many times the rival's time; None where nothing is asked for."""

    command: Command
    limit: float | None = None


@dataclass(frozen=True)
class Job:
    """`also` names files that it needs besides. `before` makes what a rival needs. `peak_limit` is for gsvckpt's own memory above an interpreter that
    does nothing, in bytes. `items`: how many files it goes through, of which at least `rate` a second are asked for. `cold`: what must not be in the
    cache. `slowest`: the limits are for the slowest of these rivals, not for each.
    """

    name: str
    what: str
    ours: Command
    rivals: tuple[Rival, ...] = ()
    needs: Input | None = None
    also: tuple[Input, ...] = ()
    before: Command | None = None
    peak_limit: int | None = MEMORY
    items: int = 0
    rate: float | None = None
    cold: tuple[Path, ...] = ()
    slowest: tuple[str, ...] = ()


@dataclass(frozen=True)
class Growth:
    """The same command on three sizes, whose time must grow no faster than they do. `unit` is what `sizes` count."""

    name: str
    what: str
    unit: str
    sizes: tuple[tuple[float, Command, Input], ...]


def gsvckpt(*arguments: str | Path, output: Path | None = None, name: str = "gsvckpt") -> Command:
    program = Path(sys.executable).with_name("gsvckpt")
    return Command(name, tuple(map(str, (program, *arguments))), output)


def python(name: str, code: str, *arguments: Path, output: Path | None = None) -> Command:
    return Command(name, (sys.executable, "-c", dedent(code), *map(str, arguments)), output)


def shell(name: str, code: str, *arguments: Path | int, output: Path | None = None) -> Command:
    return Command(name, ("sh", "-c", code, "sh", *map(str, arguments)), output)


# Stands in for upstream's module, which torch.load imports for the config.
UTILS = "import sys, types; sys.modules['utils'] = utils = types.ModuleType('utils'); utils.HParams = type('HParams', (), {})"


def torch_load(name: str, how: str, path: Path) -> Command:
    return python(name, f"{UTILS}; import torch, io; path = sys.argv[1]; {how}", path)


def jobs() -> tuple[Job | Growth | Hostile, ...]:
    from tests.bench import growth, hostile, reading, writing

    return (*reading.jobs(), *writing.jobs(), *growth.jobs(), *hostile.jobs())
