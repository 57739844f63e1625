"""Would training go on here? The rules of GPT-SoVITS, re-told independently, over folders of every state."""

from __future__ import annotations

import glob
import json
import os
import re
from pathlib import Path

import pytest
from cli.samples import adamw, discriminator, generator, gpt, s1_training, s2_training
from support.builders import Make, Name, torch_zip

from gsvckpt.commands.verify.checks.resume import assess_file, summarise
from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.result import Options, Verification
from gsvckpt.commands.verify.targets import assess_runs, gather
from gsvckpt.engine.examine import examine
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.sovits.runs import find_runs, newest_lightning, newest_numbered

QUICK = Options(quick=True, resume=True, layout="none")
STATE = generator("v2", enc_q=True)


def grouped(state) -> dict[str, object]:
    """An AdamW state with GPT-SoVITS's four groups (s2_train.py:172-192)."""
    names = list(state)
    slow = [[n for n in names if n.startswith(p)] for p in ("enc_p.text_embedding.", "enc_p.encoder_text.", "enc_p.mrte.")]
    groups = [[n for n in names if not any(n in part for part in slow)], *slow]
    made = adamw(state)
    count = 0
    made["param_groups"] = []
    for group in groups:
        made["param_groups"].append({"lr": 1e-4, "params": list(range(count, count + len(group)))})
        count += len(group)
    return made


def g_file(epoch: int, **changes: object) -> bytes:
    tree = {**s2_training(STATE, epoch), "optimizer": grouped(STATE)} | changes
    return torch_zip({key: value for key, value in tree.items() if value != "gone"})


def d_file(epoch: int, **changes: object) -> bytes:
    tree = s2_training(discriminator(), epoch) | changes
    return torch_zip({key: value for key, value in tree.items() if value != "gone"})


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    root = tmp_path / "logs" / "alice"
    (root / "logs_s2_v2").mkdir(parents=True)
    (root / "logs_s1_v2" / "ckpt").mkdir(parents=True)
    (root / "logs_s1").mkdir()
    (root / "config.json").write_text(json.dumps({"train": {"epochs": 20}, "model": {"version": "v2"}, "version": "v2"}))
    return root


def runs(root: Path) -> list[Verification]:
    """The verdict on each run."""
    targets = gather([str(root)], recursive=False, resuming=True, recorded=None, listed=None)
    results = [verify_file(path, QUICK, expected) for path, expected in targets.files.items()]
    return assess_runs(targets, results)


def answer(run: Verification) -> tuple[bool, str | None, str | None, int | None]:
    """Whether training goes on, and from which files and epoch, as JSON says it."""
    assert run.resumption is not None
    document = run.resumption.as_json()
    assert document["why"]
    assert set(document["from"]) == {"G", "D", "epoch"}
    return (document["goes_on"], *document["from"].values())


def verdicts(root: Path):
    """{check: severity} and the sentences, over all runs."""
    findings = [finding for run in runs(root) for finding in run.findings]
    return {finding.check: finding.severity for finding in findings}, " | ".join(finding.why for finding in findings)


def put(experiment: Path, **files: bytes) -> None:
    for name, data in files.items():
        (experiment / "logs_s2_v2" / f"{name}.pth").write_bytes(data)


def test_it_goes_on_from_the_newest_pair(experiment: Path) -> None:
    put(experiment, G_16=g_file(8), D_16=d_file(8), G_8=g_file(4), D_8=d_file(4))
    found, told = verdicts(experiment)
    assert found == {"resume.file": "info"}
    assert "G_16.pth and D_16.pth at epoch 9 of 20" in told


@pytest.mark.parametrize("key", ["iteration", "optimizer", "model", "learning_rate"])
@pytest.mark.parametrize("which", ["G", "D"])
def test_a_missing_entry_means_a_silent_restart(experiment: Path, key: str, which: str) -> None:
    put(experiment, G_16=g_file(8, **({key: "gone"} if which == "G" else {})), D_16=d_file(8, **({key: "gone"} if which == "D" else {})))
    found, told = verdicts(experiment)
    assert "error" in found.values()
    assert "starts over" in told or "not a training file" in told


def test_none_for_the_optimizer_goes_on(experiment: Path) -> None:
    put(experiment, G_16=g_file(8, optimizer=None), D_16=d_file(8, optimizer=None))
    found, told = verdicts(experiment)
    assert found == {"resume.optimizer": "info", "resume.file": "info"}
    assert "fresh moments" in told


def test_groups_that_do_not_fit(experiment: Path) -> None:
    put(experiment, G_16=g_file(8, optimizer=adamw(STATE)), D_16=d_file(8))
    found, told = verdicts(experiment)
    assert found == {"resume.optimizer": "error"}
    assert "starts over" in told


def test_g_without_d_starts_over(experiment: Path) -> None:
    put(experiment, G_16=g_file(8))
    found, told = verdicts(experiment)
    assert found == {"resume.pair": "error"}
    assert "loads D first" in told


def test_g_and_d_of_different_epochs(experiment: Path) -> None:
    put(experiment, G_16=g_file(8), D_16=d_file(7))
    found, told = verdicts(experiment)
    assert found == {"resume.pair": "error"}
    assert "G_16.pth is of epoch 8, D_16.pth of epoch 7" in told


def test_a_kill_between_g_and_d_leaves_the_save_before(experiment: Path) -> None:
    """utils.py:112-117 takes G_24 and D_16, each the newest of its kind; without G_24 it would take a whole pair."""
    put(experiment, G_16=g_file(8), D_16=d_file(8), G_24=g_file(12))
    (run,) = runs(experiment)
    (finding,) = run.findings
    assert (finding.check, finding.severity) == ("resume.pair", "error")
    assert "move G_24.pth out of the folder" in str(finding.hint)
    assert answer(run) == (False, "G_24.pth", "D_16.pth", 12)
    (experiment / "logs_s2_v2" / "G_24.pth").unlink()
    assert answer(runs(experiment)[0]) == (True, "G_16.pth", "D_16.pth", 8)


def test_d_without_g_starts_over(experiment: Path) -> None:
    put(experiment, D_16=d_file(8))
    found, told = verdicts(experiment)
    assert found == {"resume.pair": "error"}
    assert "starts over" in told


def test_a_damaged_file_means_a_silent_restart(experiment: Path) -> None:
    put(experiment, G_16=g_file(8)[:-100], D_16=d_file(8))
    found, told = verdicts(experiment)
    assert found == {"resume.file": "error"}
    assert "starts over" in told


def test_the_trap_of_only_the_latest(experiment: Path) -> None:
    put(experiment, G_233333333333=g_file(3), D_233333333333=d_file(3), G_40=g_file(10), D_40=d_file(10))
    found, told = verdicts(experiment)
    assert found["resume.stale"] == "warning"
    assert "233333333333" in told
    assert "G_40.pth is of epoch 10" in told


def test_what_a_script_is_told_of_the_trap(experiment: Path) -> None:
    put(experiment, G_233333333333=g_file(3), D_233333333333=d_file(3), G_40=g_file(10), D_40=d_file(10))
    assert answer(runs(experiment)[0]) == (True, "G_233333333333.pth", "D_233333333333.pth", 3)


def test_already_at_the_last_epoch(experiment: Path) -> None:
    put(experiment, G_16=g_file(20), D_16=d_file(20))
    assert answer(runs(experiment)[0]) == (False, "G_16.pth", "D_16.pth", 20)
    found, told = verdicts(experiment)
    assert found == {"resume.finished": "warning"}
    assert "epoch 20 of 20 is done" in told


def test_the_config_of_another_version_says_nothing_of_this_run(experiment: Path) -> None:
    (experiment / "config.json").write_text(json.dumps({"train": {"epochs": 2}, "model": {"version": "v4"}, "version": "v4"}))
    put(experiment, G_16=g_file(20), D_16=d_file(20))
    assert verdicts(experiment)[0] == {"resume.file": "info"}


def test_nothing_to_resume_from(experiment: Path) -> None:
    found, told = verdicts(experiment / "logs_s2_v2")
    assert found == {"resume.file": "info"}
    assert "epoch 1" in told
    assert answer(runs(experiment / "logs_s2_v2")[0]) == (False, None, None, None)


def s1(experiment: Path, tree: dict[str, object], name: str = "epoch=1-step=12.ckpt") -> None:
    (experiment / "logs_s1_v2" / "ckpt" / name).write_bytes(torch_zip(tree))


def lightning(epochs: int = 20) -> dict[str, object]:
    tree = s1_training(gpt(dtype="float32"))
    tree["hyper_parameters"] = {"config": {"train": {"epochs": epochs}}, "output_dir": "logs/alice/logs_s1_v2", "is_train": True}
    return tree


def test_gpt_goes_on(experiment: Path) -> None:
    s1(experiment, lightning())
    found, told = verdicts(experiment)
    assert found == {"resume.file": "info"}
    assert "at epoch 3 of 20" in told
    assert answer(runs(experiment)[0]) == (True, "epoch=1-step=12.ckpt", None, 2)


@pytest.mark.parametrize("key", ["pytorch-lightning_version", "state_dict", "optimizer_states", "lr_schedulers"])
def test_gpt_stops_without_an_entry(experiment: Path, key: str) -> None:
    s1(experiment, {name: value for name, value in lightning().items() if name != key})
    assert verdicts(experiment)[0].get("resume.keys") == "error"


@pytest.mark.parametrize("name", ["PosixPath", "WindowsPath"])
@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_gpt_under_newer_lightning(experiment: Path, name: str, module: str) -> None:
    tree = lightning()
    tree["hyper_parameters"]["output_dir"] = Make(Name(module, name), ("logs", "alice"))
    s1(experiment, tree)
    found, told = verdicts(experiment)
    assert found["resume.lightning"] == "warning"
    assert ("cannot instantiate" in told) == (name == "WindowsPath" and os.name != "nt")


def test_gpt_at_its_last_epoch_and_a_name_that_only_begins_right(experiment: Path) -> None:
    s1(experiment, lightning(epochs=2))
    assert verdicts(experiment)[0] == {"resume.finished": "warning"}
    s1(experiment, lightning(), "epoch=9-step=90.ckpt.bak")
    found, _ = verdicts(experiment)
    assert found["resume.stale"] == "warning"


def test_a_lora_run_needs_no_discriminator(experiment: Path) -> None:
    folder = experiment / "logs_s2_v3_lora_32"
    folder.mkdir()
    state = {f"cfm.base_model.model.estimator.transformer_blocks.0.attn.to_q.{name}": value for name, value in gpt().items()}
    (folder / "G_10.pth").write_bytes(torch_zip({"model": state, "iteration": 5, "optimizer": None, "learning_rate": 0.1}))
    assert verdicts(folder)[0] == {"resume.optimizer": "info", "resume.file": "info"}


def test_folders_of_any_depth_name_the_same_runs(experiment: Path) -> None:
    put(experiment, G_16=g_file(8), D_16=d_file(8))
    s1(experiment, lightning())
    assert {Path(run.folder).parts[-1] for run in find_runs(str(experiment))} == {"logs_s2_v2", "ckpt"}
    for place in ("logs_s2_v2", "logs_s2_v2/G_16.pth"):
        assert [run.generator for run in find_runs(str(experiment / place))] == ["G_16.pth"]
    for place in ("logs_s1_v2", "logs_s1_v2/ckpt", "logs_s1_v2/ckpt/epoch=1-step=12.ckpt"):
        assert [run.generator for run in find_runs(str(experiment / place))] == ["epoch=1-step=12.ckpt"]


def test_a_file_alone(tmp_path: Path) -> None:
    def verdict(data: bytes):
        (tmp_path / "x.pth").write_bytes(data)
        with open_checkpoint(tmp_path / "x.pth") as checkpoint:
            return {finding.check: finding.severity for finding in assess_file("x.pth", summarise(examine(checkpoint)), None)}

    assert verdict(g_file(8)) == {}
    assert verdict(g_file(8, optimizer="gone")) == {"resume.keys": "error"}
    assert verdict(torch_zip({"weight": STATE})) == {"resume.file": "error"}


# --- the rules themselves, against upstream's own expressions ----------------------------------------------------------------------------------


def latest_checkpoint_path(folder: str, pattern: str) -> str:
    """What utils.py:112-117 does, written again."""
    found = sorted(glob.glob(os.path.join(folder, pattern)), key=lambda path: int("".join(c for c in path if c.isdigit())))
    return os.path.basename(found[-1])


@pytest.mark.parametrize(
    "names",
    [
        ["G_9.pth", "G_10.pth"],
        ["G_007.pth", "G_12.pth"],
        ["G_1.pth", "G_233333333333.pth", "G_99999.pth"],
        ["G_5.bak.pth", "G_4.pth"],
        ["G_2 (1).pth", "G_3.pth"],
    ],
)
def test_the_latest_is_upstreams_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    folder = Path("logs/a/logs_s2_v2")
    monkeypatch.chdir(tmp_path)
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    assert newest_numbered(names, "G", "logs/a/logs_s2_v2") == latest_checkpoint_path(str(folder), "G_*.pth")


def test_a_name_that_makes_upstream_fail() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        newest_numbered(["G_².pth"], "G", "logs/a/logs_s2_v2")


def test_lightning_names_as_upstream_sorts_them() -> None:
    names = [
        "epoch=9-step=90.ckpt",
        "epoch=10-step=80.ckpt",
        "epoch=10-step=9.ckpt",
        "epoch=11-step=1-v1.ckpt",
        "x-epoch=99-step=1.ckpt",
        "last.ckpt",
    ]
    found = [(int(m[1]), int(m[2]), n) for n in names if (m := re.match(r"epoch=(\d+)-step=(\d+)\.ckpt", n))]
    assert newest_lightning(names) == max(found)[2] == "epoch=10-step=80.ckpt"
    assert newest_lightning(["last.ckpt"]) is None
