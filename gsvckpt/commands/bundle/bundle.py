"""Plan and copy one voice into a new folder, ready for another machine. The experiment itself is never changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from gsvckpt.characters import escape_shown
from gsvckpt.commands.bundle.contents import (
    BEST,
    CHECKPOINTS,
    SMALL,
    Bundle,
    BundleItem,
    BundleOptions,
    How,
    LeftOut,
    Saved,
    by_age,
    manifest_size,
    nothing_left,
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
    find_experiment,
    read_end,
    read_scores,
)
from gsvckpt.commands.bundle.yaml import to_yaml
from gsvckpt.commands.rewrite import training_config
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.file import plan_file, rehearse, write
from gsvckpt.commands.rewrite.migrate import Migrate, Steps
from gsvckpt.commands.rewrite.recipe import Planned
from gsvckpt.commands.rewrite.result import Rewritten
from gsvckpt.commands.verify.after import RECORDED, entry_of
from gsvckpt.commands.verify.backup import copy_file
from gsvckpt.commands.verify.batch import verify_files
from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.manifest import NAME, ManifestEntry, record
from gsvckpt.commands.verify.result import Expected, Options, Verification
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import Engine
from gsvckpt.errors import ChangedError, DamagedError, GsvError, OutputError, RefusedError
from gsvckpt.files.obstacles import folder_obstacle
from gsvckpt.files.progress import Progress
from gsvckpt.files.publish import publish_bytes
from gsvckpt.files.publish_folder import publish_folder
from gsvckpt.sovits.config import config_of
from gsvckpt.sovits.names import parse
from gsvckpt.sovits.small_weights import version_of
from gsvckpt.transforms.plan import Plan

_UNKNOWN = {"content": "0" * 32, "md5": "0" * 32, "sha256": "0" * 64, "xxh3_128": "0" * 32}  # digests of what is not written yet, for the size alone


EngineFor = Callable[[Plan], Engine]


def bundle(source: str, folder: str, options: BundleOptions, engine_for: EngineFor, progress: Progress) -> Bundle:
    """Bundle an experiment's folder into `folder`, which appears at once, or only say what would be in it.

    Checkpoints that are damaged or unsafe are left out, which the exit code tells. Raises MissingError, DamagedError or RefusedError where none
    remains, RefusedError where `folder` holds something already, and OutputError; then nothing was written.
    """
    experiment = find_experiment(source)
    obstacle = _obstacle(source, folder)
    if obstacle is not None and not options.dry_run:
        raise obstacle
    planner = _Planner(experiment, folder, options, engine_for, progress)
    planned = planner.plan()
    if not any(item.entry for item in planned.items):
        raise nothing_left(planned)
    if obstacle is not None:
        planned = replace(planned, notes=(*planned.notes, f"{obstacle.why}, so a real run would stop here ({obstacle.hint})"))
    if options.dry_run:
        return planned
    _write(planned, planner.extract, progress)
    return replace(planned, rehearsed=False)


def _obstacle(source: str, folder: str) -> GsvError | None:
    """Why nothing can be written to `folder`, as far as that shows before any work is done."""
    place = os.path.realpath(folder)
    taken = folder_obstacle(folder)
    if taken is not None:
        return taken
    if os.path.normcase(f"{place}{os.sep}").startswith(os.path.normcase(f"{os.path.realpath(source)}{os.sep}")):
        return RefusedError("is inside the experiment, which must stay as it is", path=folder, hint="name a folder elsewhere")
    if not os.path.isdir(os.path.dirname(place)):
        return OutputError(f"there is no folder {os.path.dirname(folder.rstrip(os.sep))}", path=folder, hint="make it first")
    return None


# --- the plan ------------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Planner:
    """One plan in the making. Everything is read that the bundle will hold, so that no damaged file comes into it."""

    experiment: Experiment
    folder: str
    options: BundleOptions
    engine_for: EngineFor
    progress: Progress
    items: list[BundleItem] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def plan(self) -> Bundle:
        here, config = self.experiment, self.options.config
        wanted = version_of(training_config.find(here.path, config).config) if config is not None else None
        choice = choose(here.runs, wanted)
        self.notes += choice.warnings
        for run in choice.others:
            count = f"{len(run.files):,} training file{'s' if len(run.files) > 1 else ''}"
            chosen = choice.runs[run.stage].label
            self.left_out.append(LeftOut(run.path, f"{count} of {run.version or 'an unknown version'}, while the bundle holds those of {chosen}"))
        newest = {stage: self._add_training(choice, stage) for stage in STAGES}
        small = {stage: self._add_small(choice, stage, newest[stage]) for stage in STAGES}
        self._add_config(choice)
        self._add_settings(newest["gpt"].file.path if newest["gpt"] is not None else small["gpt"])
        self._add_log([run.label for run in choice.runs.values()])
        for folder in (f"{CHECKPOINTS}/", ""):
            entries = [item.entry for item in self.items if item.entry and item.path.rpartition("/")[0] == folder[:-1]]
            self.items += [BundleItem(f"{folder}{NAME}", None, manifest_size(entries), "written")] if entries else []
        return Bundle(here.path, self.folder, here.root, tuple(self.items), tuple(self.left_out), tuple(self.notes))

    def _verify(self, files: Sequence[File]) -> list[Saved]:
        """Read files whole. A dry run needs no digests, which take longer than all else."""
        options = Options(digests=frozenset({"xxh3_128"}) if self.options.dry_run else RECORDED)
        results = verify_files({file.path: Expected() for file in files}, options, self.options.jobs, self.progress)
        return [Saved(file, result) for file, result in zip(files, results, strict=True)]

    def _add(self, path: str, result: Verification) -> None:
        entry = entry_of(result, tensors=False)
        digests = {**_UNKNOWN, **entry.digests} if self.options.dry_run else entry.digests
        self.items.append(BundleItem(path, result.path, result.size, "copy", entry._replace(name=path.rpartition("/")[2], digests=digests)))

    def _add_training(self, choice: Choice, stage: BundleStage) -> Saved | None:
        """All training files of a stage. Returns the newest one that small weights come from."""
        run = choice.runs.get(stage)
        if run is None:
            return None
        found = place(stage, self._verify(run.files), choice.version_of(stage))
        self.left_out += found.left_out
        for path, one in found.files:
            self._add(path, one.result)
        models = [one for _, one in found.files if one.letter != "D"]
        if stage == "gpt" and models:
            self._add_best(models)
        elif run.rank is None and choice.version_of(stage) not in ("v3", "v4"):  # those train without a discriminator
            alone = {one.epoch or 0 for one in models} ^ {one.epoch or 0 for _, one in found.files if one.letter == "D"}
            self.notes += [f"epoch {epoch} has only one of G and D, so training would not resume from it" for epoch in sorted(alone)]
        return models[-1] if models else None

    def _add_best(self, models: Sequence[Saved]) -> None:
        told = []
        for one in models:
            with open_checkpoint(one.file.path) as checkpoint:
                told.append(read_scores(checkpoint.root))
        name, note = best_of([os.path.basename(one.file.path) for one in models], told)
        self._add(BEST, next(one.result for one in models if os.path.basename(one.file.path) == name))
        self.notes += [note] if note else []

    def _add_small(self, choice: Choice, stage: BundleStage, newest: Saved | None) -> str | None:
        """The newest small weights: those that GPT-SoVITS saved where they are as new as the training files, else what it would have saved.

        Returns where their config can be read.
        """
        run, version = choice.runs.get(stage), choice.version_of(stage)
        known = self.experiment.weights[stage]
        if run is not None and stage == "sovits":
            known = tuple(file for file in known if file.rank == run.rank)
        fresh, stale = by_age(known, version, newest)
        taken = self._take(fresh, stage, version)
        if taken is None and newest is not None and self._add_extracted(newest):
            return newest.file.path
        if taken is None and stale:
            taken = self._take(stale, stage, version)
            self.notes += [f"{os.path.basename(taken)} is older than the training files"] if taken is not None else []
        if taken is None:
            self.notes.append(f"there are no small {TITLES[stage]} weights")
        return taken

    def _take(self, files: Sequence[File], stage: BundleStage, version: str | None) -> str | None:
        """Add the first of these that is sound and of this version."""
        for file in files:
            ((_, result),) = self._verify([file])
            bad = unfit(result)
            if bad is not None:
                self.left_out.append(bad)
            elif result.kind in SMALL and agrees(stage, result.version, version):
                self._add(portable(os.path.basename(file.path)), result)
                return file.path
        return None

    def _add_extracted(self, newest: Saved) -> bool:
        path = newest.file.path
        try:
            done, made = self.extract(path, None)
        except GsvError as error:
            why = f"small weights cannot be made from it: {error.why}{f' ({error.hint})' if error.hint else ''}"
            self.left_out.append(LeftOut(path, why, error.exit_code))
            return False
        name = portable(made.name or os.path.basename(path))
        self.notes += [f"{name}: {warning}" for warning in done.warnings]
        if done.overflowed:
            self.notes.append(f"{name}: {done.overflowed:,} of its tensors keep their type, as their values are beyond float16")
        facts = (made.identity.kind, made.identity.version, made.identity.progress.epoch, parse(name).step, _UNKNOWN)
        self.items.append(BundleItem(name, path, done.bytes_after, "extracted", ManifestEntry(name, done.bytes_after, newest.file.mtime_ns, *facts)))
        return True

    def extract(self, path: str, output: str | None) -> tuple[Rewritten, Planned]:
        """Small weights out of a training file, as `--to-inference` makes them; without an output, only rehearsed."""
        recipe = Migrate(Steps(to_inference=True, config=self.options.config, step=self.options.step), inflate=False)
        destination = Destination("migrated", output, dry_run=output is None)
        place = output or os.path.join(self.folder, os.path.basename(path))
        with plan_file(path, place, destination, recipe, jobs=self.options.jobs) as file_plan:
            engine = self.engine_for(file_plan.plan)
            return (rehearse if output is None else write)(file_plan, engine), file_plan.planned

    def _add_config(self, choice: Choice) -> None:
        """config.json, which a `G_*.pth` is nothing without (utils.py:213-232): the one that was named, or the experiment's."""
        named = self.options.config
        path = named if named is not None and named.endswith(".json") else os.path.join(self.experiment.path, "config.json")
        if not os.path.isfile(path):
            self.notes += ["there is no config.json, and SoVITS training files hold no config themselves"] if "sovits" in choice.runs else []
            return
        try:
            told, version = version_of(training_config.find(path, path).config), choice.version_of("sovits")
        except GsvError as error:
            self.left_out.append(LeftOut(path, error.why, DamagedError.exit_code))
            return
        if "sovits" in choice.runs and None not in (told, version) and told != version:
            self.notes.append(f"config.json is for {told}, and the bundle's SoVITS is {version}; --config FILE names the right one")
        self._add_text("config.json", path, read_end(path), "copy")

    def _add_settings(self, path: str | None) -> None:
        """config.yaml: the config of the GPT model, which its files hold."""
        if path is not None:
            with open_checkpoint(path) as checkpoint:
                config = config_of(checkpoint)
            if isinstance(config, dict):
                self._add_text("config.yaml", path, to_yaml(dict(config)).encode(), "written")

    def _add_log(self, runs: Sequence[str]) -> None:
        """log.txt: what training logged, oldest first."""
        logs = [log for log in self.experiment.logs if log.run in ("", *runs)]
        parts = []
        for log in logs:
            text = read_end(log.path)
            place = escape_shown(f"{log.run}/") if log.run else ""
            parts.append(f"===== {place}train.log =====\n".encode() + text + b"\n" * (not text.endswith(b"\n")))
        if logs:
            self._add_text("log.txt", logs[0].path if len(logs) == 1 else self.experiment.path, b"".join(parts), "written")

    def _add_text(self, path: str, origin: str, text: bytes, how: How) -> None:
        self.items.append(BundleItem(path, origin, len(text), how, text=text))


# --- the doing -----------------------------------------------------------------------------------------------------------------------------------


def _write(planned: Bundle, extract: Callable[[str, str], object], progress: Progress) -> None:
    """Make the folder. Every copy has the digest that was verified and is read back; what is extracted is verified as any other file."""

    def fill(temp: str) -> None:
        entries: dict[str, list[ManifestEntry]] = {}
        for item in planned.items:
            folder = os.path.join(temp, *item.path.split("/")[:-1])
            os.makedirs(folder, exist_ok=True)
            path = os.path.join(folder, item.path.rpartition("/")[2])
            if item.entry is not None:
                entries.setdefault(folder, []).append(_put(item, item.entry, path, extract, progress))
            elif item.origin is not None:
                publish_bytes(path, item.text, overwrite=False)
        for folder, recorded in entries.items():
            record(folder, recorded)

    publish_folder(planned.output, planned.size, fill, settle=lambda: _check_unchanged(planned.items))


def _check_unchanged(items: Sequence[BundleItem]) -> None:
    """Raise ChangedError where training went on meanwhile: files of several moments make no voice."""
    for item in items:
        if item.entry is not None and item.origin is not None:
            now = os.stat(item.origin).st_mtime_ns if os.path.exists(item.origin) else None
            if now != item.entry.mtime_ns:
                raise ChangedError("changed while it was bundled", path=item.origin, hint="wait until training has finished saving, then try again")


def _put(item: BundleItem, entry: ManifestEntry, path: str, extract: Callable[[str, str], object], progress: Progress) -> ManifestEntry:
    """Write one checkpoint. Returns what the manifest is to say of it."""
    origin = str(item.origin)
    if item.how == "copy":
        copy_file(origin, path, entry.digests["xxh3_128"], entry.mtime_ns, overwrite=False, progress=progress)
        return entry._replace(mtime_ns=os.stat(path).st_mtime_ns)
    extract(origin, path)
    result = verify_file(path, Options(digests=RECORDED), progress=progress)
    bad = unfit(result)
    if bad is not None:
        raise OutputError(f"what was written {bad.why}", path=path, hint="the disk may be failing")
    return entry._replace(size=result.size, mtime_ns=result.mtime_ns, digests=dict(result.digests))
