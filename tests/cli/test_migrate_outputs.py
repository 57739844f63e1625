"""gsvckpt migrate: where its output goes and what it is called, what --dry-run and --check foretell, and that twice is once."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import Make, Name, Store, View, hparams, packed, tensor, torch_stream, torch_zip
from test_properties import TREES, same_bytes

from gsvckpt.cli.app import main
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.sovits.names import resumes

from .samples import assert_one_error, generator, leftovers, numbers, s2_training, save, small, weights
from .test_migrate_states import load, rules

# --- names and places ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.pth", "x.migrated.pth"),
        ("x.y.ckpt", "x.y.migrated.ckpt"),
        ("x.bin", "x.migrated.bin"),
        ("noextension", "noextension.migrated"),
        ("G_16.pth", "migrated-G_16.pth"),
        ("D_233333333333.pth", "migrated-D_233333333333.pth"),
        ("g_latest.PTH", "migrated-g_latest.PTH"),
        ("epoch=1-step=12.ckpt", "migrated-epoch=1-step=12.ckpt"),
        ("alice_e8_s16.pth", "alice_e8_s16.migrated.pth"),
    ],
)
@pytest.mark.parametrize("step", [["--dtype", "float16"], ["--plain"], ["--like", "ref"]], ids=["dtype", "plain", "like"])
def test_the_output_stands_beside_and_is_nothing_that_gpt_sovits_resumes_from(gsvckpt, tmp_path, name, expected, step):
    place = View(Store("float32", bytes(16), "cuda:0"), (2, 2), (2, 1))
    source = save(tmp_path / "run" / name, s2_training({"a": place, "b": numbers((2,))}))
    reference = save(tmp_path / "ref.pth", {"a": numbers((2, 2))})
    file = gsvckpt.json("migrate", source, *(reference if word == "ref" else word for word in step)).file
    assert Path(file["output"]) == source.with_name(expected)
    assert not resumes(expected)
    assert sorted(os.listdir(source.parent)) == sorted([name, expected])


def test_to_a_file_a_folder_and_a_folder_to_be_made(gsvckpt, tmp_path):
    one, two = (save(tmp_path / name, weights({"w": (4, 4)})) for name in ("x.pth", "G_16.pth"))
    (tmp_path / "there").mkdir()
    for argv, outputs in (
        (["-o", tmp_path / "named.pth", one], ["named.pth"]),
        (["-o", tmp_path / "there", one], ["there/x.pth"]),
        (["-o", f"{tmp_path}/made/", one], ["made/x.pth"]),
        (["-o", tmp_path / "many", one, two], ["many/x.pth", "many/G_16.pth"]),
    ):
        files = gsvckpt.json("migrate", *argv, "--dtype", "bfloat16").document["files"]
        assert [file["output"] for file in files] == [str(tmp_path / name) for name in outputs]
        assert all(load(tmp_path / name)["w"].dtype is torch.bfloat16 for name in outputs)


def test_several_sources_that_cannot_share_an_output(gsvckpt, tmp_path):
    paths = [save(tmp_path / folder / "x.pth", weights({"w": (4, 4)})) for folder in "ab"]
    assert_one_error(gsvckpt("migrate", *paths, "--dtype", "float16", "-o", tmp_path / "out"), paths[1], 2)
    assert_one_error(gsvckpt("migrate", *paths, "--dtype", "float16", "-o", paths[0]), paths[0], 2)
    assert not (tmp_path / "out").exists()


def test_one_bad_source_of_several_does_not_stop_the_others(gsvckpt, tmp_path):
    good, bad = (save(tmp_path / f"{name}.pth", {"a": numbers((2, 2))}) for name in ("good", "bad"))
    bad.write_bytes(bad.read_bytes()[:-40])
    reference = save(tmp_path / "ref.pth", {"a": numbers((2, 2)), "b": numbers((3,))})
    run = gsvckpt.json("migrate", bad, good, "--like", reference, "--fill", "-o", tmp_path / "out", exit_code=3)
    failed, done = run.document["files"]
    assert (failed["error"]["kind"], failed["written"], done["written"]) == ("damaged", False, True)
    assert os.listdir(tmp_path / "out") == ["good.pth"]
    assert list(load(tmp_path / "out" / "good.pth")) == ["a", "b"]


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("fill", [(), ("--fill",)])
def test_neither_the_source_nor_the_reference_is_overwritten(gsvckpt, tmp_path, force, fill):
    source = save(tmp_path / "x.pth", {"a": numbers((2, 2)), "own": numbers((3,))})
    reference = save(tmp_path / "ref.pth", {"a": numbers((2, 2), seed=4), "b": numbers((3,), seed=5)})
    (tmp_path / "folder").mkdir()
    save(tmp_path / "folder" / "x.pth", {"a": numbers((2, 2), seed=4), "b": numbers((3,), seed=5)})
    data = source.read_bytes(), reference.read_bytes()
    for output, like in ((source, reference), (reference, reference), (tmp_path / "folder", tmp_path / "folder" / "x.pth")):
        run = gsvckpt("migrate", source, "--like", like, *fill, *force, "-o", output)
        assert run.code == 4
        assert "-o PATH" in run.err
    assert (source.read_bytes(), reference.read_bytes()) == data
    assert (tmp_path / "folder" / "x.pth").read_bytes() == data[1]
    assert leftovers(tmp_path) == []


def test_in_place_takes_the_name_and_needs_no_second_time(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"module.a": numbers((40, 40)), "module.b": numbers((3,))})
    reference = save(tmp_path / "ref.pth", {"a": numbers((40, 40)), "c": numbers((3,))})
    before = load(source)
    source.chmod(0o640)
    argv = ["migrate", source, "--rules", "ddp", "--like", reference, "--fill", "--dtype", "float16", "--in-place"]
    file = gsvckpt.json(*argv).file
    assert (file["output"], file["bytes_after"]) == (str(source), source.stat().st_size)
    assert torch.equal(load(source)["a"], before["module.a"].half())
    assert os.name == "nt" or source.stat().st_mode & 0o777 == 0o640
    assert gsvckpt.json(*argv[:2], *argv[4:]).file["changed"] is False
    assert sorted(os.listdir(tmp_path)) == ["ref.pth", "x.pth"]


@pytest.mark.parametrize(
    "step", [["--to-inference"], ["--merge-lora", "b.pth"], ["--to", "safetensors"], ["--to", "torch"], ["--salvage"], ["-o", "o"]]
)
def test_in_place_makes_no_other_kind_of_file(gsvckpt, tmp_path, step):
    source = save(tmp_path / "G_16.pth", s2_training(generator("v2", enc_q=True)))
    data = source.read_bytes()
    run = gsvckpt("migrate", source, *step, "--in-place")
    assert_one_error(run, "--in-place", 2)
    assert source.read_bytes() == data
    assert os.listdir(tmp_path) == [source.name]


def test_check_tells_whether_there_is_something_to_do(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"module.w": numbers((4, 4))})
    for options in (
        ["--dtype", "float16"],
        ["--rules", "ddp"],
        ["--like", save(tmp_path / "ref.pth", {"module.w": numbers((4, 4)), "b": numbers((1,))}), "--fill"],
    ):
        file = gsvckpt.json("migrate", source, *options, "--check", exit_code=1).file
        assert (file["changed"], file["written"]) == (True, False)
        assert gsvckpt("migrate", source, *options, "-o", tmp_path / "done.pth", "--force").code == 0
        assert gsvckpt("migrate", tmp_path / "done.pth", *options, "--check").code == 0
        assert gsvckpt("migrate", source, tmp_path / "none.pth", *options, "--check").code == 3
    assert gsvckpt("migrate", source, "--check").code == 0
    assert gsvckpt("migrate", source, "--head", "05", "--check").code == 1


# --- what a dry run foretells --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("destination", ["beside", "named", "in place"])
@pytest.mark.parametrize(
    "step", [["--dtype", "float16"], ["--plain", "--scrub-paths"], ["--like", "ref", "--fill", "--dtype", "bfloat16"], ["--rules", "drop"]]
)
def test_a_dry_run_foretells_every_byte_and_writes_none(gsvckpt, tmp_path, destination, step):
    source = save(tmp_path / "x.pth", small({"a": numbers((2, 2)), "b": numbers((9,)), "big": tensor("float32", (2,), [1e6, 1])}, "v2"))
    words = {"ref": save(tmp_path / "ref.pth", {"a": numbers((2, 2)), "c": numbers((7,))}), "drop": rules(tmp_path, "drop = 'a'")}
    options = {"beside": [], "named": ["-o", tmp_path / "out.pth"], "in place": ["--in-place"]}[destination]
    argv = ["migrate", source, *(words.get(word, word) for word in step), *options]
    before, data = sorted(os.listdir(tmp_path)), source.read_bytes()
    planned = gsvckpt.json(*argv, "-n").file
    assert (sorted(os.listdir(tmp_path)), source.read_bytes()) == (before, data)
    written = gsvckpt.json(*argv).file
    assert (planned.pop("written"), written.pop("written")) == (False, True)
    assert planned == written
    assert os.path.getsize(written["output"]) == planned["bytes_after"]


def test_a_dry_run_tells_what_would_stop_a_real_one(gsvckpt, tmp_path):
    source, reference = (save(tmp_path / f"{name}.pth", {"a": numbers((2, 2)), name: numbers((3,))}) for name in ("x", "ref"))
    for output, force, words in (
        (source, [], "the source itself"),
        (reference, [], "one of the files being read"),
        (reference, ["--force"], "one of the files being read"),
    ):
        file = gsvckpt.json("migrate", source, "--like", reference, "--fill", "-o", output, "-n", *force).file
        assert any(words in warning for warning in file["warnings"]), (output, force)


def quietly(*argv):
    """(exit code, the JSON object of the one file), whatever it prints elsewhere."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main([os.fspath(word) for word in ("migrate", *argv, "--json")])
    assert "Traceback" not in err.getvalue()
    (file,) = json.loads(out.getvalue())["files"]
    return code, file


NAMES = st.text("ab.", min_size=1, max_size=4)
STORES = [
    Store(kind, packed(kind, [0.1, -2, 3e-7, 7, 1, 2]), location) for kind in ("float32", "float64", "bfloat16") for location in ("cpu", "cuda:0")
]
STORES += [Store("float32", packed("float32", [1e9, 1, 1, 1, 1, 1])), Store("int64", bytes(48)), Store("float32", b"")]
VIEWS = st.sampled_from(STORES).flatmap(
    lambda store: st.sampled_from(
        [View(store, (store.numel,), (1,)), View(store, (min(store.numel, 2), 3), (1, 2)), View(store, (store.numel // 6,), (1,), store.numel // 2)]
    )
)
STATES = st.dictionaries(NAMES, VIEWS, min_size=1, max_size=5)
CONFIGS = st.sampled_from(
    [{}, {"config": hparams({"n": 1, "path": Make(Name("pathlib", "PosixPath"), ("/", "home", "me"))})}, {"epoch": 3, "note": "a/b"}]
)
FILES = st.builds(
    lambda key, state, more: {key: OrderedDict(state), **more} if key else state, st.sampled_from(["", "weight", "model"]), STATES, CONFIGS
)
RULES = {"drop": "drop = ['a*', 'b.*']", "rename": "rename = 'a+'\nto = 'x'", "cast": "cast = '*b*'\ndtype = 'bfloat16'"}
STEPS = st.fixed_dictionaries(
    {},
    optional={
        "--dtype": st.sampled_from(["float32", "float16", "bfloat16"]),
        "--on-overflow": st.sampled_from(["keep", "clamp", "error"]),
        "--plain": st.none(),
        "--scrub-paths": st.none(),
        "--rules": st.sampled_from(list(RULES)),
        "--exclude": st.sampled_from(["a*", "*b"]),
    },
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(FILES | TREES, STEPS, st.sampled_from([torch_zip, torch_stream]))
def test_of_any_tree_the_size_is_foretold_and_twice_is_once(tree, steps, container):
    with tempfile.TemporaryDirectory() as folder:
        source, out, again = (Path(folder, f"{name}.pth") for name in ("x", "out", "again"))
        source.write_bytes(container(tree))
        data = source.read_bytes()
        for name, text in RULES.items():
            Path(folder, name).write_text(f"[[rule]]\n{text}\n")
        options = [
            word for key, value in steps.items() for word in ([key] if value is None else [key, f"{folder}/{value}" if key == "--rules" else value])
        ]
        code, planned = quietly(source, *options, "-o", out, "-n")
        assert not out.exists()
        assert quietly(source, *options, "-o", out)[0] == code
        assert source.read_bytes() == data
        assert not leftovers(Path(folder))
        if code:
            assert (code in (2, 3, 4), out.exists()) == (True, False)
            return
        assert planned["bytes_after"] == out.stat().st_size
        options = [word for word in options if word not in ("--exclude", "a*", "*b")]  # what went already is not there to be excluded again
        code, file = quietly(out, *options, "-o", again)
        if "--rules" in steps and code:  # nor is there a model once everything of it went
            return
        assert code == 0
        assert again.read_bytes() == out.read_bytes()
        assert file["changed"] is False
        with open_checkpoint(out) as one, open_checkpoint(again) as two:
            assert first_difference(one.root, two.root, same_bytes) is None


def test_what_one_source_became_another_does_not_replace(gsvckpt, tmp_path):
    one, two = (save(tmp_path / name, {"a": numbers((2, 2))}) for name in ("a.pth", "a.ckpt"))
    run = gsvckpt("migrate", one, two, "--to", "safetensors", "-o", f"{tmp_path}/out/", "--force")
    assert run.code == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.safetensors"]
