"""Show which saves stay, go and shrink, and why; and what was done."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Literal

from gsvckpt.commands.prune.decisions import Decision, Fate, GroupPlan
from gsvckpt.commands.prune.demote import Demoted
from gsvckpt.commands.prune.execute import Cleared
from gsvckpt.commands.prune.inventory import STRAYS
from gsvckpt.commands.prune.plan import PrunePlan
from gsvckpt.commands.prune.policy import Policy
from gsvckpt.commands.prune.policy_file import Applied, spell_rules
from gsvckpt.commands.prune.result import left_by_reason
from gsvckpt.engine.saves import Ignored, Save
from gsvckpt.hints import quote_word
from gsvckpt.report.console import print_lines
from gsvckpt.report.output import Line, line
from gsvckpt.units import plural, printable, size

Sort = Literal["size", "age", "epoch", "name"]

_TITLES = {
    "gpt-training": "GPT training",
    "gpt-weights": "GPT weights",
    "sovits-training": "SoVITS training",
    "sovits-lora-training": "SoVITS LoRA training",
    "sovits-weights": "SoVITS weights",
    "sovits-lora": "SoVITS LoRA",
    "training": "training",
    "state-dict": "state dicts",
}
_FATES: Mapping[Fate, tuple[str, str]] = {"keep": ("keep", "green"), "demote": ("shrink", "yellow"), "remove": ("remove", "red")}
_MARKS: Mapping[Fate, tuple[str, str]] = {"keep": ("●", "#"), "demote": ("○", "o"), "remove": ("·", ".")}
_WORTH: tuple[Fate, ...] = ("keep", "demote", "remove")  # of several saves that share a place in the picture the first shows
_PICTURE = 60  # saves, or groups of them, in one line
_LISTED = 12  # lines of one fate in a group
_MANY = 40  # saves in a plan that is told by run, not save by save
_PICTURED = 20  # runs, each with a picture of its saves
_LARGEST = 3  # saves that are named before the user confirms
_SIZE_WIDTH = 9


def print_plan(plan: PrunePlan, applied: Sequence[Applied], *, verbose: bool, sort: Sort | None = None) -> None:
    """The plan: the files that its rules come from; then, group by group, a picture of its saves from the oldest to the newest, what becomes of each,
    and why. `sort`: runs, and the saves in them, by size, age (the newest first), epoch or name.
    """
    print_lines(chain(_rule_lines(applied), _plan_lines(_sorted(plan, sort), verbose=verbose)))


def _sorted(plan: PrunePlan, sort: Sort | None) -> PrunePlan:
    if sort is None:
        return plan
    keys: dict[Sort, Callable[[Save], tuple[float, str]]] = {
        "size": lambda save: (-save.size, save.paths[0]),
        "age": lambda save: (-save.mtime_ns, save.paths[0]),
        "epoch": lambda save: (-(save.epoch if save.epoch is not None else -1), save.paths[0]),
        "name": lambda save: (0, save.paths[0]),
    }
    key = keys[sort]
    groups = [group._replace(decisions=tuple(sorted(group.decisions, key=lambda decision: key(decision.save)))) for group in plan.groups]
    if sort == "size":
        groups.sort(key=lambda group: -sum(decision.save.size for decision in group.decisions))
    else:
        groups.sort(key=lambda group: min((key(decision.save) for decision in group.decisions), default=(0, "")))
    return replace(plan, groups=tuple(groups))


def _rule_lines(applied: Sequence[Applied]) -> Iterator[Line]:
    """Whose rules count, where a file says some: a folder's own may come from whom the folder comes from."""
    files = [one for one in applied if one.policies.path is not None]
    for one in files:
        options = spell_rules(one.options)
        general = spell_rules(one.policies.general)
        yield line(f"rules of {printable(one.policies.path or '')}: {_rules(general, options)}")
        for glob, policy in one.policies.groups:
            yield line(f"[{printable(glob)}]: {_rules(spell_rules(policy), options)}", indent=2)
    if files and files[0].options != Policy():
        yield line(f"rules of the command line, which take precedence: {_rules(spell_rules(files[0].options), {})}")


def _rules(rules: Mapping[str, object], before: Mapping[str, object]) -> str:
    """`keep-last 3, keep-every 5 (not used)`: what the options say as well is not used."""
    told = []
    for key, value in rules.items():
        values = value if isinstance(value, list) else [size(value) if key == "max-size" and isinstance(value, int) else value]
        told += [f"{key} {printable(str(one))}{' (not used)' if key in before else ''}" for one in values]
    return ", ".join(told) or "none for all groups"


def _plan_lines(plan: PrunePlan, *, verbose: bool) -> Iterator[Line]:
    untouched = [group for group in plan.groups if not group.of("remove") and not group.of("demote")]
    brief = not verbose and sum(len(group.decisions) for group in plan.groups if group not in untouched) > _MANY
    for group in plan.groups:
        if group not in untouched or verbose:
            yield from _group_lines(group, plan, verbose=verbose, brief=brief)
    if brief:
        yield line("-v lists every save and its reasons", "dim")
    for name, runs in Counter(group.group._replace(dates="") for group in plan.groups if group.group.dates).items():
        yield line(f"{printable(name.name)} was trained {runs} times under this name: each run keeps its own", "dim")
    if untouched and not verbose:
        count = sum(len(group.decisions) for group in untouched)
        yield line(
            f"{plural(len(untouched), 'group')} left as {'it is' if len(untouched) == 1 else 'they are'}, {plural(count, 'save')}; -v lists them",
            "dim",
        )
        for note, number in Counter(group.note for group in untouched if group.note).items():
            yield line(f"{plural(number, 'group')}: {printable(note)}", "dim", 2)
    yield from _left_lines(plan.ignored, verbose=verbose)
    for group_of, note in plan.inventory.notes.items():
        yield line(f"{printable(group_of.name)}: {note}", "dim")
    yield line(_summary(plan), "bold")


def _group_lines(group: GroupPlan, plan: PrunePlan, *, verbose: bool, brief: bool) -> Iterator[Line]:
    named = group.group
    if named.kind == STRAYS:
        title = "left by interrupted saves"
    else:
        title = " ".join(filter(None, (printable(named.name), _TITLES.get(named.kind, named.kind), named.version)))
    title += f", saved {named.dates}" if named.dates else ""
    yield Line(((title, "bold"), (f"  {printable(named.folder or '.')}", "dim")))
    if len(group.decisions) > 1 and named.kind != STRAYS and len(plan.groups) <= _PICTURED:
        yield from _picture(group.decisions)
    if group.note:
        yield line(group.note, "dim", 2)
    if brief:
        yield line(_total(group, plan), indent=2)
        return
    for fate, (word, style) in _FATES.items():
        decisions = group.of(fate)
        shown = decisions if verbose else decisions[:_LISTED]
        for decision in shown:
            yield from _decision_lines(decision, word, style, plan.demoted.get(decision.save, ()))
        if len(shown) < len(decisions):
            rest = decisions[len(shown) :]
            total = size(sum(decision.save.size for decision in rest))
            yield line(f"{word:<7} and {len(rest):,} more, {total}; -v lists them", style, 2)
    yield line("")


def _total(group: GroupPlan, plan: PrunePlan) -> str:
    """What becomes of a run in one line: `keep 2, 341.8 kB; remove 8, 1.4 MB`."""
    told = []
    for fate, (word, _) in _FATES.items():
        saves = [decision.save for decision in group.of(fate)]
        after = sum(one.size for save in saves for one in plan.demoted.get(save, ()))
        becomes = f" -> {size(after)}" if fate == "demote" else ""
        told += [f"{word} {len(saves):,}, {size(sum(save.size for save in saves))}{becomes}"] if saves else []
    return "; ".join(told)


def _picture(decisions: Sequence[Decision]) -> Iterator[Line]:
    """Saves from the oldest to the newest, each a mark; several share one where there are many, and what stays shows."""
    ordered = sorted(decisions, key=lambda decision: decision.save.age)
    per = -(-len(ordered) // _PICTURE)
    places = [ordered[begin : begin + per] for begin in range(0, len(ordered), per)]
    fates = [min((decision.fate for decision in place), key=_WORTH.index) for place in places]
    which = 0 if (sys.stdout.encoding or "ascii").lower().startswith("utf") else 1
    parts: list[tuple[str, str]] = [(f"{_age(ordered[0].save)} ", "dim")]
    parts += [(_MARKS[fate][which] * len(list(run)), _FATES[fate][1]) for fate, run in groupby(fates)]
    parts.append((f" {_age(ordered[-1].save)}", "dim"))
    counts = [f"{_MARKS[fate][which]} {word} {number:,}" for fate, (word, _) in _FATES.items() if (number := sum(d.fate == fate for d in ordered))]
    yield Line(tuple(parts), 2)
    yield line("  ".join(counts) + (f"  ({per} a mark)" if per > 1 else ""), "dim", 2)


def _age(save: Save) -> str:
    if save.epoch is not None:
        return f"e{save.epoch}"
    return f"s{save.step}" if save.step is not None else ""


def _decision_lines(decision: Decision, word: str, style: str, demoted: Sequence[Demoted]) -> Iterator[Line]:
    save = decision.save
    names = " ".join(os.path.basename(path) for path in save.paths[:2]) + (f" and {len(save.paths) - 2:,} more" if len(save.paths) > 2 else "")
    names = f"{os.path.basename(save.place)}/ ({plural(len(save.paths), 'file')})" if save.place else names
    epoch = f"epoch {save.epoch}" if save.epoch is not None else f"step {save.step}" if save.step is not None else ""
    becomes = f" -> {size(sum(one.size for one in demoted))}" if demoted else ""
    facts = f" {size(save.size):>{_SIZE_WIDTH}}{becomes}  {epoch + '  ' if epoch else ''}{printable(names)}"
    yield Line(((f"{word:<7}", style), (facts, "")), 2)
    yield line(printable("; ".join(decision.reasons)), "dim", 10)


def _summary(plan: PrunePlan) -> str:
    counts = {fate: [decision for group in plan.groups for decision in group.of(fate)] for fate in _FATES}
    if not plan.inventory.saves:
        return "nothing to remove: no saves were found"
    if plan.empty:
        return f"nothing to remove: {plural(len(counts['keep']), 'save')} stay"
    parts = [
        f"{plural(len(counts['remove']), 'save')} to remove" if counts["remove"] else "",
        f"{len(counts['demote']):,} to shrink" if counts["demote"] else "",
    ]
    return f"{', '.join(filter(None, parts))}, {len(counts['keep']):,} to keep; {size(plan.freed)} to free"


def print_full_disks(full: Sequence[tuple[str, int]]) -> None:
    """Say where moving files to the trash does not help now."""
    print_lines(
        line(f"{printable(place)}: only {size(free)} are free on its disk, and the trash is on the same disk: --purge frees the space now", "yellow")
        for place, free in full
    )


def question(plan: PrunePlan, *, purge: bool) -> str:
    """The question before anything happens: what is removed, by kind, and the largest saves among it."""
    going = [(group.group.kind, decision.save) for group in plan.groups for decision in group.of("remove")]
    shrinking = [decision.save for group in plan.groups for decision in group.of("demote")]
    kinds: dict[str, list[Save]] = {}
    for kind, save in going:
        kinds.setdefault(_TITLES.get(kind, "left by interrupted saves"), []).append(save)
    lines = [f"  {plural(len(saves), 'save')} of {title}, {size(sum(save.size for save in saves))}" for title, saves in kinds.items()]
    lines += [f"  {plural(len(shrinking), 'save')} shrink"] if shrinking else []
    largest = sorted((save for _, save in going), key=lambda save: -save.size)[:_LARGEST]
    lines += [f"  largest: {', '.join(f'{_short(save)} ({size(save.size)})' for save in largest)}"] if len(going) > 1 else []
    asked = f"Delete {size(plan.freed)} for good?" if purge else f"Move {size(plan.freed)} to the trash?"
    return "\n".join([*lines, asked])


def _short(save: Save) -> str:
    """The name of a save in a sentence."""
    return printable(os.path.basename(save.place or save.paths[0]) + ("/" if save.place else ""))


def _left_lines(ignored: Sequence[Ignored], *, verbose: bool) -> Iterator[Line]:
    """What is left alone: counted by reason, or each with its reason."""
    if not ignored:
        return
    yield line(f"{plural(len(ignored), 'path')} left alone{':' if verbose else ' (-v lists them):'}", "bold")
    if verbose:
        for left in ignored:
            yield line(f"{printable(left.path)}: {printable(left.why)}", "dim", 2)
        return
    reasons = sorted(left_by_reason(ignored).items(), key=lambda item: -len(item[1]))
    for why, paths in reasons[:_LISTED]:
        which = printable(os.path.basename(paths[0])) if len(paths) == 1 else f"{len(paths):,}"
        yield line(f"{which}: {printable(why)}", "dim", 2)
    if len(reasons) > _LISTED:
        yield line(f"and {sum(len(paths) for _, paths in reasons[_LISTED:]):,} more, for other reasons", "dim", 2)


def print_cleared(cleared: Cleared, paths: Sequence[str], *, purged: bool) -> None:
    """What was done, and how to take it back or to free the space."""
    print_lines(_cleared_lines(cleared, paths, purged=purged))


def _cleared_lines(cleared: Cleared, paths: Sequence[str], *, purged: bool) -> Iterator[Line]:
    parts = [f"{plural(len(cleared.gone), 'save')} {'deleted' if purged else 'moved to the trash'}"] if cleared.gone else []
    parts += [f"{plural(len(cleared.smaller), 'save')} made smaller"] if cleared.smaller else []
    yield line(f"{', '.join(parts) or 'nothing was removed'}; {size(cleared.freed)} {'freed' if purged else 'to free'}", "bold")
    if not purged and (cleared.gone or cleared.smaller):
        named = " ".join(map(quote_word, paths))
        yield line(f"gsvckpt prune {named} --undo         # brings it back", "dim")
        yield line(f"gsvckpt prune {named} --empty-trash  # frees the space", "dim")
