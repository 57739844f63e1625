"""What goes where in a bundle, and which run is taken: decided from names, times and verdicts alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsvckpt.commands.bundle.contents import Bundle, BundleItem, LeftOut, Saved, by_age, manifest_size, nothing_left, place, portable, unfit
from gsvckpt.commands.bundle.experiment import CallbackScores, ExperimentRun, File, best_of, choose, find_experiment, read_end, read_scores
from gsvckpt.commands.bundle.yaml import to_yaml
from gsvckpt.commands.verify.findings import Finding
from gsvckpt.commands.verify.manifest import ManifestEntry, record
from gsvckpt.commands.verify.result import Verification
from gsvckpt.errors import DamagedError, MissingError, RefusedError
from gsvckpt.sovits.names import parse

KINDS = {"G": "sovits-generator-training", "D": "sovits-discriminator-training", "e": "gpt-training"}


def file(path: str, second: int = 0, version: str | None = None, rank: int | None = None) -> File:
    return File(path, parse(path), second, version, rank)


def saved(path: str, epoch: int | None, second: int = 0, version: str | None = "v2", status: str = "sound") -> Saved:
    name = os.path.basename(path)
    result = Verification(path, status, (Finding("record.crc", "error", "x", "no"),), kind=KINDS[name[0]], version=version, epoch=epoch)
    return Saved(file(path, second), result)


def run(label: str, second: int, version: str | None, *, stated: bool = True) -> ExperimentRun:
    stage = "gpt" if "s1" in label else "sovits"
    return ExperimentRun(label, f"logs/a/{label}", stage, version, stated, None, (file(f"logs/a/{label}/G_1.pth", second),))


# --- places --------------------------------------------------------------------------------------------------------------------------------------


def test_files_are_named_by_their_epochs() -> None:
    found = place("gpt", [saved("epoch=11-step=9.ckpt", 12), saved("epoch=0-step=6.ckpt", None)], "v2")
    assert [path for path, _ in found.files] == ["checkpoints/epoch_001.ckpt", "checkpoints/epoch_012.ckpt"]
    found = place("sovits", [saved("D_16.pth", 8, version=None), saved("G_16.pth", 8), saved("G_2000.pth", 1000)], "v2")
    assert [path for path, _ in found.files] == [f"checkpoints/sovits_epoch_{name}.pth" for name in ("008_G", "008_D", "1000_G")]
    assert found.left_out == ()


def test_a_pair_stays_together() -> None:
    files = [saved("G_16.pth", 8, 5), saved("D_16.pth", 8, 9), saved("G_233333333333.pth", 8, 7), saved("D_233333333333.pth", 8, 8)]
    found = place("sovits", files, "v2")
    assert [os.path.basename(one.file.path) for _, one in found.files] == ["G_16.pth", "D_16.pth"]
    assert [left.exit_code for left in found.left_out] == [0, 0]


@pytest.mark.parametrize(
    ("status", "code", "said"), [("damaged", 3, "is damaged: no"), ("unsafe", 4, "is unsafe, do not load it: no"), ("unchecked", 3, "examined: no")]
)
def test_what_is_unfit_is_told_with_its_reason(status: str, code: int, said: str) -> None:
    found = place("gpt", [saved("epoch=0-step=6.ckpt", 1, status=status)], "v2")
    assert found.files == ()
    assert (found.left_out[0].exit_code, said in found.left_out[0].why) == (code, True)
    assert unfit(saved("G_1.pth", 1, status="suspect").result) is None


def test_files_of_other_kinds_and_versions_are_left_out() -> None:
    wrong = [saved("D_2.pth", 1), saved("G_4.pth", 2, version="v1"), saved("D_4.pth", 2, version=None), saved("G_latest.pth", None)]
    found = place("sovits", wrong, "v2")
    assert [os.path.basename(one.file.path) for _, one in found.files] == ["D_2.pth"]
    assert {left.path: left.why.split(",")[0] for left in found.left_out} == {
        "G_4.pth": "is of v1",
        "D_4.pth": "is of v1",
        "G_latest.pth": "does not state its epoch",
    }
    assert "is not a training file of GPT" in place("gpt", [saved("G_1.pth", 1)], "v2").left_out[0].why
    assert place("gpt", [saved("epoch=0-step=6.ckpt", 1, version="v2")], "v4").left_out == ()  # all of them but v1's are called v2


def test_weights_by_age() -> None:
    newest = saved("logs/a/logs_s2_v2/G_16.pth", 8, 40)
    weights = [file(f"w/a_e{epoch}_s{2 * epoch}.pth", second) for epoch, second in ((4, 90), (8, 40), (12, 20), (12, 50))]
    fresh, stale = by_age(weights, "v2", newest)
    assert [(one.said.epoch, one.mtime_ns) for one in fresh] == [(12, 50), (8, 40)]
    assert [(one.said.epoch, one.mtime_ns) for one in stale] == [(12, 20), (4, 90)]
    assert by_age(weights, "v2", None) == (sorted(weights, key=lambda one: one.age, reverse=True), [])
    assert by_age([file("w/a_e1_s1.pth", version="v1")], "v2", None) == ([], [])


# --- runs ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "wanted", "chosen"),
    [
        ([run("logs_s1_v2", 1, "v2"), run("logs_s2_v2", 2, "v2")], None, ["logs_s1_v2", "logs_s2_v2"]),
        ([run("logs_s1_v2", 9, "v2"), run("logs_s1_v4", 1, "v4"), run("logs_s2_v4_lora_32", 8, "v4")], None, ["logs_s1_v2", "logs_s2_v4_lora_32"]),
        ([run("logs_s1_v2", 9, "v2"), run("logs_s1_v4", 1, "v4"), run("logs_s2_v4_lora_32", 8, "v4")], "v4", ["logs_s1_v4", "logs_s2_v4_lora_32"]),
        ([run("logs_s2_v3_lora_32", 1, "v3"), run("logs_s2_v3_lora_64", 2, "v3")], None, ["logs_s2_v3_lora_64"]),
        ([run("logs_s1", 1, "v2", stated=False), run("logs_s2_v4_lora_32", 8, "v4")], None, ["logs_s1", "logs_s2_v4_lora_32"]),
        ([run("logs_s1", 1, "v1", stated=False), run("logs_s1_v2", 1, "v2"), run("logs_s2_v2", 8, "v2")], None, ["logs_s1_v2", "logs_s2_v2"]),
        ([run("logs_s2", 3, None, stated=False), run("logs_s2_v2", 2, "v2")], None, ["logs_s2"]),
        ([], None, []),
    ],
)
def test_one_run_of_each_stage_is_chosen(runs: list[ExperimentRun], wanted: str | None, chosen: list[str]) -> None:
    choice = choose(runs, wanted)
    assert [one.label for one in choice.runs.values()] == chosen
    assert {one.label for one in choice.others} == {one.label for one in runs} - set(chosen)


def test_the_version_of_a_stage() -> None:
    old = choose([run("logs_s1", 1, "v2", stated=False), run("logs_s2_v4_lora_32", 8, "v4")], None)
    assert (old.version_of("gpt"), old.version_of("sovits")) == ("v4", "v4")  # of GPT nothing is known but that it is not v1
    first = choose([run("logs_s1", 1, "v1", stated=False), run("logs_s2_v2", 8, "v2")], None)
    assert (first.version_of("gpt"), first.version_of("sovits")) == ("v1", "v2")
    assert first.warnings == ("there is no GPT run of v2; logs_s1 of another version is used",)


def test_an_experiment_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_of = tmp_path / "logs" / "alice"
    (place_of / "logs_s2_v2").mkdir(parents=True)
    (place_of / "logs_s2_v2" / "G_2.pth").write_bytes(b"x")
    (tmp_path / "SoVITS_weights_v2").mkdir()
    (tmp_path / "SoVITS_weights_v2" / "alice_e1_s2.pth").write_bytes(b"x")
    for here, path in ((tmp_path, "logs/alice/"), (place_of.parent, "alice"), (place_of, "."), (tmp_path, str(place_of))):
        monkeypatch.chdir(here)
        found = find_experiment(path)
        assert (found.name, [one.label for one in found.runs], len(found.weights["sovits"])) == ("alice", ["logs_s2_v2"], 1)
    with pytest.raises(MissingError, match="one run"):
        find_experiment(str(place_of / "logs_s2_v2"))


def test_of_a_huge_log_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsvckpt.commands.bundle.experiment._LARGEST_LOG", 4)
    (tmp_path / "train.log").write_text("0123456789")
    assert read_end(str(tmp_path / "train.log")) == b"6789"
    with pytest.raises(MissingError):
        read_end(str(tmp_path))


# --- the best one --------------------------------------------------------------------------------------------------------------------------------


def test_scores_that_are_none_are_nothing() -> None:
    for root in (None, {}, {"callbacks": 3}, {"callbacks": {"a": None, "b": {}}}):
        assert read_scores(root) == CallbackScores()
    state = {"best_model_path": "C:\\x\\epoch=1-step=2.ckpt", "best_k_models": {"/y/a.ckpt": 1, 5: 2, "b.ckpt": "x", "c.ckpt": float("nan")}}
    assert read_scores({"callbacks": {"x{'mode': 'min'}": state}}) == CallbackScores("epoch=1-step=2.ckpt", {"a.ckpt": 1.0}, lowest=True)


def test_the_best_of_those_that_are_here() -> None:
    assert best_of([], []) == (None, "")
    assert best_of(["a", "b"], [CallbackScores("a"), CallbackScores()]) == ("a", "")
    assert best_of(["a", "b"], [CallbackScores("c", {"a": 2, "b": 1, "c": 9})])[0] == "a"
    assert best_of(["a", "b"], [CallbackScores("c", {"a": 2, "b": 1}, lowest=True)])[0] == "b"
    assert (
        best_of(["a", "b"], [CallbackScores(None, {"a": 2}), CallbackScores("z", {"b": 5})])[0] == "b"
    )  # earlier files tell of those that later ones forgot
    assert best_of(["a", "b"], [CallbackScores("z")]) == ("b", "best_model.ckpt is the newest, b: the best one, z, is not here")


# --- texts ---------------------------------------------------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=5))
def test_yaml_reads_back(values: dict[str, object]) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(to_yaml(values)) == values


def test_yaml_is_what_people_write() -> None:
    values = {
        "train": {"lr": 1e-5, "big": 1e300, "epochs": 8, "on": True, "nothing": None},
        "model": {},
        "a b": [1, 2.0, {"x": "v2\n"}],
        "f": float("inf"),
    }
    assert to_yaml(values) == (
        'train:\n  lr: 1.0e-05\n  big: 1.0e+300\n  epochs: 8\n  "on": true\n  nothing: null\nmodel: {}\n"a b": [1, 2.0, {x: "v2\\n"}]\nf: .inf\n'
    )
    assert to_yaml({}) == "{}\n"
    assert to_yaml({"x": "\udcff\x85"}) == 'x: "?\\U00000085"\n'


def test_the_size_of_a_manifest_is_known_before(tmp_path: Path) -> None:
    digests = {"md5": "0" * 32, "content": "1" * 32}
    entries = [ManifestEntry("声音-e8.ckpt", 5, 7, "gpt-weights", "v2", 8, None, digests), ManifestEntry("a.pth", 1, 2)]
    path = record(str(tmp_path), entries)
    assert manifest_size(entries) == os.path.getsize(path)


def test_names_that_a_manifest_can_hold() -> None:
    assert portable("a\udcff-e1.ckpt") == "a_-e1.ckpt"
    assert portable("声音-e1.ckpt") == "声音-e1.ckpt"


def test_a_bundle_tells_what_it_comes_to() -> None:
    left = (LeftOut("logs/a/logs_s2_v2/G_1.pth", "is damaged: x", 3), LeftOut("logs/a/logs_s1_v1", "older"))
    bundle = Bundle("logs/a", "out", "", (BundleItem("x", None, 3, "written"), BundleItem("y", None, 4, "copy")), left, ("note",))
    assert (bundle.size, bundle.exit_code) == (7, 3)
    assert bundle.warnings == (f"{os.path.join('logs_s2_v2', 'G_1.pth')}: is damaged: x", "logs_s1_v1: older", "note")
    assert isinstance(nothing_left(bundle), DamagedError)
    assert isinstance(nothing_left(Bundle("logs/a", "out", "", (), (), ())), MissingError)
    unsafe = Bundle("logs/a", "out", "", (), (LeftOut("logs/a/x", "is unsafe", 4),), ())
    assert isinstance(nothing_left(unsafe), RefusedError)
