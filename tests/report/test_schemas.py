"""JUnit and SARIF as their published schemas have them, for files of every fate."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import xmlschema
from cli.samples import evil, generator, save, small
from support.builders import tensor, torch_zip

from gsvckpt.cli.app import main
from gsvckpt.commands.verify.findings import CHECKS

DATA = Path(__file__).parents[1] / "data"
SARIF = json.loads((DATA / "sarif-2.1.0.json").read_text(encoding="utf-8"))
JUNIT = xmlschema.XMLSchema(str(DATA / "junit-10.xsd"))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    save(tmp_path / "声音 [bold]_e8_s16.pth", small(generator("v2Pro", "float16"), "v2Pro"), head=b"05")
    save(tmp_path / "evil.pth", evil())
    save(tmp_path / "nan.pth", {"dec.\x1b[31m": tensor("float32", (2,), [float("nan"), 1e30])})
    (tmp_path / "cut.pth").write_bytes(torch_zip({"dec.w": tensor("float32", (9,))})[:-50])
    (tmp_path / "web.pth").write_bytes(b"<html>\x00\x01")
    return [*map(str, sorted(tmp_path.iterdir())), str(tmp_path / "nowhere.pth")]


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["verify", *argv])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("options", [(), ("--quick",), ("--checks", "pickle.safety"), ("--fail-on", "warning"), ("--resume",)], ids=" ".join)
def test_sarif(files: list[str], capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
    code, out = run(capsys, *files, *options, "--format", "sarif")
    document = json.loads(out)
    jsonschema.Draft4Validator(SARIF, format_checker=jsonschema.FormatChecker()).validate(document)
    (result,) = document["runs"]
    assert result["invocations"][0]["exitCode"] == code == 3
    assert not result["invocations"][0]["executionSuccessful"]
    rules = [rule["id"] for rule in result["tool"]["driver"]["rules"]]
    assert all(rules[found["ruleIndex"]] == found["ruleId"] for found in result["results"])
    assert any(found["ruleId"] == "pickle.safety" and found["level"] == "error" for found in result["results"])


@pytest.mark.parametrize("options", [(), ("--quick",), ("--checks", "pickle.safety"), ("--fail-on", "warning"), ("--resume",)], ids=" ".join)
def test_junit(files: list[str], capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
    code, out = run(capsys, *files, *options, "--format", "junit")
    JUNIT.validate(out)
    root = ET.fromstring(out.encode())  # noqa: S314 - our own
    assert code == 3
    assert len(root) == len(files)
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.get("tests")) == len(cases)
        assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("errors")) == len(suite.findall("testcase/error"))
        assert {case.get("classname") for case in cases} == {suite.get("name")}
        assert len({case.get("name") for case in cases}) == len(cases)
    unsafe = next(suite for suite in root if "evil.pth" in suite.get("name"))
    assert unsafe.find("testcase[@name='pickle.safety']/failure") is not None


@pytest.mark.parametrize("options", [(), ("--quick",), ("--checks", "pickle.safety"), ("--fail-on", "warning"), ("--resume",)], ids=" ".join)
def test_all_forms_say_the_same_of_each_check(files: list[str], capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
    documents = json.loads(run(capsys, *files, *options, "--json")[1])["files"]
    suites = ET.fromstring(run(capsys, *files, *options, "--format", "junit")[1].encode())  # noqa: S314 - our own
    artifacts = json.loads(run(capsys, *files, *options, "--format", "sarif")[1])["runs"][0]["artifacts"]
    assert [artifact["properties"]["checks"] for artifact in artifacts] == [document["checks"] for document in documents]
    for document, suite in zip(documents, suites, strict=True):
        cases = {case.get("name"): case for case in suite.findall("testcase") if case.get("name") != "open"}
        checks = document["checks"]
        assert sorted(cases) == sorted([*checks["passed"], *checks["failed"], *checks["skipped"]]) == sorted(CHECKS)
        assert {name for name, case in cases.items() if case.find("failure") is not None} == set(checks["failed"])
        told = {name: case.find("skipped").get("message") for name, case in cases.items() if case.find("skipped") is not None}
        assert told == checks["skipped"]


@pytest.mark.parametrize("name", ["cut.pth", "web.pth", "nowhere.pth"])
def test_what_nobody_could_check_does_not_pass(files: list[str], capsys: pytest.CaptureFixture[str], name: str) -> None:
    (path,) = (path for path in files if path.endswith(name))
    (document,) = json.loads(run(capsys, path, "--json")[1])["files"]
    assert set(document["checks"]["passed"]) <= {"container.unreadable", "container.changed"}
    assert document["checks"]["skipped"]["tensor.finite"].startswith("the file could not be opened")


def test_a_sound_file_passes_every_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "x.pth", {"dec.w": tensor("float32", (2,), [1.0, 2.0])})
    code, out = run(capsys, str(tmp_path / "x.pth"), "--format", "junit")
    assert (code, out.count("<failure"), out.count("<error")) == (0, 0, 0)
    code, out = run(capsys, str(tmp_path / "x.pth"), "--format", "sarif")
    assert (code, json.loads(out)["runs"][0]["results"]) == (0, [])
