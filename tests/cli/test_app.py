"""The program as a whole: help, usage errors, exit codes, pipes and terminals."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import gsvckpt as package
from gsvckpt import errors
from gsvckpt.cli.app import COMMANDS

from .samples import ERROR_KEYS, KEYS, assert_one_error, environment, evil, generator, gpt, save, small, spawn

WRITING = ("convert-fp16", "strip-optimizer")
SHARED = ("--json", "--quiet", "-q", "--verbose", "-v", "--progress", "--no-progress", "--device", "--jobs", "-j")


@pytest.fixture
def voice(tmp_path):
    return save(tmp_path / "voice.pth", small(generator("v2"), "v2"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_the_shared_options(gsvckpt, command):
    run = gsvckpt(command, "--help")
    assert (run.code, run.err) == (0, "")
    assert run.out.count(f"gsvckpt {command}") >= 3
    assert all(option in run.out for option in SHARED)
    assert command not in WRITING or all(option in run.out for option in ("--output", "-o", "--in-place", "--force", "--dry-run", "-n", "--check"))


@pytest.mark.parametrize(
    ("command", "word"), [("inspect", "PATH..."), ("verify", "PATH..."), ("migrate", "SOURCE..."), ("convert-fp16", "SOURCE...")]
)
def test_help_says_that_several_files_are_taken(gsvckpt, command, word):
    assert word in gsvckpt(command, "--help").out.splitlines()[1]


def test_help_lists_all_commands_and_exit_codes(gsvckpt):
    run = gsvckpt("--help")
    assert run.code == 0
    assert all(command in run.out for command in COMMANDS)
    assert all(code in run.out for code in ("130", "could not be written"))
    assert gsvckpt("-h").out == run.out


def test_without_arguments_it_shows_help_and_that_nothing_was_done(gsvckpt):
    run = gsvckpt()
    assert run.code == 2
    assert run.out == gsvckpt("--help").out


def test_version(gsvckpt):
    run = gsvckpt("--version")
    assert (run.code, run.out, run.err) == (0, f"gsvckpt {package.__version__}\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        ("insepct", "x.pth"),
        ("--nonsense",),
        ("inspect",),
        ("inspect", "x.pth", "--nonsense"),
        ("inspect", "x.pth", "--sort", "colour"),
        ("inspect", "x.pth", "--depth", "0"),
        ("inspect", "x.pth", "--jobs", "0"),
        ("inspect", "x.pth", "y.pth", "--diff", "z.pth"),
        ("convert-fp16",),
        ("convert-fp16", "x.pth", "--on-overflow", "pray"),
        ("convert-fp16", "x.pth", "--max-error", "-1"),
        ("convert-fp16", "x.pth", "--in-place", "-o", "y.pth"),
        ("strip-optimizer", "x.pth", "--drop"),
    ],
    ids=" ".join,
)
def test_usage_errors_are_one_line_and_at_most_a_hint(gsvckpt, argv):
    run = gsvckpt(*argv)
    assert_one_error(run, "", 2)
    assert run.out == ""


def test_a_mistyped_command_is_guessed_and_the_hint_leads_on(gsvckpt):
    assert "inspect" in gsvckpt("insepct").err
    assert "hint: gsvckpt inspect --help" in gsvckpt("inspect", "--nonsense").err


@pytest.mark.parametrize(("variable", "value", "code"), [("GSVCKPT_JOBS", "many", 2), ("GSVCKPT_DEVICE", "abacus", 2), ("GSVCKPT_JOBS", "1", 0)])
def test_the_environment_sets_jobs_and_device(gsvckpt, monkeypatch, voice, variable, value, code):
    monkeypatch.setenv(variable, value)
    run = gsvckpt("inspect", voice, "--stats")
    assert run.code == code, run.err


def test_a_device_that_is_not_there_is_an_error_that_lists_those_that_are(gsvckpt, voice):
    run = gsvckpt("convert-fp16", voice, "--device", "cuda:99")
    assert_one_error(run, voice, 2)
    assert "cpu" in run.err


def test_exit_codes_tell_the_causes_apart(gsvckpt, voice, tmp_path):
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.GsvError)]
    assert {value.exit_code for value in classes} == {2, 3, 4, 5}
    assert len({value.kind for value in classes}) == len(classes)
    assert gsvckpt("convert-fp16", voice, "--check").code == 1
    assert_one_error(gsvckpt("convert-fp16", tmp_path / "nothing.pth"), "nothing.pth", 3)
    assert_one_error(gsvckpt("convert-fp16", voice, "-o", voice), voice, 4)
    assert_one_error(gsvckpt("convert-fp16", voice, "-o", tmp_path / "no" / "folder.pth"), "folder.pth", 5)


def test_the_worst_exit_code_wins_and_the_others_are_still_done(gsvckpt, voice, tmp_path):
    run = gsvckpt("convert-fp16", tmp_path / "nothing.pth", voice, "-o", tmp_path / "out")
    assert run.code == 3
    assert (tmp_path / "out" / "voice.pth").exists()


def test_python_m_gsvckpt_is_the_program(voice):
    run = spawn("inspect", voice)
    assert (run.returncode, run.stderr) == (0, b"")
    assert "SoVITS weights" in run.stdout.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
@pytest.mark.parametrize("argv", [("inspect",), ("inspect", "--tensors"), ("inspect", "--json"), ("convert-fp16", "-n")], ids=" ".join)
def test_a_reader_that_leaves_is_no_error(voice, argv):
    command = [sys.executable, "-m", "gsvckpt", *argv, voice]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        process.stdout.close()
        err = process.stderr.read().decode()
    assert process.returncode == 0
    assert all(line.startswith("gsvckpt: ") and ": warning: " in line for line in err.splitlines()), err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
@pytest.mark.parametrize(("argv", "code"), [(("inspect", "--json"), 3), (("inspect", "--tensors"), 3), (("convert-fp16", "--check"), 3)], ids=str)
def test_a_reader_that_leaves_hides_no_failure(voice, tmp_path, argv, code):
    command = [sys.executable, "-m", "gsvckpt", *argv, tmp_path / "nothing.pth", voice]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as process:
        process.stdout.close()
    assert process.returncode == code


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("argv", "code"), [(("inspect",), 0), (("inspect", "--json"), 0), (("convert-fp16", "--check"), 1), (("--help",), 0)], ids=str
)
def test_a_closed_stream_is_no_error(voice, closed, argv, code):
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "gsvckpt", *argv, voice]
    run = subprocess.run(command, capture_output=True, env=environment(), check=False)
    assert run.returncode == code
    assert all(line.startswith(b"gsvckpt: ") for line in run.stderr.splitlines()), run.stderr
    assert bool(run.stdout) == (closed == "2>&-")


@pytest.mark.parametrize(
    ("argv", "schema"),
    [
        (("inspect", "--json"), "gsvckpt.inspect/2"),
        (("inspect", "x.pth", "--json", "--nonsense"), "gsvckpt.inspect/2"),
        (("convert-fp16", "x.pth", "--json", "--in-place", "-o", "y.pth"), "gsvckpt.convert-fp16/2"),
        (("inspect", "x.pth", "y.pth", "--diff", "z.pth", "--json"), "gsvckpt.inspect/2"),
        (("insepct", "x.pth", "--json"), "gsvckpt/2"),
    ],
    ids=str,
)
def test_json_has_its_document_when_no_file_is_reached(gsvckpt, argv, schema):
    run = gsvckpt(*argv)
    assert_one_error(run, "", 2)
    assert run.document.keys() == {*KEYS, "error"}
    assert (run.document["schema"], run.document["exit_code"], run.document["files"]) == (schema, 2, [])
    assert run.document["error"].keys() == ERROR_KEYS
    assert run.document["error"]["kind"] == "usage"
    assert gsvckpt("inspect", "--", "--json").out == ""  # a file of that name


@pytest.mark.parametrize("argv", [("inspect",), ("inspect", "--json")], ids=" ".join)
def test_an_interruption_says_what_it_left_and_has_its_document(gsvckpt, voice, monkeypatch, argv):
    def interrupt(path, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gsvckpt.cli.inspect.open_checkpoint", interrupt)
    run = gsvckpt(*argv, voice)
    assert (run.code, run.err) == (130, "gsvckpt: interrupted; nothing half-written was left behind\n")
    assert run.out == "" if "--json" not in argv else (run.document["exit_code"], run.document["error"]["kind"]) == (130, "interrupted")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_device_that_cannot_be_is_noticed_even_where_nothing_is_computed(gsvckpt, tmp_path, command):
    half = save(tmp_path / "half.pth", gpt())
    rest = (half, *(["--keep-last", "1"] if command == "prune" else []))
    for name in ("nonsense", "cpu:x", "auto:1", ""):
        assert_one_error(gsvckpt(command, *rest, "--device", name), "", 2)
    for name in ("cpu", "auto"):
        assert gsvckpt(command, *rest, "--device", name).code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize("argv", [("inspect",), ("inspect", "--json"), ("inspect", "--tensors")], ids=" ".join)
def test_a_full_disk_behind_standard_output_is_an_error(voice, argv):
    with open("/dev/full", "wb") as full:
        run = subprocess.run([sys.executable, "-m", "gsvckpt", *argv, voice], stdout=full, stderr=subprocess.PIPE, env=environment(), check=False)
    assert run.returncode == 5
    assert run.stderr.decode().splitlines()[0].startswith("gsvckpt: standard output: ")
    assert b"Exception ignored" not in run.stderr


@pytest.mark.parametrize(
    "argv",
    [("--help",), ("inspect", "--help"), ("inspect",), ("inspect", "--memory"), ("inspect", "--globals")],
    ids=" ".join,
)
def test_a_pipe_gets_no_escape_codes_and_80_columns(gsvckpt, monkeypatch, tmp_path, argv):
    monkeypatch.delenv("COLUMNS", raising=False)
    tree = small({f"enc_p.{'long.' * 30}{n}": value for n, value in enumerate(generator("v2").values())} | generator("v2"), "v2")
    path = save(tmp_path / f"{'voice-of-somebody-' * 8}.pth", tree)
    run = gsvckpt(*argv, *([] if "--help" in argv else [path]))
    assert run.code == 0
    assert "\x1b" not in run.out + run.err
    tables = [line for line in run.out.splitlines() if "can be removed: gsvckpt" not in line]  # a command is pasted, so it is never broken
    assert max(map(len, tables)) <= 80
    assert argv != ("inspect",) or re.match("╭─ voice-.*….*-somebody-.pth ─╮\n", run.out)


@pytest.mark.parametrize("argv", [("convert-fp16", "-n"), ("migrate", "-n", "--dtype", "float32"), ("inspect", "-r")], ids=" ".join)
def test_in_a_pipe_names_stay_whole(gsvckpt, monkeypatch, tmp_path, argv):
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"{'voice-of-somebody-' * 8}{number}.pth" for number in range(2)]
    for name in names:
        save(tmp_path / name, small(generator("v2", "float16" if argv[0] == "migrate" else "float32"), "v2"))
    run = gsvckpt(*argv, *([tmp_path] if argv[0] == "inspect" else [tmp_path / name for name in names]))
    assert run.code == 0, run.err
    assert "\x1b" not in run.out
    for name in names:
        assert any(line.startswith(f" {name} ") for line in run.out.splitlines())
    if argv[0] != "inspect":
        assert run.out.count("(not written: dry run)") == 2


def test_an_inventory_fits_a_terminal_of_80_columns(gsvckpt, monkeypatch, tmp_path):
    for variable, value in (("COLUMNS", "80"), ("FORCE_COLOR", "1"), ("NO_COLOR", "1")):
        monkeypatch.setenv(variable, value)
    for version in ("v1", "v2ProPlus"):
        save(tmp_path / "logs" / ("experiment" * 12) / "logs_s2_v2" / f"{'声音' * 30}{version}_e8_s16.pth", small(generator(version), version))
    (tmp_path / "broken.pth").write_bytes(b"PK\3\4")
    run = gsvckpt("inspect", tmp_path, "-r")
    assert run.code == 3
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in run.out.splitlines()) <= 80


@pytest.mark.parametrize(("variables", "coloured"), [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False), ({}, False)])
def test_no_color_is_honoured(voice, variables, coloured):
    clean = {key: value for key, value in environment(TERM="xterm-256color").items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    run = subprocess.run([sys.executable, "-m", "gsvckpt", "inspect", voice], capture_output=True, env=clean | variables, check=True)
    assert bool(re.search(rb"\x1b\[[0-9;]*3[1-7]", run.stdout)) == coloured


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk"])
def test_a_narrow_encoding_prints_what_it_can(tmp_path, encoding):
    path = save(tmp_path / "声音é.pth", small(generator("v2"), "v2"))
    run = subprocess.run(
        [sys.executable, "-m", "gsvckpt", "inspect", path], capture_output=True, env=environment(PYTHONIOENCODING=encoding), check=False
    )
    assert (run.returncode, run.stderr) == (0, b"")
    assert "SoVITS weights" in run.stdout.decode(encoding)


@pytest.mark.parametrize("command", ["convert-fp16", "strip-optimizer"])
def test_quiet_says_nothing_of_what_went_well_but_names_what_did_not(gsvckpt, voice, tmp_path, command):
    done = gsvckpt(command, voice, "-q", "-o", tmp_path / "out.pth")
    assert (done.code, done.out) == (0, "")
    assert_one_error(gsvckpt(command, save(tmp_path / "evil.pth", evil()), "-q"), "evil.pth", 4)
