"""No false alarm: what honest libraries save is never called unsafe, and safe wherever that can be known; inspect and verify say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.verified import verify

from gsvckpt.cli.app import main

from .honest import KINDS, SAVES, UNKNOWN, saved


@pytest.mark.parametrize("how", SAVES)
@pytest.mark.parametrize("kind", KINDS)
def test_honest(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, how: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(saved(kind, how))
    found = verify(path).safety
    assert found.verdict == ("unknown" if kind in UNKNOWN else "safe"), found
    main(["inspect", str(path), "--json"])
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert file["safety"]["verdict"] == found.verdict
    assert {judged["name"]: judged["verdict"] for judged in file["safety"]["globals"]} == {judged.name: judged.verdict for judged in found.globals}


def test_the_reasons_are_about_what_is_there() -> None:
    assert set(UNKNOWN) <= set(KINDS)
    assert len(KINDS) >= 44
