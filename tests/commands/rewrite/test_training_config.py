"""Where the config of a training file is looked for, and what is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.builders import hparams, tensor, torch_zip

from gsvckpt.commands.rewrite import training_config
from gsvckpt.errors import GsvError, MissingError, UsageError

CONFIG = {"train": {"epochs": 8}, "data": {"exp_dir": "logs/声音"}, "model": {"version": "v2", "rates": [10, 8]}, "name": "声音"}


def put(path: Path, content: object = CONFIG) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode())
    return str(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "logs" / "alice" / "logs_s2_v2" / "G_16.pth"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("levels", [0, 1])
def test_it_is_found_beside_or_above(source: Path, levels: int) -> None:
    where = put(source.parents[levels] / "config.json")
    found = training_config.find(str(source), None)
    assert (found.config, found.path) == (CONFIG, where)


def test_above_an_experiment_nothing_is_of_it(source: Path) -> None:
    """A config of another voice must not be taken for this one's."""
    put(source.parents[2] / "config.json")
    with pytest.raises(MissingError):
        training_config.find(str(source), None)


def test_the_nearest_counts_and_nothing_too_far_above(source: Path, tmp_path: Path) -> None:
    put(tmp_path / "config.json", {"far": 1})
    with pytest.raises(MissingError) as caught:
        training_config.find(str(source), None)
    assert "--config" in str(caught.value.hint)
    put(source.parents[1] / "config.json", {"name": "above"})
    put(source.parent / "config.json", {"name": "beside"})
    assert training_config.find(str(source), None).config == {"name": "beside"}


def test_from_the_folder_itself_as_from_anywhere(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(source.parents[1] / "config.json")
    monkeypatch.chdir(source.parent)
    assert training_config.find("G_16.pth", None).config == CONFIG


def test_a_folder_of_that_name_is_no_config(source: Path) -> None:
    (source.parent / "config.json").mkdir()
    put(source.parents[1] / "config.json")
    assert training_config.find(str(source), None).config == CONFIG


def test_what_was_named_counts_and_nothing_else(source: Path, tmp_path: Path) -> None:
    put(source.parent / "config.json", {"name": "beside"})
    named = put(tmp_path / "other.json")
    assert training_config.find(str(source), named) == (CONFIG, named)
    with pytest.raises(MissingError) as caught:
        training_config.find(str(source), str(tmp_path / "nothing.json"))
    assert caught.value.path == str(tmp_path / "nothing.json")


@pytest.mark.parametrize("form", ["\n\t {}", "{}\r\n", "﻿{}"], ids=["spaces", "line ends", "byte order mark"])
def test_as_editors_save_it(source: Path, form: str) -> None:
    put(source.parent / "config.json", form.format(json.dumps(CONFIG)).encode())
    assert training_config.find(str(source), None).config == CONFIG


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": 1,}',
        b"[1]",
        b'"text"',
        b"\xff\xfe{",
        b'{"a": "\xff"}',
        b'{"a":' * 100_000,
        b'{"a": "' + b"x" * (1 << 20) + b'"}',
        b"<html>",
    ],
    ids=["empty", "cut", "comma", "list", "text", "utf-16", "latin-1", "deep", "large", "page"],
)
@pytest.mark.parametrize("named", [False, True])
def test_what_is_no_config_is_an_error_that_names_it(source: Path, content: bytes, named: bool) -> None:
    where = put(source.parent / "config.json", content)
    with pytest.raises(UsageError) as caught:
        training_config.find(str(source), where if named else None)
    assert caught.value.path == where


def test_the_config_of_small_weights_of_the_same_run(tmp_path: Path) -> None:
    nested = hparams({"train": hparams(CONFIG["train"]), "data": hparams(CONFIG["data"]), "model": hparams(CONFIG["model"]), "name": "声音"})
    path = put(tmp_path / "alice_e8_s16.pth", torch_zip({"weight": {"w": tensor("int8", (1,), [1])}, "config": nested, "info": "8epoch"}))
    assert training_config.find("anywhere/G_16.pth", path) == (CONFIG, path)
    headed = put(tmp_path / "pro.pth", torch_zip({"weight": {"w": tensor("int8", (1,), [1])}, "config": {"a": nested}}, head=b"05"))
    assert training_config.find("G_16.pth", headed).config == {"a": CONFIG}


TOML = """name = "声音"
[train]
epochs = 8
[data]
exp_dir = "logs/声音"
[model]
version = "v2"
rates = [10, 8]
"""


@pytest.mark.parametrize("name", ["c.toml", "config", "c.txt"])
@pytest.mark.parametrize("form", ["{}", "\ufeff{}", "\n# nothing\n{}"])
def test_as_toml(tmp_path: Path, name: str, form: str) -> None:
    path = put(tmp_path / name, form.format(TOML).replace("\n", "\r\n").encode())
    assert training_config.find("G_16.pth", path) == (CONFIG, path)


def test_nulls_that_toml_cannot_say_are_read_where_they_are_told(tmp_path: Path) -> None:
    path = put(tmp_path / "c.toml", f"{TOML}\n{training_config.NULLS}pretrain, data.mel_fmax, model.version, name.x, no.such\n".encode())
    assert training_config.find("G_16.pth", path).config == {**CONFIG, "data": {**CONFIG["data"], "mel_fmax": None}, "pretrain": None}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [("c.toml", "a = 1\nb = \n", "not valid TOML"), ("c", "a = 1\nb = \n", "neither JSON nor TOML"), ("c", "a = 1979-05-27", "holds a date")],
)
def test_toml_that_is_no_config(tmp_path: Path, name: str, text: str, why: str) -> None:
    path = put(tmp_path / name, text.encode())
    with pytest.raises(UsageError, match=why) as caught:
        training_config.find("G_16.pth", path)
    assert path in (caught.value.path, caught.value.where.removesuffix(":2"))


@pytest.mark.parametrize("tree", [{"weight": {"w": tensor("int8", (1,), [1])}}, {"config": [1]}, {"config": "text"}, [1]])
def test_a_checkpoint_without_a_config(tmp_path: Path, tree: object) -> None:
    path = put(tmp_path / "x.pth", torch_zip(tree))
    with pytest.raises(UsageError, match="holds no config"):
        training_config.find("G_16.pth", path)


@pytest.mark.parametrize("keep", [10, 200, 0.5])
def test_a_damaged_checkpoint(tmp_path: Path, keep: float) -> None:
    data = torch_zip({"config": hparams({"a": 1})})
    path = put(tmp_path / "x.pth", data[: int(keep if keep > 1 else len(data) * keep)])
    with pytest.raises(UsageError, match="neither JSON nor TOML nor a checkpoint") as caught:
        training_config.find("G_16.pth", path)
    assert caught.value.path == path


def test_a_config_deeper_than_any_ends(tmp_path: Path) -> None:
    """HParams inside HParams, deeper than any config: nothing is endless."""
    value: object = 1
    for _ in range(100):
        value = hparams({"a": value})
    path = put(tmp_path / "x.pth", torch_zip({"config": value}))
    with pytest.raises(UsageError, match="too large"):
        training_config.find("G_16.pth", path)


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(GsvError) as caught:
        training_config.find("G_16.pth", str(tmp_path))
    assert caught.value.path == str(tmp_path)
