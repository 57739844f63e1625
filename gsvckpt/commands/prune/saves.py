"""A save: the files of one training step, the unit of retention. A group: the saves of one training."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Group(NamedTuple):
    """Saves of one training: `name` is the experiment, or for other files what their names have in common. `folder` is that of the files.

    `layout` is a digest of the names and shapes of tensors, where nothing else says that two files are of one model.
    """

    folder: str
    name: str
    kind: str
    version: str | None = None
    layout: str = ""

    @property
    def label(self) -> str:
        """As policies name it: `alice/sovits-training/v2`."""
        return "/".join(part for part in (self.name, self.kind, self.version) if part)


class SaveFile(NamedTuple):
    """A file, as it was when it was looked at. `links` are its names, `inode` tells (with the device) whether two names are one file."""

    path: str
    size: int
    mtime_ns: int
    inode: tuple[int, int] = (0, 0)
    links: int = 1


@dataclass(frozen=True, slots=True)
class Save:
    """One save: a file, G and D of one step, or an index with its shards.

    `trained` says that it holds optimizer state; `guards` are the reasons for which no policy may touch it.
    """

    group: Group
    files: tuple[SaveFile, ...]
    epoch: int | None = None
    step: int | None = None
    trained: bool = False
    guards: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def mtime_ns(self) -> int:
        return max(file.mtime_ns for file in self.files)

    @property
    def age(self) -> tuple[int, int, tuple[int, ...], int]:
        """What makes one newer than another: the epoch and step that its content tells, then the numbers in its name, then time."""
        numbers = tuple(int(digits) for digits in re.findall("[0-9]{1,18}", os.path.basename(self.paths[0])))
        return (-1 if self.epoch is None else self.epoch, -1 if self.step is None else self.step, numbers, self.mtime_ns)


def freed_by(files: Iterable[SaveFile]) -> int:
    """The bytes that the disk gets back when these go: a file that has more names than those is not gone."""
    names_of: dict[tuple[int, int], list[SaveFile]] = {}
    for file in files:
        names_of.setdefault(file.inode, []).append(file)
    return sum(names[0].size for names in names_of.values() if len(names) >= names[0].links)
