"""gsvckpt's machine beside other readers: what each made of the same bytes, and whether that agrees."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from support.builders import elements

from gsvckpt.engine.examine import examine
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import GsvError
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.model import Doubt, Global, Opaque, Tensor

from .plain import Named, Outside, Recipe, TooDeep, tell
from .unpicklers import Reading

TOO_DEEP = "too deep to compare"
TESTS = Path(__file__).parents[1]


class Ours(NamedTuple):
    """What gsvckpt made of a pickle."""

    names: tuple[str, ...]
    value: str | None
    end: int
    doubts: tuple[Doubt, ...] = ()
    error: str = ""

    @property
    def is_certain(self) -> bool:
        """Whether gsvckpt stands for the value: it was read, and all readers are said to agree."""
        return self.value is not None and all(doubt.agreed for doubt in self.doubts)


def read_ours(data: bytes) -> Ours:
    machine = Machine(data, reduce=lambda _name, _args: None, persist=Outside)
    try:
        value = machine.run()
        text = tell(_plain(value, {}))
    except TooDeep:
        return Ours(tuple(map(str, machine.globals)), None, machine.position, machine.doubts, TOO_DEEP)
    except GsvError as error:
        return Ours(tuple(map(str, machine.globals)), None, 0, machine.doubts, error.why)
    return Ours(tuple(map(str, machine.globals)), text, machine.position, machine.doubts)


def read_theirs(batch: Sequence[bytes], folder: Path) -> list[dict[str, Reading]]:
    """What CPython's unpicklers make of each, in a process of their own."""
    given, out = folder / "given", folder / "out"
    given.write_bytes(pickle.dumps(list(batch)))
    _run("unpicklers", given, out)
    with out.open("rb") as file:
        return [{name: Reading(*reading) for name, reading in pickle.load(file).items()} for _ in batch]


def part(ours: Ours, theirs: dict[str, Reading]) -> str:
    """Where the readers part although gsvckpt says that they agree; empty where they do."""
    if not ours.is_certain:
        return ""
    for reader, reading in theirs.items():
        unseen = set(reading.names) - set(ours.names)
        if unseen:
            return f"{reader} asks for {sorted(unseen)}"
        if reading.value is not None and reading.value != ours.value:
            return f"{reader} reads {reading.value[:300]}, gsvckpt {ours.value[:300]}"
        if reading.value is not None and reading.end != ours.end:  # where one file holds several, the next begins there
            return f"{reader} ends at {reading.end}, gsvckpt at {ours.end}"
    return ""


def count(ours: Ours, theirs: dict[str, Reading]) -> Counter[str]:
    """Into which of the cases a pickle falls, for the figures."""
    read = sum(reading.value is not None for reading in theirs.values())
    kind = "certain" if ours.is_certain else "doubted" if ours.doubts else "refused"
    return Counter({"all": 1, kind: 1, f"{kind}, read by all others": read == len(theirs), "names": len(ours.names)})


def _plain(value: object, done: dict[int, object], depth: int = 0) -> object:
    """Our tree in the terms of the others'."""
    if depth > 190:
        raise TooDeep
    if isinstance(value, Global):
        return Named(value.module, value.name)
    if isinstance(value, tuple):
        return tuple(_plain(part, done, depth + 1) for part in value)
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, list):
        done[id(value)] = made = []
        made.extend(_plain(part, done, depth + 1) for part in value)
        return made
    if isinstance(value, dict):
        done[id(value)] = made = type(value)()
        made.update((_plain(key, done, depth + 1), _plain(part, done, depth + 1)) for key, part in value.items())
        if vars(value) if hasattr(value, "__dict__") else False:
            made._metadata = _plain(value._metadata, done, depth + 1)
        return made
    if isinstance(value, Outside):
        done[id(value)] = made = Outside(None)
        made.pid = _plain(value.pid, done, depth + 1)
        return made
    if isinstance(value, Opaque):
        done[id(value)] = made = Recipe(str(value.name), value.how, None)
        made.args = _plain(value.args, done, depth + 1)
        made.steps = [(step, _plain(payload, done, depth + 1)) for step, payload in value.steps]
        return made
    return value


def open_ours(path: Path) -> Ours:
    """What gsvckpt makes of a whole file: certain only where it says safe."""
    try:
        with open_checkpoint(path) as checkpoint:
            safety = examine(checkpoint).safety
            names = tuple(map(str, checkpoint.globals))
            if safety.verdict != "safe":
                return Ours(names, None, 0, checkpoint.doubts, safety.verdict)
            return Ours(names, tell(_plain(checkpoint.root, {}), other=_text_of), 0)
    except TooDeep:
        return Ours((), None, 0, (), TOO_DEEP)
    except GsvError as error:
        return Ours((), None, 0, (), error.why)


def load_theirs(folder: Path, out: Path) -> dict[str, dict[str, Reading]]:
    """What torch and GPT-SoVITS make of each file in a folder, in a process of their own; one that a file ends is started again without it."""
    _run("loaders", folder, out)
    with out.open("rb") as file:
        return {name: {loader: Reading(*reading) for loader, reading in found.items()} for name, found in pickle.load(file).items()}


def _text_of(value: object) -> str | None:
    if not isinstance(value, Tensor):
        return None
    return f"tensor {value.dtype.name} {value.shape} {hashlib.sha256(b''.join(elements(value))).hexdigest()}"


def _run(program: str, *paths: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", f"differential.{program}", *map(str, paths)]
    subprocess.run(
        command, check=True, timeout=3_600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(TESTS)}
    )
