"""The Python interface is the commands: the same parameters, defaults, documents and files as the command line has, and nothing is printed."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli.samples import discriminator, environment, generator, lora, s2_training, save, small, weights

import gsvckpt
from gsvckpt.cli.app import COMMANDS, main
from gsvckpt.errors import DamagedError, MissingError, RefusedError, UsageError

SHOWN = {"json", "quiet", "verbose", "progress"}  # what is printed, and how
MISSING = {
    "inspect": {"format", "globals", "depth"},  # which change what is printed alone
    "verify": {"format"},
    "prune": {"yes", "sort"},  # nobody is asked; the order of what is printed
}
TYPED = {("inspect", "config")}  # a choice there, with --format


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of several kinds, in the working folder."""
    save(tmp_path / "voice.pth", small(generator("v2"), "v2"))
    save(tmp_path / "lora.pth", small(lora(), "v3"), head=b"03")
    save(tmp_path / "model.pth", weights({"layer.weight": (4, 8), "layer.bias": (4,)}))
    save(tmp_path / "other.pth", weights({"layer.weight": (4, 8), "layer.bias": (5,)}))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "model.pth").read_bytes()[:-40])
    (tmp_path / "web.pth").write_bytes(b"<html>")
    run = tmp_path / "logs" / "alice" / "logs_s2_v2"
    for epoch in (1, 2, 3):
        for letter, state in (("G", generator("v2", enc_q=True)), ("D", discriminator())):
            path = save(run / f"{letter}_{16 * epoch}.pth", s2_training(state, epoch))
            os.utime(path, (1_790_000_000 + epoch, 1_790_000_000 + epoch))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- one home for every option ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_is_a_parameter_with_the_same_default(command: str) -> None:
    name = COMMANDS[command]
    options = dict(inspect.signature(getattr(importlib.import_module(f"gsvckpt.cli.{name}"), name)).parameters)
    parameters = dict(inspect.signature(getattr(gsvckpt, name)).parameters)
    (first, *_), (argument, *_) = parameters, options
    assert first == argument
    left_out = SHOWN | MISSING.get(name, set())
    assert left_out <= options.keys()
    assert [option for option in options if option not in left_out] == list(parameters)
    for option, parameter in list(parameters.items())[1:]:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        default = options[option].default
        assert parameter.default == (() if default is None and "list[" in str(options[option].annotation) else default), option


def test_the_interface_is_what_dir_shows() -> None:
    names = {*COMMANDS.values(), "open", "load_state_dict", "record", "OpenCheckpoint", "GsvError", "__version__"}
    assert set(dir(gsvckpt)) == set(gsvckpt.__all__) == names
    for name in names:
        assert getattr(gsvckpt, name)
    with pytest.raises(AttributeError, match="'gsvckpt' has no attribute 'unpickle'"):
        getattr(gsvckpt, "unpickle")  # noqa: B009 - mypy knows that there is none


def test_importing_it_imports_no_command() -> None:
    code = "import sys, gsvckpt; dir(gsvckpt); print(*[name for name in sys.modules if name.startswith('gsvckpt') or name in ('torch', 'numpy')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, env=environment())
    assert set(run.stdout.split()) == {"gsvckpt", "gsvckpt.version"}


# --- the same documents -----------------------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """One thing, said in both ways."""

    words: str
    paths: str | list[str] | list[Path]
    options: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return self.words


CALLS = [
    Call("inspect voice.pth", "voice.pth"),
    Call("inspect voice.pth web.pth", ["voice.pth", "web.pth"]),
    Call("inspect . -r", ".", {"recursive": True}),
    Call("inspect voice.pth --tensors --stats --config --memory", "voice.pth", {"tensors": True, "stats": True, "config": True, "memory": True}),
    Call("inspect voice.pth model.pth --stats -j1", ["voice.pth", "model.pth"], {"stats": True, "jobs": 1}),
    Call("inspect voice.pth --tensors --include enc* --exclude *text* --sort size", "voice.pth",
         {"tensors": True, "include": "enc*", "exclude": ["*text*"], "sort": "size"}),
    Call("inspect model.pth --diff other.pth", "model.pth", {"diff": "other.pth"}),
    Call("inspect model.pth --diff model.pth", "model.pth", {"diff": Path("model.pth")}),
    Call("convert-fp16 voice.pth", "voice.pth"),
    Call("convert-fp16 voice.pth web.pth lora.pth -o out/ --keep dec*", ["voice.pth", "web.pth", "lora.pth"], {"output": "out/", "keep": "dec*"}),
    Call("convert-fp16 voice.pth lora.pth --check", ["voice.pth", "lora.pth"], {"check": True}),
    Call("strip-optimizer logs/alice/logs_s2_v2/G_16.pth --in-place", "logs/alice/logs_s2_v2/G_16.pth", {"in_place": True}),
    Call("strip-optimizer logs/alice/logs_s2_v2/G_16.pth --drop learning_rate --force -n", "logs/alice/logs_s2_v2/G_16.pth",
         {"drop": "learning_rate", "force": True, "dry_run": True}),
    Call("strip-optimizer logs lora.pth", ["logs", "lora.pth"]),
    Call("migrate logs/alice voice.pth", [Path("logs/alice"), Path("voice.pth")]),
    Call("migrate voice.pth --to safetensors", "voice.pth", {"to": "safetensors"}),
    Call("migrate model.pth --salvage --rules ddp -o x.pth", "model.pth", {"salvage": True, "rules": "ddp", "output": "x.pth"}),
    Call("migrate voice.pth --max-shard-size 1000 -o out/ --to safetensors", "voice.pth",
         {"max_shard_size": 1000, "output": "out/", "to": "safetensors"}),
    Call("migrate logs/alice --bundle voice -n", "logs/alice", {"bundle": "voice", "dry_run": True}),
    Call("verify voice.pth", "voice.pth"),
    Call("verify . -r --quick", ".", {"recursive": True, "quick": True}),
    Call("verify cut.pth model.pth web.pth nowhere.pth", ["cut.pth", "model.pth", "web.pth", "nowhere.pth"]),
    Call("verify model.pth --against other.pth --checks against", "model.pth", {"against": "other.pth", "checks": ["against"]}),
    Call("verify model.pth --record --per-tensor --write-checksums sums.sha256", "model.pth",
         {"record": True, "per_tensor": True, "write_checksums": "sums.sha256"}),
    Call("verify model.pth cut.pth --backup copies --fail-on warning", ["model.pth", "cut.pth"], {"backup": "copies", "fail_on": "warning"}),
    Call("verify logs/alice --resume", "logs/alice", {"resume": True}),
    Call("prune logs/alice --keep-last 1 -n", "logs/alice", {"keep_last": 1, "dry_run": True}),
    Call("prune logs --keep-every 2 --keep-within 1d --max-size 1GB --keep G_16* -n", "logs",
         {"keep_every": 2, "keep_within": "1d", "max_size": "1GB", "keep": "G_16*", "dry_run": True}),
    Call("prune logs/alice --demote-after 1 -n", "logs/alice", {"demote_after": 1, "dry_run": True}),
    Call("prune logs/alice --keep-last 1 --purge --yes", "logs/alice", {"keep_last": 1, "purge": True}),
]  # fmt: skip


def files_below(folder: Path) -> dict[str, bytes]:
    """What every file holds, but for a manifest's times."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.endswith("gsvckpt.toml")}


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_the_document_and_the_files_are_the_command_s(call: Call, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    command, *words = call.words.split()
    result = getattr(gsvckpt, command.replace("-", "_"))(call.paths, **call.options)
    assert tuple(capsys.readouterr()) == ("", "")
    os.chdir(copy)
    code = main([command, *words, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert result.exit_code == code
    assert json.dumps(result.as_json(), allow_nan=False, indent=2) == json.dumps(printed, indent=2)
    assert files_below(folder) == files_below(copy)


def test_the_trash_is_brought_back_and_emptied(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_below(folder)
    done = gsvckpt.prune(["logs/alice"], keep_last=1)
    assert len(done.cleared.gone) == 2
    assert len(files_below(folder / "logs" / "alice" / "logs_s2_v2")) == 2
    planned = gsvckpt.prune("logs/alice", undo=True, dry_run=True)
    undone = gsvckpt.prune("logs/alice", undo=True)
    assert planned.as_json()["runs"] == undone.as_json()["runs"] != []
    assert undone.files == 4
    assert files_below(folder) == before
    gsvckpt.prune("logs/alice", keep_last=1)
    assert gsvckpt.prune("logs/alice", empty_trash=True, older_than="1d").runs == ()
    emptied = gsvckpt.prune("logs/alice", empty_trash=True)
    assert (emptied.files, emptied.freed > 0, emptied.errors) == (4, True, ())
    with pytest.raises(MissingError, match=r"logs/alice: there is nothing in its trash"):
        gsvckpt.prune("logs/alice", undo=True)
    assert tuple(capsys.readouterr()) == ("", "")


# --- errors -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS.values())
@pytest.mark.parametrize("path", ["nowhere.pth", Path("nowhere.pth"), ["nowhere.pth"]], ids=repr)
def test_what_is_not_there_is_raised_and_named(folder: Path, capsys: pytest.CaptureFixture[str], name: str, path: Any) -> None:
    options = {"keep_last": 1} if name == "prune" else {}
    with pytest.raises(gsvckpt.GsvError, match=r"^nowhere\.pth: ") as caught:
        getattr(gsvckpt, name)(path, **options)
    assert isinstance(caught.value, MissingError)
    assert tuple(capsys.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("name", "path", "options", "kind"),
    [
        ("inspect", "cut.pth", {}, DamagedError),
        ("inspect", "model.pth", {"diff": "cut.pth"}, DamagedError),
        ("convert_fp16", "cut.pth", {}, DamagedError),
        ("convert_fp16", "voice.pth", {"output": "model.pth"}, RefusedError),
        ("strip_optimizer", ["cut.pth", "cut.pth"], {}, DamagedError),
        ("strip_optimizer", "logs/alice/logs_s2_v2/G_16.pth", {"drop": "model", "in_place": True}, RefusedError),
        ("migrate", "cut.pth", {"to": "safetensors"}, DamagedError),
        ("migrate", "web.pth", {"bundle": "voice"}, MissingError),
        ("verify", "model.pth", {"manifest": "nowhere.toml"}, MissingError),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_raised_and_names_its_file(folder: Path, name: str, path: Any, options: dict[str, Any], kind: type[Exception]) -> None:
    before = files_below(folder)
    with pytest.raises(kind) as caught:
        getattr(gsvckpt, name)(path, **options)
    assert caught.value.path
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    assert files_below(folder) == before


@pytest.mark.parametrize(
    ("name", "options", "where"),
    [
        ("inspect", {"sort": "age"}, "--sort"),
        ("inspect", {"jobs": 0}, "--jobs"),
        ("inspect", {"device": "toaster"}, "device"),
        ("inspect", {"diff": "other.pth", "include": "nothing"}, "--include"),
        ("inspect", {"include": "nothing"}, "--include"),
        ("convert_fp16", {"on_overflow": "wrap"}, "--on-overflow"),
        ("convert_fp16", {"max_error": float("nan")}, "--max-error"),
        ("convert_fp16", {"max_error": -1}, "--max-error"),
        ("strip_optimizer", {"device": "toaster"}, "device"),
        ("migrate", {"dtype": "int8"}, "--dtype"),
        ("migrate", {"to": "onnx"}, "--to"),
        ("migrate", {"head": "99"}, "--head"),
        ("migrate", {"step": -1}, "--step"),
        ("migrate", {"fill": True}, "--fill"),
        ("migrate", {"bundle": "voice", "plain": True}, "--plain"),
        ("migrate", {"max_shard_size": "big"}, "--max-shard-size"),
        ("verify", {"fail_on": "info"}, "--fail-on"),
        ("verify", {"forget": True}, "--forget"),
        ("verify", {"layout": "v9"}, "--layout"),
        ("prune", {}, "prune"),
        ("prune", {"keep_last": 0}, "--keep-last"),
        ("prune", {"keep_every": 0}, "--keep-every"),
        ("prune", {"keep_last": 1, "mode": "best"}, "--mode"),
        ("prune", {"keep_last": 1, "undo": True}, "--undo"),
        ("prune", {"keep_last": 1, "older_than": "1d"}, "--older-than"),
        ("prune", {"demote_after": 1, "demote_to": "dust"}, "--demote-to"),
    ],
)  # fmt: skip
def test_what_no_option_takes_no_parameter_takes(folder: Path, name: str, options: dict[str, Any], where: str) -> None:
    before = files_below(folder)
    with pytest.raises(UsageError) as caught:
        getattr(gsvckpt, name)("model.pth", **options)
    assert caught.value.where == where
    assert files_below(folder) == before


@pytest.mark.parametrize("name", COMMANDS.values())
def test_no_path_at_all_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="names no file"):
        getattr(gsvckpt, name)([])


def test_one_bad_file_stops_none_of_the_others(folder: Path) -> None:
    done = gsvckpt.convert_fp16(["web.pth", "voice.pth", "cut.pth"], output="out")
    assert [file.source for file in done.files] == ["voice.pth"]
    assert [error.path for error in done.errors] == ["web.pth", "cut.pth"]
    assert done.exit_code == 3
    assert (folder / "out" / "voice.pth").exists()


def test_a_result_does_not_change(folder: Path) -> None:
    for result in (
        gsvckpt.inspect("voice.pth"),
        gsvckpt.convert_fp16("voice.pth", dry_run=True),
        gsvckpt.verify("voice.pth"),
        gsvckpt.prune("logs", keep_last=1, dry_run=True),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(result, fields(result)[0].name, ())


def test_secrets_of_a_url_are_in_no_error(folder: Path) -> None:
    with pytest.raises(gsvckpt.GsvError) as caught:
        gsvckpt.inspect("http://me:sesame@127.0.0.1:1/x.pth")
    assert "sesame" not in str(caught.value)
    assert "127.0.0.1:1/x.pth" in str(caught.value)
