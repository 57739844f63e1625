"""What each crash point came to: what resuming really did, what `verify --resume` had said of it, and whether the two agree. Pure but for reading."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

_TRUTH = re.compile(r"^TRUTH (\{.*\})$", re.MULTILINE)
OUTCOMES = ("goes on", "nothing there", "starts over", "mixed", "stops")
EXPECTED = {  # how many points of each outcome there are; others mean that the trainer or its killer does not do what this is about
    "s2": (17, 8, 3, 6, 0),
    "s2-latest": (17, 8, 3, 6, 0),
    "s2-pro-latest-xdev": (21, 9, 12, 12, 0),
    "s1": (19, 9, 0, 0, 0),
    "s1-xdev": (26, 10, 0, 0, 3),
}
EXPECTED_QUICK = {"s2": (7, 4, 2, 1, 0), "s1": (6, 4, 0, 0, 0)}


class Truth(TypedDict, total=False):
    """What the trainer printed: `outcome` is one of OUTCOMES; the files and the epoch that it went on from."""

    outcome: str
    G: str | None
    D: str | None
    epoch: int | None


class Point(NamedTuple):
    """One crash point: the file event at which the trainer was killed, the truth, the answer of gsvckpt, and the other tool's own verdict."""

    label: str
    truth: Truth
    exit_code: int
    resume: dict[str, object] | None

    @property
    def happened(self) -> str:
        """What resuming did, for the table."""
        files = " and ".join(str(self.truth[key]) for key in ("G", "D") if self.truth.get(key))  # type: ignore[literal-required]
        source = f" from {files}, epoch {self.truth.get('epoch')}" if files else ""
        return f"{self.truth['outcome']}{source}"

    @property
    def said(self) -> str:
        """What gsvckpt said before, for the table."""
        goes_on = self.resume is not None and self.resume["goes_on"]
        return f"exit {self.exit_code}, {'goes on' if goes_on else 'does not go on'}"

    @property
    def agrees(self) -> bool:
        """Whether gsvckpt said what then happened."""
        return agrees(self.truth, self.exit_code, self.resume)


def agrees(truth: Truth, exit_code: int, resume: dict[str, object] | None) -> bool:
    """A script must go on (exit code 0) exactly where training resumes one save, or where nothing is lost as nothing is there; and JSON must name
    the files and the epoch that are then taken.
    """
    if resume is None:
        return False
    outcome, goes_on, source = truth["outcome"], resume["goes_on"], resume["from"]
    taken = {"G": truth.get("G"), "D": truth.get("D"), "epoch": truth.get("epoch")}
    if outcome == "goes on":
        return exit_code == 0 and goes_on is True and source == taken
    if outcome == "nothing there":
        return exit_code == 0 and goes_on is False and source == {"G": None, "D": None, "epoch": None}
    if outcome == "mixed":
        return exit_code == 1 and goes_on is False and source == taken
    return outcome in OUTCOMES and exit_code != 0 and goes_on is False


def counts(points: Sequence[Point]) -> tuple[int, ...]:
    """How many points have each of OUTCOMES."""
    found = Counter(point.truth["outcome"] for point in points)
    return tuple(found[outcome] for outcome in OUTCOMES)


def complaints(found: Mapping[str, Sequence[Point]], *, quick: bool) -> list[str]:
    """Why the run of these matrices fails: points where the two disagree, and counts of outcomes that are not the expected ones."""
    expected = EXPECTED_QUICK if quick else EXPECTED
    wrong = [
        f"{name}: DISAGREES at {point.label}: resuming {point.truth}, gsvckpt exit {point.exit_code} {point.resume}"
        for name, points in found.items()
        for point in points
        if not point.agrees
    ]
    return wrong + [
        f"{name}: {counts(points)} points with the outcomes {', '.join(OUTCOMES)}, and {expected[name]} are expected"
        for name, points in found.items()
        if counts(points) != expected[name]
    ]


def read_points(work: Path) -> list[Point]:
    """All points of a finished matrix, in order; the run without a crash is none."""
    found = []
    for folder in sorted(work.glob("pt_[0-9]*")):
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
        match = _TRUTH.search(result["resume_tail"])
        truth: Truth = json.loads(match[1]) if match is not None else {"outcome": "unknown"}
        number, mode = result["point"]
        event, name = result["event"]
        found.append(Point(f"{number} {mode} {event} {name}", truth, verdict["exit_code"], verdict["resume"]))
    return found
