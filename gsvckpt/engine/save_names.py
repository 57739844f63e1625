"""Read the names of saves from any trainer: epoch or step, which part of a save a file is, and whether it is a copy.

A bare number says nothing: `voice_2.pth` may be a second voice. Names of GPT-SoVITS alone, with their experiments, are in `sovits/names.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_EDGE = r"(?:(?<=[-_. =/(\[])|^)"
_END = r"(?![0-9A-Za-z])(?!\.[0-9])"
_EPOCH = r"epochs?"
_STEP = r"global[-_]?steps?|steps?|iterations?|iters?|itr|updates?|(?:checkpoint|ckpt)(?=[-_=])"
# `epoch=3`, `epoch_003`, `step-100`, `global_step600`, `iter_0000100`, `checkpoint-500`, `step=10k`; upstream's S1 bases have `epoch=12e`
_WORD = rf"{_EDGE}(?:(?P<epoch>{_EPOCH})|(?P<step>{_STEP}))(?P<sign>[-_= ]?)(?P<number>[0-9]{{1,12}})(?P<k>k)?e?{_END}"
_TURNED = rf"{_EDGE}(?P<number>[0-9]{{1,12}})(?P<k>k)?[-_ ]?(?:(?P<epoch>{_EPOCH})|(?P<step>steps?|iterations?|iters?)){_END}"
_SHORT = rf"[-_]e(?P<epoch>[0-9]{{1,12}})(?:[-_]s(?P<step>[0-9]{{1,12}}))?(?:_l[0-9]{{1,6}})?{_END}"  # `-e15`, `_e8_s200`, `_e8_s200_l32`
_METRIC = r"=-?[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?"  # of Lightning, as in `val_loss=0.41`
_REPEAT = r"-v[0-9]{1,6}(?=\.ckpt$)"  # Lightning's second file of a name
# `G_100.pth`, `D_100.pth`, `DUR_100.pth`, `WD_100.pth` of VITS and what came of it (utils.py:75-90)
_LETTERS = r"(?P<begin>(?:.*_)?)(?P<letter>[A-Z]{1,4})_(?P<number>[0-9]{1,12}|latest)\.pth"
_LATEST = "233333333333"  # GPT-SoVITS's name of "save only the latest", no step

# Files of one save differ by these words. The first is the model itself, whose tensors tell the run.
_MEMBERS = (
    r"(?<![0-9A-Za-z])(?:model|net|generator|gen|netG|g|weights|optimizer|optim|opt|scheduler|sched|lr_scheduler|scaler|ema|rng|rng_state|"
    r"random_states|trainer_state|training_state|state|discriminator|disc|netD|d)(?![0-9A-Za-z])"
)
_RANKS = (
    r"[0-9]{1,6}[-_]of[-_][0-9]{1,6}|(?:zero_)?(?:[a-z]p_)?rank[-_]?[0-9]{1,6}|(?:shard|part)[-_]?[0-9]{1,6}|"
    r"(?<=rng_state_)[0-9]{1,6}|(?<=random_states_)[0-9]{1,6}|(?<=optimizer_)[0-9]{1,6}|(?<=scheduler_)[0-9]{1,6}"
)

_COPIES = (
    r"(?P<name>.+)的副本(?: ?[0-9]{1,3})?(?P<end>\.[^.]+)",
    r"(?P<name>.+?)(?: ?- ?| |_)(?:copy|kopie|copie|copia)(?: ?\(?[0-9]{1,3}\)?)?(?P<end>\.[^.]+)",  # Windows, macOS
    r"(?P<name>.+?)(?: ?- ?| |_)?(?:副本|拷贝|複製|コピー|복사본)(?: ?\(?[0-9]{1,3}\)?)?(?P<end>\.[^.]+)",
    r"(?P<name>.+) ?\((?:[0-9]{1,3}|[^()]*(?:conflict|冲突)[^()]*)\)(?P<end>\.[^.]+)",  # browsers, Google Drive, Dropbox, Nextcloud
    r"(?:copy of |副本 ?-? ?)(?P<name>.+?)(?P<end>\.[^.]+)",
    r"(?P<name>.+)\.sync-conflict-[0-9]{8}-[0-9]{6}(?:-[0-9A-Z]+)?(?P<end>\.[^.]+)",  # Syncthing
    r"(?P<name>.+)-(?:DESKTOP|LAPTOP)-[0-9A-Z]{4,12}(?P<end>\.[^.]+)",  # OneDrive
    r"(?P<name>.+)(?P<end>\.[^.]+)(?:\.(?:bak|backup|old|orig)[0-9]{0,3}|~)",
)
_PARTIAL = (".crdownload", ".part", ".partial", ".download", ".aria2", ".!qb", ".!ut", ".tmp", ".opdownload", ".td", ".xltd", ".incomplete")
COPY_FOLDERS = (".ipynb_checkpoints", "__MACOSX")


class SaveName(NamedTuple):
    """What a file's or folder's name says. `stem` is the name with `#` for its progress, as users see it; `key` is what the names of one run's saves
    share whatever `member` of a save they are; `moment` is what the files of one save share, empty where the name says no progress.

    `epoch` counts from 1. `letters`: a name like `G_100.pth`, whose number is progress only if something inside says that it was trained.
    """

    stem: str
    key: str
    member: str = ""
    epoch: int | None = None
    step: int | None = None
    moment: str = ""
    letters: bool = False


class _Spelled(NamedTuple):
    """A progress word in a name: where its number stands, and what it says."""

    begin: int
    end: int
    what: str
    value: int


def read_name(name: str) -> SaveName:
    """What the last part of a path says; of a name that says no progress, the stem is the name itself."""
    pair = re.fullmatch(_LETTERS, name)
    if pair is not None:
        number = pair["number"]
        step = None if number in ("latest", _LATEST) else int(number)
        stem = f"{pair['begin']}{pair['letter']}_#.pth"
        return SaveName(stem, f"{pair['begin']}*_#.pth", pair["letter"], None, step, f"{pair['begin']}{number}", letters=True)
    spelled = _spelled(name)
    if not spelled:
        return SaveName(name, re.sub(_RANKS, "+", name))
    stem, said = name, dict[str, int]()
    for one in reversed(spelled):
        stem = f"{stem[: one.begin]}#{stem[one.end :]}"
    for one in spelled:
        said.setdefault(one.what, one.value)
    apart = (str(said.get("epoch", "")), str(said.get("step", "")), *re.findall(_METRIC, stem), *re.findall(_REPEAT, stem))
    stem = re.sub(_REPEAT, "", re.sub(_METRIC, "=#", stem))
    member = " ".join(match[0].lower() for pattern in (_MEMBERS, _RANKS) for match in re.finditer(pattern, stem, re.IGNORECASE))
    key = re.sub(r"[-_. ]*\+[-_. ]*", "+", re.sub(_MEMBERS, "+", re.sub(_RANKS, "+", stem), flags=re.IGNORECASE))
    return SaveName(stem, key.replace("+", ""), member, said.get("epoch"), said.get("step"), "/".join(apart))


def _spelled(name: str) -> list[_Spelled]:
    """The progress words of a name, in order. `_e8_s200` at the end goes before all others, as `step_1` may be the name of a voice."""
    short = [match for match in re.finditer(_SHORT, name) if "." not in name[match.end() :].removeprefix(".")]
    if short:
        match = short[-1]
        return [_Spelled(*match.span(what), what, int(match[what])) for what in ("epoch", "step") if match[what]]
    found: list[_Spelled] = []
    for pattern in (_WORD, _TURNED):
        for match in re.finditer(pattern, name, re.IGNORECASE):
            what = "epoch" if match["epoch"] else "step"
            value = int(match["number"]) * (1000 if match["k"] else 1)
            begin, end = match.span("number")
            if not any(one.begin < end and begin < one.end for one in found):
                from_zero = what == "epoch" and match.groupdict().get("sign") == "="  # Lightning counts so
                found.append(_Spelled(begin, end, what, value + from_zero))
    return sorted(found)


def says_progress(name: str) -> bool:
    """Whether a name says how far training had come, in words."""
    return bool(_spelled(name))


def without_number(name: str, progress: tuple[int | None, int | None]) -> str:
    """The name with `#` in place of the one number that is also the progress inside the file; unchanged if no number is."""
    epoch, step = progress
    known = {value for value in (epoch, epoch - 1 if epoch else None, step, step - 1 if step else None) if value is not None}
    known |= {step // 1000} if step and step % 1000 == 0 else set()
    numbers = list(re.finditer(r"(?<![0-9.])[0-9]{1,12}(?![0-9])(?!\.[0-9])", name))
    telling = [match for match in numbers if int(match[0]) in known]
    if len(telling) != 1:
        return name
    return name[: telling[0].start()] + "#" + name[telling[0].end() :]


def copy_of(name: str) -> str | None:
    """The name of the original where a name is that of a copy, a conflict of a synchronized folder or a backup; else None."""
    for pattern in _COPIES:
        match = re.fullmatch(pattern, name, re.IGNORECASE)
        if match is not None:
            return f"{match['name'].rstrip()}{match['end']}"
    return None


def download_of(name: str, beside: Iterable[str]) -> str:
    """What shows that a file is an unfinished download: its own name, or a file that a download manager keeps beside it; empty if nothing does."""
    if is_partial(name):
        return f"it is called {name}"
    kept = next((other for other in beside if other.lower().startswith(f"{name.lower()}.") and is_partial(other)), None)
    return f"{kept} lies beside it" if kept is not None else ""


def is_partial(name: str) -> bool:
    """Whether a browser or a download manager calls an unfinished file so."""
    return name.lower().endswith(_PARTIAL)
