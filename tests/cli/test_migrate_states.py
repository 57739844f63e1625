"""gsvckpt migrate, what it does to a state dict: --like and --fill, and --rules."""

from __future__ import annotations

import io
import os
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from support.builders import tensor
from support.oracle import assert_same, hparams_class

from gsvckpt.sovits import upstream

from .samples import assert_one_error, discriminator, generator, gpt, numbers, s1_training, s2_training, save, shared, small

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def migrate(gsvckpt, source, *options, exit_code=0):
    """The JSON object of a run, and what torch loads of its output."""
    file = gsvckpt.json("migrate", source, *options, exit_code=exit_code).file
    if exit_code or not file["written"]:
        return file, None
    data = Path(file["output"]).read_bytes()
    with hparams_class():
        return file, torch.load(io.BytesIO(b"PK" + data[2:]), weights_only=False)


def load(path):
    with hparams_class():
        return torch.load(io.BytesIO(b"PK" + path.read_bytes()[2:]), weights_only=False)


def rules(folder, *tables):
    path = folder / "rules.toml"
    path.write_text("".join(f"[[rule]]\n{table}\n" for table in tables))
    return path


def steps(file, step):
    return [change["where"] for change in file["changes"] if change["step"] == step]


# --- like and fill -------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    """A file, and a reference with one tensor of the same shape, one of another and one more."""
    model = {"a": numbers((2, 2)), "b": numbers((3,)), "own": numbers((1,))}
    other = {"a": numbers((2, 2), seed=5), "b": numbers((4,), seed=6), "c": numbers((2,), seed=7)}
    return save(tmp_path / "x.pth", {"model": model, "n": 7}), save(tmp_path / "ref.pth", {"state_dict": other})


def test_like_keeps_what_has_its_name_and_shape_and_tells_the_rest(gsvckpt, pair):
    source, reference = pair
    before = reference.read_bytes()
    file, after = migrate(gsvckpt, source, "--like", reference)
    assert (list(after["model"]), after["n"]) == (["a"], 7)
    assert_same(after["model"]["a"], load(source)["model"]["a"])
    assert steps(file, "like") == ["b", "own"]
    assert [warning for warning in file["warnings"] if "b: has shape [3], where the reference has [4]" in warning]
    assert [warning for warning in file["warnings"] if "2 tensors" in warning and "the first b" in warning and "--fill" in warning]
    assert reference.read_bytes() == before


def test_fill_takes_what_is_missing_from_the_file(gsvckpt, pair):
    source, reference = pair
    file, after = migrate(gsvckpt, source, "--like", reference, "--fill")
    ours, theirs = load(source)["model"], load(reference)["state_dict"]
    assert_same(after["model"], {"a": ours["a"], "b": theirs["b"], "c": theirs["c"]})
    assert steps(file, "fill") == ["b", "c"]
    again, _ = migrate(gsvckpt, Path(file["output"]), "--like", reference, "--fill")
    assert (again["changed"], again["written"]) == (False, False)
    assert migrate(gsvckpt, Path(file["output"]), "--like", reference, "--check")[0]["changed"] is False


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_was_filled_in_is_cast_like_the_rest(gsvckpt, pair, dtype):
    source, reference = pair
    _, after = migrate(gsvckpt, source, "--like", reference, "--fill", "--dtype", dtype)
    theirs = load(reference)["state_dict"]
    assert all(torch.equal(after["model"][name], theirs[name].to(FLOATS[dtype])) for name in "bc")


@pytest.mark.parametrize("name", ["v2", "sovits-v2-small"])
def test_layouts_by_name(gsvckpt, tmp_path, name):
    state = {**generator("v2"), "enc_p.proj.bias": numbers((384,), "float16"), "odd.weight": numbers((2,))}
    source = save(tmp_path / "voice.pth", small(state, "v2"))
    file, after = migrate(gsvckpt, source, "--like", name, "--force")
    assert list(after["weight"]) == ["enc_p.proj.bias"]  # the only one of its real shape
    assert set(steps(file, "like")) == state.keys() - {"enc_p.proj.bias"}
    assert any("enc_p.text_embedding.weight: has shape [732, 2]" in warning for warning in file["warnings"])
    assert any("sovits-v2-small are missing" in warning for warning in file["warnings"])


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--like", "D.pth"], 4, "another family"),
        (["--like", "gpt.ckpt", "--fill"], 4, "another family"),
        (["--like", "gpt-v2"], 4, "another family"),
        (["--like", "mixed.ckpt", "--fill"], 4, "another family"),
        (["--like", "v2", "--fill"], 2, "layout"),
        (["--like", "v9"], 2, "v9"),
        (["--like", "sovits-v2-smal"], 2, "sovits-v2-small"),
        (["--like", "nothing.pth"], 2, "nothing.pth"),
        (["--fill"], 2, "--like"),
    ],
)
def test_what_cannot_be_a_reference_is_refused_and_nothing_is_written(gsvckpt, tmp_path, monkeypatch, options, code, said):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "D.pth", s2_training(discriminator()))
    save(tmp_path / "gpt.ckpt", s1_training(gpt()))
    save(tmp_path / "mixed.ckpt", s1_training({**gpt(), "enc_p.proj.bias": numbers((384,))}))  # a name in common makes no family
    source = save(tmp_path / "voice.pth", small({**generator("v2"), "enc_p.proj.bias": numbers((384,), "float16")}, "v2"))
    before = sorted(os.listdir(tmp_path))
    for more in ([], ["-n"], ["--check"], ["-o", "out.pth"], ["--in-place"]):
        run = gsvckpt("migrate", source, *options, *more)
        assert_one_error(run, "--fill" if options == ["--fill"] else source, code)
        assert said in run.err
        assert sorted(os.listdir(tmp_path)) == before


@pytest.fixture
def narrow(monkeypatch):
    """GPT-SoVITS's size windows, moved to where the shrunken files are."""
    monkeypatch.setattr(upstream, "V2_MIN_SIZE", 9_000)
    monkeypatch.setattr(upstream, "V3_MIN_SIZE", 90_000)


@pytest.mark.parametrize("kind", ["voice", "training"])
def test_the_recipe_of_a_v1_file_for_the_symbols_of_v2(gsvckpt, tmp_path, narrow, kind):
    """What people do by hand: a model of v1 with the larger text embedding of v2's base."""
    old, new = generator("v1"), {**generator("v2"), "enc_p.ssl_proj.weight": numbers((8, 4), seed=9)}
    tree = small(old, "v1") if kind == "voice" else s2_training(old)
    source, reference = save(tmp_path / "v1.pth", tree), save(tmp_path / "v2.pth", small(new, "v2"))
    for more in ([], ["-n"], ["--in-place"]):
        run = gsvckpt("migrate", source, "--like", reference, "--fill", *more)
        assert_one_error(run, source, 4)
        assert f"is v1, but {reference} is v2: 1 of its tensors" in run.err
        assert sorted(os.listdir(tmp_path)) == ["v1.pth", "v2.pth"]
    assert gsvckpt("migrate", source, "--like", reference, "-n", "--force").code == 0  # what is there may be kept: nothing is mixed
    file, after = migrate(gsvckpt, source, "--like", reference, "--fill", "--force")
    key = "weight" if kind == "voice" else "model"
    merged, ours, theirs = after[key], load(source)[key], load(reference)["weight"]
    assert list(merged) == ["enc_p.ssl_proj.weight", "dec.conv_pre.weight", "enc_p.text_embedding.weight"]
    assert merged["enc_p.text_embedding.weight"].shape == (732, 2)
    assert_same(list(merged.values()), [*(ours[name] for name in list(merged)[:2]), theirs[list(merged)[2]]])
    assert any("has shape [322, 2], where the reference has [732, 2]" in warning for warning in file["warnings"])
    assert kind == "training" or file["upstream_after"]["model"] == "v2"
    assert gsvckpt.json("inspect", file["output"]).file["version"] == "v2"


@pytest.mark.parametrize(
    ("ours", "theirs", "code"), [("v2", "v1", 4), ("v2", "v2Pro", 4), ("v2Pro", "v2ProPlus", 4), ("v3", "v4", 4), ("v2", "v2", 0), ("v3", "v3", 0)]
)
def test_a_voice_is_completed_by_its_own_version_alone(gsvckpt, tmp_path, ours, theirs, code):
    source = save(tmp_path / "a.pth", small(generator(ours), ours))
    reference = save(tmp_path / "b.pth", small({**generator(theirs), "more": numbers((2,))}, theirs))
    run = gsvckpt("migrate", source, "--like", reference, "--fill", "-n")
    assert run.code == code
    assert code == 0 or f"is {ours}, but {reference} is {theirs}" in run.err
    assert ("another network, and no conversion exists" in run.err) == ("Pro" in theirs)


@pytest.mark.parametrize("theirs", ["v2Pro", "sovits-v2Pro-small", "v3"])
def test_a_layout_of_another_network_is_refused_for_what_it_is(gsvckpt, tmp_path, theirs):
    source = save(tmp_path / "a.pth", small(generator("v2"), "v2"))
    run = gsvckpt("migrate", source, "--like", theirs, "--fill", "-n")
    assert run.code == 4
    assert "another network, and no conversion exists" in run.err
    assert "train again with the same recordings" in run.err


# --- rules ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "weight", "model", "state_dict"])
def test_names_change_where_the_state_dict_is(gsvckpt, tmp_path, place):
    state = OrderedDict((f"module.{name}", numbers((2, n + 1))) for n, name in enumerate("abc"))
    source = save(tmp_path / "x.pth", {place: state, "note": "module.a"} if place else state)
    file, after = migrate(gsvckpt, source, "--rules", "ddp", "--rules", rules(tmp_path, "drop = 'b'", "rename = '^(.)$'\nto = '\\1.weight'"))
    state, before = (tree[place] if place else tree for tree in (after, load(source)))
    assert type(state) is OrderedDict
    assert list(state) == ["a.weight", "c.weight"]
    assert all(torch.equal(state[f"{name}.weight"], before[f"module.{name}"]) for name in "ac")
    assert place == "" or after["note"] == "module.a"
    assert set(steps(file, "rules")) == {f"module.{name}" for name in "abc"}


def test_rules_leave_training_state_alone(gsvckpt, tmp_path):
    source = save(tmp_path / "G_16.pth", s2_training({"module.a": numbers((2, 2)), "module.b": numbers((2,))}))
    _, after = migrate(gsvckpt, source, "--rules", "ddp", "--rules", rules(tmp_path, "cast = '*'\ndtype = 'float16'"))
    before = load(source)
    assert list(after["model"]) == ["a", "b"]
    assert {value.dtype for value in after["model"].values()} == {torch.float16}
    for key in ("iteration", "optimizer", "learning_rate"):
        assert_same(after[key], before[key])


def test_names_inside_a_nested_state_dict_are_refused(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"model": {"enc": {"module.w": numbers((2,))}, "v": numbers((1,))}})
    run = gsvckpt("migrate", source, "--rules", rules(tmp_path, "rename = '^enc.module.'\nto = 'enc.'"))
    assert_one_error(run, source, 3)
    assert "nested" in run.err
    assert not source.with_name("x.migrated.pth").exists()


def test_a_rule_is_told_as_it_was_written(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"a": numbers((2,))})
    path = rules(tmp_path, r"rename = '^it\.(.*)\d$'" + "\n" + r"to = 'b.\1'")
    run = gsvckpt("migrate", source, "--rules", path, "-n")
    assert r"the rule rename '^it\.(.*)\d$' (line 2) matches no tensor" in run.err


def test_a_rule_without_effect_is_a_warning(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"a": numbers((2,)), "b": numbers((2,))})
    path = rules(tmp_path, "drop = 'nothing.*'", "drop = 'b'")
    file, after = migrate(gsvckpt, source, "--rules", path, "--rules", "torch-compile")
    assert list(after) == ["a"]
    assert len(file["warnings"]) == 2
    assert "nothing.*" in file["warnings"][0]
    assert "line 2" in file["warnings"][0]
    file, _ = migrate(gsvckpt, source, "--rules", "ddp")
    assert (file["changed"], len(file["warnings"])) == (False, 1)


@pytest.mark.parametrize(
    ("tree", "rule"),
    [
        ({"module.a": numbers((2,)), "a": numbers((3,))}, "strip-prefix = 'module.'"),
        ({"a": numbers((2,)), "b": numbers((3,))}, "rename = '^.$'\nto = 'x'"),
        ({"a": numbers((2,)), "b": numbers((3,)), "note": 7}, "rename = '^a$'\nto = 'note'"),
    ],
)
def test_two_names_that_would_become_one_are_refused(gsvckpt, tmp_path, tree, rule):
    source = save(tmp_path / "x.pth", tree)
    run = gsvckpt("migrate", source, "--rules", rules(tmp_path, rule))
    assert_one_error(run, source, 4)
    assert sorted(os.listdir(tmp_path)) == ["rules.toml", "x.pth"]


@pytest.mark.parametrize(
    ("text", "line"), [("[[rule]]\ndorp = 'x'\n", 2), ("[[rule]]\ndrop = 'x'\n[[rule]]\nrename = '('\nto = ''\n", 4), ("[[rule]]\ndrop = \n", 2)]
)
def test_mistakes_in_rules_are_told_with_file_and_line(gsvckpt, tmp_path, text, line):
    source = save(tmp_path / "x.pth", {"a": numbers((2,))})
    (tmp_path / "rules.toml").write_text(text)
    run = gsvckpt("migrate", source, "--rules", tmp_path / "rules.toml")
    assert_one_error(run, f"{tmp_path / 'rules.toml'}:{line}", 2)
    assert sorted(os.listdir(tmp_path)) == ["rules.toml", "x.pth"]


def test_rules_that_are_not_there(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"a": numbers((2,))})
    run = gsvckpt("migrate", source, "--rules", tmp_path / "none.toml")
    assert_one_error(run, tmp_path / "none.toml", 3)
    assert "ddp" in run.err


def test_a_cast_by_rule_casts_and_audits(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"a.norm": numbers((3, 3)), "a.w": numbers((4, 4)), "b": numbers((2,)), "n": tensor("int64", (1,), [1])})
    path = rules(
        tmp_path, "cast = '*'\ndtype = 'float16'", "cast = '*.norm'\ndtype = 'bfloat16'", "cast = 'b'\ndtype = 'float32'", "add-prefix = 'm.'"
    )
    file, after = migrate(gsvckpt, source, "--rules", path)
    before = load(source)
    wanted = {"a.norm": torch.bfloat16, "a.w": torch.float16, "b": torch.float32, "n": torch.int64}
    assert_same(after, {f"m.{name}": value.to(wanted[name]) for name, value in before.items()})
    assert (file["cast"], file["kept"], file["unchanged"], file["overflowed"]) == (2, 0, 2, [])
    errors = {f"m.{name}": (before[name].to(kind).float() - before[name]).abs().max().item() for name, kind in list(wanted.items())[:2]}
    assert {entry["name"]: entry["max_abs_error"] for entry in file["worst"]} == pytest.approx(errors)


def test_tied_tensors_stay_tied_whichever_of_them_is_dropped_or_renamed(gsvckpt, tmp_path):
    base = numbers((4, 6))
    tree = {"a": base, "tied": shared("float32", (4, 6), base.store), "part": shared("float32", (2, 6), base.store, 12), "c": numbers((2,))}
    source = save(tmp_path / "x.pth", tree)
    _, after = migrate(gsvckpt, source, "--rules", rules(tmp_path, "drop = 'a'", "rename = '^tied$'\nto = 'b'", "cast = '*'\ndtype = 'float16'"))
    assert list(after) == ["b", "part", "c"]
    assert after["b"].untyped_storage().data_ptr() == after["part"].untyped_storage().data_ptr()
    assert torch.equal(after["part"], load(source)["a"].half()[2:])


def test_a_cast_that_tied_tensors_forbid_is_not_passed_over_in_silence(gsvckpt, tmp_path):
    """Two names look at one storage, and a rule wants another dtype for one of them: both keep theirs, and that is said."""
    base = numbers((4, 4))
    source = save(tmp_path / "x.pth", {"a": base, "tied": shared("float32", (4, 4), base.store), "c": numbers((2,))})
    file, after = migrate(gsvckpt, source, "--rules", rules(tmp_path, "cast = '[ac]'\ndtype = 'float16'"))
    assert [value.dtype for value in after.values()] == [torch.float32, torch.float32, torch.float16]
    assert after["a"].untyped_storage().data_ptr() == after["tied"].untyped_storage().data_ptr()
    assert file["kept"] == 1 or any(re.search(r"\ba\b", warning) for warning in file["warnings"])
