"""Checks by id: a promise to scripts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gsvckpt.commands.verify.findings import CHECKS, Finding, family, select_checks, worst
from gsvckpt.errors import UsageError

ROOT = Path(__file__).parents[3]


def test_all_is_the_default() -> None:
    assert select_checks(None) == frozenset(CHECKS)
    assert select_checks("*") == frozenset(CHECKS)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("pickle.safety", {"pickle.safety"}),
        ("record", {"record.crc"}),
        ("tensor.*,record.crc", {"tensor.bounds", "tensor.finite", "tensor.range", "record.crc"}),
        ("tensor,-tensor.range", {"tensor.bounds", "tensor.finite"}),
        (" record.crc , pickle.bomb ", {"record.crc", "pickle.bomb"}),
    ],
)
def test_lists(text: str, chosen: set[str]) -> None:
    assert select_checks(text) == chosen


def test_a_list_that_only_takes_away() -> None:
    assert select_checks("-layout") == {check for check in CHECKS if family(check) != "layout"}


@pytest.mark.parametrize("text", ["tensors", "pickle.safe", "record.crc,nonsense"])
def test_a_word_that_means_nothing_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="there is no check"):
        select_checks(text)


def test_worst() -> None:
    findings = [Finding("a.b", severity, "", "") for severity in ("info", "error", "warning")]
    assert worst(findings) == "error"
    assert worst(findings[:1]) == "info"
    assert worst([]) is None


def test_every_id_that_the_code_names_is_in_the_catalogue() -> None:
    """A finding of an unknown check would be filtered out unseen."""
    named = set()
    for path in (ROOT / "gsvckpt").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        named |= set(
            re.findall(
                r"""(?:Finding\(\s*|check=|_oddity\(|usual_check: ClassVar\[str\] = |usual_check = |error\.check = )"([a-z]+\.[a-z-]+)\"""", text
            )
        )
    assert named <= set(CHECKS)
    assert len(named) > 30  # the pattern still finds them
