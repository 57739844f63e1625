"""Which file GPT-SoVITS takes when training goes on: its own rules, whatever one would expect of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from gsvckpt.sovits.names import LIGHTNING

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
