"""An experiment of GPT-SoVITS on disk: its training runs, the small weights made from them, its config and its logs.

Files are found by names and times alone. Only GPT runs from before 2025-02-11, whose folders state no version, have a file opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from gsvckpt.engine.examine import examine
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import GsvError, MissingError, as_error
from gsvckpt.sovits.lightning import read_callbacks
from gsvckpt.sovits.names import FileName, NameForm, folder_rank, folder_version, parse, resumes
from gsvckpt.sovits.runs import find_runs, parse_run

BundleStage = Literal["gpt", "sovits"]
STAGES: tuple[BundleStage, ...] = ("gpt", "sovits")
TITLES: Mapping[BundleStage, str] = {"gpt": "GPT", "sovits": "SoVITS"}

_TRAINED: Mapping[BundleStage, tuple[NameForm, ...]] = {"gpt": ("gpt-training",), "sovits": ("generator", "discriminator")}
_SMALL: Mapping[BundleStage, tuple[NameForm, str]] = {"gpt": ("gpt-weights", "GPT_weights"), "sovits": ("sovits-weights", "SoVITS_weights")}
_LOG = "train.log"  # utils.get_logger
_LARGEST_LOG = 1 << 26  # bytes
_EXPERIMENT = "name an experiment's folder, like logs/alice"


class File(NamedTuple):
    """A checkpoint by what its name and its folder's say, and when it was saved."""

    path: str
    said: FileName
    mtime_ns: int
    version: str | None
    rank: int | None

    @property
    def age(self) -> tuple[int, int, int]:
        """What makes one newer than another, as far as names tell: epoch and step, then time."""
        return self.said.epoch or 0, self.said.step or 0, self.mtime_ns


class ExperimentRun(NamedTuple):
    """A run with at least one training file. `stated` says that its folder's name told the version, and not a file in it."""

    label: str
    path: str
    stage: BundleStage
    version: str | None
    stated: bool
    rank: int | None
    files: tuple[File, ...]

    @property
    def mtime_ns(self) -> int:
        return max(file.mtime_ns for file in self.files)


class Log(NamedTuple):
    """A train.log: the run's folder, empty for the experiment's own."""

    run: str
    path: str
    mtime_ns: int


class Experiment(NamedTuple):
    """`root` is GPT-SoVITS's own folder, the one above `logs`; `weights` are the experiment's, out of the folders there, by stage."""

    name: str
    path: str
    root: str
    runs: tuple[ExperimentRun, ...]
    weights: Mapping[BundleStage, tuple[File, ...]]
    logs: tuple[Log, ...]


class Choice(NamedTuple):
    """One run of each stage, those that were not chosen, and what is worth a warning."""

    version: str | None
    runs: Mapping[BundleStage, ExperimentRun]
    others: tuple[ExperimentRun, ...]
    warnings: tuple[str, ...]

    def version_of(self, stage: BundleStage) -> str | None:
        """The version of a stage's files. Of a GPT run from before 2025-02-11 nothing but v1 or later is known."""
        run = self.runs.get(stage)
        if run is None:
            return self.version
        vague = not run.stated and agrees(stage, run.version, self.version)
        return self.version if vague and (stage == "gpt" or run.version is None) else run.version


def find_experiment(path: str) -> Experiment:
    """Look through an experiment's folder. Raises MissingError where there is none, or no checkpoint of GPT-SoVITS belongs to it."""
    if not os.path.isdir(path):
        raise MissingError("is not a folder" if os.path.exists(path) else "there is no such folder", path=path, hint=_EXPERIMENT)
    *_, above, name = ("", *os.path.abspath(path).split(os.sep))
    if parse_run(above if name == "ckpt" else name) is not None:
        raise MissingError("is the folder of one run, and a voice has two", path=path, hint="name the experiment's folder, the one above it")
    root = os.path.normpath(os.path.join(path, os.pardir, os.pardir))
    logs = tuple(_logs(path))
    try:
        runs = tuple(run for found in find_runs(path) if (run := _experiment_run(path, found.folder)) is not None)
    except MissingError as error:
        if error.path != path:  # a run that cannot be listed; that there is none is no failure yet
            raise
        runs = ()
    weights = {stage: tuple(_weights(root, name, stage)) for stage in STAGES}
    if not runs and not any(weights.values()):
        raise MissingError("holds no checkpoint of a GPT-SoVITS run (logs_s1_*/ckpt, logs_s2_*)", path=path, hint=_EXPERIMENT)
    return Experiment(name, path, root, runs, weights, logs)


def _experiment_run(experiment: str, folder: str) -> ExperimentRun | None:
    """The run in a folder; None for one that GPT-SoVITS made and never used (webui.py:516,610)."""
    label = os.path.relpath(folder, experiment).split(os.sep)[0]
    name = parse_run(label)
    if name is None:
        return None
    stage: BundleStage = "gpt" if name.stage == "gpt" else "sovits"
    files = tuple(_files(folder, _TRAINED[stage]))
    if not files:
        return None
    version = name.version or _look(files)
    return ExperimentRun(label, os.path.join(experiment, label), stage, version, name.version is not None, files[0].rank, files)


def _files(folder: str, forms: Sequence[NameForm]) -> Iterable[File]:
    for name in sorted(os.listdir(folder)):
        said, path = parse(name), os.path.join(folder, name)
        with suppress(FileNotFoundError):  # training removes old files while it runs
            # `weights-epoch=...`, which gsvckpt made of one, is none of its own: those begin as GPT-SoVITS looks for them when it resumes.
            if said.form in forms and (said.form != "gpt-training" or resumes(name)) and os.path.isfile(path):
                told = folder_version(path)
                yield File(path, said, os.stat(path).st_mtime_ns, told[0] if told else None, said.rank or folder_rank(path))


def _look(files: Sequence[File]) -> str | None:
    """The version by the newest file that tells one. Every version went to `logs_s1` and `logs_s2` once, so it may not be that of all."""
    for file in sorted(files, key=lambda file: file.mtime_ns, reverse=True):
        with suppress(GsvError), open_checkpoint(file.path) as checkpoint:
            version = examine(checkpoint).identity.version
            if version is not None:
                return version
    return None


def _weights(root: str, experiment: str, stage: BundleStage) -> Iterable[File]:
    form, prefix = _SMALL[stage]
    with suppress(OSError):  # what cannot be looked through gives no weights, and they come out of the training files
        for folder in sorted(os.listdir(root)):
            if fnmatchcase(folder, prefix) or fnmatchcase(folder, f"{prefix}_*"):
                yield from (file for file in _files(os.path.join(root, folder), (form,)) if file.said.experiment == experiment)


def _logs(path: str) -> Iterable[Log]:
    """Oldest first. s2_train.py logs into the experiment's folder; others into that of the run."""
    found = []
    try:
        entries = sorted(os.listdir(path))
    except OSError as error:
        raise as_error(error, path, MissingError, "listed") from error
    for run in ("", *(entry for entry in entries if parse_run(entry) is not None)):
        log = os.path.join(path, run, _LOG)
        if os.path.isfile(log):
            found.append(Log(run, log, os.stat(log).st_mtime_ns))
    return sorted(found, key=lambda log: log.mtime_ns)


def read_end(path: str) -> bytes:
    """A config or a log, of a huge log the end. Raises MissingError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _LARGEST_LOG, 0))
            return file.read(_LARGEST_LOG)
    except OSError as error:
        raise as_error(error, path, MissingError) from error


def agrees(stage: BundleStage, told: str | None, version: str | None) -> bool:
    """Whether what the tensors tell suits a version. All GPT models after v1 have the same tensors, which are called v2."""
    return None in (told, version) or told == version or (stage == "gpt" and told == "v2" and version != "v1")


def choose(runs: Sequence[ExperimentRun], wanted: str | None) -> Choice:
    """One run of each stage: of the version that is wanted, else of that of the newest file, and the newest where several have it."""
    newest = max(runs, key=lambda run: run.mtime_ns, default=None)
    version = wanted or (newest.version if newest is not None else None)
    chosen: dict[BundleStage, ExperimentRun] = {}
    warnings = []
    for stage in STAGES:
        mine = sorted((run for run in runs if run.stage == stage), key=lambda run: run.mtime_ns, reverse=True)
        suiting = [run for run in mine if (run.version == version if run.stated else agrees(stage, run.version, version))]
        if not mine:
            warnings.append(f"there is no {TITLES[stage]} run with a training file")
            continue
        chosen[stage] = (suiting or mine)[0]
        if not suiting and version is not None:
            warnings.append(f"there is no {TITLES[stage]} run of {version}; {chosen[stage].label} of another version is used")
    return Choice(version, chosen, tuple(run for run in runs if run not in chosen.values()), tuple(warnings))


class CallbackScores(NamedTuple):
    """What the callback in a GPT training file says of it and those before it: file names, as their folders may have moved since."""

    best: str | None = None
    scores: Mapping[str, float] = {}
    lowest: bool = False


def read_scores(root: object) -> CallbackScores:
    """The state of Lightning's ModelCheckpoint, which GPT-SoVITS's own `my_model_ckpt` is one of (s1_train.py:31-81)."""
    for callback in read_callbacks(root):
        return CallbackScores(callback.best, callback.scores, callback.mode == "min")
    return CallbackScores()


def best_of(names: Sequence[str], told: Sequence[CallbackScores]) -> tuple[str | None, str]:
    """The best of these files, and a note if it is not the one that training called the best. `names` and `told` are oldest first."""
    newest = names[-1] if names else None
    told = [scores for scores in told if scores.best is not None or scores.scores]
    best = told[-1].best if told else None
    if best in names or newest is None:
        return (best if newest is not None else None), ""
    scores = {name: score for one in told for name, score in one.scores.items() if name in names}
    if scores:
        pick = min if told[-1].lowest else max
        found = pick(scores, key=lambda name: scores[name])
        return found, f"best_model.ckpt is {found}, the best of those that are here; {best} is not" if best else ""
    why = f"the best one, {best}, is not here" if best else "no file says which save is the best"
    return newest, f"best_model.ckpt is the newest, {newest}: {why}"
