"""Find TensorBoard's event files and read a metric from them, through its own package."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from gsvckpt.engine.saves import Group
from gsvckpt.errors import MissingError
from gsvckpt.hints import Hint

_NAME = "events.out.tfevents.*"
_CHECKPOINTS = (".ckpt", ".pth", ".pt", ".safetensors")
_DEPTH = 4  # folders below: from logs/alice it is logs_s1_v2/logs_s1_v2/version_0
_WEIGHTS = ("GPT_weights", "SoVITS_weights")  # folders of all experiments, whose logs are elsewhere


class Event(NamedTuple):
    """A value of a tag, and when it was written, in seconds."""

    time: float
    step: int
    tag: str
    value: float


def find_event_files(group: Group) -> Iterator[tuple[str, ...]]:
    """Event files that may be of a group's training, nearest first: in its folder, below that, in the one above, and below that.

    A folder below in which there are checkpoints is another training's. Links to folders are not followed.
    """
    folder = os.path.abspath(group.folder)
    above = os.path.dirname(folder)
    shared = os.path.basename(folder).startswith(_WEIGHTS)
    if shared:
        above = os.path.join(above, "logs", group.name)
    for place in (folder, above):
        yield from (found for found in (_beside(place), _below(place, folder, others=shared and place == above)) if found)


def _beside(place: str) -> tuple[str, ...]:
    return tuple(os.path.join(place, name) for name in _list(place) if fnmatchcase(name, _NAME))


def _below(place: str, known: str, *, others: bool) -> tuple[str, ...]:
    """Event files in the folders of a folder, without hidden ones and `known`, and but for `others` without those that hold checkpoints."""
    found: list[str] = []
    for name in _list(place):
        top = os.path.join(place, name)
        if name.startswith(".") or top == known or os.path.islink(top):
            continue
        mine: list[str] = []
        for folder, folders, files in os.walk(top):
            if not others and any(file.endswith(_CHECKPOINTS) for file in files):
                mine.clear()
                break
            deep = os.path.relpath(folder, place).count(os.sep) + 1 >= _DEPTH
            folders[:] = [] if deep else sorted(folder for folder in folders if not folder.startswith("."))
            mine += (os.path.join(folder, file) for file in sorted(files) if fnmatchcase(file, _NAME))
        found += mine
    return tuple(found)


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def read_events(paths: Sequence[str], tags: Container[str]) -> list[Event]:
    """Every scalar with one of these tags, in the order of time. Of a file that is damaged or still being written, what comes before.

    Raises MissingError where TensorBoard's package is not installed.
    """
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.compat import tf  # its own stub, where there is no TensorFlow
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        why = "there are TensorBoard event files here; reading a metric from them needs the tensorboard package"
        raise MissingError(why, path=os.path.dirname(paths[0]), hint=Hint("installs it", 'pip install "gsvckpt[tensorboard]"')) from error
    found = []
    for path in paths:
        try:
            for event in EventFileLoader(path).Load():
                for value in event.summary.value:
                    number = make_ndarray(value.tensor) if value.tag in tags and value.HasField("tensor") else None
                    if number is not None and number.size == 1 and number.dtype.kind in "fiu":
                        found.append(Event(float(event.wall_time), int(event.step), value.tag, float(number.item())))
        except (OSError, DecodeError, tf.errors.OpError):  # noqa: PERF203 - one bad file must not stop the others
            continue
    return sorted(found, key=lambda event: event.time)
