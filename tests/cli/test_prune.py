"""gsvckpt prune, as users run it."""

from __future__ import annotations

import json
import os
import time

import pytest
import torch
from support.voices import sovits_config

from gsvckpt.commands.prune.trash_run import Step, begin

from .samples import adamw, generator, gpt, s1_training, s2_training, save
from .trees import dated, gpt_sovits, s1_run, s2_run, settings, small_weights, snapshot


def names(groups, fate):
    return sorted(os.path.basename(path) for group in groups for unit in group[fate] for path in unit["paths"])


def reasons(groups, fate):
    return {os.path.basename(unit["paths"][0]): unit["reasons"] for group in groups for unit in group[fate]}


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.fixture
def run(tmp_path):
    """A SoVITS run of five epochs."""
    return s2_run(tmp_path / "logs" / "alice" / "logs_s2_v2", range(1, 6))


def test_a_dry_run_tells_and_changes_nothing(gsvckpt, tmp_path, run):
    before = snapshot(tmp_path)
    document = gsvckpt.json("prune", tmp_path, "--keep-last", "2", "-n").document
    (group,) = document["groups"]
    assert group["group"] == "alice/sovits-training/v2"
    assert names([group], "keep") == ["D_10.pth", "D_8.pth", "G_10.pth", "G_8.pth"]
    assert reasons([group], "keep")["G_10.pth"] == ["among the last 2", "GPT-SoVITS resumes from it"]
    assert reasons([group], "remove") == {f"G_{n}.pth": ["not among the last 2"] for n in (2, 4, 6)}
    assert document["freed_bytes"] == sum((run / f"{letter}_{n}.pth").stat().st_size for letter in "GD" for n in (2, 4, 6))
    assert snapshot(tmp_path) == before


def test_the_real_run_does_what_the_dry_run_said(gsvckpt, tmp_path, run):
    before = snapshot(tmp_path)
    planned = gsvckpt.json("prune", tmp_path, "--keep-last", "2", "-n").document
    done = gsvckpt.json("prune", tmp_path, "--keep-last", "2", "--yes").document
    assert (done["groups"], done["freed_bytes"], done["ignored"]) == (planned["groups"], planned["freed_bytes"], planned["ignored"])
    assert files(run) == ["D_10.pth", "D_8.pth", "G_10.pth", "G_8.pth"]
    assert gsvckpt.json("prune", tmp_path, "--undo").document["runs"][0]["root"] == str(tmp_path)
    assert snapshot(tmp_path) == before


def test_nobody_to_ask_is_no_yes(gsvckpt, tmp_path, run):
    before = snapshot(tmp_path)
    done = gsvckpt("prune", tmp_path, "--keep-last", "2")
    assert done.code == 4
    assert "--yes" in done.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 4), ("\n", 4), ("", 4)])
def test_on_a_terminal_it_asks(gsvckpt, tmp_path, run, monkeypatch, answer, code):
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    before = snapshot(tmp_path)
    done = gsvckpt("prune", tmp_path, "--keep-last", "2", "--no-progress")
    assert done.code == code, done.err
    assert "to the trash? [y/N]" in done.err
    assert (snapshot(tmp_path) == before) == (code == 4)


def test_the_newest_that_is_damaged_is_not_the_newest(gsvckpt, tmp_path, run):
    path = run / "G_10.pth"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    dated(path, 5)
    document = gsvckpt.json("prune", tmp_path, "--keep-last", "1", "--yes").document
    assert files(run) == ["D_10.pth", "D_8.pth", "G_10.pth", "G_8.pth"]
    assert "G_10.pth" in document["ignored"][0]["path"]
    assert "damaged" in document["ignored"][0]["why"]


def test_of_a_pair_the_damaged_one_is_named(gsvckpt, tmp_path, run):
    data = bytearray((run / "D_10.pth").read_bytes())
    data[len(data) // 2] ^= 255
    (run / "D_10.pth").write_bytes(data)
    (left,) = gsvckpt.json("prune", tmp_path, "--keep-last", "1", "-n").document["ignored"]
    assert left["why"].startswith("D_10.pth is damaged")


def test_weights_that_are_no_numbers_are_no_survivors(gsvckpt, tmp_path):
    run = s2_run(tmp_path / "logs_s2_v2", range(1, 3))
    tree = torch.load(run / "G_4.pth", weights_only=False)
    next(iter(tree["model"].values()))[0] = float("nan")
    torch.save(tree, run / "G_4.pth")
    dated(run / "G_4.pth", 2)
    gsvckpt.json("prune", tmp_path, "--keep-last", "1", "--yes")
    assert files(run) == ["D_2.pth", "D_4.pth", "G_2.pth", "G_4.pth"]


def test_a_whole_gpt_sovits_folder(gsvckpt, tmp_path):
    gpt_sovits(tmp_path)
    settings(tmp_path, GPT="GPT_weights_v2/alice-e2.ckpt", SoVITS="SoVITS_weights_v2/alice_e1_s2.pth")
    save(tmp_path / "GPT_SoVITS" / "pretrained_models" / "s2G488k.pth", {"weight": generator("v1", enc_q=True)})
    before = snapshot(tmp_path)
    gsvckpt.json("prune", tmp_path, "--keep-last", "1", "--yes")
    assert files(tmp_path / "GPT_weights_v2") == ["alice-e2.ckpt", "alice-e5.ckpt"]
    assert files(tmp_path / "SoVITS_weights_v2") == ["alice_e1_s2.pth", "alice_e5_s10.pth"]
    assert files(tmp_path / "logs" / "alice" / "logs_s1_v2" / "ckpt") == ["epoch=4-step=60.ckpt"]
    assert (tmp_path / "GPT_SoVITS" / "pretrained_models" / "s2G488k.pth").exists()
    gsvckpt.json("prune", tmp_path, "--undo")
    assert snapshot(tmp_path) == before


def test_the_best_by_what_training_watched(gsvckpt, tmp_path):
    known = {f"/old/epoch={n - 1}-step={12 * n}.ckpt": score for n, score in ((1, 0.2), (2, 0.9), (3, 0.4))}
    run = s1_run(tmp_path / "logs" / "a" / "logs_s1_v2" / "ckpt", range(1, 4), best_model_path="", best_k_models=known, current_score=0.4)
    gsvckpt.json("prune", tmp_path, "--keep-best", "1", "--yes")
    assert files(run) == ["epoch=1-step=24.ckpt", "epoch=2-step=36.ckpt"]


def test_the_best_by_a_file_of_metrics(gsvckpt, tmp_path, run):
    log = tmp_path / "log.csv"
    log.write_text("epoch,loss\n1,0.1\n2,0.5\n3,nan\n4,0.7\n5,0.6\n")
    gsvckpt.json("prune", run, "--keep-best", "1", "--metrics", log, "--yes")
    assert files(run) == ["D_10.pth", "D_2.pth", "G_10.pth", "G_2.pth"]


def test_a_policy_in_a_file_and_in_the_folder(gsvckpt, tmp_path, run):
    (tmp_path / "policy.toml").write_text('[prune]\nkeep-last = 1\n[prune.groups."alice/*"]\nkeep-every = 2\n')
    document = gsvckpt.json("prune", tmp_path, "--policy", tmp_path / "policy.toml", "-n").document
    assert names(document["groups"], "keep") == sorted(f"{letter}_{n}.pth" for letter in "GD" for n in (4, 8, 10))
    (tmp_path / "gsvckpt.toml").write_text("[prune]\nkeep-last = 3\n")
    document = gsvckpt.json("prune", tmp_path, "-n").document
    assert len(names(document["groups"], "keep")) == 6


def test_no_rule_is_refused(gsvckpt, tmp_path, run):
    done = gsvckpt("prune", tmp_path)
    assert done.code == 2
    assert "--keep-last" in done.err


def test_a_group_of_which_the_rules_keep_nothing_is_left_alone(gsvckpt, tmp_path):
    small_weights(tmp_path, "alice", range(1, 4))
    done = gsvckpt("prune", tmp_path, "--keep", "bob*", "--yes", "-v")
    assert done.code == 0
    assert "left alone" in done.out
    assert len(list(tmp_path.rglob("*.pth"))) == 3


def test_no_checkpoint_at_all(gsvckpt, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    done = gsvckpt("prune", tmp_path, "--keep-last", "1")
    assert done.code == 3
    assert "hint: " in done.err
    assert gsvckpt("prune", tmp_path / "nowhere", "--keep-last", "1").code == 3


@pytest.mark.parametrize("to", ["stripped", "inference"])
def test_older_ones_shrink(gsvckpt, tmp_path, to):
    s2_run(tmp_path / "logs" / "alice" / "logs_s2_v2Pro", range(1, 6), "v2Pro")
    (tmp_path / "logs" / "alice" / "config.json").write_text(json.dumps(sovits_config("alice", "v2Pro", 5)))
    before = snapshot(tmp_path)
    planned = gsvckpt.json("prune", tmp_path, "--demote-after", "2", "--demote-to", to, "-n").document
    done = gsvckpt.json("prune", tmp_path, "--demote-after", "2", "--demote-to", to, "--yes").document
    assert done["groups"] == planned["groups"]
    (group,) = done["groups"]
    demoted = [(path, unit) for unit in group["demote"] for path in unit["outputs"]]
    assert len(demoted) == (6 if to == "stripped" else 3), group
    for path, _ in demoted:
        tree = torch.load(path, weights_only=False) if to == "stripped" else None
        assert tree is None or (tree["optimizer"] is None and tree["iteration"] <= 3)
    for unit in group["demote"]:
        assert sum(os.path.getsize(path) for path in unit["outputs"]) == unit["bytes_after"]
    gsvckpt.json("prune", tmp_path, "--undo")
    assert snapshot(tmp_path) == before


def test_training_goes_on_from_what_shrank(gsvckpt, tmp_path):
    """Where the saves after it are gone, or were bad, and it is the one that GPT-SoVITS takes."""
    root = tmp_path / "logs" / "我的声音"
    sovits, ckpt = s2_run(root / "logs_s2_v2", range(1, 5)), root / "logs_s1_v2" / "ckpt"
    for epoch in range(1, 5):
        tree = s1_training(gpt()) | {"epoch": epoch - 1, "global_step": 12 * epoch, "callbacks": {}}
        tree["hyper_parameters"] = {"config": {"train": {"epochs": 20}}, "output_dir": "logs/x/logs_s1_v2"}
        dated(save(ckpt / f"epoch={epoch - 1}-step={12 * epoch}.ckpt", tree), epoch)
    (root / "config.json").write_text(json.dumps(sovits_config("我的声音", "v2", 20)))
    document = gsvckpt.json("prune", root, "--demote-after", "1", "--yes").document
    assert len(names(document["groups"], "demote")) == 9
    for path in (sovits / "G_8.pth", sovits / "D_8.pth", ckpt / "epoch=3-step=48.ckpt"):
        path.unlink()
    shown = gsvckpt.json("verify", root, "--resume", "--layout", "none").document["files"]
    told = [finding["why"] for file in shown for finding in file["findings"] if finding["check"].startswith("resume.")]
    assert "training resumes from epoch=2-step=36.ckpt at epoch 4 of 20" in told
    assert "training resumes from G_6.pth and D_6.pth at epoch 4 of 20" in told
    assert sum("fresh moments" in why for why in told) == 2  # of G and D; those of GPT begin anew, too
    assert torch.load(ckpt / "epoch=2-step=36.ckpt", weights_only=False)["optimizer_states"] == []


@pytest.mark.parametrize("rules", [["--keep-last", "1"], ["--demote-after", "1"]], ids=str)
def test_what_training_called_the_best_stays_as_it_is(gsvckpt, tmp_path, rules):
    run = s1_run(tmp_path / "logs_s1_v2" / "ckpt", range(1, 5), best_model_path="/home/me/logs/a/logs_s1_v2/ckpt/epoch=1-step=24.ckpt")
    before = snapshot(run)
    document = gsvckpt.json("prune", tmp_path, *rules, "--yes").document
    assert reasons(document["groups"], "keep")["epoch=1-step=24.ckpt"] == ["epoch=3-step=48.ckpt calls it the best by training accuracy"]
    after = snapshot(run)
    assert [name for name, data in before.items() if after.get(name) == data] == ["epoch=1-step=24.ckpt", "epoch=3-step=48.ckpt"]


def test_small_weights_of_gpt_stand_above_the_folder_that_is_emptied(gsvckpt, tmp_path):
    ckpt = s1_run(tmp_path / "logs" / "我的声音" / "logs_s1_v2" / "ckpt", range(1, 4))
    before = snapshot(tmp_path)
    words = ["--demote-after", "1", "--demote-to", "inference"]
    alone = gsvckpt.json("prune", ckpt, *words, "-n").document["groups"]  # the trash of the folder does not reach above it
    assert names(alone, "demote") == []
    assert "one folder up" in reasons(alone, "keep")["epoch=1-step=24.ckpt"][0]
    planned = gsvckpt.json("prune", tmp_path, *words, "-n").document["groups"]
    assert gsvckpt.json("prune", tmp_path, *words, "--yes").document["groups"] == planned
    assert [path for unit in planned[0]["demote"] for path in unit["outputs"]] == [str(ckpt.parent / f"我的声音-e{epoch}.ckpt") for epoch in (2, 1)]
    assert (files(ckpt), files(ckpt.parent)) == (["epoch=2-step=36.ckpt"], ["我的声音-e1.ckpt", "我的声音-e2.ckpt"])
    gsvckpt.json("prune", tmp_path, "--undo")
    assert snapshot(tmp_path) == before


def test_what_cannot_shrink_stays(gsvckpt, tmp_path, run):
    """Small weights need a config, and there is none."""
    document = gsvckpt.json("prune", tmp_path, "--demote-after", "2", "--demote-to", "inference", "--yes").document
    assert names(document["groups"], "demote") == []
    assert "cannot be made smaller" in reasons(document["groups"], "keep")["G_2.pth"][0]
    assert len(files(run)) == 10


def test_what_shrank_keeps_its_time(gsvckpt, tmp_path, run):
    before = (run / "G_2.pth").stat().st_mtime_ns
    gsvckpt.json("prune", tmp_path, "--demote-after", "2", "--yes")
    assert (run / "G_2.pth").stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", ["sovits", "other"])
def test_what_shrank_is_not_removed_by_the_same_rules(gsvckpt, tmp_path, kind):
    if kind == "sovits":
        s2_run(tmp_path / "logs_s2_v2", range(1, 4))
    else:
        for number in (1, 2, 3):
            save(tmp_path / f"model_{number}.pth", {"state_dict": generator("v2"), "epoch": number, "optimizer": adamw(generator("v2"))})
    count = len(list(tmp_path.rglob("*.pth")))
    for _ in range(2):
        gsvckpt.json("prune", tmp_path, "--keep-last", "1", "--demote-after", "1", "--yes", "--purge")
    assert len(list(tmp_path.rglob("*.pth"))) == count


def test_a_second_name_is_no_reason_to_shrink(gsvckpt, tmp_path, run):
    os.link(run / "G_2.pth", tmp_path / "mine.bak")
    document = gsvckpt.json("prune", run, "--demote-after", "2", "--yes").document
    assert "hard link" in reasons(document["groups"], "keep")["G_2.pth"][0]
    assert document["freed_bytes"] > 0


def test_a_name_that_is_taken_is_seen_in_the_plan(gsvckpt, tmp_path):
    s2_run(tmp_path / "logs" / "alice" / "logs_s2_v2Pro", range(1, 4), "v2Pro")
    (tmp_path / "logs" / "alice" / "config.json").write_text(json.dumps(sovits_config("alice", "v2Pro", 5)))
    (tmp_path / "logs" / "alice" / "logs_s2_v2Pro" / "alice_e1_s2.pth").write_text("mine")
    document = gsvckpt.json("prune", tmp_path, "--demote-after", "1", "--demote-to", "inference", "-n").document
    assert "exists already" in reasons(document["groups"], "keep")["G_2.pth"][0]


def test_a_dry_run_says_that_another_was_interrupted(gsvckpt, tmp_path, run):
    begin(str(tmp_path), [Step("logs/alice/logs_s2_v2/G_2.pth", 1, 1)], "20261125T000000.000000001")
    assert "interrupted" in gsvckpt("prune", tmp_path, "--keep-last", "2", "-n").err
    gsvckpt.json("prune", tmp_path, "--keep-last", "2", "--yes")
    assert "interrupted" not in gsvckpt("prune", tmp_path, "--keep-last", "2", "-n").err


def test_what_is_stripped_already_is_not_stripped_again(gsvckpt, tmp_path, run):
    gsvckpt.json("prune", tmp_path, "--demote-after", "2", "--yes")
    again = gsvckpt.json("prune", tmp_path, "--demote-after", "2", "--yes").document
    assert names(again["groups"], "demote") == []


def test_purge_leaves_no_way_back(gsvckpt, tmp_path, run):
    freed = gsvckpt.json("prune", tmp_path, "--keep-last", "1", "--purge", "--yes").document["freed_bytes"]
    assert freed > 0
    assert not (tmp_path / ".gsvckpt-trash").exists()
    assert gsvckpt("prune", tmp_path, "--undo").code == 3


def test_the_trash_is_emptied_when_asked(gsvckpt, tmp_path, run):
    gsvckpt.json("prune", tmp_path, "--keep-last", "1", "--yes")
    assert gsvckpt.json("prune", tmp_path, "--empty-trash", "--older-than", "1d", "--yes").document["freed_bytes"] == 0
    assert gsvckpt("prune", tmp_path, "--empty-trash").code == 4
    assert (tmp_path / ".gsvckpt-trash").exists()
    assert gsvckpt.json("prune", tmp_path, "--empty-trash", "--yes").document["freed_bytes"] > 0
    assert not (tmp_path / ".gsvckpt-trash").exists()


def test_an_archive_has_every_file_before_it_goes(gsvckpt, tmp_path, run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    gsvckpt.json("prune", tmp_path / "logs", "--keep-last", "1", "--archive", tmp_path / "old", "--purge", "--yes")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "old").rglob("*.pth")}
    assert {**kept, **{path.name: path.read_bytes() for path in run.iterdir()}} == before
    assert len(kept) == 8


def test_a_copy_in_the_archive_counts_only_while_it_is_good(gsvckpt, tmp_path, run):
    before, archive = (run / "G_2.pth").read_bytes(), tmp_path / "old"
    gsvckpt.json("prune", tmp_path / "logs", "--keep-last", "1", "--archive", archive, "--yes")
    gsvckpt.json("prune", tmp_path / "logs", "--undo")
    (copy,) = archive.rglob("G_2.pth")
    facts, data = copy.stat(), bytearray(before)
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    gsvckpt.json("prune", tmp_path / "logs", "--keep-last", "1", "--archive", archive, "--purge", "--yes")
    assert before in [path.read_bytes() for path in archive.rglob("G_2*.pth")]


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_no_unicode_stays_where_the_archive_cannot_hold_it(gsvckpt, tmp_path, run):
    name = "\udcff-e1.ckpt"
    small_weights(tmp_path, "alice", range(1, 4))
    folder = tmp_path / "GPT_weights_v2"
    os.rename(folder / "alice-e3.ckpt", folder / "\udcff-e3.ckpt")
    os.rename(folder / "alice-e1.ckpt", folder / name)
    document = gsvckpt.json("prune", folder, "--keep-last", "1", "--archive", tmp_path / "old", "--yes", exit_code=5).document
    assert "not valid Unicode" in document["files"][0]["error"]["why"]
    assert name in files(folder)
    assert not (tmp_path / "old").exists()


def test_a_glob_that_keeps_nothing_is_told(gsvckpt, tmp_path, run):
    done = gsvckpt("prune", tmp_path, "--keep-last", "1", "--keep", "*_2.pth", "--keep", "bset*", "-n")
    assert done.code == 0
    assert "bset*" in done.err
    assert "_2.pth" not in done.err


def test_a_glob_of_groups_that_there_are_not_is_told(gsvckpt, tmp_path, run):
    policy = tmp_path / "policy.toml"
    policy.write_text('[prune]\nkeep-last = 1\n[prune.groups."alice/*"]\nkeep-last = 2\n[prune.groups."alcie/*"]\nkeep-last = 3\n')
    done = gsvckpt("prune", run, "--policy", policy, "-n")
    assert done.code == 0
    assert "prune.groups: warning: alcie/* matches no group" in done.err
    assert "alice/*" not in done.err


def test_a_size_that_what_has_to_stay_exceeds_is_told(gsvckpt, tmp_path, run):
    assert "max-size: warning: the files that must stay take" in gsvckpt("prune", run, "--max-size", "1kB", "-n").err
    assert "max-size" not in gsvckpt("prune", run, "--max-size", "1GB", "-n").err


def test_a_glob_that_the_shell_took_apart_is_refused(gsvckpt, tmp_path, run):
    done = gsvckpt("prune", run, "--keep-last", "1", "--keep", run / "G_2.pth", run / "G_4.pth", run / "G_6.pth", "--yes")
    assert done.code == 2
    assert "quotes" in done.err
    assert len(files(run)) == 10
    assert gsvckpt("prune", run, run / "G_4.pth", "--keep-last", "1", "-n").code == 0


def test_an_archive_inside_is_refused(gsvckpt, tmp_path, run):
    assert gsvckpt("prune", tmp_path, "--keep-last", "1", "--archive", tmp_path / "old", "--yes").code == 2


def test_the_manifest_forgets_what_went_and_undo_brings_it_back(gsvckpt, tmp_path):
    small_weights(tmp_path, "alice", range(1, 4))
    folder = tmp_path / "GPT_weights_v2"
    gsvckpt("verify", folder, "--record", "--checks", "*,-layout,-version")
    gsvckpt("verify", folder, "--record")
    (folder / "gsvckpt.toml").write_text("# mine\n" + (folder / "gsvckpt.toml").read_text()) if (folder / "gsvckpt.toml").exists() else None
    before = snapshot(tmp_path)
    gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    assert '"check": "manifest.missing"' not in gsvckpt("verify", folder, "--json").out
    gsvckpt.json("prune", folder, "--undo")
    assert snapshot(tmp_path) == before


def test_undo_takes_the_last_run_though_the_clock_was_put_back(gsvckpt, tmp_path, run, monkeypatch):
    gsvckpt.json("prune", tmp_path, "--keep-last", "3", "--yes")
    between = files(run)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 86_400 * 10**9)
    gsvckpt.json("prune", tmp_path, "--keep-last", "1", "--yes")
    gsvckpt.json("prune", tmp_path, "--undo")
    assert files(run) == between


def test_the_trash_is_not_pruned(gsvckpt, tmp_path, run):
    gsvckpt.json("prune", tmp_path, "--keep-last", "1", "--yes")
    before = snapshot(tmp_path)
    trash = tmp_path / ".gsvckpt-trash"
    for folder in (trash, *trash.iterdir()):
        done = gsvckpt("prune", folder, "--keep-last", "1", "--purge", "--yes")
        assert done.code == 4
        assert f"{tmp_path} --undo" in done.err
    assert snapshot(tmp_path) == before


def test_why_nothing_happens_is_told(gsvckpt, tmp_path, run):
    (tmp_path / "logs" / "alice" / "config.json").unlink(missing_ok=True)
    shown = gsvckpt("prune", tmp_path, "--demote-after", "1", "--demote-to", "inference", "-n").out
    assert "1 group left as it is, 5 saves" in shown
    assert "1 group: cannot be made smaller: " in shown
    assert "1 group: no metric is known for it" in gsvckpt("prune", tmp_path, "--keep-best", "1", "-n").out


def test_strays_go(gsvckpt, tmp_path, run):
    stray = dated(save(tmp_path / "1745000000.1234567.pth", s2_training(generator("v2"), 1)), 0)
    gsvckpt.json("prune", tmp_path, "--keep-last", "5", "--yes")
    assert not stray.exists()
    assert len(files(run)) == 10


def test_the_table_fits_80_columns(gsvckpt, tmp_path):
    gpt_sovits(tmp_path / "x", epochs=range(1, 30))
    out = gsvckpt("prune", tmp_path / "x" / "logs" / "alice", "--keep-last", "2", "--keep-every", "5", "-n").out
    pictures = [line for line in out.splitlines() if "e1 " in line and "e29" in line]
    assert len(pictures) == 2
    assert all(len(line) <= 80 for line in pictures)
    assert out.count("remove 22, ") == 2
    assert "-v lists every save" in out
    listed = gsvckpt("prune", tmp_path / "x" / "logs" / "alice" / "logs_s2_v2", "--keep-last", "2", "--keep-every", "5", "-n").out
    assert "and 10 more" in listed


def test_two_roots_each_with_their_own_trash(gsvckpt, tmp_path):
    for name in ("a", "b"):
        s2_run(tmp_path / name / "logs_s2_v2", range(1, 4))
    before = snapshot(tmp_path)
    gsvckpt.json("prune", tmp_path / "a", tmp_path / "b", "--keep-last", "1", "--yes")
    assert (tmp_path / "a" / ".gsvckpt-trash").is_dir()
    assert (tmp_path / "b" / ".gsvckpt-trash").is_dir()
    gsvckpt.json("prune", tmp_path, "--undo")
    assert snapshot(tmp_path) == before


def test_inspect_and_verify_do_not_look_into_the_trash(gsvckpt, tmp_path, run):
    gsvckpt.json("prune", tmp_path, "--keep-last", "1", "--yes")
    assert len(gsvckpt.json("inspect", tmp_path, "-r").document["files"]) == 2


# --- whose rules they are --------------------------------------------------------------------------------------------------------------------------


def policy_of(document):
    return {key: document["policy"][key] for key in ("file", "rules", "options")}


def test_options_alone_come_from_no_file(gsvckpt, tmp_path, run):
    (run / "gsvckpt.toml").write_text("[files]\n")
    done = gsvckpt.json("prune", run, "--keep-last", "2", "--keep-within", "36h", "--keep", "*x*", "-n")
    rules = {"keep-last": 2, "keep-within": "36h", "keep": ["*x*"]}
    assert policy_of(done.document) == {"file": None, "rules": rules, "options": rules}
    assert "rules of" not in gsvckpt("prune", run, "--keep-last", "2", "-n").out


@pytest.mark.parametrize("named", [False, True], ids=["its own", "named"])
def test_a_file_is_named_with_its_rules(gsvckpt, tmp_path, run, named):
    """A folder's own may come from a stranger, who wants something gone."""
    path = tmp_path / "policy.toml" if named else run / "gsvckpt.toml"
    path.write_text('[prune]\nkeep-last = 1\nmax-size = "3GB"\nkeep-within = "1w"\n[prune.groups."alice/*"]\nkeep-every = 2\n')
    more = ["--policy", path] if named else []
    rules = {"keep-last": 1, "keep-within": "7d", "max-size": 3_000_000_000, "groups": {"alice/*": {"keep-every": 2}}}
    assert policy_of(gsvckpt.json("prune", run, *more, "-n").document) == {"file": str(path), "rules": rules, "options": {}}
    shown = gsvckpt("prune", run, *more, "-n").out.splitlines()
    assert shown[:2] == [f"rules of {path}: keep-last 1, keep-within 7d, max-size 3.0 GB", "  [alice/*]: keep-every 2"]
    assert policy_of(gsvckpt.json("prune", run, *more, "--yes").document)["file"] == str(path)


def test_a_file_and_options_are_both_named(gsvckpt, tmp_path, run):
    (run / "gsvckpt.toml").write_text("[prune]\nkeep-last = 1\nkeep-every = 5\n")
    document = gsvckpt.json("prune", run, "--keep-last", "2", "-n").document
    assert policy_of(document) == {"file": str(run / "gsvckpt.toml"), "rules": {"keep-last": 2, "keep-every": 5}, "options": {"keep-last": 2}}
    shown = gsvckpt("prune", run, "--keep-last", "2", "-n").out.splitlines()
    assert shown[:2] == [
        f"rules of {run / 'gsvckpt.toml'}: keep-last 1 (not used), keep-every 5",
        "rules of the command line, which take precedence: keep-last 2",
    ]


def test_folders_with_files_of_their_own(gsvckpt, tmp_path):
    for name, rule in (("a", ""), ("b", "[prune]\nkeep-last = 2\n"), ("c", "[prune]\nkeep-last = 3\n")):
        small_weights(tmp_path / name, name, range(1, 4))
        (tmp_path / name / "gsvckpt.toml").write_text(rule)
    document = gsvckpt.json("prune", *(tmp_path / name for name in "abc"), "--keep-every", "1", "-n").document
    told = [(one["file"] and one["file"][len(str(tmp_path)) :], one["rules"], len(one["folders"])) for one in document["policies"]]
    b, c = ({"keep-last": number, "keep-every": 1} for number in (2, 3))
    assert told == [("/b/gsvckpt.toml", b, 1), ("/c/gsvckpt.toml", c, 1), (None, {"keep-every": 1}, 1)]
    assert document["policy"] == document["policies"][0]


def test_names_in_a_policy_turn_no_text(gsvckpt, run):
    (run / "gsvckpt.toml").write_text('[prune]\nkeep-last = 1\nkeep = ["\\u202Egpj.x", "\\u001B[2J*"]\n')
    shown = gsvckpt("prune", run, "-n").out.splitlines()[0]
    assert shown.endswith("keep \\u202egpj.x, keep \\x1b[2J*")
