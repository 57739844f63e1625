"""Checks of the classes and functions that the pickles name."""

from __future__ import annotations

from gsvckpt.commands.verify.findings import Finding
from gsvckpt.formats.pickle.safety import Safety, Verdict
from gsvckpt.hints import Hint

_NAMED = 6
_TRUST = Hint("load it only if you trust whoever wrote it")


def safety(verdict: Safety) -> list[Finding]:
    """The verdict as a finding: a file is only safe if everything that it names is known data."""
    worst = [judged.name for judged in verdict.of(verdict.verdict)]
    told = ", ".join(worst[:_NAMED]) + (f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else "")
    if verdict.verdict == "unsafe":
        why = verdict.tell_unsafe(_NAMED)
        return [Finding("pickle.safety", "error", "pickle", why, Hint("do not load this file"), told, "names of data only")]
    if verdict.verdict == "unknown" and worst:
        return [Finding("pickle.safety", "error", "pickle", verdict.tell_unknown(_NAMED), _TRUST, told, "names of data only")]
    return []


def doubts(found: Safety) -> list[Finding]:
    """Places that readers may read differently, or that cannot be examined: what loading the file does is unknown, whatever it names."""
    return [Finding(doubt.check, "error", doubt.where, doubt.why, _TRUST, "unknown", "safe") for doubt in found.doubts]


def safety_of_unreadable(verdict: Safety) -> list[Finding]:
    """The same for a file that could not be read to its end: the names that were met may not be all, so it is never safe."""
    worst: Verdict = "unsafe" if verdict.verdict == "unsafe" else "unknown"
    return safety(Safety(worst, verdict.of(worst)))
