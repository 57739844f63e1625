"""What became of each check: it passed, it failed, or it was skipped, with the reason; nothing passes that was not looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cli.samples import discriminator, evil, generator, gpt, s1_training, s2_training, small
from support.builders import safetensors, tensor, torch_entries, torch_stream, torch_zip, zipped
from support.verified import verify

from gsvckpt.commands.verify.checks.answer import Answered, Skipped, gather
from gsvckpt.commands.verify.checks.table import TABLE
from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.findings import CHECKS, Finding, select_checks
from gsvckpt.commands.verify.manifest import ManifestEntry
from gsvckpt.commands.verify.result import Checks, Expected, Options
from gsvckpt.engine import digest
from gsvckpt.errors import DamagedError

PLAIN = {"dec.w": tensor("float32", (2,), [1.0, 2.0])}
FILES: dict[str, Callable[[], bytes]] = {
    "zip": lambda: torch_zip(PLAIN),
    "stream": lambda: torch_stream(PLAIN),
    "safetensors": lambda: safetensors({"dec.w": ("F32", (2,), bytes(8))}),
    "weights": lambda: torch_zip(small(generator("v2Pro", "float16"), "v2Pro"), head=b"05"),
    "unsafe": lambda: torch_zip(evil()),
    "cut": lambda: torch_zip(PLAIN)[:-50],
    "web": lambda: b"<html>\x00\x01",
    "empty": lambda: b"",
    "junk": lambda: bytes(range(1, 256)) * 9,
}
CHOICES = {
    "all": Options(),
    "quick": Options(quick=True, digests=frozenset()),
    "some": Options(select_checks("pickle,tensor.finite"), digests=frozenset()),
    "most": Options(select_checks("*,-tensor"), digests=frozenset()),
    "resume": Options(resume=True),
}


def checks(path: Path, kind: str, options: Options = CHOICES["all"], expected: Expected | None = None) -> Checks:
    return verify(path / "x.pth", FILES[kind](), options, expected).checks()


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", FILES)
def test_each_check_stands_in_one_of_three(tmp_path: Path, kind: str, choice: str) -> None:
    options = CHOICES[choice]
    result = verify(tmp_path / "x.pth", FILES[kind](), options)
    for fail_on in ("error", "warning"):
        found = result.checks(fail_on)
        assert sorted([*found.passed, *found.failed, *found.skipped]) == sorted(CHECKS)
        severities = {"error"} if fail_on == "error" else {"error", "warning"}
        assert set(found.failed) == {finding.check for finding in result.findings if finding.severity in severities}
        assert set(found.passed) <= options.checks
        assert all(found.skipped.values())
        assert "was not asked for" not in found.skipped.values()  # every check has a row that answers for it


@pytest.mark.parametrize(
    ("kind", "passes", "is_skipped"),
    [
        ("zip", {"record.crc", "pickle.safety", "tensor.finite", "container.gap", "container.unreadable"}, {"container.header", "layout.missing"}),
        ("stream", {"pickle.damaged", "tensor.finite", "container.trailing"}, {"record.crc", "container.gap", "container.head", "container.header"}),
        ("safetensors", {"container.header", "pickle.safety", "tensor.finite"}, {"record.crc", "pickle.damaged", "container.overlap"}),
        ("weights", {"layout.extra", "layout.dtype", "version.upstream", "version.claims"}, {"version.name", "official.digest"}),
        ("unsafe", {"record.crc", "pickle.damaged"}, {"container.header"}),
        ("cut", {"container.unreadable", "container.changed"}, set(CHECKS) - {"container.truncated", "pickle.safety"}),
        ("web", {"container.unreadable", "container.changed"}, set(CHECKS) - {"container.kind"}),
        ("empty", set(), set(CHECKS) - {"container.kind"}),
    ],
)
def test_what_applies(tmp_path: Path, kind: str, passes: set[str], is_skipped: set[str]) -> None:
    found = checks(tmp_path, kind)
    assert passes <= set(found.passed)
    assert is_skipped - passes - {"container.unreadable", "container.changed"} <= set(found.skipped)


READ = {"record.crc", "tensor.finite", "tensor.range", "container.unreadable"}


def test_quick_reads_nothing_and_says_so(tmp_path: Path) -> None:
    whole, quick = checks(tmp_path, "zip"), checks(tmp_path, "zip", CHOICES["quick"])
    assert set(whole.passed) - set(quick.passed) == READ
    assert {quick.skipped[check] for check in READ} == {"--quick reads no tensor bytes"}


def test_what_was_left_out_says_so(tmp_path: Path) -> None:
    found = checks(tmp_path, "zip", CHOICES["some"])
    assert set(found.passed) == {"pickle.safety", "pickle.encoding", "pickle.damaged", "pickle.bomb", "tensor.finite"}
    assert set(found.skipped.values()) == {"--checks leaves it out"}


def test_a_failure_that_was_not_selected_is_no_pass_of_what_was(tmp_path: Path) -> None:
    found = checks(tmp_path, "cut", CHOICES["some"])
    assert "container.truncated" in found.failed
    assert not found.passed


def test_bytes_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> object:
        raise DamagedError("the disk says no", where="byte 7")

    monkeypatch.setattr(digest, "read_contents", fail)
    found = checks(tmp_path, "zip")
    assert found.failed == ("container.unreadable",)
    assert found.skipped["record.crc"] == found.skipped["tensor.finite"] == "the bytes cannot be read: the disk says no"
    assert "container.gap" in found.passed


def test_other_byte_orders(tmp_path: Path) -> None:
    found = verify(tmp_path / "x.pth", torch_zip(PLAIN, extras={"byteorder": b"big"})).checks()
    assert {"record.crc", "tensor.finite", "container.torch"} <= set(found.passed)


def test_checksums_that_are_not_stated(tmp_path: Path) -> None:
    entries = [replace(entry, crc=0) if entry.name.endswith("data/0") else entry for entry in torch_entries(PLAIN)]
    found = verify(tmp_path / "x.pth", zipped(entries)).checks()
    assert found.skipped["record.crc"].endswith("records state no checksum")


def test_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    first = verify(path, FILES["zip"]())
    entry = ManifestEntry("x.pth", first.size, first.mtime_ns, digests=first.digests)
    manifest = {"manifest.bit-rot", "manifest.changed", "manifest.missing", "manifest.new"}
    assert manifest <= set(verify(path, None, Options(), Expected(entry, recorded=True)).checks().passed)
    quick = verify(path, None, CHOICES["quick"], Expected(entry, recorded=True)).checks()
    assert manifest & set(quick.passed) == manifest - {"manifest.bit-rot"}
    other = verify(path, None, Options(), Expected(recorded=True)).checks()
    assert {other.skipped[check] for check in manifest - {"manifest.new"}} == {"the manifest does not name it"}
    assert manifest <= set(first.checks().skipped)


def test_against_what_cannot_be_compared(tmp_path: Path) -> None:
    found = checks(tmp_path, "zip", Options(against=str(tmp_path / "nowhere.pth")))
    assert found.failed == ("container.unsupported",)
    assert {found.skipped[check].partition(":")[0] for check in CHECKS if check.startswith("against.")} == {"could not be checked"}


def test_what_is_not_there(tmp_path: Path) -> None:
    result = verify_file(tmp_path / "nowhere.pth")
    assert result.error is not None
    assert set(result.checks().skipped) == set(CHECKS)


def run_of(folder: Path, stage: str, *, epochs: int = 20) -> Path:
    place = folder / "logs" / "alice" / stage
    place.mkdir(parents=True)
    settings = {"train": {"epochs": epochs}, "model": {"version": "v2"}, "version": "v2"}
    (folder / "logs" / "alice" / "config.json").write_text(json.dumps(settings))
    return place


def test_resuming(gsvckpt_json: Callable[..., dict[str, Checks]], tmp_path: Path) -> None:
    place = run_of(tmp_path, "logs_s2_v2")
    (place / "G_16.pth").write_bytes(torch_zip(s2_training(generator("v2", enc_q=True)) | {"optimizer": None}))
    (place / "D_16.pth").write_bytes(torch_zip(s2_training(discriminator()) | {"optimizer": None}))
    found = gsvckpt_json(place)
    run, file = found["logs_s2_v2"], found["G_16.pth"]
    assert {"resume.file", "resume.keys", "resume.pair", "resume.stale", "resume.finished"} <= {*run["passed"], *run["failed"]}
    assert run["skipped"]["resume.lightning"] == "checked only for GPT files"
    assert run["skipped"]["record.crc"] == "this is the folder of a training run"
    assert file["skipped"]["resume.keys"] == "reported for the folder of the training run"
    own = gsvckpt_json(place / "G_16.pth")["G_16.pth"]
    assert {"resume.file", "resume.keys"} <= {*own["passed"], *own["failed"]}
    assert own["skipped"]["resume.pair"] == "reported for the folder of the training run"


def test_resuming_without_a_file(gsvckpt_json: Callable[..., dict[str, Checks]], tmp_path: Path) -> None:
    place = run_of(tmp_path, "logs_s1_v2")
    (place / "ckpt").mkdir()
    (place / "ckpt" / "epoch=1-step=12.ckpt").write_bytes(torch_zip(s1_training(gpt())))
    run = gsvckpt_json(place)["ckpt"]
    assert "resume.lightning" in {*run["passed"], *run["failed"]}
    assert run["skipped"]["resume.pair"] == "GPT is trained with one file"
    (place / "ckpt" / "epoch=1-step=12.ckpt").write_bytes(b"junk")
    run = gsvckpt_json(place)["ckpt"]
    assert run["failed"] == ["resume.file"]
    assert not run["passed"]


@pytest.fixture
def gsvckpt_json(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, object]]:
    from gsvckpt.cli.app import main

    def run(path: Path) -> dict[str, object]:
        capsys.readouterr()
        main(["verify", "--resume", "--json", str(path)])
        return {Path(file["path"]).name: file["checks"] for file in json.loads(capsys.readouterr().out)["files"]}

    return run


def test_answers_are_united() -> None:
    crc, gap = Finding("record.crc", "error", "", "altered"), Finding("container.gap", "warning", "", "odd")
    stop = Finding("container.unreadable", "error", "", "no")
    answers = [
        Answered(("record.crc",), [crc]),
        Answered(("container.gap", "container.head"), [gap, stop]),
        Answered(("tensor.finite",), Skipped("x")),
    ]
    found = gather(answers, set(CHECKS) - {"record.crc"}, "else")
    assert found.findings == (stop, gap)
    assert found.skipped["record.crc"] == "--checks leaves it out"
    assert found.skipped["container.head"] == "could not be checked: no"
    assert (found.skipped["tensor.finite"], found.skipped["layout.shape"]) == ("x", "else")


def test_every_check_of_a_checkpoint_has_a_row() -> None:
    elsewhere = {check for check in CHECKS if check.partition(".")[0] in ("manifest", "checksum")} | {"container.unreadable", "container.changed"}
    assert {check for row in TABLE for check in row.ids} == set(CHECKS) - elsewhere
