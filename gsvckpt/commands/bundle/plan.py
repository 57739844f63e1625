"""Plan a bundle: read everything that it will hold, so that no damaged file comes into it, and decide where each file goes.

Each part of the plan is a function that returns what it adds: files, what is left out and why, and notes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gsvckpt.characters import escape_shown
from gsvckpt.commands.bundle.contents import (
    BEST,
    CHECKPOINTS,
    SMALL,
    UNKNOWN,
    Bundle,
    BundleItem,
    BundleOptions,
    How,
    LeftOut,
    Saved,
    by_age,
    manifest_size,
    place,
    portable,
    unfit,
)
from gsvckpt.commands.bundle.experiment import (
    STAGES,
    TITLES,
    BundleStage,
    Choice,
    Experiment,
    File,
    agrees,
    best_of,
    choose,
    read_end,
    read_scores,
)
from gsvckpt.commands.bundle.extract import extract
from gsvckpt.commands.bundle.yaml import to_yaml
from gsvckpt.commands.rewrite import training_config
from gsvckpt.commands.verify.after import RECORDED, entry_of
from gsvckpt.commands.verify.batch import verify_files
from gsvckpt.commands.verify.manifest import NAME, ManifestEntry
from gsvckpt.commands.verify.result import Expected, Options, Verification
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import DamagedError, GsvError
from gsvckpt.files.progress import Progress
from gsvckpt.sovits.config import config_of
from gsvckpt.sovits.names import parse
from gsvckpt.sovits.small_weights import version_of


@dataclass(frozen=True, slots=True)
class _Sources:
    """What every part of the plan is made from."""

    experiment: Experiment
    choice: Choice
    folder: str
    options: BundleOptions
    progress: Progress


class _Added(NamedTuple):
    """What one part of the plan adds to the bundle."""

    items: tuple[BundleItem, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def plus(self, *others: _Added) -> _Added:
        """All of these parts as one, in this order."""
        parts = (self, *others)
        return _Added(
            tuple(item for part in parts for item in part.items),
            tuple(left for part in parts for left in part.left_out),
            tuple(note for part in parts for note in part.notes),
        )


class _Training(NamedTuple):
    """The training files of a stage, and the newest one that small weights can be made from."""

    added: _Added = _Added()
    newest: Saved | None = None


class _Small(NamedTuple):
    """The small weights of a stage, and the file that their config can be read from."""

    added: _Added = _Added()
    config_in: str | None = None


def plan_bundle(experiment: Experiment, folder: str, options: BundleOptions, progress: Progress) -> Bundle:
    """What a bundle of the experiment would hold. Nothing is written. Raises what reading the config that the options name raises."""
    wanted = version_of(training_config.find(experiment.path, options.config).config) if options.config is not None else None
    choice = choose(experiment.runs, wanted)
    sources = _Sources(experiment, choice, folder, options, progress)
    training = {stage: _training_files(sources, stage) for stage in STAGES}
    small = {stage: _small_weights(sources, stage, training[stage].newest) for stage in STAGES}
    newest = training["gpt"].newest
    added = _Added(left_out=_other_runs(choice), notes=tuple(choice.warnings)).plus(
        *(found.added for found in training.values()),
        *(found.added for found in small.values()),
        _training_config(sources),
        _gpt_config(newest.file.path if newest is not None else small["gpt"].config_in),
        _log(experiment, [run.label for run in choice.runs.values()]),
    )
    return Bundle(experiment.path, folder, experiment.root, (*added.items, *_manifests(added.items)), added.left_out, added.notes)


def _other_runs(choice: Choice) -> tuple[LeftOut, ...]:
    left = []
    for run in choice.others:
        count = f"{len(run.files):,} training file{'s' if len(run.files) > 1 else ''}"
        chosen = choice.runs[run.stage].label
        left.append(LeftOut(run.path, f"{count} of {run.version or 'an unknown version'}, while the bundle holds those of {chosen}"))
    return tuple(left)


def _manifests(items: Sequence[BundleItem]) -> list[BundleItem]:
    """The manifests of the bundle's two folders, where they hold checkpoints."""
    made = []
    for folder in (f"{CHECKPOINTS}/", ""):
        entries = [item.entry for item in items if item.entry and item.path.rpartition("/")[0] == folder[:-1]]
        made += [BundleItem(f"{folder}{NAME}", None, manifest_size(entries), "written")] if entries else []
    return made


def _verify(sources: _Sources, files: Sequence[File]) -> list[Saved]:
    """Read files whole. A dry run needs no digests, which take longer than all else."""
    options = Options(digests=frozenset({"xxh3_128"}) if sources.options.dry_run else RECORDED)
    results = verify_files({file.path: Expected() for file in files}, options, sources.options.jobs, sources.progress)
    return [Saved(file, result) for file, result in zip(files, results, strict=True)]


def _checkpoint(sources: _Sources, path: str, result: Verification) -> BundleItem:
    entry = entry_of(result, tensors=False)
    digests = {**UNKNOWN, **entry.digests} if sources.options.dry_run else entry.digests
    return BundleItem(path, result.path, result.size, "copy", entry._replace(name=path.rpartition("/")[2], digests=digests))


# --- training files ------------------------------------------------------------------------------------------------------------------------------


def _training_files(sources: _Sources, stage: BundleStage) -> _Training:
    """All training files of a stage."""
    run, version = sources.choice.runs.get(stage), sources.choice.version_of(stage)
    if run is None:
        return _Training()
    found = place(stage, _verify(sources, run.files), version)
    added = _Added(tuple(_checkpoint(sources, path, one.result) for path, one in found.files), tuple(found.left_out))
    models = [one for _, one in found.files if one.letter != "D"]
    if stage == "gpt" and models:
        added = added.plus(_best(sources, models))
    elif run.rank is None and version not in ("v3", "v4"):  # those train without a discriminator
        alone = {one.epoch or 0 for one in models} ^ {one.epoch or 0 for _, one in found.files if one.letter == "D"}
        notes = (f"epoch {epoch} has only one of G and D, so training would not resume from it" for epoch in sorted(alone))
        added = added.plus(_Added(notes=tuple(notes)))
    return _Training(added, models[-1] if models else None)


def _best(sources: _Sources, models: Sequence[Saved]) -> _Added:
    """The GPT training file with the best score, once more under a name that says so."""
    told = []
    for one in models:
        with open_checkpoint(one.file.path) as checkpoint:
            told.append(read_scores(checkpoint.root))
    name, note = best_of([os.path.basename(one.file.path) for one in models], told)
    best = next(one.result for one in models if os.path.basename(one.file.path) == name)
    return _Added((_checkpoint(sources, BEST, best),), notes=(note,) if note else ())


# --- small weights -------------------------------------------------------------------------------------------------------------------------------


def _small_weights(sources: _Sources, stage: BundleStage, newest: Saved | None) -> _Small:
    """The newest small weights: those that GPT-SoVITS saved where they are as new as the training files, else what it would have saved."""
    run, version = sources.choice.runs.get(stage), sources.choice.version_of(stage)
    known = sources.experiment.weights[stage]
    if run is not None and stage == "sovits":
        known = tuple(file for file in known if file.rank == run.rank)
    fresh, stale = by_age(known, version, newest)
    found = _first_sound(sources, fresh, stage, version)
    if found.config_in is not None:
        return found
    extracted = _extracted(sources, newest) if newest is not None else _Small()
    if extracted.config_in is not None:
        return _Small(found.added.plus(extracted.added), extracted.config_in)
    older = _first_sound(sources, stale, stage, version)
    if older.config_in is not None:
        note = f"{os.path.basename(older.config_in)} is older than the training files"
    else:
        note = f"there are no small {TITLES[stage]} weights"
    return _Small(found.added.plus(extracted.added, older.added, _Added(notes=(note,))), older.config_in)


def _first_sound(sources: _Sources, files: Sequence[File], stage: BundleStage, version: str | None) -> _Small:
    """The first of these that is sound and of this version; nothing later is read."""
    left: list[LeftOut] = []
    for file in files:
        ((_, result),) = _verify(sources, [file])
        bad = unfit(result)
        if bad is not None:
            left.append(bad)
        elif result.kind in SMALL and agrees(stage, result.version, version):
            item = _checkpoint(sources, portable(os.path.basename(file.path)), result)
            return _Small(_Added((item,), tuple(left)), file.path)
    return _Small(_Added(left_out=tuple(left)))


def _extracted(sources: _Sources, newest: Saved) -> _Small:
    """Small weights that are made from the newest training file."""
    path = newest.file.path
    try:
        made = extract(path, os.path.join(sources.folder, os.path.basename(path)), sources.options, sources.progress, write=False)
    except GsvError as error:
        why = f"small weights cannot be made from it: {error.why}{f' ({error.hint})' if error.hint else ''}"
        return _Small(_Added(left_out=(LeftOut(path, why, error.exit_code),)))
    done, planned = made.done, made.planned
    name = portable(planned.name or os.path.basename(path))
    notes = [f"{name}: {warning}" for warning in (*done.warnings, *made.warnings)]
    if done.overflowed:
        notes.append(f"{name}: {done.overflowed:,} of its tensors keep their type, as their values are beyond float16")
    facts = (planned.identity.kind, planned.identity.version, planned.identity.progress.epoch, parse(name).step, UNKNOWN)
    entry = ManifestEntry(name, done.bytes_after, newest.file.mtime_ns, *facts)
    return _Small(_Added((BundleItem(name, path, done.bytes_after, "extracted", entry),), notes=tuple(notes)), path)


# --- configs and logs ----------------------------------------------------------------------------------------------------------------------------


def _training_config(sources: _Sources) -> _Added:
    """config.json, which a `G_*.pth` is nothing without (utils.py:213-232): the one that was named, or the experiment's."""
    choice, named = sources.choice, sources.options.config
    path = named if named is not None and named.endswith(".json") else os.path.join(sources.experiment.path, "config.json")
    if not os.path.isfile(path):
        return _Added(notes=("there is no config.json, and SoVITS training files hold no config themselves",) if "sovits" in choice.runs else ())
    try:
        told, version = version_of(training_config.find(path, path).config), choice.version_of("sovits")
    except GsvError as error:
        return _Added(left_out=(LeftOut(path, error.why, DamagedError.exit_code),))
    notes: tuple[str, ...] = ()
    if "sovits" in choice.runs and None not in (told, version) and told != version:
        notes = (f"config.json is for {told}, and the bundle's SoVITS is {version}; --config FILE names the right one",)
    return _Added((_text("config.json", path, read_end(path), "copy"),), notes=notes)


def _gpt_config(path: str | None) -> _Added:
    """config.yaml: the config of the GPT model, which its files hold."""
    if path is None:
        return _Added()
    with open_checkpoint(path) as checkpoint:
        config = config_of(checkpoint)
    return _Added((_text("config.yaml", path, to_yaml(dict(config)).encode(), "written"),)) if isinstance(config, dict) else _Added()


def _log(experiment: Experiment, runs: Sequence[str]) -> _Added:
    """log.txt: what training logged, oldest first."""
    logs = [log for log in experiment.logs if log.run in ("", *runs)]
    parts = []
    for log in logs:
        text = read_end(log.path)
        folder = escape_shown(f"{log.run}/") if log.run else ""
        parts.append(f"===== {folder}train.log =====\n".encode() + text + b"\n" * (not text.endswith(b"\n")))
    origin = logs[0].path if len(logs) == 1 else experiment.path
    return _Added((_text("log.txt", origin, b"".join(parts), "written"),)) if logs else _Added()


def _text(path: str, origin: str, text: bytes, how: How) -> BundleItem:
    return BundleItem(path, origin, len(text), how, text=text)
