"""The rule by which `make crash` judges an answer, and the sections of docs that such commands write."""

from __future__ import annotations

import pytest

from tests.crash.points import EXPECTED, EXPECTED_QUICK, OUTCOMES, Point, Truth, agrees, complaints
from tests.crash.trainer import MATRICES
from tests.support.generated import write_section

PAIR = {"G": "G_8.pth", "D": "D_8.pth", "epoch": 1}
NOTHING = {"G": None, "D": None, "epoch": None}
ANSWERS = {  # what is right for each outcome
    "goes on": (0, True, PAIR),
    "nothing there": (0, False, NOTHING),
    "starts over": (1, False, PAIR),
    "mixed": (1, False, PAIR),
    "stops": (1, False, PAIR),
}


def judged(outcome: str, exit_code: int, goes_on: bool, source: dict[str, object]) -> bool:
    truth: Truth = {"outcome": outcome, **(PAIR if outcome in ("goes on", "mixed") else NOTHING)}
    return agrees(truth, exit_code, {"goes_on": goes_on, "from": source, "why": "so"})


@pytest.mark.parametrize("outcome", ANSWERS)
def test_only_what_then_happens_is_right(outcome: str) -> None:
    exit_code, goes_on, source = ANSWERS[outcome]
    assert judged(outcome, exit_code, goes_on, source)
    assert not judged(outcome, 1 - exit_code, goes_on, source)
    assert not judged(outcome, exit_code, not goes_on, source)
    assert not agrees({"outcome": outcome}, exit_code, None)


@pytest.mark.parametrize("outcome", ["goes on", "mixed", "nothing there"])
@pytest.mark.parametrize("key", ["G", "D", "epoch"])
def test_the_files_and_the_epoch_count(outcome: str, key: str) -> None:
    exit_code, goes_on, source = ANSWERS[outcome]
    assert not judged(outcome, exit_code, goes_on, {**source, key: "another"})


def test_a_run_that_told_nothing_agrees_with_nothing() -> None:
    assert not any(judged("unknown", code, goes_on, source) for code in (0, 1) for goes_on in (True, False) for source in (PAIR, NOTHING))


def points(numbers: tuple[int, ...]) -> list[Point]:
    """So many points of each outcome, all answered rightly."""
    found = []
    for outcome, number in zip(OUTCOMES, numbers, strict=True):
        exit_code, goes_on, source = ANSWERS[outcome]
        truth: Truth = {"outcome": outcome, **(PAIR if outcome in ("goes on", "mixed") else NOTHING)}
        found += [Point("1 before torch.save x.pth", truth, exit_code, {"goes_on": goes_on, "from": source, "why": "so"})] * number
    return found


def test_each_outcome_is_met_as_often_as_expected() -> None:
    assert set(EXPECTED) == set(MATRICES)
    for quick, expected in ((False, EXPECTED), (True, EXPECTED_QUICK)):
        found = {name: points(numbers) for name, numbers in expected.items()}
        assert complaints(found, quick=quick) == []
        for name in expected:
            (fewer,) = complaints({**found, name: found[name][1:]}, quick=quick)
            assert fewer.startswith(f"{name}: ")
            first = found[name][0]
            (wrong,) = complaints({**found, name: [first._replace(exit_code=1 - first.exit_code), *found[name][1:]]}, quick=quick)
            assert "DISAGREES" in wrong


def test_a_section_is_written_in_place(tmp_path) -> None:
    document = tmp_path / "x.md"
    document.write_text("above\n<!-- make x writes from here -->\nold\n<!-- to here -->\nbelow\n", encoding="utf-8")
    for _ in range(2):
        write_section(document, "make x", "new")
        assert document.read_text(encoding="utf-8") == "above\n<!-- make x writes from here -->\n\nnew\n\n<!-- to here -->\nbelow\n"
    with pytest.raises(ValueError, match="make y"):
        write_section(document, "make y", "new")
