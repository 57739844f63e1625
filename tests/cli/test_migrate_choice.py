"""gsvckpt migrate, which tensors it leaves out: --include and --exclude, and what no step may leave out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.oracle import assert_same

from .samples import assert_one_error, generator, gpt, numbers, s1_training, save, small, weights
from .test_migrate_states import load, migrate, rules, steps


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--include", "enc.*"], ["enc.a", "enc.b"]),
        (["--include", "enc.a", "--include", "dec.*"], ["enc.a", "dec.a"]),
        (["--exclude", "*.a"], ["enc.b"]),
        (["--include", "*.a", "--exclude", "dec.*"], ["enc.a"]),
    ],
)
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_globs_choose_tensors_and_nothing_else(gsvckpt, tmp_path, options, kept, form):
    flat = {name: numbers((2, n + 1)) for n, name in enumerate(("enc.a", "enc.b", "dec.a"))}
    nested = {"enc": {"a": flat["enc.a"], "b": flat["enc.b"]}, "dec": {"a": flat["dec.a"]}}
    tree = {"model": flat if form == "flat" else nested, "optimizer": {"state": {}, "param_groups": []}, "config": {"enc.a": 1}, "epoch": 3}
    source = save(tmp_path / "x.pth", tree)
    file, after = migrate(gsvckpt, source, *options)
    before = load(source)
    found = after["model"] if form == "flat" else {f"{part}.{name}": value for part, held in after["model"].items() for name, value in held.items()}
    assert list(found) == kept
    assert_same({key: after[key] for key in ("optimizer", "config", "epoch")}, {key: before[key] for key in ("optimizer", "config", "epoch")})
    assert set(steps(file, "choose")) == flat.keys() - set(kept)
    assert migrate(gsvckpt, Path(file["output"]), "--include", "*", "--check")[0]["changed"] is False


@pytest.mark.parametrize("option", ["--include", "--exclude"])
def test_a_glob_that_matches_nothing_is_a_mistake(gsvckpt, tmp_path, option):
    source = save(tmp_path / "x.pth", {"enc.weight": numbers((2,)), "dec.weight": numbers((2,))})
    run = gsvckpt("migrate", source, option, "dec.*", option, "enc.wieght")
    assert_one_error(run, source, 2)
    assert "enc.wieght" in run.err
    assert "enc.weight" in run.err.splitlines()[1]
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("tree", [[numbers((2,)), numbers((3,))], {"model": {"layers": [numbers((2,)), numbers((3,))], "w": numbers((1,))}}])
@pytest.mark.parametrize("step", [["--exclude", "*0"], ["--rules", "drop"], ["--like", "ref"]], ids=["exclude", "drop", "like"])
def test_what_stands_in_a_list_goes_or_is_refused_but_never_stays_in_silence(gsvckpt, tmp_path, tree, step):
    """A tensor that a glob, a rule or a reference takes out must not be in an output with exit code 0."""
    source = save(tmp_path / "x.pth", tree)
    reference = save(tmp_path / "ref.pth", {"1": numbers((3,)), "layers.1": numbers((3,)), "w": numbers((1,))})
    step = [str({"drop": rules(tmp_path, "drop = '*0'"), "ref": reference}.get(word, word)) for word in step]
    run = gsvckpt("migrate", source, *step, "-o", tmp_path / "out.pth")
    if run.code == 0:
        held = load(tmp_path / "out.pth")
        assert len(held if isinstance(held, list) else held["model"]["layers"]) == 1
    assert run.code in (0, 3, 4)


def test_leaving_out_what_gpt_sovits_needs_is_refused_and_force_insists(gsvckpt, tmp_path):
    voice = save(tmp_path / "v.pth", small({**generator("v2"), "ref_enc.fc.fc.weight": numbers((4, 4))}, "v2"))
    trained = save(tmp_path / "e.ckpt", s1_training({**gpt(dtype="float32"), "model.bert_proj.weight": numbers((4, 4))}))
    for source, name, said in ((voice, "ref_enc.fc.fc.weight", "leave those random"), (trained, "model.bert_proj.weight", "KeyError")):
        for step in (["--exclude", name], ["--rules", rules(tmp_path, f"drop = '{name}'")], ["--include", name.split(".", maxsplit=1)[0] + "_*"]):
            run = gsvckpt("migrate", source, *step)
            assert run.code in (2, 4) if step[0] == "--include" else run.code == 4
            assert step[0] == "--include" or (said in run.err and name in run.err)
        assert sorted(os.listdir(tmp_path)) == ["e.ckpt", "rules.toml", "v.pth"]
        file, after = migrate(gsvckpt, source, "--exclude", name, "--force", "-o", tmp_path / f"out{source.suffix}")
        assert name not in after.get("weight", after.get("state_dict"))
        assert file["written"]
        os.unlink(file["output"])


def test_leaving_out_everything_is_refused(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", weights({"a": (2,), "b": (2,)}))
    for options in (["--exclude", "*"], ["--rules", rules(tmp_path, "drop = '*'")]):
        assert gsvckpt("migrate", source, *options).code == 4
    assert sorted(os.listdir(tmp_path)) == ["rules.toml", "x.pth"]
