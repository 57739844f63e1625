"""What docs/python.md shows is what happens."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from cli.samples import discriminator, generator, s2_training, save, small, weights

DOCS = Path(__file__).parents[3] / "docs" / "python.md"


def voice(folder: Path) -> None:
    """The files that the page speaks of."""
    path = save(folder / "voice.pth", small(generator("v2"), "v2"))
    save(folder / "model.pth", weights({"layer.weight": (4, 8), "layer.bias": (4,)}))
    (folder / "cut.pth").write_bytes(path.read_bytes()[:-100])
    run = folder / "logs" / "alice" / "logs_s2_v2"
    for epoch in (1, 2, 3):
        save(run / f"G_{16 * epoch}.pth", s2_training(generator("v2", enc_q=True), epoch))
        save(run / f"D_{16 * epoch}.pth", s2_training(discriminator(), epoch))


def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    voice(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```pycon\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, DOCS.name, str(DOCS), 0)
    told: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    assert result.failed == 0, "".join(told)
    assert result.attempted > 20
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
