"""docs/json: what the documents of `--json` are. That each document which a test prints is like that is seen to in conftest.py."""

from __future__ import annotations

import json

import jsonschema
import pytest
from cli.samples import generator, save, small
from schemas import DOCUMENTS, FOLDER, problems_of, schema, texts

from gsvckpt.cli.app import main


def test_the_files_are_what_the_classes_say() -> None:
    """`make schemas` writes them anew."""
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == texts()


@pytest.mark.parametrize("command", DOCUMENTS)
def test_each_is_a_schema(command: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(command))


@pytest.fixture
def document(tmp_path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    path = save(tmp_path / "alice_e8_s16.pth", small(generator("v2", "float16"), "v2"))
    main(["verify", str(path), "--json"])
    return json.loads(capsys.readouterr().out)


def test_what_tests_are_held_to(document: dict[str, object]) -> None:
    check = problems_of("verify")
    assert check(document) == []
    assert len(check(document | {"new": 1})) == 1
    assert len(check({key: value for key, value in document.items() if key != "exit_code"})) == 1
    assert len(check(document | {"exit_code": "0"})) == 1
    (file,) = document["files"]
    for wrong in (file | {"status": "fine"}, file | {"checks": {}}, {key: value for key, value in file.items() if key != "checks"}):
        assert len(check(document | {"files": [wrong]})) == 1


def test_the_published_schema_admits_keys_of_later_versions(document: dict[str, object]) -> None:
    validator = jsonschema.Draft202012Validator(schema("verify"))
    (file,) = document["files"]
    assert validator.is_valid(document | {"new": 1, "files": [file | {"new": 1}]})
    assert not validator.is_valid(document | {"schema": "gsvckpt.verify/3"})
