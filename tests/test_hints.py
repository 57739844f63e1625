"""A hint as a value: what is printed of it, what JSON says, and what of its command is filled in."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsvckpt.errors import GsvError
from gsvckpt.files.paths import file_words
from gsvckpt.hints import NO_HINT, TRY_SALVAGE, Hint, quote_word
from tests.support.hints import problems_in


@pytest.mark.parametrize(
    ("hint", "printed"),
    [
        (Hint("get it again"), "get it again"),
        (Hint("", "gsvckpt inspect --help"), "gsvckpt inspect --help"),
        (Hint("lists the options", "gsvckpt inspect --help"), "gsvckpt inspect --help  # lists the options"),
        (NO_HINT, ""),
    ],
)
def test_a_hint_is_printed_as_a_command_and_its_comment(hint: Hint, printed: str) -> None:
    assert (str(hint), bool(hint), hint.as_json()) == (printed, bool(printed), {"text": hint.text, "command": hint.command})


def test_plain_advice_may_be_given_to_an_error_as_text() -> None:
    assert GsvError("is damaged", hint="get it again").hint == Hint("get it again")
    assert GsvError("is damaged").as_json()["hint"] == {"text": "", "command": ""}


def test_a_file_is_named_as_source_or_as_itself() -> None:
    assert TRY_SALVAGE.fill(file_words("a b.pth")).command == "gsvckpt migrate 'a b.pth' --salvage"
    assert TRY_SALVAGE.fill(file_words("https://host/a.pth")).command == "gsvckpt migrate https://host/a.pth -o ./ --salvage"
    assert Hint("", "gsvckpt verify <FILE> --against <OTHER>").fill(file_words("a.pth")).command == "gsvckpt verify a.pth --against <OTHER>"


NAMES = st.text(st.sampled_from("a <FILE>BACKUP'\"$`;|&\\#*!~-\n\u00fc"), min_size=1, max_size=24).filter(lambda name: name != "-")


@given(NAMES, NAMES)
def test_whatever_files_are_called_a_shell_takes_their_names_alone(file: str, folder: str) -> None:
    command = Hint("", "gsvckpt verify <FILE> --restore-from <BACKUP>").fill(file_words(file)).fill({"<BACKUP>": quote_word(folder)}).command
    words = shlex.split(command)
    assert (words[0], words[1], words[3], len(words)) == ("gsvckpt", "verify", "--restore-from", 5)
    assert (os.path.normpath(words[2]), os.path.normpath(words[4])) == (os.path.normpath(file), os.path.normpath(folder))
    assert not words[2].startswith("-")


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        (r"logs\alice", r"logs\alice"),
        (r"C:\GPT-SoVITS\logs\鲁迅_e8_s16.pth", r"C:\GPT-SoVITS\logs\鲁迅_e8_s16.pth"),
        (r"my voices\a.pth", r'"my voices\a.pth"'),
        ("a&calc.pth", '"a&calc.pth"'),
        ("a(1).pth", '"a(1).pth"'),
        ("it's.pth", '"it\'s.pth"'),
        ("100%.pth", '"100%.pth"'),
        ("a,b;c=d.pth", '"a,b;c=d.pth"'),
        ("-x.pth", r".\-x.pth"),
        ("", '""'),
    ],
)
def test_words_for_the_shells_of_windows(name: str, quoted: str) -> None:
    assert quote_word(name, windows=True) == quoted


@pytest.mark.parametrize(
    "name", ["$(touch pwned).pth", "`touch pwned`", "<FILE>;touch pwned;", "<BACKUP>;touch pwned", "it's; touch pwned", "--in-place"]
)
def test_a_shell_runs_nothing_in_a_name(tmp_path: Path, name: str) -> None:
    hint = Hint("shows it", "printf '%s|' <FILE> <BACKUP>").fill(file_words(name)).fill({"<BACKUP>": quote_word("copies")})
    done = subprocess.run(["sh", "-c", str(hint)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, list(tmp_path.iterdir())) == (f"{'./' if name.startswith('-') else ''}{name}|copies|", [])


@pytest.mark.parametrize(
    ("printed", "is_one"),
    [
        ("hint: gsvckpt verify 'a b.pth' --record  # records it", False),
        ("x\n  hint: gsvckpt --help  # lists the commands", False),
        ("hint: get it again", False),
        ("hint: gsvckpt verify a.pth --recrod  # records it", True),
        ("hint: gsvckpt mend a.pth", True),
        ("hint: gsvckpt verify it's.pth", True),
        ("hint: gsvckpt verify a.pth; true", False),
        ("hint: gsvckpt verify a.pth > /dev/null", True),
        ("hint: gsvckpt verify <FILE> --restore-from <BACKUP>  # brings it back", False),
        ("hint: gsvckpt verify <FILE> --restore-from  # brings it back", True),
        ("hint: gsvckpt prune logs --empty-trash\nhint: gsvckpt inspect $(boom)", True),
    ],
)
def test_what_all_hints_that_tests_print_are_held_to(printed: str, is_one: bool) -> None:
    assert bool(problems_in(printed)) == is_one
