"""Read file names by GPT-SoVITS's own patterns: the experiment, the epoch, and which names it would load by itself."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

NameForm = Literal["gpt-weights", "sovits-weights", "gpt-training", "generator", "discriminator", "epoch"]

# Patterns stay text: `re` compiles and keeps them at first use, so importing this costs nothing. Digits are bounded because int() is not.
# The middle column must be in a name that matches: looking for it is cheaper than compiling the pattern.
_FORMS: tuple[tuple[NameForm, str, str], ...] = (
    (
        "gpt-training",
        "-step=",
        r"(?:.+-)?epoch=(?P<epoch>[0-9]{1,12})e?-step=(?P<step>[0-9]{1,12})(?:-v[0-9]+)?\.ckpt",
    ),  # Lightning, and the S1 bases
    ("gpt-weights", "-e", r"(?P<name>.+)-e(?P<epoch>[0-9]{1,12})\.ckpt"),  # s1_train.py:62-81
    ("sovits-weights", "_e", r"(?P<name>.+)_e(?P<epoch>[0-9]{1,12})_s(?P<step>[0-9]{1,12})(?:_l(?P<rank>[0-9]{1,6}))?\.pth"),  # s2_train.py:567
    ("generator", "G_", r"G_(?:(?P<step>[0-9]{1,12})|latest)\.pth"),  # utils.py:75-90; `latest` is GPT-SoVITS-ko's
    ("discriminator", "D_", r"D_(?:(?P<step>[0-9]{1,12})|latest)\.pth"),
    ("epoch", "epoch", r"epoch[_-]?(?P<epoch>[0-9]{1,12})(?:[_-]step[_-]?(?P<step>[0-9]{1,12}))?\.(?:ckpt|pth|pt|safetensors)"),
)
LIGHTNING = r"epoch=(\d+)-step=(\d+)\.ckpt"  # AR/utils/__init__.py:8-24: matched from the start, with no end
_STRAY = r"[12][0-9]{9}\.[0-9]{1,12}\.pth"  # `{time()}.pth` and `{time()}{part}.pth`: utils.py:67-72, process_ckpt.py:12-17, prepare_datasets
_RUN = r"logs_s[12](?:_(?P<version>v[0-9](?:ProPlus|Pro)?)(?:_lora_(?P<rank>[0-9]{1,6}))?)?"
_WEIGHTS = r"(?:GPT|SoVITS)_weights(?:_(?P<version>v[0-9](?:ProPlus|Pro)?))?"

_WORDS = "weights|fp16|migrated|salvaged"  # those of convert-fp16, strip-optimizer, migrate and --salvage
_MADE_BEFORE, _MADE_BEHIND = rf"(?:{_WORDS})-(.+)", rf"(.+)\.(?:{_WORDS})(\.[A-Za-z0-9]+)"
_TOLD = r"[-_]e[0-9]{1,12}(?:_s[0-9]{1,12})?(?:_l[0-9]{1,6})?|-?epoch=[0-9]{1,12}e?-step=[0-9]{1,12}(?:-v[0-9]{1,6})?"  # what must not be cut off
_LONGEST = 255  # bytes of a file's name on nearly all systems

FEATURES = ("3-bert", "4-cnhubert", "7-sv_cn")  # folders of prepare_datasets/1-get-text.py, 2-get-hubert-wav32k.py, 2-get-sv.py
PREPARED = (*FEATURES, "5-wav32k")  # what lies in an experiment's folder before its first training
LATEST_STEP = 233333333333  # the name of "save only the latest" (s2_train.py), no step at all


class FileName(NamedTuple):
    """What a name says. `epoch` is as written, except for Lightning, which counts from 0: there it is one more (see progress)."""

    form: NameForm | None = None
    experiment: str | None = None
    epoch: int | None = None
    step: int | None = None
    rank: int | None = None
    latest: bool = False


def split(path: str) -> tuple[str, ...]:
    """The parts of a path of any system, Windows drives included."""
    return tuple(part for part in path.replace("\\", "/").split("/") if part)


def parse(path: str) -> FileName:
    """What the last part of a path says, with the experiment from wherever it is told; never raises."""
    base = basename(path)
    for form, needle, pattern in _FORMS:
        match = re.fullmatch(pattern, base) if needle in base else None
        if match is None:
            continue
        found = match.groupdict()
        epoch, step, rank = (int(found[key]) if found.get(key) else None for key in ("epoch", "step", "rank"))
        if form == "gpt-training" and epoch is not None:
            epoch += 1
        is_latest = form in ("generator", "discriminator") and step in (None, LATEST_STEP)
        return FileName(form, experiment(path), epoch, None if is_latest else step, rank, is_latest)
    return FileName(experiment=experiment(path))


def original_name(path: str) -> str:
    """A path without the words that gsvckpt puts before or behind a name: `weights-G_16.pth` and `G_16.fp16.pth` are made from `G_16.pth`."""
    base = basename(path)
    folder, inner = path[: len(path) - len(base)], base
    while (match := re.fullmatch(_MADE_BEFORE, inner) or re.fullmatch(_MADE_BEHIND, inner)) is not None:
        inner = "".join(match.groups())
    return folder + inner if base and path.endswith(base) else path


def basename(path: str) -> str:
    """The last part of a path of any system."""
    return (split(path) or ("",))[-1]


def experiment(path: str) -> str | None:
    """The experiment a file belongs to.

    Told, the surest first, by `<exp>-e8.ckpt` or `<exp>_e8_s16.pth`, `<exp>/logs_s2_v2/...`, `logs/<exp>/...`, the folder of an `epoch_001.ckpt`.
    """
    parts = split(path)
    base = parts[-1] if parts else ""
    forms = {form: match for form, needle, pattern in _FORMS if needle in base and (match := re.fullmatch(pattern, base)) is not None}
    for form in ("gpt-weights", "sovits-weights"):
        if form in forms and "gpt-training" not in forms:
            return forms[form]["name"]
    for place in range(len(parts) - 2, 0, -1):
        if re.fullmatch(_RUN, parts[place]):
            return parts[place - 1]
    for place in range(len(parts) - 3, -1, -1):  # the last `logs` that holds a folder: other folders above may be called so
        if parts[place] == "logs":
            return parts[place + 1]
    return parts[-2] if "epoch" in forms and len(parts) > 1 else None


def resumes(path: str) -> bool:
    """Whether GPT-SoVITS would pick the file up when it resumes in the file's folder.

    S2 globs `G_*.pth` and `D_*.pth` (utils.py:112-117), which on Windows ignores case, so case is ignored here; S1 matches from the start of the
    name with no end, so `epoch=9-step=90.ckpt.bak` counts too (AR/utils/__init__.py:8-24).
    """
    base = basename(path)
    folded = base.casefold()
    return (folded.startswith(("g_", "d_")) and folded.endswith(".pth")) or re.match(LIGHTNING, base) is not None


def is_stray(path: str) -> bool:
    """A temp file that upstream left behind when a save was interrupted; nothing ever reads one."""
    return re.fullmatch(_STRAY, basename(path)) is not None


def folder_version(path: str) -> tuple[str, str] | None:
    """(version, folder) for a folder that upstream names after a version (config.py:44-75, webui.py:534, s2_train_v3_lora.py:142).

    The plain `SoVITS_weights`, `GPT_weights`, `logs_s1` and `logs_s2` say nothing: before 2025-02-11 every version went there.
    """
    for part in reversed(split(path)[:-1]):
        match = re.fullmatch(_RUN, part) or re.fullmatch(_WEIGHTS, part)
        if match is not None and match["version"]:
            return match["version"], part
    return None


def weights_folder(stage: Literal["gpt", "sovits"], version: str | None) -> str:
    """The folder in which GPT-SoVITS lists the small weights of a version (config.py:44-75); v1's has none in its name."""
    kind = "GPT_weights" if stage == "gpt" else "SoVITS_weights"
    return kind if version in (None, "v1") else f"{kind}_{version}"


def folder_rank(path: str) -> int | None:
    """The LoRA rank in a folder like `logs_s2_v3_lora_32`."""
    for part in reversed(split(path)[:-1]):
        match = re.fullmatch(_RUN, part)
        if match is not None and match["rank"]:
            return int(match["rank"])
    return None


def cut(text: str, most: int) -> str:
    """The beginning of a text, of at most so many bytes, ending with a whole letter."""
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) <= most:
        return text
    while raw[most] & 0xC0 == 0x80:
        most -= 1
    return raw[:most].decode("utf-8", "surrogatepass")


def shorten(name: str) -> str:
    """A file's name that is not too long for any file system: the end that tells epoch, step and form stays, what stands before it is cut."""
    told = re.search(rf"(?:{_TOLD})?(?:\.[0-9A-Za-z]{{1,11}}){{0,2}}$", name)
    begin = told.start() if told is not None else len(name)
    return cut(name[:begin], _LONGEST - len(name[begin:].encode("utf-8", "surrogatepass"))) + name[begin:]
