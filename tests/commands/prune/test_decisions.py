"""Policies over saves: pure, so without any file."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsvckpt.commands.prune.decisions import RunRules, decide, group_saves, span
from gsvckpt.commands.prune.policy import Every, Policy, Scores
from gsvckpt.engine.saves import Group, Save, SaveFile, freed_by
from gsvckpt.errors import RefusedError

DAY = 86_400
GROUP = Group("logs/a/logs_s2_v2", "a", "sovits-training", "v2")


def save(epoch, *, group=GROUP, size=100, days=0.0, trained=False, guards=(), step=None, name=None):
    path = f"{group.folder}/{name or f'G_{epoch}.pth'}"
    return Save(group, (SaveFile(path, size, int(days * DAY * 1e9), (1, hash(path))),), epoch, step, trained, guards)


def planned(saves, policy, *, scores=None, damaged=None):
    known = Scores(*scores) if scores is not None else Scores()
    return decide([RunRules(group, of, policy, known) for group, of in group_saves(saves).items()], damaged or {})


def run(saves, policy, *, scores=None, damaged=None):
    """Fate of each epoch, and reasons of each."""
    plans = planned(saves, policy, scores=scores, damaged=damaged)
    decisions = [decision for plan in plans for decision in plan.decisions]
    return {d.save.epoch: d.fate for d in decisions}, {d.save.epoch: d.reasons for d in decisions}


def kept(saves, policy, **more):
    return sorted(epoch for epoch, fate in run(saves, policy, **more)[0].items() if fate == "keep")


def test_the_last_are_the_newest_by_content_not_by_time():
    saves = [save(epoch, days=10 - epoch) for epoch in range(1, 6)]
    assert kept(saves, Policy(last=2)) == [4, 5]


def test_steps_tell_apart_what_epochs_do_not():
    saves = [save(3, step=step, name=f"{step}.pth") for step in (100, 300, 200)]
    (plan,) = planned(saves, Policy(last=1))
    assert [d.save.step for d in plan.of("keep")] == [300]


def test_rules_are_united_and_every_reason_is_told():
    saves = [save(epoch) for epoch in range(1, 11)]
    fates, reasons = run(saves, Policy(last=2, every=Every(5)))
    assert [epoch for epoch, fate in fates.items() if fate == "keep"] == [10, 9, 5]
    assert reasons[10] == ("among the last 2", "epoch 10, a multiple of 5")
    assert reasons[7] == ("not among the last 2", "its epoch is not a multiple of 5")


def test_of_several_saves_of_an_epoch_the_last_is_the_epochs():
    saves = [save(4, step=step, name=f"{step}.pth") for step in (1, 2)] + [save(5)]
    (plan,) = planned(saves, Policy(every=Every(4)))
    assert [(d.save.epoch, d.save.step) for d in plan.of("keep")] == [(5, None), (4, 2)]
    assert plan.of("remove")[0].reasons == ("not the last save of epoch 4",)


def test_within_counts_from_the_newest_not_from_today():
    saves = [save(epoch, days=epoch) for epoch in range(1, 10)]
    assert kept(saves, Policy(within=2 * DAY)) == [7, 8, 9]


def test_names_are_kept_by_globs():
    saves = [save(1), save(2, name="best.pth"), save(3)]
    assert kept(saves, Policy(keep=("best*",), last=1)) == [2, 3]
    for glob in ("*/logs_s2_v2/G_1.pth", "logs_s2_v2/G_1.pth", "./logs_s2_v2/G_1.pth", os.path.abspath(save(1).paths[0])):
        assert kept(saves, Policy(keep=(glob,), last=1)) == [1, 3]
    assert kept(saves, Policy(keep=("s2_v2/G_1.pth",), last=1)) == [3]


def test_best_and_latest_go_together():
    saves = [save(epoch) for epoch in range(1, 6)]
    values = {saves[1]: 0.9, saves[3]: 0.2, saves[4]: 0.1}
    assert kept(saves, Policy(best=1, last=1), scores=("acc", False, values)) == [2, 5]
    assert kept(saves, Policy(best=1), scores=("acc", False, values)) == [2, 5]  # the newest stays without a rule, too
    assert kept(saves, Policy(best=1, last=1), scores=("loss", True, values)) == [5]


def test_of_equals_the_newer_is_the_better():
    saves = [save(epoch) for epoch in range(1, 4)]
    assert kept(saves, Policy(best=1), scores=("acc", False, dict.fromkeys(saves[:2], 0.5))) == [2, 3]


def test_without_any_metric_nothing_goes():
    saves = [save(epoch) for epoch in range(1, 4)]
    (plan,) = planned(saves, Policy(best=1))
    assert not plan.of("remove")
    assert plan.note == "no metric is known for it"


def test_damaged_ones_count_for_nothing_and_stay():
    saves = [save(epoch) for epoch in range(1, 6)]
    fates, reasons = run(saves, Policy(last=1), damaged={saves[4]: "is cut", saves[3]: "is cut"})
    assert [epoch for epoch, fate in fates.items() if fate == "keep"] == [5, 4, 3]
    assert reasons[5] == ("is cut",)
    assert reasons[3] == ("the last one",)


def test_guarded_ones_stay_and_the_newest_too():
    saves = [save(1, guards=("weight.json names it",)), *(save(epoch) for epoch in (2, 3))]
    fates, reasons = run(saves, Policy(keep=("nothing",)))
    assert fates == {3: "keep", 2: "remove", 1: "keep"}
    assert reasons[3] == ("the newest sound one",)


def test_a_group_of_which_the_rules_keep_nothing_is_left_alone():
    saves = [save(epoch) for epoch in (1, 2, 3)]
    for policy in (Policy(keep=("nothing",)), Policy(every=Every(10)), Policy(max_size=50)):
        (plan,) = planned(saves, policy)
        assert {decision.fate for decision in plan.decisions} == {"keep"}
        assert "left alone" in plan.note


@pytest.mark.parametrize("every", [Every(200), Every(200, steps=True)])
def test_without_epochs_every_counts_steps(every):
    saves = [replace(save(None), step=step, files=(SaveFile(f"step-{step}.pt", 1, step),)) for step in (100, 200, 300, 400)]
    (plan,) = planned(saves, Policy(every=every))
    assert [decision.save.step for decision in plan.of("keep")] == [400, 200]
    assert ("as these saves state no epochs" in plan.of("remove")[0].reasons[0]) is not every.steps


def test_max_size_takes_the_newest_of_each_group_in_turns():
    other = GROUP._replace(name="b")
    saves = [save(epoch) for epoch in range(1, 6)] + [save(epoch, group=other) for epoch in range(1, 6)]
    plans = planned(saves, Policy(max_size=500))
    assert [[d.save.epoch for d in plan.of("keep")] for plan in plans] == [[5, 4, 3], [5, 4]]


def test_max_size_puts_the_best_behind_the_newest():
    saves = [save(epoch) for epoch in range(1, 6)]
    assert kept(saves, Policy(max_size=200), scores=("acc", False, {saves[0]: 1.0})) == [1, 5]


def test_what_other_rules_keep_counts_against_max_size():
    saves = [save(epoch) for epoch in range(1, 6)]
    assert kept(saves, Policy(max_size=300, keep=("G_1.pth",))) == [1, 4, 5]


def test_demotion_takes_the_place_of_removal():
    saves = [save(epoch, trained=epoch != 1) for epoch in range(1, 6)]
    fates, reasons = run(saves, Policy(demote_after=2))
    assert fates == {5: "keep", 4: "keep", 3: "demote", 2: "demote", 1: "keep"}
    assert reasons[1] == ("has no optimizer state to remove",)
    fates, _ = run(saves, Policy(demote_after=2, every=Every(3)))
    assert fates[3] == "keep"


@pytest.mark.parametrize("last", [None, 1])
def test_where_things_shrink_nothing_is_removed(last):
    """Also what shrank already, and what never held optimizer state."""
    (plan,) = planned([save(1), save(2)], Policy(last=last, demote_after=1))
    assert not plan.of("remove")
    assert not plan.of("demote")


def test_what_always_stays_takes_room_too():
    base = save(None, group=GROUP._replace(kind="sovits-generator-base"), size=150, guards=("a pretrained model",))
    fates, _ = run([base, *(save(epoch) for epoch in (1, 2, 3))], Policy(max_size=300))
    assert [epoch for epoch, fate in fates.items() if fate == "keep" and epoch] == [3]


def test_the_command_line_stands_over_a_file():
    assert Policy(last=2).over(Policy(last=5, every=Every(3))) == Policy(last=2, every=Every(3))
    assert Policy().empty
    assert not Policy(demote_after=1).empty


def test_a_file_with_another_name_is_not_freed():
    one, two = SaveFile("a", 10, 0, (1, 1), 2), SaveFile("b", 10, 0, (1, 1), 2)
    assert freed_by([one]) == 0
    assert freed_by([one, two]) == 10


@pytest.mark.parametrize(("seconds", "text"), [(7 * DAY, "1w"), (3 * DAY, "3d"), (5_400, "90min"), (3_600, "1h"), (61, "61s")])
def test_spans_read_as_they_are_written(seconds, text):
    assert span(seconds) == text


EPOCHS = st.lists(st.tuples(st.integers(1, 9), st.floats(0, 30), st.booleans()), min_size=1, max_size=12, unique_by=lambda entry: entry[0])
POLICIES = st.builds(
    Policy,
    last=st.none() | st.integers(1, 4),
    best=st.none() | st.integers(1, 3),
    every=st.none() | st.builds(Every, st.integers(1, 5), st.booleans()),
    within=st.none() | st.integers(1, 20 * DAY),
    max_size=st.none() | st.integers(100, 900),
    demote_after=st.none() | st.integers(1, 4),
)


@given(EPOCHS, POLICIES, st.data())
def test_one_more_rule_never_removes_more(epochs, policy, data):
    """Union: what a rule keeps alone it keeps beside others; and the newest sound one always stays."""
    saves = [save(epoch, days=days, trained=trained) for epoch, days, trained in epochs]
    damaged = dict.fromkeys(data.draw(st.lists(st.sampled_from(saves), unique=True, max_size=3)), "is cut")
    values = {one: float(one.epoch * 7 % 5) for one in saves}
    try:
        both = kept(saves, policy, damaged=damaged, scores=("acc", False, values))
    except RefusedError:
        return
    newest = max((one.epoch for one in saves if one not in damaged), default=None)
    assert newest is None or newest in both
    assert {one.epoch for one in damaged} <= set(both)
    if policy.last is not None and policy.demote_after is None:
        assert set(kept(saves, Policy(last=policy.last), damaged=damaged)) <= set(both)
