"""Apply rules to names."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, Literal, NamedTuple

from gsvckpt.errors import RefusedError
from gsvckpt.files.budget import PATIENCE

if TYPE_CHECKING:
    import regex

Action = Literal["rename", "drop", "keep", "cast", "strip-prefix", "add-prefix", "fuse-weight-norm"]
GLOBS = ("drop", "keep", "cast", "fuse-weight-norm")  # the actions whose patterns are globs
LONGEST = 10_000  # characters of a name, and of a template: one that repeats its groups could fill the memory
_V = "weight_v"
_COUNTS = re.compile(r"\{([0-9]{0,9}),?([0-9]{0,9})\}")
_MOST_REPEATED = 1_000_000  # more takes minutes to compile
TOO_LONG = f"longer than {LONGEST:,} characters"


class Rule(NamedTuple):
    """One rule. `pattern` is a regular expression for rename, a prefix, or the first of the globs, whose rest are `others`.

    `value` is the template of rename or the dtype of cast; `line` that of its action in the file, where a preset that the file names has the line
    that names it; 0 in a preset that was asked for itself. `program` is the one whose names the rules of the file make, where it says so.
    """

    action: Action
    pattern: str
    value: str = ""
    line: int = 0
    others: tuple[str, ...] = ()
    program: str = ""

    def __str__(self) -> str:
        patterns = ", ".join(f"'{pattern}'" for pattern in (self.pattern, *self.others))  # as it was written: repr would double its backslashes
        return f"{self.action} {_shorten(patterns)}{f' (line {self.line})' if self.line else ''}"


class Renaming(NamedTuple):
    """What the rules make of the names: each of them is in either `names` (old -> new, in the order given) or `dropped` (old -> the rule).

    `casts` maps new names to dtypes. `fused` maps old names of weight_v, whose new one is that of the weight, to those of
    weight_g. `used` counts, for each rule in its order, the names that it matched, or that begin with its prefix; for a
    `keep` those are the ones that stay.
    """

    names: Mapping[str, str]
    dropped: Mapping[str, Rule]
    casts: Mapping[str, str]
    used: tuple[tuple[Rule, int], ...]
    fused: Mapping[str, str] = {}


def apply_rules(rules: Sequence[Rule], names: Iterable[str]) -> Renaming:
    """Apply the rules in their order. Raises RefusedError where two names would become one, or a name empty or absurdly long."""
    now = {name: name for name in names}
    dropped: dict[str, Rule] = {}
    casts: dict[str, str] = {}
    fused: dict[str, str] = {}
    used: list[tuple[Rule, int]] = []
    until = time.monotonic() + PATIENCE
    for rule in rules:
        if time.monotonic() > until:
            raise _too_slow(rule, next(iter(now.values()), ""))
        if rule.action == "fuse-weight-norm":
            pairs = _weight_norms(rule, now)
            found = set(pairs)
            fused |= pairs
            dropped |= dict.fromkeys(pairs.values(), rule)
            now = {old: f"{name[: -len(_V)]}weight" if old in pairs else name for old, name in now.items() if old not in dropped}
        elif rule.action in GLOBS:
            globs = (rule.pattern, *rule.others)
            found = {old for old, name in now.items() if any(fnmatchcase(name, glob) for glob in globs)}
            if rule.action == "cast":
                casts.update(dict.fromkeys(found, rule.value))
            else:
                dropped.update({old: rule for old in now if (old in found) == (rule.action == "drop")})
                now = {old: name for old, name in now.items() if old not in dropped}
        else:
            renew = _renamer(rule, until)
            renamed = {old: new for old, name in now.items() if (new := renew(name)) is not None}
            _require_sound(rule, now, renamed)
            found = set(renamed)
            now |= renamed
        used.append((rule, len(found)))
    _require_distinct(now)
    fused = {old: gain for old, gain in fused.items() if old in now}
    return Renaming(now, dropped, {new: casts[old] for old, new in now.items() if old in casts}, tuple(used), fused)


def _weight_norms(rule: Rule, names: Mapping[str, str]) -> dict[str, str]:
    """The pairs of torch.nn.utils.weight_norm in the modules that the globs name: old names of weight_v, each with that of its weight_g."""
    by_name = {name: old for old, name in names.items()}
    globs = (rule.pattern, *rule.others)
    return {
        old: by_name[gain]
        for name, old in by_name.items()
        if name.endswith(_V) and (gain := f"{name[: -len(_V)]}weight_g") in by_name and any(fnmatchcase(name[: -len(_V) - 1], glob) for glob in globs)
    }


def _too_slow(rule: Rule, name: str) -> RefusedError:
    why = f"{rule} is too slow: the rules took {PATIENCE:g} seconds to get here"
    return RefusedError(why, where=_shorten(name), hint="repeat nothing that repeats itself, as in (a+)+")


def _renamer(rule: Rule, until: float) -> Callable[[str], str | None]:
    """What gives a name its new one, or None where the rule does not match."""
    if rule.action == "add-prefix":
        return lambda name: rule.pattern + name
    if rule.action == "strip-prefix":
        return lambda name: name[len(rule.pattern) :] if name.startswith(rule.pattern) else None
    search = compile_pattern(rule.pattern)

    def rename(name: str) -> str | None:
        length = 0

        def expand(match: regex.Match[str]) -> str:
            nonlocal length
            text = match.expand(rule.value) if len(name) <= LONGEST else name  # a longer one is not worth what its template could make of it
            length += len(text)
            if length > LONGEST:  # looked at here, before all the rest is made
                raise RefusedError(f"{rule} would make this name {TOO_LONG}", where=_shorten(name))
            return text

        try:
            new, count = search.subn(expand, name, timeout=max(until - time.monotonic(), 0.001))
        except TimeoutError as error:
            raise _too_slow(rule, name) from error
        return new if count else None

    return rename


def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """The pattern, which must be one of Python's own `re`, for an engine that can be stopped. Raises ValueError and what `re` raises."""
    import regex  # few runs have rules

    with warnings.catch_warnings():  # of what may mean something else in a later Python
        warnings.simplefilter("ignore")
        re.compile(pattern)
        if prod(max(int(low or 0), int(high or 0), 1) for low, high in _COUNTS.findall(pattern)) > _MOST_REPEATED:
            raise ValueError("its counts in braces multiply to millions")
        return regex.compile(pattern, regex.V0)


def _require_sound(rule: Rule, before: Mapping[str, str], renamed: Mapping[str, str]) -> None:
    for old, new in renamed.items():
        if not 0 < len(new) <= LONGEST:
            raise RefusedError(f"{rule} would make this name {TOO_LONG if new else 'empty'}", where=_shorten(before[old]))


def _require_distinct(names: Mapping[str, str]) -> None:
    owners: dict[str, str] = {}
    conflicts = [(owners[new], old, new) for old, new in names.items() if owners.setdefault(new, old) != old]
    if conflicts:
        first, second, new = (_shorten(name) for name in conflicts[0])
        count = f"{len(conflicts):,} conflict{'s' if len(conflicts) > 1 else ''} in all"
        raise RefusedError(f"{first} and {second} would both become {new} ({count})", where=new, hint="drop one of the two, or match fewer names")


def _shorten(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:200]}..."  # enough to tell it by
