"""Read rules from a file or a preset. Every mistake is reported with its line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast, get_args

from gsvckpt.errors import UsageError, did_you_mean
from gsvckpt.files.toml import find_lines, parse, read_text
from gsvckpt.transforms.rules.apply import GLOBS, LONGEST, TOO_LONG, Action, Rule, compile_pattern

_ACTIONS: tuple[str, ...] = (*get_args(Action), "preset")
_WITH = {"rename": "to", "cast": "dtype"}  # the second key that an action needs
_DTYPES = ("float32", "float16", "bfloat16")


def _presets() -> dict[str, str]:
    """The text of each preset."""
    from importlib import resources

    files = [file for file in (resources.files(__package__) / "presets").iterdir() if file.name.endswith(".toml")]
    return {file.name[:-5]: file.read_text("utf-8") for file in sorted(files, key=lambda file: file.name)}


def read_rules(path_or_preset: str) -> tuple[Rule, ...]:
    """The rules of a file, or of a preset where there is no such file.

    Raises UsageError, whose `where` is FILE:LINE, for whatever is wrong in it, and MissingError.
    """
    presets = _presets()
    if path_or_preset in presets and not os.path.isfile(path_or_preset):
        return tuple(rule._replace(line=0) for rule in _rules(path_or_preset, presets[path_or_preset], presets))
    text = read_text(path_or_preset, hint=f"or name a preset: {', '.join(presets)}")
    return tuple(_rules(path_or_preset, text, presets))


class _RuleTable(NamedTuple):
    """One rule as it was written; `lines` has those of its keys, and under "" that of its header."""

    path: str
    values: Mapping[str, object]
    lines: Mapping[str, int]

    def mistake(self, key: str, why: str, hint: str = "") -> UsageError:
        return UsageError(why, where=f"{self.path}:{self.lines.get(key, self.lines[''])}", hint=hint)

    def text(self, key: str) -> str:
        value = self.values[key]
        if not isinstance(value, str):
            raise self.mistake(key, f"`{key}` must be text", "put it between quotes")
        if not value and key != "to":
            raise self.mistake(key, f"`{key}` is empty")
        return value


def _rules(path: str, text: str, presets: Mapping[str, str]) -> Iterator[Rule]:
    document = parse(path, text)
    top, below = find_lines(text)
    root = _RuleTable(path, document, {"": 1, **top})
    for key in document:
        if key not in ("rule", "for"):
            raise root.mistake(key, f"unknown key `{key}`", did_you_mean(key, ["rule", "for"], "rules begin with [[rule]]"))
    program = root.text("for") if "for" in document else ""
    tables = document.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise root.mistake("rule", "`rule` must be a list of tables", "each rule begins with [[rule]], in two pairs of brackets")
    if not tables:
        raise root.mistake("rule", "there are no rules in it", f"each rule begins with [[rule]]; presets: {', '.join(presets)}")
    for number, values in enumerate(tables):
        found = _rule(_RuleTable(path, values, below[number] if below else {"": root.lines["rule"]}), presets)
        yield from (rule._replace(program=program) for rule in found) if program else found


def _rule(table: _RuleTable, presets: Mapping[str, str]) -> Iterator[Rule]:
    known = (*_ACTIONS, *_WITH.values())
    for key in table.values:
        if key not in known:
            raise table.mistake(key, f"unknown key `{key}`", did_you_mean(key, known, f"known ones: {', '.join(known)}"))
    actions = [key for key in table.values if key in _ACTIONS]
    if not actions:
        raise table.mistake("", "this rule does nothing", f"give it one of {', '.join(_ACTIONS)}")
    if len(actions) > 1:
        raise table.mistake(actions[1], f"`{actions[1]}` in a rule that has `{actions[0]}`", "make two rules of it")
    action = actions[0]
    needed = _WITH.get(action)
    for key in _WITH.values():
        if key in table.values and key != needed:
            raise table.mistake(key, f"`{key}` cannot be combined with `{action}`")
    if needed and needed not in table.values:
        raise table.mistake(action, f"`{action}` without `{needed}`")
    line = table.lines.get(action, table.lines[""])
    if action == "preset":
        name = table.text(action)
        if name not in presets:
            raise table.mistake(action, f"there is no preset {name!r}", did_you_mean(name, presets, f"presets: {', '.join(presets)}"))
        yield from (rule._replace(line=line) for rule in _rules(name, presets[name], presets))
        return
    value = table.text(needed) if needed else ""
    first, *others = _globs(table, action) if action in GLOBS else [table.text(action)]
    if action == "rename":
        _check_rename(table, first, value)
    elif action == "cast" and value not in _DTYPES:
        raise table.mistake("dtype", f"there is no cast to {value!r}", did_you_mean(value, _DTYPES, f"one of {', '.join(_DTYPES)}"))
    yield Rule(cast("Action", action), first, value, line, tuple(others))


def _globs(table: _RuleTable, action: str) -> list[str]:
    globs = table.values[action]
    if not isinstance(globs, list):
        return [table.text(action)]
    if not globs or not all(isinstance(glob, str) and glob for glob in globs):
        raise table.mistake(action, f"`{action}` must be a glob or a list of globs")
    return globs


def _check_rename(table: _RuleTable, pattern: str, template: str) -> None:
    try:
        search = compile_pattern(pattern)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise table.mistake("rename", f"is not a regular expression: {error}") from error
    if len(template) > LONGEST:
        raise table.mistake("to", f"`to` is {TOO_LONG}")
    try:
        _groups_alone(search.groups, search.groupindex).sub(template, "")  # reads the template
    except (re.error, IndexError) as error:  # IndexError: a group's name
        groups = ", ".join((*(f"\\{n + 1}" for n in range(search.groups)), *(f"\\g<{name}>" for name in search.groupindex)))
        raise table.mistake("to", f"`to` cannot be filled in: {error}", f"groups of the pattern: {groups or 'none'}") from error


def _groups_alone(count: int, names: Mapping[str, int]) -> re.Pattern[str]:
    """A pattern of the same groups, all empty: Python's own engine reads a template against it, and takes no time."""
    by_number = {number: name for name, number in names.items()}
    return re.compile("".join(f"(?P<{by_number[number]}>)" if number in by_number else "()" for number in range(1, count + 1)))
