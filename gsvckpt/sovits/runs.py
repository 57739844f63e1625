"""Training runs on disk: the folders in which GPT-SoVITS resumes, and the files from which it would resume."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from gsvckpt.errors import MissingError, as_error
from gsvckpt.files.paths import is_url
from gsvckpt.sovits.names import LIGHTNING, PREPARED, resumes, split

CONFIG = "config.json"  # of an experiment: that of its last SoVITS run (utils.py:213-232)
LARGEST_CONFIG = 1 << 20  # bytes; upstream's has 2 KB
_CHECKPOINTS = (".pth", ".ckpt")
_LEVELS = 3  # logs/<exp>/logs_s2_v2/G_16.pth: the config is one folder up; a user may have sorted files further


class TrainingRun(NamedTuple):
    """A folder in which GPT-SoVITS looks for what to resume from.

    `generator` and `discriminator` are the names it would take (for GPT, the one file is the generator); `failure` is the error by which choosing
    ends. `epochs` is the number of epochs that the experiment's config.json asks for, which is that of its last SoVITS run, of `config_version`.
    `begun` is False where training has no folder yet.
    """

    folder: str
    stage: Stage
    version: str | None
    names: tuple[str, ...]
    generator: str | None = None
    discriminator: str | None = None
    failure: str = ""
    epochs: int | None = None
    config_version: str | None = None
    begun: bool = True

    def place(self, name: str) -> str:
        """The path of one of its files."""
        return os.path.normpath(os.path.join(self.folder, name))

    @property
    def chosen(self) -> tuple[str, ...]:
        """The paths of the files that would be loaded, in the order in which GPT-SoVITS loads them."""
        return tuple(self.place(name) for name in (self.discriminator, self.generator) if name is not None)

    @property
    def rivals(self) -> tuple[str, ...]:
        """Paths of other files that could have been taken for the generator."""
        begin = "epoch=" if self.stage == "gpt" else "G_"
        return tuple(self.place(name) for name in self.names if name != self.generator and name.startswith(begin))


def find_runs(path: str) -> tuple[TrainingRun, ...]:
    """The runs of an experiment folder, of a run's folder, or of the folder that a file lies in.

    Runs without any checkpoint count only where they are all there is. Raises MissingError where `path` is none of these, or where a run cannot be
    looked at.
    """
    if not os.path.exists(path):
        raise MissingError("there is no such file or folder", path=path)
    found = _runs_in(path.rstrip(f"/{os.sep}") or path if os.path.isdir(path) else os.path.dirname(path) or ".")
    if not found:
        raise _no_run(path)
    return found


class Resumable(NamedTuple):
    """The runs that training would go on with, and what could not be looked at: what is there is not known, so it is no first run."""

    runs: tuple[TrainingRun, ...] = ()
    failures: tuple[MissingError, ...] = ()


def find_resumable(path: str) -> Resumable:
    """The runs that training in `path` would go on with: those of one experiment, or of each experiment in a folder like `logs`.

    Where training has not begun, the folder itself stands for its first run: one that is not there yet, is empty, or holds only prepared data.
    A folder that holds something else is a failure, and so is one whose drive is not connected, or that may not be read.
    """
    try:
        if names_file(path):
            return Resumable(find_runs(path))
        if not _is_folder(path):
            return Resumable((_first_run(path),))
        if found := _runs_in(path):
            return Resumable(found)
        names = _list(path)
    except MissingError as error:
        return Resumable(failures=(error,))
    if not names or _is_experiment(names):
        return Resumable((_first_run(path),))
    inner = [_look_into(os.path.join(path, name)) for name in names]
    runs = tuple(run for each in inner for run in each.runs)
    failures = tuple(error for each in inner for error in each.failures)
    return Resumable(runs, failures) if runs or failures else Resumable(failures=(_no_run(path),))


def names_file(path: str) -> bool:
    """Whether a path is that of a file, or would be that of a checkpoint."""
    return os.path.isfile(path) or (path.endswith(_CHECKPOINTS) and not os.path.isdir(path))


def _look_into(path: str) -> Resumable:
    """The runs of something inside `logs`; a file there, or a folder that is no experiment, has none."""
    if os.path.isfile(path):
        return Resumable()
    try:
        if not _is_folder(path) or not _is_experiment(_list(path)):
            return Resumable()
        return Resumable(_runs_in(path) or (_first_run(path),))
    except MissingError as error:
        return Resumable(failures=(error,))


def _runs_in(folder: str) -> tuple[TrainingRun, ...]:
    found = [_read_run(place, name) for place, name in _run_folders(folder)]
    return tuple(run for run in found if run.names) or tuple(found)


def _no_run(path: str) -> MissingError:
    return MissingError("holds no training run (logs_s1_*, logs_s2_*)", path=path, hint="name an experiment's folder, like logs/alice")


def _is_folder(path: str) -> bool:
    """Whether there is a folder; False only where nothing is there. Raises MissingError for anything else, and for what cannot be looked at."""
    try:
        os.stat(path)
    except FileNotFoundError:
        place = _nearest(path)
    except OSError as error:
        raise as_error(error, path, MissingError, "looked at") from error
    else:
        place = path
    if os.path.isdir(place):
        return place == path
    if os.path.islink(place):
        hint = "connect the drive that it leads to, or remove the link"
        raise MissingError(f"is a link to {os.readlink(place)}, which is not there", path=place, hint=hint)
    if os.path.lexists(place):
        raise MissingError("is no folder, and training keeps its files in one", path=place)
    if os.path.isabs(place):  # on Windows, a drive
        raise MissingError("is not there", path=place, hint="connect that drive")
    return False


def _nearest(path: str) -> str:
    """Of a path and the folders above it, the first that is there; the last of them where none is."""
    while not os.path.lexists(path) and (above := os.path.dirname(path)) not in ("", path):
        path = above
    return path


def _is_experiment(names: Sequence[str]) -> bool:
    """Whether a folder of these entries holds prepared data, or the folder of a run, in which there may be nothing yet."""
    return any(name in PREPARED or parse_run(name) is not None for name in names)


def _first_run(folder: str) -> TrainingRun:
    return TrainingRun(folder, "sovits", None, (), begun=False)


def _run_folders(folder: str) -> Iterator[tuple[str, RunName]]:
    """(folder with the files, what its name says) for each run."""
    *_, above, base = ("", *split(os.path.abspath(folder)))
    own = parse_run(above if base == "ckpt" else base)
    if own is not None:
        is_outer = own.stage == "gpt" and base != "ckpt" and _is_folder(os.path.join(folder, "ckpt"))
        yield (os.path.join(folder, "ckpt") if is_outer else folder), own
        return
    for entry in _list(folder):
        name = parse_run(entry)
        place = os.path.join(folder, entry, "ckpt") if name is not None and name.stage == "gpt" else os.path.join(folder, entry)
        if name is not None and _is_folder(place):
            yield place, name


def _read_run(folder: str, name: RunName) -> TrainingRun:
    names = tuple(entry for entry in _list(folder) if resumes(entry))
    *_, experiment, own = ("", *split(os.path.abspath(folder)))
    epochs, version = _read_config(os.path.join(folder, os.pardir, CONFIG)) if name.stage != "gpt" else (None, None)
    run = TrainingRun(folder, name.stage, name.version, names, epochs=epochs, config_version=version)
    if name.stage == "gpt":
        return run._replace(generator=newest_lightning(names))
    seen = f"logs/{experiment}/{own}"  # as GPT-SoVITS spells it, from its own folder
    try:
        return run._replace(generator=newest_numbered(names, "G", seen), discriminator=newest_numbered(names, "D", seen))
    except ValueError as error:
        return run._replace(failure=str(error))


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise as_error(error, folder, MissingError, "listed") from error


def _read_config(path: str) -> tuple[int | None, str | None]:
    """(epochs, version) of an experiment's config.json, as far as it says."""
    if not os.path.exists(path):
        return None, None
    import json

    try:
        with open(path, encoding="utf-8") as file:
            found = json.loads(file.read(LARGEST_CONFIG))
        epochs, version = found["train"]["epochs"], found.get("version") or found["model"].get("version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, None
    return epochs if type(epochs) is int else None, version if isinstance(version, str) else None


Stage = Literal["gpt", "sovits", "sovits-lora"]
_RUN = r"logs_s(?P<stage>[12])(?:_(?P<version>v[0-9](?:ProPlus|Pro)?)(?:_lora_(?P<rank>[0-9]{1,6}))?)?"


class RunName(NamedTuple):
    """What the name of a run's folder says. Runs from before 2025-02-11 state no version."""

    stage: Stage
    version: str | None


def parse_run(folder: str) -> RunName | None:
    """What a folder like `logs_s2_v2` or `logs_s2_v4_lora_32` says; None for any other."""
    match = re.fullmatch(_RUN, folder)
    if match is None:
        return None
    if match["stage"] == "1":
        return RunName("gpt", match["version"])
    return RunName("sovits-lora" if match["rank"] else "sovits", match["version"])


def is_emptied(folder: str) -> bool:
    """Whether GPT-SoVITS removes all files in a folder when it saves next. It does where a GPT model is trained, as "save only latest" is on by
    default (s1_train.py:51-61).
    """
    *_, above, base = ("", "", *split(os.path.abspath(folder)))
    run = parse_run(above)
    return base == "ckpt" and run is not None and run.stage == "gpt"


def lasting_folder(folder: str) -> str:
    """Where something made of a file in `folder` lasts: there, or one folder up where GPT-SoVITS empties it. Above it neither looks nor removes."""
    for place in (folder, os.path.realpath(folder)):  # the folder may be a link, or be reached by one
        if is_emptied(place):
            above = os.path.normpath(os.path.join(place, os.pardir))
            return above if above != os.curdir else ""
    return folder


def find_config_file(path: str) -> str | None:
    """The config.json that a SoVITS training file was trained with, as it holds none itself: beside it or in a folder above, but not above its
    experiment's, where it would be another voice's. What lies beside a URL is not looked for.
    """
    places = () if is_url(path) else _folders_above(os.path.abspath(path))
    return next((place for folder in places if os.path.isfile(place := os.path.join(folder, CONFIG))), None)


def _folders_above(path: str) -> Iterator[str]:
    folder = os.path.dirname(path)
    for _ in range(_LEVELS):
        yield folder
        is_run = parse_run(os.path.basename(folder)) is not None
        folder = os.path.dirname(folder)
        if is_run:  # it lies in its experiment's
            yield folder
            return


def newest_numbered(names: Iterable[str], letter: str, folder: str) -> str | None:
    """The `G_*.pth` or `D_*.pth` that GPT-SoVITS calls the latest: by the number that all digits of its path make together (utils.py:112-117).

    `folder` is the path of the run as GPT-SoVITS has it, like `logs/<exp>/logs_s2_v2`. None where there is no such file. Raises ValueError where
    GPT-SoVITS does: for a path without digits, or with such that are no number.
    """
    found = [name for name in names if fnmatchcase(name, f"{letter}_*.pth")]
    return max(found, key=lambda name: int("".join(filter(str.isdigit, f"{folder}/{name}"))), default=None)


def newest_lightning(names: Iterable[str]) -> str | None:
    """The GPT checkpoint that is taken: the highest (epoch, step) of names that begin as Lightning's do, whatever follows (AR/utils/__init__.py)."""
    found = [(int(match[1]), int(match[2]), name) for name in names if (match := re.match(LIGHTNING, name))]
    return max(found, key=lambda entry: entry[:2], default=(0, 0, None))[2]
