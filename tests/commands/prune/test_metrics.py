"""Scores of saves: where each source finds them, which save a value belongs to, and what is no value at all."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import tensor, torch_zip

from gsvckpt.commands.prune.metrics import Wanted, find_scores, read_table
from gsvckpt.commands.prune.policy import Scores
from gsvckpt.engine.saves import Group, Save, SaveFile
from gsvckpt.errors import MissingError, UsageError
from gsvckpt.sovits.lightning import Callback, read_callbacks

GROUP = Group("", "alice", "gpt-training", "v2")
CLOCK = 1_700_000_000
MODEL = "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min', 'every_n_train_steps': 0}"


def save(name: str, epoch: int | None = None, step: int | None = None, group: Group = GROUP, second: int | None = None) -> Save:
    """A save, made `second` seconds after the clock."""
    mtime = (CLOCK + (second if second is not None else step or epoch or 0)) * 10**9
    paths = [f"{kind}_{name[2:]}" for kind in "GD"] if name.startswith("G_") else [name]
    return Save(group, tuple(SaveFile(os.path.join(group.folder, path), 1, mtime) for path in paths), epoch, step)


def table(folder: Path, text: str | bytes, name: str = "metrics.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(str(folder / name))


def values(saves, wanted: Wanted) -> dict[str, float]:
    return {os.path.basename(save.paths[0]): value for save, value in find_scores(saves, wanted).values.items()}


EPOCHS = [save(f"alice-e{epoch}.ckpt", epoch) for epoch in (1, 2, 3)]
STEPS = [save(f"G_{step}.pth", step // 100, step) for step in (100, 200, 300)]


# --- tables --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "epoch,val_loss\n1,0.5\n2,0.25\n3,1\n",
        "\ufeffepoch;val_loss\r\n1;0.5\r\n\r\n2;0.25\r\n3;1",
        "Epoch\tval_loss\tnote\n1\t0.5\tgood\n2\t0.25\t\n3\t1\n",
        '"epoch", "val_loss", "note, of mine"\n1, 0.5, "x, y"\n2, 0.25\n3, 1\n',
        ",epoch,val_loss\n0,1,0.5\n1,2,0.25\n2,3,1\n",  # pandas with its index
        '{"epoch": 1, "val_loss": 0.5}\n\n{"epoch": 2.0, "val_loss": "0.25", "x": null}\n{"epoch": 3, "val_loss": 1, "x": [1]}\n',
        "file,val_loss\nalice-e1.ckpt,0.5\n/somewhere/alice-e2.ckpt,0.25\nC:\\x\\alice-e3.ckpt,1\nother.ckpt,7\n",
        "path,epoch,val_loss\nalice-e1.ckpt,9,0.5\nalice-e2.ckpt,9,0.25\nalice-e3.ckpt,9,1\n",  # a file is more exact than an epoch
        "epoch,val_loss\n1,9\n3,9\n1,0.5\n2,0.25\n3,1\n4,0.1\n1,\n0.5,7\n",  # the last value of an epoch counts; an empty cell is none
        "epoch,experiment,val_loss\n1,alice,0.5\n1,bob,7\n2,,0.25\n3,alice,1\n3,bob,x\n",
        "epoch,step,val_loss\n1,100,0.5\n2,200,0.25\n3,300,1\n",  # these have no step
    ],
)
def test_tables_of_all_forms(tmp_path: Path, text: str) -> None:
    found = find_scores(EPOCHS, Wanted(table=table(tmp_path, text)))
    assert (found.metric, found.lowest) == ("val_loss", True)
    assert dict(found.values) == dict(zip(EPOCHS, (0.5, 0.25, 1.0), strict=True))


def test_of_several_columns_one_must_be_named(tmp_path: Path) -> None:
    read = table(tmp_path, "epoch,loss/g,mos,note\n1,3,4,x\n2,2,,y\n")
    with pytest.raises(UsageError) as caught:
        find_scores(EPOCHS, Wanted(table=read))
    assert (caught.value.where, caught.value.hint.text) == ("--metric", "name one: --metric loss/g")
    assert "loss/g, mos" in caught.value.why
    assert find_scores(EPOCHS, Wanted("mos", table=read))[:2] == ("mos", False)
    assert values(EPOCHS, Wanted("mos", table=read)) == {"alice-e1.ckpt": 4.0}
    with pytest.raises(UsageError, match="'x' in column 'note' must be a number") as caught:
        find_scores(EPOCHS, Wanted("note", table=read))
    assert caught.value.where == f"{read.path}:2"
    with pytest.raises(UsageError, match="has no column 'moss'") as caught:
        find_scores(EPOCHS, Wanted("moss", table=read))
    assert caught.value.hint.text == "did you mean mos?"
    with pytest.raises(UsageError, match="no column of numbers to rank by: val_loss"):
        find_scores(EPOCHS, Wanted(table=table(tmp_path, "epoch;val_loss\n1;0,5\n")))


def test_a_table_of_other_experiments_says_nothing(tmp_path: Path) -> None:
    read = table(tmp_path, "epoch,experiment,val_loss,mos\n1,bob,0.5,1\n")
    assert find_scores(EPOCHS, Wanted(table=read)) == Scores("")
    assert find_scores(EPOCHS, Wanted("mos", table=read)) == Scores("mos")
    assert find_scores([], Wanted("mos", table=read)).values == {}


@pytest.mark.parametrize("step", ["step", "global_step", "Global step"])
def test_pairs_are_found_by_step_or_by_either_name(tmp_path: Path, step: str) -> None:
    expected = {"G_100.pth": 0.5, "G_300.pth": 0.25}
    assert values(STEPS, Wanted(table=table(tmp_path, f"{step},epoch,val_loss\n100,8,0.5\n300,9,0.25\n301,9,7"))) == expected
    assert values(STEPS, Wanted(table=table(tmp_path, "name,val_loss\nG_100.pth,0.5\nD_300.pth,0.25"))) == expected
    assert values(STEPS, Wanted(table=table(tmp_path, f"{step},epoch,val_loss\n,1,0.5\n,3,0.25"))) == expected


def test_what_was_logged_since_the_save_before_is_of_a_save(tmp_path: Path) -> None:
    log = "step,val_loss\n" + "".join(f"{step},{step}\n" for step in (0, 50, 99, 150, 201, 299, 300, 350))
    assert values(STEPS, Wanted(table=table(tmp_path, log))) == {"G_100.pth": 99.0, "G_200.pth": 150.0, "G_300.pth": 300.0}
    reverse = "\n".join([log.split("\n")[0], *reversed(log.split("\n")[1:])])
    assert values(STEPS, Wanted(table=table(tmp_path, reverse))) == {"G_100.pth": 99.0, "G_200.pth": 150.0, "G_300.pth": 300.0}
    # G_100 was evaluated and then removed: its score is not that of G_200
    assert values([*STEPS[1:], save("G_400.pth", 4, 400)], Wanted(table=table(tmp_path, "step,mos\n100,4\n300,3"))) == {"G_300.pth": 3.0}
    # one save out of turn takes nothing from the others
    odd = [*STEPS, save("G_301.pth", 3, 301)]
    assert values(odd, Wanted(table=table(tmp_path, "step,mos\n80,1\n180,2\n280,3"))) == {"G_100.pth": 1.0, "G_200.pth": 2.0, "G_300.pth": 3.0}


@given(st.lists(st.tuples(st.integers(1, 6), st.none() | st.floats(width=32)), max_size=20), st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_last_finite_value_of_each_epoch(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float | None]], as_json: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "log"
    with path.open("w", newline="", encoding="utf-8") as file:
        if as_json:
            file.writelines(json.dumps({"epoch": epoch, "mcd": value}) + "\n" for epoch, value in rows)
        else:
            csv.writer(file).writerows([("epoch", "mcd"), *rows])
    saves = [save(f"e{epoch}.ckpt", epoch) for epoch in range(1, 7)]
    last = {epoch: value for epoch, value in rows if value is not None}
    expected = {f"e{epoch}.ckpt": value for epoch, value in last.items() if math.isfinite(value)}
    if not rows:
        with pytest.raises(UsageError):
            read_table(str(path))
    else:
        assert values(saves, Wanted("mcd", table=read_table(str(path)))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", None, "has no column epoch, step or file"),
        ("val_loss\n1\n", None, "has no column epoch, step or file"),
        ("experiment,val_loss\na,1\n", None, "has no column epoch, step or file"),
        ("[1, 2]", None, "has no column epoch, step or file"),
        ("epoch,val_loss\n1,2\n1,2,3\n", 3, "has 3 cells, where the first line names 2 columns"),
        ('epoch,val_loss\n"1,2\n', None, "is not valid CSV"),
        ('{"epoch": 1}\n{"epoch": }', 2, "is not valid JSON"),
        ('{"epoch": 1}\n3', 2, "is not a JSON object"),
        ("[" * 50_000, None, "has no column"),
        ('{"a":' * 10_000, 1, "is not valid JSON"),
        (b"epoch,val_loss\n1,\xff\n", 2, "is not UTF-8 text"),
    ],
)
def test_what_is_no_table(tmp_path: Path, text: str | bytes, line: int | None, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        table(tmp_path, text)
    assert caught.value.why.startswith(why)
    assert caught.value.where.startswith(str(tmp_path / "metrics.csv"))
    assert line is None or caught.value.where.endswith(f":{line}")


def test_cells_that_are_no_numbers_have_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'one' in column 'epoch' must be a number") as caught:
        find_scores(EPOCHS, Wanted(table=table(tmp_path, "epoch,val_loss\none,2\n")))
    assert caught.value.where.endswith(":2")
    with pytest.raises(MissingError):
        read_table(str(tmp_path / "none.csv"))


@given(st.text("epochstlf,;\t\n\"'{}[]:0123456789.- \r\0", max_size=60))
@settings(deadline=None)
def test_any_text_is_a_table_or_a_usage_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    try:
        find_scores([*EPOCHS, *STEPS], Wanted(mode="min", table=table(tmp_path_factory.getbasetemp(), "epoch,step,l\n" + text)))
    except UsageError as error:
        assert error.where  # noqa: PT017 - either is right


# --- whether low values are good -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "lowest"),
    [
        *((name, True) for name in ("loss", "loss/g/total", "valLoss", "total_loss_epoch", "WER", "val-cer", "mel_err", "perplexity", "MCD13")),
        *((name, False) for name in ("top_3_acc", "acc5", "top1acc", "val_f1", "f1score", "UTMOS score", "mos", "valAccuracy")),
    ],
)
def test_names_that_tell_it(tmp_path: Path, metric: str, lowest: bool) -> None:
    read = table(tmp_path, f"epoch,{metric}\n1,2")
    assert find_scores(EPOCHS, Wanted(table=read)).lowest is lowest
    assert find_scores(EPOCHS, Wanted(metric, "max", read)).lowest is False
    assert find_scores(EPOCHS, Wanted(metric, "min", read)).lowest is True


@pytest.mark.parametrize("metric", ["value", "glossary", "account", "loss_score", "cerebral", "lr"])
def test_names_that_do_not(tmp_path: Path, metric: str) -> None:
    read = table(tmp_path, f"epoch,{metric}\n1,2")
    with pytest.raises(UsageError) as caught:
        find_scores(EPOCHS, Wanted(table=read))
    assert (caught.value.where, metric in caught.value.why) == ("--mode", True)
    assert find_scores(EPOCHS, Wanted(mode="min", table=read)).lowest
    assert find_scores(EPOCHS[1:], Wanted(table=read)) == Scores("")  # where there is no score, it does not matter


# --- callbacks -----------------------------------------------------------------------------------------------------------------------------------


def lightning(known: Mapping[str, float], current: float | None = None, monitor: str = "val_loss", key: str = MODEL) -> dict[str, object]:
    state = {
        "monitor": monitor,
        "best_model_path": "",
        "best_k_models": {f"/home/me/{name}": tensor("float32", (), [score]) for name, score in known.items()},
        "current_score": None if current is None else tensor("float32", (), [current]),
    }
    return {"pytorch-lightning_version": "2.4.0", "state_dict": {"w": tensor("float32", (1,), [1])}, "callbacks": {key: state}}


def saved(folder: Path, name: str, epoch: int, tree: object) -> Save:
    (folder / name).write_bytes(torch_zip(tree))
    return save(name, epoch, epoch * 6, GROUP._replace(folder=str(folder)))


def test_the_state_of_each_callback() -> None:
    early = {
        "callbacks": {"EarlyStopping{'mode': 'max'}": {"best_score": 1}, MODEL: {"best_model_path": "/x/a.ckpt", "current_score": 2, "monitor": "m"}}
    }
    assert list(read_callbacks(early)) == [Callback("m", "min", "a.ckpt", {}, 2.0)]
    assert list(read_callbacks({"callbacks": {5: {"best_model_path": 3, "best_k_models": [], "monitor": 4, "current_score": "x"}}})) == [Callback()]


def test_the_newest_file_knows_those_before(tmp_path: Path) -> None:
    names = [f"epoch={n}-step={6 * n + 6}.ckpt" for n in range(4)]
    first = saved(tmp_path, names[0], 1, lightning({names[0]: 0.5}, 0.5))
    second = saved(tmp_path, names[1], 2, lightning({names[0]: 0.5, names[1]: 0.125}, 0.125))
    third = saved(tmp_path, names[2], 3, lightning({names[1]: 0.25, names[2]: 0.375}, 0.375))  # the first one was not among the best any more
    fourth = saved(tmp_path, names[3], 4, b"damaged")
    (tmp_path / names[3]).write_bytes(b"damaged")
    found = find_scores([second, first, fourth, third], Wanted())
    assert (found.metric, found.lowest, dict(found.values)) == ("val_loss", True, {first: 0.5, second: 0.25, third: 0.375})
    assert find_scores([first, second], Wanted("val_loss", "max"))[:2] == ("val_loss", False)
    assert find_scores([first, second], Wanted("val_acc")) == Scores("val_acc")
    os.remove(tmp_path / names[0])  # it need not be opened, and may be gone
    assert find_scores([first, second], Wanted()).values == {first: 0.5, second: 0.125}


def test_files_that_took_the_wrong_score_along(tmp_path: Path) -> None:
    name = "epoch=1-step=12.ckpt"
    best = saved(tmp_path, name, 2, lightning({name: 0.5}, 0.5))
    copy = saved(tmp_path, "best_model.ckpt", 2, lightning({name: 0.5}, 0.5))
    last = saved(tmp_path, "last.ckpt", 4, lightning({name: 0.5}, 0.5))  # it was worse than the best, and Lightning keeps no score for it
    alone = saved(tmp_path, "alone.ckpt", 3, lightning({}, 0.75))
    assert find_scores([best, copy, alone, last], Wanted()).values == {best: 0.5, copy: 0.5, alone: 0.75}


def test_numbers_that_are_none_win_nothing(tmp_path: Path) -> None:
    names = [f"epoch={n}-step={6 * n + 6}.ckpt" for n in range(3)]
    scores = dict(zip(names, (math.inf, math.nan, 2.0), strict=True))
    saves = [saved(tmp_path, name, n + 1, lightning(scores, scores[name])) for n, name in enumerate(names)]
    assert find_scores(saves, Wanted()).values == {saves[2]: 2.0}


def test_of_several_callbacks_the_one_that_is_asked_for(tmp_path: Path) -> None:
    tree = lightning({"a.ckpt": 0.5})
    other = lightning({"a.ckpt": 4}, monitor="val_mos", key="ModelCheckpoint{'monitor': 'val_mos', 'mode': 'max'}")
    tree["callbacks"] |= other["callbacks"]
    one = saved(tmp_path, "a.ckpt", 1, tree)
    assert find_scores([one], Wanted()) == Scores("val_loss", True, {one: 0.5}, watched=True)
    assert find_scores([one], Wanted("val_mos")) == Scores("val_mos", False, {one: 4.0}, watched=True)
    assert find_scores([one], Wanted("val_mos", table=table(tmp_path, "epoch,val_loss\n1,7"))).values == {one: 4.0}
    assert find_scores([one], Wanted("val_loss", table=table(tmp_path, "epoch,val_loss\n1,7"))).values == {one: 7.0}
    assert find_scores([one], Wanted("val_loss", table=table(tmp_path, "epoch,val_loss\n1,nan"))).values == {one: 0.5}  # a source without any value


# --- event files ---------------------------------------------------------------------------------------------------------------------------------


def write_events(folder: Path, scalars: list[tuple[str, int, float, int]], suffix: str = "") -> Path:
    """(tag, step, value, second) each, as GPT-SoVITS and Lightning write them."""
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder), filename_suffix=suffix)
    for tag, step, value, second in scalars:
        writer.add_event(Event(wall_time=CLOCK + second, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
    writer.close()
    return next(path for path in folder.iterdir() if path.name.startswith("events.out.tfevents.") and path.name.endswith(suffix))


def test_pairs_beside_the_events_of_their_experiment(tmp_path: Path) -> None:
    group = Group(str(tmp_path / "logs/alice/logs_s2_v2"), "alice", "sovits-generator-training", "v2")
    saves = [save(f"G_{step}.pth", step // 100, step, group) for step in (130, 260, 390)]
    write_events(tmp_path / "logs/alice", [("loss/g/total", step, step / 100, step) for step in range(0, 400, 100)] + [("lr", 130, 9, 130)])
    write_events(tmp_path / "logs/bob", [("loss/g/total", 130, 9, 130)])
    found = find_scores(saves, Wanted("loss/g/total"))
    assert (found.metric, found.lowest) == ("loss/g/total", True)
    assert dict(found.values) == dict(zip(saves, (1.0, 2.0, 3.0), strict=True))
    assert find_scores(saves, Wanted("loss/g")).values == {}
    assert find_scores(saves, Wanted()).values == {}
    small = Group(str(tmp_path / "SoVITS_weights_v2"), "alice", "sovits-weights", "v2")
    weights = [save(f"alice_e{step // 100}_s{step}.pth", step // 100, step, small) for step in (130, 260)]
    assert list(find_scores(weights, Wanted("loss/g/total")).values.values()) == [1.0, 2.0]
    assert find_scores([weights[0], weights[1]], Wanted("loss/g/total")).values.keys() == set(weights)
    others = [save("carol_e1_s130.pth", 1, 130, small._replace(name="carol"))]
    assert find_scores(others, Wanted("loss/g/total")).values == {}  # nothing of anybody else's


def test_lightning_logs_an_epoch_one_step_before_its_save(tmp_path: Path) -> None:
    run = tmp_path / "logs/alice/logs_s1_v2"
    log = [(tag, 6 * n + 5, value, n) for n in range(3) for tag, value in (("total_loss_epoch", 3.0 - n), ("epoch", n))]
    write_events(run / "logs_s1_v2/version_0", [*log, ("total_loss_epoch", 20, math.nan, 4)])
    saves = [save(f"epoch={n}-step={6 * n + 6}.ckpt", n + 1, 6 * n + 6, GROUP._replace(folder=str(run / "ckpt"))) for n in range(4)]
    assert list(find_scores(saves, Wanted("total_loss_epoch")).values.items()) == list(zip(saves, (3.0, 2.0, 1.0), strict=False))
    (run / "ckpt").mkdir()
    (run / "ckpt/epoch=0-step=6.ckpt").touch()
    small = GROUP._replace(folder=str(tmp_path / "GPT_weights_v2"), kind="gpt-weights")
    weights = [save(f"alice-e{epoch}.ckpt", epoch, None, small) for epoch in (1, 2, 3, 5)]  # which know no step
    assert list(find_scores(weights, Wanted("total_loss_epoch")).values.items()) == list(zip(weights, (3.0, 2.0, 1.0), strict=False))


def test_without_steps_and_epochs_of_its_own_a_log_is_by_epoch(tmp_path: Path) -> None:
    write_events(tmp_path / "runs", [("mos", epoch, epoch, 0) for epoch in (1, 3)])
    saves = [save(f"epoch_00{epoch}.ckpt", epoch, None, Group(str(tmp_path / "checkpoints"), "x", "training")) for epoch in (1, 2, 3)]
    assert list(find_scores(saves, Wanted("mos")).values.items()) == [(saves[0], 1.0), (saves[2], 3.0)]


def test_the_nearest_log_counts_and_none_of_another_training(tmp_path: Path) -> None:
    tmp_path /= "runs"  # so that the folders of other tests are out of sight
    mine = tmp_path / "a"
    one = save("x.pt", 1, 10, Group(str(mine), "a", "training"))
    (tmp_path / "b/1").mkdir(parents=True)
    (tmp_path / "b/1/x.pt").touch()
    write_events(tmp_path / "b", [("mos", 10, 1, 0)])
    write_events(tmp_path / "b/tb", [("mos", 10, 1, 0)])
    write_events(tmp_path / ".hidden", [("mos", 10, 1, 0)])
    write_events(tmp_path / "1/2/3/4/5", [("mos", 10, 1, 0)])
    mine.mkdir()
    (mine / "link").symlink_to(tmp_path / "1/2/3/4/5")
    assert find_scores([one], Wanted("mos")).values == {}
    for folder, value in ((tmp_path / "1/2/3/4", 2), (tmp_path, 3), (mine / "tb", 4)):
        write_events(folder, [("mos", 10, value, 0)])
        assert find_scores([one], Wanted("mos")).values == {one: value}


def test_each_of_two_runs_has_its_own_values(tmp_path: Path) -> None:
    """Versions of an experiment log into one folder, and so does a training that goes on from an older save."""
    group = Group(str(tmp_path / "logs_s2_v2"), "alice", "sovits-generator-training", "v2")
    old = [save(f"G_{step}.pth", step // 100, step, group, second=step) for step in (100, 200)]
    new = [save(f"G_{step}.pth", step // 100, step, group._replace(version="v2Pro"), second=5000 + step) for step in (100, 200)]
    write_events(tmp_path, [("mos", 100, 1, 100), ("mos", 200, 2, 230)], ".a")  # the second one right after its save
    write_events(tmp_path, [("mos", 100, 3, 5100), ("mos", 200, 4, 5200)], ".b")
    assert list(find_scores(old, Wanted("mos")).values.values()) == [1.0, 2.0]
    assert list(find_scores(new, Wanted("mos")).values.values()) == [3.0, 4.0]
    ancient = [save(f"G_{step}.pth", step // 100, step, group, second=-(10**6)) for step in (100, 200)]  # times that mean nothing
    assert list(find_scores(ancient, Wanted("mos")).values.values()) == [3.0, 4.0]


def test_files_that_are_damaged_or_being_written(tmp_path: Path) -> None:
    saves = [save(f"{step}.pt", None, step, Group(str(tmp_path), "x", "training")) for step in (1, 2, 3)]
    path = write_events(tmp_path, [("mos", step, step, 0) for step in (1, 2, 3)])
    path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / "events.out.tfevents.1.garbage").write_bytes(bytes(range(256)) * 9)
    with (tmp_path / "events.out.tfevents.1.framed").open("wb") as file:
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(file).write(b"\xff" * 20)  # whole, and no event
    (tmp_path / "events.out.tfevents.1.empty").touch()
    (tmp_path / "events.out.tfevents.1.folder").mkdir()
    (tmp_path / "events.out.tfevents.1.link").symlink_to(tmp_path / "nowhere")
    assert list(find_scores(saves, Wanted("mos")).values.values()) == [1.0, 2.0]


def test_only_numbers_with_the_tag_count(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    import numpy as np
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    scalars = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    one = save("x.pt", 1, 10, Group(str(tmp_path), "x", "training"))
    writer = EventFileWriter(str(tmp_path))
    for second, value in enumerate([np.float32(2), np.array([1.0, 2.0]), np.array(b"text")]):  # TensorFlow 2 writes numbers as tensors
        told = Summary.Value(tag="mos", tensor=make_tensor_proto(value), metadata=scalars)
        writer.add_event(Event(wall_time=CLOCK + second, step=10, summary=Summary(value=[told])))
    writer.close()
    assert find_scores([one], Wanted("mos")).values == {one: 2.0}


def test_without_the_package_one_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    one = save("x.pt", 1, 10, Group(str(folder), "x", "training"))
    assert find_scores([one], Wanted("mos")).values == {}
    (folder / "events.out.tfevents.1.x").touch()
    assert find_scores([one], Wanted()).values == {}
    assert find_scores([one], Wanted("mos", table=table(tmp_path, "step,mos\n10,3"))).values == {one: 3.0}
    with pytest.raises(MissingError) as caught:
        find_scores([one], Wanted("mos"))
    assert (caught.value.path, caught.value.hint.command) == (str(folder), 'pip install "gsvckpt[tensorboard]"')


def test_what_is_slow_to_import_is_not_until_it_is_needed() -> None:
    import subprocess

    script = "import sys; import gsvckpt.commands.prune.metrics, gsvckpt.commands.prune.policy_file; print({!r} & set(sys.modules))"
    script = script.format({"numpy", "torch", "tensorboard", "csv", "json"})
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    pytest.importorskip("tensorboard")
    script = "import sys; from gsvckpt.commands.prune.tensorboard import read_events; read_events([], {})"
    script += "; print({'tensorboard', 'tensorflow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "{'tensorboard'}\n"


def test_an_endless_line_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a line of more than 65,536 bytes") as caught:
        table(tmp_path, "epoch,val_loss\n1," + "2" * 100_000)
    assert caught.value.where.endswith(":2")


@pytest.mark.parametrize("form", ["{},{}\n", '{{"epoch": {}, "mcd": {}}}\n'], ids=["csv", "json"])
def test_cells_are_counted_and_columns_that_are_not_asked_for_are_not_kept(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_text(("epoch,mcd\n" if form.startswith("{},") else "") + "".join(form.format(n, n) for n in range(1, 41)))
    monkeypatch.setattr("gsvckpt.files.budget.MOST_CELLS", 150)
    with pytest.raises(UsageError, match="more than 150 cells"):
        read_table(str(path))
    kept = read_table(str(path), "other")
    assert kept.columns == ("mcd",)
    assert all(not row.cells and row.places for row in kept.rows_of("alice"))


def test_empty_lines_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsvckpt.files.budget.MOST_CELLS", 50)
    with pytest.raises(UsageError, match="more than 50 lines"):
        table(tmp_path, "epoch,val_loss\n" + "\n" * 100)
