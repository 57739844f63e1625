"""Taking out what a checkpoint tells of its owner's disk: folders, and the name of the experiment."""

from __future__ import annotations

import re
from collections.abc import Collection

from gsvckpt.transforms.plan import Change, Plan
from gsvckpt.transforms.tree import edited, rebuild

_ABSOLUTE = re.compile(r"(?:/|file:|\\|[A-Za-z]:[\\/]|~[\\/])")  # POSIX, UNC and Windows drives, a home folder
_RUN = re.compile(r"logs_s[12](?:_v.+)?|(?:GPT|SoVITS)_weights(?:_v.+)?")
_FIELDS = ("exp_name", "name")  # of a GPT config's `train`, and of an S2 config
_LONGEST = 4096  # longer texts are no paths


def scrub(plan: Plan, experiments: Collection[str], names: Collection[str] = ()) -> Plan:
    """Plan to shorten paths that are absolute or lead to one of `experiments`, anywhere in the tree, keys of dicts included, and to empty the fields
    that hold an experiment's name.

    Of a path its last part stays, unless that names an experiment, too. `names` are those of tensors, which stay, slashes or not.
    """
    done: dict[str, str] = {}

    def change(value: object) -> object:
        if isinstance(value, dict):
            named = {key: "" for key in _FIELDS if isinstance(value.get(key), str) and value[key] in experiments}
            done.update((value[key], "") for key in named)
            return edited(value, value | named) if named else value
        if not isinstance(value, str) or value in names:
            return value
        short = shorten(value, experiments)
        if short != value:
            done[value] = short
        return short

    root = rebuild(plan.root, change)
    changes = (
        Change("scrub-paths", "text", f"{len(old):,} characters", new or "(empty)") for old, new in done.items()
    )  # not the text: it is private
    return plan.with_root(root, *changes) if done else plan


def shorten(text: str, experiments: Collection[str]) -> str:
    """A path without what is private in it; any other text as it is."""
    if len(text) > _LONGEST or "\n" in text or ("://" in text and not text.startswith("file:")) or not re.search(r"[\\/]", text):
        return text
    parts = [part for part in re.split(r"[\\/]", text) if part]
    is_private = _ABSOLUTE.match(text) is not None or any(_names(part, experiments) for part in parts)
    if not is_private or not parts:
        return text
    return "" if _names(parts[-1], experiments) else parts[-1]


def _names(part: str, experiments: Collection[str]) -> bool:
    if part in experiments or _RUN.fullmatch(part):  # a run's folder tells the version, whatever it begins with
        return part in experiments
    return any(part.startswith((f"{name}-", f"{name}_", f"{name}.")) for name in experiments)
