"""The contents of a bundle: its files, what is left out and why, and the names of training files in it. Pure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gsvckpt.commands.bundle.experiment import TITLES, BundleStage, File, agrees
from gsvckpt.commands.verify.manifest import MARK, ManifestEntry, spell
from gsvckpt.commands.verify.result import Verification
from gsvckpt.errors import DamagedError, GsvError, MissingError, RefusedError
from gsvckpt.hints import Hint, quote_word

How = Literal["copy", "extracted", "written"]

CHECKPOINTS = "checkpoints"
BEST = "best_model.ckpt"
SMALL = ("gpt-weights", "sovits-weights", "sovits-lora")
UNKNOWN = {"content": "0" * 32, "md5": "0" * 32, "sha256": "0" * 64, "xxh3_128": "0" * 32}  # digests of what is not written yet, for its size
_LETTERS = {"sovits-generator-training": "G", "sovits-discriminator-training": "D", "gpt-training": ""}


class BundleItem(NamedTuple):
    """One file of a bundle, by its path inside it. `entry` is what the manifest beside it says of a checkpoint; any other file holds `text`."""

    path: str
    origin: str | None
    size: int
    how: How
    entry: ManifestEntry | None = None
    text: bytes = b""


class LeftOut(NamedTuple):
    """A file of the experiment that is not in the bundle, and the exit code for that."""

    path: str
    why: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle holds, or would hold."""

    source: str
    output: str
    root: str
    items: tuple[BundleItem, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    rehearsed: bool = True

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)

    @property
    def exit_code(self) -> int:
        return max((left.exit_code for left in self.left_out), default=0)

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*(f"{os.path.relpath(left.path, self.source)}: {left.why}" for left in self.left_out), *self.notes)


class BundleOptions(NamedTuple):
    """What the user said: the config and the step for what is extracted, and whether anything is to be written; then the threads and the device.

    `fixed`: the user chose the number of threads, and not gsvckpt.
    """

    config: str | None = None
    step: int | None = None
    dry_run: bool = False
    jobs: int = 1
    fixed: bool = False
    device: str = "cpu"


class Saved(NamedTuple):
    """A training file, and what verifying it came to."""

    file: File
    result: Verification

    @property
    def epoch(self) -> int | None:
        return self.result.epoch if self.result.epoch is not None else self.file.said.epoch

    @property
    def letter(self) -> str | None:
        return _LETTERS.get(self.result.kind or "")


class PlacedFiles(NamedTuple):
    """Where the training files of a run go, oldest epoch first, and those that go nowhere."""

    files: tuple[tuple[str, Saved], ...]
    left_out: tuple[LeftOut, ...]


def place(stage: BundleStage, saved: Sequence[Saved], version: str | None) -> PlacedFiles:
    """Name the training files of a run by their epochs. Of several of one epoch the one that was saved last counts, and of G and D the pair."""
    times: dict[object, int] = {}  # G and D of one save share what stands behind the letter
    saves = {one.file.path: (one.file.said.step, one.file.said.latest) if stage == "sovits" else one.file.path for one in saved}
    others: dict[object, str | None] = {}  # a D alone does not tell v1 from v2, but its G does
    for one in saved:
        times[saves[one.file.path]] = max(times.get(saves[one.file.path], 0), one.file.mtime_ns)
        if not agrees(stage, one.result.version, version):
            others[saves[one.file.path]] = one.result.version
    taken: dict[str, Saved] = {}
    left: list[LeftOut] = []
    for one in sorted(saved, key=lambda one: times[saves[one.file.path]], reverse=True):
        path, result, number = one.file.path, one.result, f"{one.epoch or 0:03d}"
        name = f"{CHECKPOINTS}/epoch_{number}.ckpt" if stage == "gpt" else f"{CHECKPOINTS}/sovits_epoch_{number}_{one.letter}.pth"
        bad = unfit(result)
        if bad is not None:
            left.append(bad)
        elif one.letter is None or (one.letter == "") != (stage == "gpt"):
            left.append(LeftOut(path, f"is not a training file of {TITLES[stage]} but {result.kind}"))
        elif one.epoch is None:
            left.append(LeftOut(path, "does not state its epoch"))
        elif saves[path] in others:
            left.append(LeftOut(path, f"is of {others[saves[path]]}, and the bundle's {TITLES[stage]} of {version}"))
        elif name in taken:
            left.append(LeftOut(path, f"is of the same epoch as {os.path.basename(taken[name].file.path)}, which was saved later"))
        else:
            taken[name] = one
    return PlacedFiles(tuple(sorted(taken.items(), key=lambda found: (found[1].epoch or 0, found[1].letter != "G"))), tuple(left))


def unfit(result: Verification) -> LeftOut | None:
    """Why a file is not bundled; None if it is sound, even if GPT-SoVITS may not accept it."""
    if result.status not in ("damaged", "unsafe", "unchecked"):
        return None
    why = result.error["why"] if result.error else next((found.why for found in result.findings if found.severity == "error"), "")
    said = {"damaged": "is damaged", "unsafe": "is unsafe, do not load it", "unchecked": "could not be examined"}[result.status]
    return LeftOut(result.path, f"{said}: {why}", RefusedError.exit_code if result.status == "unsafe" else DamagedError.exit_code)


def by_age(weights: Sequence[File], version: str | None, newest: Saved | None) -> tuple[list[File], list[File]]:
    """Small weights of a version, the newest first: those that are as new as the newest training file, and older ones.

    GPT-SoVITS saves them right after the training file (s1_train.py:51-81, s2_train.py:540-580). Epochs alone do not tell: training may have
    begun anew.
    """
    known = sorted((file for file in weights if version is None or file.version in (None, version)), key=lambda file: file.age, reverse=True)
    epoch, since = (newest.epoch or 0, newest.file.mtime_ns) if newest is not None else (0, 0)
    fresh = [file for file in known if (file.said.epoch or 0) >= epoch and file.mtime_ns >= since]
    return fresh, [file for file in known if file not in fresh]


def manifest_size(entries: Sequence[ManifestEntry]) -> int:
    """The bytes of a manifest with these entries, where there was none."""
    return len(f"{MARK}\n{spell({entry.name: entry for entry in entries})}".encode())


def nothing_left(planned: Bundle) -> GsvError:
    """The error for a bundle without any checkpoint."""
    if not planned.left_out:
        return MissingError("holds no checkpoint of this version", path=planned.source, hint="leave --config out, or name that of another run")
    left = max(planned.left_out, key=lambda left: left.exit_code)
    why = f"no checkpoint of it can be bundled; {os.path.relpath(left.path, planned.source)} {left.why}"
    kind = RefusedError if left.exit_code == RefusedError.exit_code else DamagedError
    return kind(why, path=planned.source, hint=Hint("tells what is wrong with each", f"gsvckpt verify {quote_word(planned.source)} -r"))


def portable(name: str) -> str:
    """A name that a manifest can hold, as that is UTF-8."""
    return name.encode("utf-8", "replace").decode().replace("?", "_")
