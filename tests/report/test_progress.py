"""The progress display, as a terminal of 80 columns shows it."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from gsvckpt.errors import GsvError
from gsvckpt.files.progress import Share
from gsvckpt.report import console, progress
from gsvckpt.report.progress import Bar


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to stderr, at once."""
    text = io.StringIO()
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    monkeypatch.setattr(progress, "_PERIOD", 0)
    monkeypatch.setattr(
        progress, "make_console", lambda **_: Console(file=text, width=80, force_terminal=True, color_system=None, legacy_windows=False, _environ={})
    )
    return text


def lines(screen: io.StringIO) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_many_files_fit_into_80_columns(screen: io.StringIO) -> None:
    bar = Bar("strip-optimizer")
    bar.expect_files(10_000)
    bar.expect(999_900_000_000)
    shares = [Share(bar, 99_990_000) for _ in range(10_000)]
    for share in shares[:9_990:37]:
        share.end_file()
    shown = lines(screen)[-1]
    assert len(shown.rstrip()) <= 80
    assert "270/10,000 files" in shown
    assert re.search(r"27\.0/999\.9 GB", shown)
    bar.close()


def test_files_count_where_nothing_is_read(screen: io.StringIO) -> None:
    bar = Bar("inspect")
    bar.expect_files(4)
    bar.expect(0)
    for _ in range(2):
        bar.end_file()
    assert "2/4 files" in lines(screen)[-1]
    assert "B/s" not in lines(screen)[-1]
    bar.close()


def test_one_file_has_bytes_alone(screen: io.StringIO) -> None:
    bar = Bar("voice [bold].pth")
    bar.expect_files(1)
    bar.expect(100)
    bar.advance(50)
    assert "voice [bold].pth" in lines(screen)[-1]
    assert "files" not in lines(screen)[-1]
    bar.close()


def test_a_line_that_is_printed_stands_alone(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("verify")
    bar.expect_files(2)
    bar.end_file()
    shown = screen.getvalue()
    console.print_error(GsvError("is bad", path="x.pth"))
    gone = screen.getvalue().removeprefix(shown)
    assert gone.endswith("\x1b[2K")  # the bar's line was cleared before the error was printed
    assert capsys.readouterr().err == "gsvckpt: x.pth: is bad\n"
    bar.end_file()
    assert "2/2 files" in lines(screen)[-1]  # and it comes again
    bar.close()
    console.print_error(GsvError("is bad, too", path="y.pth"))
    assert capsys.readouterr().err == "gsvckpt: y.pth: is bad, too\n"
