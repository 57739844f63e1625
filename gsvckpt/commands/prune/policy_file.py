"""Read policies from a file: the table [prune] of a policy file or of a `gsvckpt.toml`, with tables for single groups in it.

Whatever is wrong in them is told with its line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, get_args

from gsvckpt.commands.prune.policy import DemoteTo, Policy, parse_every
from gsvckpt.commands.verify.manifest import LARGEST, MARK, NAME
from gsvckpt.engine.saves import Group
from gsvckpt.errors import UsageError, did_you_mean
from gsvckpt.files.toml import find_line, parse, read_text
from gsvckpt.units import parse_duration, parse_size, spell_duration

_COUNTS = {"keep-last": "last", "keep-best": "best", "demote-after": "demote_after"}
_CHOICES: Mapping[str, tuple[str, tuple[str, ...]]] = {"mode": ("mode", ("min", "max")), "demote-to": ("demote_to", get_args(DemoteTo))}
_FIELDS = {
    **_COUNTS,
    "keep-every": "every",
    "keep-within": "within",
    "keep": "keep",
    "max-size": "max_size",
    "demote-to": "demote_to",
    "metric": "metric",
    "mode": "mode",
}
_GROUP_KEYS = (*_COUNTS, "keep-every", "keep-within", "keep", "metric", *_CHOICES)
_KEYS = (*_GROUP_KEYS, "max-size", "groups")
_FORM = "begin with a line [prune], and a line keep-last = 3 below it"


@dataclass(frozen=True, slots=True)
class Policies:
    """What the file at `path` says of all groups, and of those whose label or name a glob matches: the first that does. `path` is None where no file
    says anything.
    """

    general: Policy = field(default_factory=Policy)
    groups: tuple[tuple[str, Policy], ...] = ()
    path: str | None = None

    def of(self, group: Group, command_line: Policy) -> Policy:
        """The rules for a group: those of the command line first, then of the group's own table, then of the table for all groups."""
        own = next((policy for glob, policy in self.groups if fnmatchcase(group.label, glob) or fnmatchcase(group.name, glob)), Policy())
        return command_line.over(own).over(self.general)

    def unmatched(self, groups: Collection[Group]) -> tuple[str, ...]:
        """The globs that mean none of these groups."""
        return tuple(glob for glob, _ in self.groups if not any(fnmatchcase(name, glob) for group in groups for name in (group.label, group.name)))


class Applied(NamedTuple):
    """Where the rules for some folders come from: a file, which may be a stranger's, and options, which go before what it says."""

    folders: tuple[str, ...]
    policies: Policies
    options: Policy

    def as_json(self) -> dict[str, object]:
        """`rules` are those that count, of the file and the options together; `options` those of the command line alone."""
        rules = spell_rules(self.options.over(self.policies.general))
        groups = {glob: spell_rules(self.options.over(policy)) for glob, policy in self.policies.groups}
        facts = {"file": self.policies.path, "rules": {**rules, **({"groups": groups} if groups else {})}, "options": spell_rules(self.options)}
        return {**facts, "folders": list(self.folders)}


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules for each group: those of the command line, over those of a file. `folders` are the absolute paths of the folders that were named,
    the longest first, each with what a file says of it.
    """

    folders: tuple[tuple[str, Policies], ...]
    options: Policy

    def of(self, group: Group) -> Policy:
        """What counts for a group."""
        place = os.path.abspath(group.folder)
        own = (policies for folder, policies in self.folders if place == folder or place.startswith(folder.rstrip(os.sep) + os.sep))
        return next(own, self.folders[0][1]).of(group, self.options)

    def applied(self, folders: Sequence[str]) -> tuple[Applied, ...]:
        """Where the rules come from, for the folders as they were named."""
        told = dict(self.folders)
        shared = {policies: tuple(folder for folder in folders if told[os.path.abspath(folder)] == policies) for policies in told.values()}
        return tuple(Applied(named, policies, self.options) for policies, named in shared.items())


def rules_for(folders: Sequence[str], options: Policy, path: str | None) -> RuleSet:
    """The rules for folders: the options, over those of the file at `path`, or else of the gsvckpt.toml in each folder.

    Raises UsageError where nothing says what is to stay.
    """
    named = read_policies(path) if path is not None else None
    found = {os.path.abspath(folder): named if named is not None else _own_policies(folder) for folder in folders}
    if options.empty and all(policies.general.empty and not policies.groups for policies in found.values()):
        raise UsageError("no rule says what to keep", where="prune", hint="--keep-last 2 keeps the newest two; --dry-run only shows what would go")
    return RuleSet(tuple((folder, found[folder]) for folder in sorted(found, key=len, reverse=True)), options)


def _own_policies(folder: str) -> Policies:
    path = os.path.join(folder, NAME)
    return read_policies(path) if os.path.isfile(path) else Policies()


def spell_rules(policy: Policy) -> dict[str, object]:
    """The rules of a policy as a file has them."""
    found = {key: getattr(policy, name) for key, name in _FIELDS.items()}
    found |= {"keep-within": spell_duration(policy.within)} if policy.within is not None else {}
    found |= {"keep": list(policy.keep) or None}
    found |= {"keep-every": str(policy.every) if policy.every.steps else policy.every.number} if policy.every is not None else {}
    return {key: value for key, value in found.items() if value is not None}


def read_policies(path: str) -> Policies:
    """The policies of a file, which must have a table [prune], or of a `gsvckpt.toml`, which need not and whose other tables are not looked at.

    Raises UsageError, whose `where` is FILE:LINE, for whatever is wrong in it, and MissingError where it cannot be read.
    """
    is_manifest = os.path.basename(path) == NAME
    text = read_text(path, largest=LARGEST) if is_manifest else read_text(path)
    if is_manifest:
        mark = re.search(rf"^{re.escape(MARK)}", text, re.MULTILINE)
        if mark is not None and "prune" not in text[mark.end() :]:
            text = text[: mark.start()]  # ten thousand recorded files take a second to parse
    if is_manifest and "prune" not in text:
        return Policies()
    document = parse(path, text)
    root = _Table(path, text, (), document)
    for key in document:
        if key != "prune" and not is_manifest:
            raise root.mistake(key, f"unknown key `{key}`", _FORM if key in _KEYS else did_you_mean(key, ["prune"], _FORM))
    if "prune" not in document:
        if is_manifest:
            return Policies()
        raise UsageError("has no table [prune]", where=f"{path}:1", hint=_FORM)
    return _policies(root.below("prune", _FORM))


class _Table(NamedTuple):
    """A table as it was written, and the keys that lead to it."""

    path: str
    text: str
    keys: tuple[str, ...]
    values: Mapping[str, object]

    def where(self, *keys: str) -> str:
        return f"{self.path}:{find_line(self.text, (*self.keys, *keys))}"

    def mistake(self, key: str, why: str, hint: str = "") -> UsageError:
        return UsageError(why, where=self.where(key), hint=hint)

    def below(self, key: str, hint: str) -> _Table:
        values = self.values[key]
        if not isinstance(values, dict):
            raise self.mistake(key, f"`{key}` must be a table", hint)
        return self._replace(keys=(*self.keys, key), values=values)


def _policies(table: _Table) -> Policies:
    groups = []
    if "groups" in table.values:
        example = 'name them in headers: [prune.groups."alice/*"]'
        below = table.below("groups", example)
        for glob in below.values:
            if not glob:
                raise below.mistake(glob, "a group's glob is empty", example)
            groups.append((glob, _policy(below.below(glob, example), _GROUP_KEYS)))
    general = _policy(table, _KEYS)
    return Policies(general, tuple(groups), table.path if groups or general != Policy() else None)


def _policy(table: _Table, known: tuple[str, ...]) -> Policy:
    found: dict[str, Any] = {}
    for key, value in table.values.items():
        if key == "max-size" and key not in known:
            raise table.mistake(key, "`max-size` applies to all groups together", "put it below [prune]")
        if key not in known:
            raise table.mistake(key, f"unknown key `{key}`", did_you_mean(key, known, f"known ones: {', '.join(known)}"))
        if key in _COUNTS:
            if type(value) is not int or value < 1:
                raise table.mistake(key, f"`{key}` must be a whole number of at least 1", f"{key} = 3")
            found[_COUNTS[key]] = value
        elif key in _CHOICES:
            name, choices = _CHOICES[key]
            if value not in choices:
                raise table.mistake(key, f"`{key}` must be one of {', '.join(choices)}", f'{key} = "{choices[0]}"')
            found[name] = value
        elif key == "keep":
            found[key] = _globs(table)
        elif key == "keep-every":
            found["every"] = parse_every(str(value) if type(value) is int else _text(table, key), table.where(key))
        elif key == "max-size" and type(value) is int:
            found["max_size"] = parse_size(str(value), table.where(key))
        elif key == "max-size":
            found["max_size"] = parse_size(_text(table, key), table.where(key))
        elif key == "keep-within":
            found["within"] = parse_duration(_text(table, key), table.where(key))
        elif key == "metric":
            found[key] = _text(table, key)
    return Policy(**found)


def _text(table: _Table, key: str) -> str:
    value = table.values[key]
    if not isinstance(value, str):
        raise table.mistake(key, f"`{key}` must be text", "put it between quotes")
    if not value:
        raise table.mistake(key, f"`{key}` is empty")
    return value


def _globs(table: _Table) -> tuple[str, ...]:
    globs = table.values["keep"]
    if not isinstance(globs, list):
        return (_text(table, "keep"),)
    if not globs or not all(isinstance(glob, str) and glob for glob in globs):
        raise table.mistake("keep", "`keep` must be a glob or a list of globs", 'keep = ["*best*", "*-e10.ckpt"]')
    return tuple(globs)
