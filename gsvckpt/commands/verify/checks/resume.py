"""Check whether GPT-SoVITS would resume training, from which file and epoch, or silently start over."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gsvckpt.commands.verify.findings import Finding
from gsvckpt.engine.examine import Examination
from gsvckpt.errors import GsvError
from gsvckpt.hints import NO_HINT, Hint, quote_word
from gsvckpt.sovits import requirements
from gsvckpt.sovits.config import lookup
from gsvckpt.sovits.kinds import Kind
from gsvckpt.sovits.lightning import path_classes
from gsvckpt.sovits.names import LATEST_STEP
from gsvckpt.sovits.runs import TrainingRun, newest_lightning

_S2_KEYS = ("iteration", "optimizer", "model", "learning_rate")  # utils.py:23-60, each of them read without a default
_S1_KEYS = ("pytorch-lightning_version", "state_dict", "optimizer_states", "lr_schedulers")  # measured with pytorch-lightning 2.5.6
_TRAINED = ("gpt-training", "sovits-generator-training", "sovits-discriminator-training")
_OF_FILES = ("resume.keys", "resume.optimizer", "resume.lightning")  # checks of one file, and of the folder of a run
_OF_RUNS = ("resume.pair", "resume.stale", "resume.finished")
_OVER = "GPT-SoVITS silently starts over from the pretrained model at epoch 1 and overwrites what is here"
_PLAIN = Hint('mends the file; so does pip install "pytorch-lightning<2.6"', "gsvckpt migrate <FILE> --plain --in-place")


class ResumeState(NamedTuple):
    """The facts of one training file that resuming depends on."""

    kind: Kind
    version: str | None
    epoch: int | None
    keys: frozenset[str]
    groups: tuple[int, ...] | None
    wanted_groups: tuple[int, ...] | None
    paths: frozenset[str]
    epochs: int | None


def summarise(examination: Examination) -> ResumeState:
    """Collect these facts from an examined file."""
    root, identity = examination.checkpoint.root, examination.identity
    entries = root if isinstance(root, dict) else {}
    optimizer = entries.get("optimizer")
    wanted = requirements.optimizer_groups(identity.kind, identity.version, examination.state, lora=identity.lora_rank is not None)
    epochs = lookup(entries.get("hyper_parameters"), "config", "train", "epochs")
    return ResumeState(
        identity.kind,
        identity.version,
        identity.progress.epoch,
        frozenset(str(key) for key in entries),
        requirements.group_sizes(optimizer),
        wanted,
        path_classes(root),
        epochs if type(epochs) is int else None,
    )


def assess(run: TrainingRun, states: Mapping[str, ResumeState | GsvError]) -> list[Finding]:
    """The verdict on one run. `states` has what is known of its files, by path."""
    return _assess_gpt(run, states) if run.stage == "gpt" else _assess_sovits(run, states)


def assess_file(name: str, state: ResumeState, run: TrainingRun | None) -> list[Finding]:
    """The verdict on one file: can training resume from it, and would GPT-SoVITS use it?"""
    if state.kind == "gpt-training":
        found = _openable(name, state)
    elif state.kind in ("sovits-generator-training", "sovits-discriminator-training"):
        found = _loadable(name, state)
    else:
        hint = Hint("training files are called G_*.pth, D_*.pth and epoch=*-step=*.ckpt, in logs/<experiment>")
        return [Finding("resume.file", "error", name, f"is not a training file ({state.kind}), so training cannot resume from it", hint, state.kind)]
    if run is not None and name not in (run.generator, run.discriminator):
        taken = run.discriminator if state.kind == "sovits-discriminator-training" else run.generator
        found.append(
            Finding("resume.file", "warning", name, f"would not be used; GPT-SoVITS uses {taken}", _instead(run, str(taken)), str(taken), name)
        )
    return found


def _assess_gpt(run: TrainingRun, states: Mapping[str, ResumeState | GsvError]) -> list[Finding]:
    if run.generator is None:
        return [_nothing(run, "epoch=*-step=*.ckpt")]
    state = states[run.chosen[0]]
    if isinstance(state, GsvError):
        why = f"would be used, and training stops with an error: {state.why}"
        return [Finding("resume.file", "error", run.generator, why, _instead(run, run.generator))]
    found = _openable(run.generator, state)
    blocked = any(finding.severity == "error" for finding in found)
    if not run.generator.endswith(".ckpt"):
        why = "is used although its name continues after .ckpt: GPT-SoVITS only looks at the beginning of a name"
        found.append(Finding("resume.stale", "warning", run.generator, why, _instead(run, run.generator)))
    found += _stale(run, state, states)
    return [*found, *_outcome(run, state, blocked=blocked)]


def _openable(name: str, state: ResumeState) -> list[Finding]:
    found = []
    missing = [key for key in _S1_KEYS if key not in state.keys]
    if missing:
        why = f"lacks {', '.join(missing)}: training stops with a KeyError"
        hint = Hint("empty lists are enough: gsvckpt strip-optimizer leaves them")
        found.append(Finding("resume.keys", "error", name, why, hint, ", ".join(missing)))
    if state.paths:
        why = f"names pathlib.{min(state.paths)}: pytorch-lightning 2.6 with torch 2.6 refuses it (Unsupported global)"
        if "WindowsPath" in state.paths and os.name != "nt":
            why += "; and trained on Windows, it stops on this system with `cannot instantiate 'WindowsPath'`"
        found.append(Finding("resume.lightning", "warning", name, why, _PLAIN, f"pathlib.{min(state.paths)}"))
    return found


def _assess_sovits(run: TrainingRun, states: Mapping[str, ResumeState | GsvError]) -> list[Finding]:
    if run.failure:
        why = f"a name makes GPT-SoVITS fail ({run.failure}); {_OVER}"
        return [Finding("resume.file", "error", run.folder, why, Hint("rename files to G_<step>.pth"))]
    if run.generator is None and run.discriminator is None:
        return [_nothing(run, "G_*.pth")]
    if run.generator is None:
        why = f"there is no G_*.pth beside {run.discriminator}: {_OVER}"
        return [Finding("resume.pair", "error", str(run.discriminator), why, Hint("put the G file of the same epoch back"), "no G", "G and D")]
    found: list[Finding] = []
    pairs = _has_pairs(run)
    known: dict[str, ResumeState] = {}
    for name in filter(None, (run.discriminator if pairs else None, run.generator)):
        state = states[run.place(name)]
        if isinstance(state, GsvError):
            found.append(Finding("resume.file", "error", name, f"would be used and cannot be read ({state.why}): {_OVER}", _instead(run, name)))
            continue
        known[name] = state
        found += _loadable(name, state)
    if pairs and run.discriminator is None:
        why = f"there is no D_*.pth beside {run.generator}, and GPT-SoVITS loads D first: {_OVER}"
        found.append(Finding("resume.pair", "error", run.generator, why, Hint("put the D file of the same epoch back"), "no D", "G and D"))
    generator = known.get(run.generator)
    discriminator = known.get(run.discriminator or "")
    if generator is None:
        return found
    if discriminator is not None and discriminator.epoch != generator.epoch:
        why = f"{run.generator} is of epoch {generator.epoch}, {run.discriminator} of epoch {discriminator.epoch}: training would go on with both"
        found.append(Finding("resume.pair", "error", run.generator, why, _whole_pair(run, generator), str(discriminator.epoch), str(generator.epoch)))
    found += _stale(run, generator, states)
    blocked = any(finding.severity == "error" for finding in found)
    return [*found, *_outcome(run, generator, blocked=blocked)]


def _loadable(name: str, state: ResumeState) -> list[Finding]:
    missing = [key for key in _S2_KEYS if key not in state.keys]
    if missing:
        hint = Hint("`gsvckpt strip-optimizer` leaves `optimizer: None`, from which training goes on") if missing == ["optimizer"] else NO_HINT
        return [Finding("resume.keys", "error", name, f"lacks {', '.join(missing)}: {_OVER}", hint, ", ".join(missing))]
    if state.groups is not None and state.wanted_groups is not None and state.groups != state.wanted_groups:
        why = f"its optimizer has groups of {_groups(state.groups)} parameters, this model's has {_groups(state.wanted_groups)}: {_OVER}"
        hint = Hint("removes it, and training goes on with fresh moments", "gsvckpt strip-optimizer <FILE> --in-place")
        return [Finding("resume.optimizer", "error", name, why, hint, _groups(state.groups), _groups(state.wanted_groups))]
    if state.groups is None:
        return [Finding("resume.optimizer", "info", name, "has no optimizer state: training resumes with fresh moments")]
    return []


def _groups(sizes: tuple[int, ...]) -> str:
    return " + ".join(map(str, sizes)) or "no"


def _stale(run: TrainingRun, chosen: ResumeState, states: Mapping[str, ResumeState | GsvError]) -> list[Finding]:
    """Files of a later epoch than the one that is taken."""
    later = [
        (state.epoch, os.path.basename(path))
        for path in run.rivals
        if not isinstance(state := states[path], GsvError) and state.epoch is not None and state.epoch > (chosen.epoch or 0)
    ]
    if not later:
        return []
    epoch, name = max(later)
    fixed = str(LATEST_STEP) in str(run.generator)
    reason = f", as its number is the highest ({LATEST_STEP} is the name of `save only latest`, no step)" if fixed else ""
    why = f"GPT-SoVITS resumes from {run.generator} of epoch {chosen.epoch}{reason}, although {name} is of epoch {epoch}"
    return [Finding("resume.stale", "warning", str(run.generator), why, _instead(run, str(run.generator)), f"epoch {chosen.epoch}", f"epoch {epoch}")]


def _outcome(run: TrainingRun, state: ResumeState, *, blocked: bool) -> list[Finding]:
    epochs = _epochs(run, state)
    if blocked or state.epoch is None:
        return []
    files = " and ".join(filter(None, (run.generator, run.discriminator)))
    if epochs is not None and state.epoch >= epochs:
        why = f"{files}: epoch {state.epoch} of {epochs} is done, so GPT-SoVITS trains nothing and saves nothing"
        hint = Hint("raise the total number of epochs")
        return [Finding("resume.finished", "warning", str(run.generator), why, hint, str(state.epoch), f"below {epochs}")]
    total = f" of {epochs}" if epochs is not None else ""
    return [Finding("resume.file", "info", str(run.generator), f"training resumes from {files} at epoch {state.epoch + 1}{total}")]


def _whole_pair(run: TrainingRun, generator: ResumeState) -> Hint:
    """How to get from a mixed pair to a whole one: the save before is often still there, as a kill between the two files leaves it."""
    older = f"G{str(run.discriminator)[1:]}"
    if older in run.names and older != run.generator:
        return Hint(f"move {run.generator} out of the folder, and training goes on from {older} and {run.discriminator}; then look again")
    command = f"gsvckpt verify {quote_word(run.folder)} --restore-from <BACKUP>"
    return Hint(f"put the D file of epoch {generator.epoch} back: this brings it from a backup", command)


def _nothing(run: TrainingRun, pattern: str) -> Finding:
    """That this is a first run: nothing is lost by it."""
    if not run.begun:
        pattern = "training run (logs_s1_*, logs_s2_*) yet" if os.path.isdir(run.folder) else "such folder yet"
    missing = f"there is no {pattern}"
    return Finding("resume.file", "info", "folder", f"{missing}: training starts from the pretrained model at epoch 1", found="none")


def _instead(run: TrainingRun, name: str) -> Hint:
    """What to do so that another file is taken: the whole pair goes, or is brought back where nothing else is there."""
    if run.stage == "gpt":
        gone = {name}
        rest = newest_lightning(other for other in run.names if other not in gone)
    else:
        gone = {name, *(other for other in run.names if other[1:] == name[1:])}
        rest = next((other for other in sorted(run.names) if other not in gone and other.startswith("G_")), None)
    if rest is None:
        command = f"gsvckpt verify {quote_word(run.folder)} --restore-from <BACKUP>"  # without --resume, which reads no manifest
        return Hint("brings it back from a backup; nothing else is there to go on from", command)
    return Hint(f"move {' and '.join(sorted(gone))} out of the folder, and an earlier or later file is taken; then look again")


class Resumption(NamedTuple):
    """The answer to `would training go on here?`: from which files and epoch, and in one sentence why, or why not.

    `generator` is GPT's file, too. `goes_on` is False for a first run, for one that is done, and where GPT-SoVITS would start over or mix two saves.
    `blocked` tells the last two, in which something is lost, from the others.
    """

    goes_on: bool
    generator: str | None
    discriminator: str | None
    epoch: int | None
    why: str
    blocked: bool = False

    def as_json(self) -> dict[str, object]:
        """The `resume` object of a run in the JSON document."""
        return {"goes_on": self.goes_on, "from": {"G": self.generator, "D": self.discriminator, "epoch": self.epoch}, "why": self.why}


def answer(run: TrainingRun, states: Mapping[str, ResumeState | GsvError], found: Sequence[Finding]) -> Resumption:
    """What `assess`, which found this, comes to for a script."""
    state = states.get(run.place(run.generator)) if run.generator is not None else None
    epoch = state.epoch if isinstance(state, ResumeState) else None
    errors = [finding for finding in found if finding.severity == "error"]
    told = errors or [finding for finding in found if finding.check == "resume.finished"]
    told = told or [finding for finding in found if finding.check == "resume.file"]
    goes_on = run.generator is not None and not errors and all(finding.check == "resume.file" for finding in told)
    why = told[0].why if told else "the epoch of its files is not known"
    where = told[0].where if errors else ""
    why = f"{where}: {why}" if where and where not in why else why
    return Resumption(goes_on, run.generator, run.discriminator, epoch, why, blocked=bool(errors))


def unite(answers: Mapping[str, Resumption], failures: Sequence[GsvError] = ()) -> Resumption:
    """The answer for several runs, by folder: they go on if each does and none could not be looked at. What is lost, or not known, tells why, before
    a first run does. Files are named where it is about one run.
    """
    if len(answers) == 1 and not failures:
        return next(iter(answers.values()))
    stopped = [one._replace(why=f"{folder}: {one.why}") for folder, one in answers.items() if not one.goes_on]
    unknown = [Resumption(False, None, None, None, str(error)) for error in failures]
    whole = Resumption(True, None, None, None, f"all {len(answers):,} runs go on")
    return [*(one for one in stopped if one.blocked), *unknown, *stopped, whole][0]


def skipped_of_file(state: ResumeState) -> dict[str, str]:
    """The checks that `assess_file` does not make, each with the reason."""
    if state.kind not in _TRAINED:
        return dict.fromkeys((*_OF_FILES, *_OF_RUNS), "this is no training file")
    return dict.fromkeys(_OF_RUNS, "reported for the folder of the training run") | _skipped_by_content([state])


def skipped_of_run(run: TrainingRun, states: Mapping[str, ResumeState | GsvError], found: Sequence[Finding]) -> dict[str, str]:
    """The checks that `assess`, which found this, did not make, each with the reason."""
    if run.failure or run.generator is None:
        return dict.fromkeys((*_OF_FILES, *_OF_RUNS), "there is no file to resume from")
    taken = [state for path in run.chosen if not isinstance(state := states[path], GsvError)]
    if len(taken) < len(run.chosen):
        return dict.fromkeys((*_OF_FILES, *_OF_RUNS), "a file that would be used cannot be read")
    skipped = _skipped_by_content(taken)
    if run.stage == "gpt":
        skipped["resume.pair"] = "GPT is trained with one file"
    elif not _has_pairs(run):
        skipped["resume.pair"] = "v3 and v4 are trained without a discriminator"
    if any(finding.severity == "error" for finding in found):
        skipped["resume.finished"] = "training would not resume from here"
    elif taken[-1].epoch is None or _epochs(run, taken[-1]) is None:
        skipped["resume.finished"] = "the epoch, or the total number of epochs, is not known"
    return skipped


def _skipped_by_content(states: Sequence[ResumeState]) -> dict[str, str]:
    if states[0].kind == "gpt-training":
        return {"resume.optimizer": "checked only for SoVITS files"}
    skipped = {"resume.lightning": "checked only for GPT files"}
    if any(state.groups is None or state.wanted_groups is None for state in states):
        skipped["resume.optimizer"] = "there is no optimizer state, or none is known to compare it with"
    elif any(key not in state.keys for state in states for key in _S2_KEYS):
        skipped["resume.optimizer"] = "other entries are missing"
    return skipped


def _has_pairs(run: TrainingRun) -> bool:
    return run.stage == "sovits" and run.version not in ("v3", "v4")  # these are trained without a discriminator


def _epochs(run: TrainingRun, state: ResumeState) -> int | None:
    """How many epochs are to be trained: GPT's files say so themselves, SoVITS's config is that of the experiment's last run."""
    if run.stage == "gpt":
        return state.epochs
    return run.epochs if run.config_version in (None, run.version) or run.version is None else None
