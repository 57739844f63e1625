"""Names and paths in tables and lines: where they are broken, and where they never are."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from gsvckpt.report.terminal import Folded, fold, make_console, print_table, shorten

LONG = "/home/somebody/GPT-SoVITS/SoVITS_weights_v2ProPlus/a-rather-long-experiment-name_e8_s200.pth"


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one.pth (not written: dry run)", 16, ["one.pth (not", "written: dry", "run)"]),
        ("logs/alice/logs_s2_v2/G_16.pth", 14, ["logs/alice/", "logs_s2_v2/", "G_16.pth"]),
        ("some-very-long-experiment-name", 12, ["some-very-", "long-", "experiment-", "name"]),
        ("in /a/b/cccccccc end", 6, ["in /a/", "b/", "cccccc", "cc end"]),
        ("a/" + "x" * 10, 4, ["a/", "xxxx", "xxxx", "xx"]),
        ("声音声音/声音.pth", 10, ["声音声音/", "声音.pth"]),
        ("", 10, [""]),
    ],
)
def test_words_stay_whole_where_they_can(text: str, width: int, lines: list[str]) -> None:
    console = make_console()
    console.width = width
    with console.capture() as shown:
        console.print(fold(Text(text), width))
    assert shown.get().splitlines() == lines
    assert all(cell_len(line) <= width for line in lines)


def test_a_fold_keeps_its_styles() -> None:
    folded = fold(Text.assemble(("logs/alice/", "red"), ("G_16.pth", "bold")), 8)
    assert folded.plain == "logs/\nalice/\nG_16.pth"
    assert [(folded.plain[span.start : span.end], span.style) for span in folded.spans] == [("logs/", "red"), ("alice/", "red"), ("G_16.pth", "bold")]


@pytest.mark.parametrize(
    ("name", "width", "shown"),
    [
        ("alice_e8_s16.pth", 16, "alice_e8_s16.pth"),
        ("alice_e8_s16.pth", 15, "alice_e…s16.pth"),
        ("声音声音声音声音.pth", 12, "声音声….pth"),
    ],
)
def test_a_name_loses_its_middle(name: str, width: int, shown: str) -> None:
    assert shorten(name, width) == shown
    assert cell_len(shown) <= width


def table() -> Table:
    made = Table()
    made.add_column("file")
    made.add_column("size", no_wrap=True)
    made.add_row(Folded(Text(LONG)), "1.0 MB")
    return made


def test_in_a_pipe_a_path_stays_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(make_console(), table())
    assert any(LONG in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("width", [30, 40, 80])
def test_on_a_terminal_it_fits_and_is_folded_behind_separators(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(make_console(), table())
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= width
    parts = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert "".join(parts) == LONG
    assert all(part[-1] in "/-_." for part in parts[:-1])
