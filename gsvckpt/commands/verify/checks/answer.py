"""The answers of checks, findings or the reason why a check was skipped, and how they are put together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from gsvckpt.commands.verify.findings import CHECKS, LEFT_OUT, Finding


class Skipped(NamedTuple):
    """Why a check was not made."""

    why: str


Answer = Sequence[Finding] | Skipped


class Answered(NamedTuple):
    """The answer of one function, and the ids of the checks that it is the answer to.

    A finding under another id says why these could not be checked, so it is reported whatever was selected.
    """

    ids: tuple[str, ...]
    answer: Answer


class Answers(NamedTuple):
    """What all checks found, and why some were not made."""

    findings: tuple[Finding, ...]
    skipped: Mapping[str, str]


def gather(answers: Iterable[Answered], selected: Collection[str], otherwise: str = "was not asked for") -> Answers:
    """Unite answers. What stopped a check comes first; `otherwise` says why checks that nobody answered were skipped.

    Of a check that was selected, either a finding is there, or why it was skipped, or it passed.
    """
    obstacles: list[Finding] = []
    findings: list[Finding] = []
    answered: set[str] = set()
    skipped: dict[str, str] = {}
    for ids, answer in answers:
        answered.update(ids)
        if isinstance(answer, Skipped):
            skipped |= dict.fromkeys(ids, answer.why)
            continue
        stopped = [finding for finding in answer if finding.check not in ids]
        obstacles += stopped
        findings += [finding for finding in answer if finding.check in ids and finding.check in selected]
        skipped |= dict.fromkeys(ids, f"could not be checked: {stopped[0].why}") if stopped else {}
    why = {check: LEFT_OUT if check not in selected else otherwise for check in CHECKS if check not in answered or check not in selected}
    return Answers((*obstacles, *findings), skipped | why)
