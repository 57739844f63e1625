from __future__ import annotations

import pytest

from gsvckpt.sovits.training_progress import TrainingProgress, read_progress

from .trees import s1_training, s2_training, small


def test_small_weights_tell_it_in_info() -> None:
    assert read_progress(small({}), "xxx_e8_s16.pth") == TrainingProgress(8, 16, "8epoch_16iteration")
    assert read_progress({"info": "GPT-e2"}, "anything.ckpt") == TrainingProgress(2, None, "GPT-e2")


def test_lightning_counts_from_zero_in_the_file_and_in_its_name() -> None:
    root = s1_training({})
    assert read_progress(root, "epoch=1-step=12.ckpt") == TrainingProgress(2, 12)
    del root["epoch"]
    assert read_progress(root, "epoch=1-step=12.ckpt") == TrainingProgress(2, 12)


def test_iteration_of_a_training_file_is_the_epoch() -> None:
    assert read_progress(s2_training({}, 8), "G_16.pth") == TrainingProgress(8, 16)
    assert read_progress(s2_training({}, 8), "G_233333333333.pth") == TrainingProgress(8)


def test_the_content_wins_and_the_contradiction_is_told() -> None:
    found = read_progress(small({}), "xxx_e9_s17.pth")
    assert (found.epoch, found.step) == (8, 16)
    assert found.notes == (
        "the name says epoch 9, but info '8epoch_16iteration' says 8",
        "the name says step 17, but info '8epoch_16iteration' says 16",
    )


def test_the_name_serves_where_the_content_is_silent() -> None:
    assert read_progress({"weight": {}}, "xxx_e8_s16_l32.pth") == TrainingProgress(8, 16)
    assert read_progress([], "epoch_001.ckpt") == TrainingProgress(1)


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ({"epoch": 3, "step": 40}, TrainingProgress(3, 40)),
        ({"epoch": 3.0, "iteration": 400}, TrainingProgress(3, 400)),
        ({"global_step": 7, "step": 9}, TrainingProgress(None, 7)),
        ({"epoch": True, "step": -1}, TrainingProgress()),
        ({"epoch": 10**30, "step": "5"}, TrainingProgress()),
        ({"info": 5}, TrainingProgress()),
        ({"info": "pretrained_s2G_v4"}, TrainingProgress(info="pretrained_s2G_v4")),
        (None, TrainingProgress()),
    ],
)
def test_other_trees(root: object, expected: TrainingProgress) -> None:
    assert read_progress(root, "x.pt") == expected
