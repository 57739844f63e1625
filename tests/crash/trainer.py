"""A trainer that saves and resumes as GPT-SoVITS does, with a network of four numbers: `python trainer.py MATRIX FOLDER`.

What it re-tells stands in upstream's s2_train.py (resume, and the order of a save), s1_train.py (GPT's checkpoints), utils.py (save_checkpoint,
latest_checkpoint_path) and process_ckpt.py (my_save, my_save2). The working folder is FOLDER, which holds `logs` and the folders of small weights.
On its last line it prints the truth: from which files it went on, and how the choice ended.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from glob import glob
from typing import NamedTuple

import torch

EPOCHS = int(os.environ.get("EPOCHS", "3"))
STEPS = 8  # of an epoch
LATEST = 233333333333
RUN, CKPT = "logs/exp/logs_s2_v2", "logs/exp/logs_s1_v2/ckpt"


class Matrix(NamedTuple):
    """How a run is set up: the stage, whether only the latest save is kept, whether small weights go straight to their name (v2Pro's head), and
    whether `logs` lies on another drive.
    """

    stage: str
    latest: bool
    straight: bool = False
    elsewhere: bool = False


MATRICES = {
    "s2": Matrix("s2", latest=False),
    "s2-latest": Matrix("s2", latest=True),
    "s2-pro-latest-xdev": Matrix("s2", latest=True, straight=True, elsewhere=True),
    "s1": Matrix("s1", latest=True),
    "s1-xdev": Matrix("s1", latest=True, elsewhere=True),
}


class Start(NamedTuple):
    """From where training goes on. `outcome`: goes on, nothing there, starts over, mixed."""

    outcome: str
    generator: str | None
    discriminator: str | None
    epoch: int
    values: torch.Tensor


class Clock:
    """Steps of one second in place of the time, so that two runs give their temporary files the same names."""

    def __init__(self) -> None:
        self.now = 1_700_000_000

    def name(self) -> str:
        self.now += 1
        return f"{self.now}.{self.now % 97}.pth"


def save(tree: object, path: str, clock: Clock) -> None:
    """A time-named file in the working folder, then a move: a rename, or on another drive a copy and a removal."""
    temporary = clock.name()
    torch.save(tree, temporary)
    shutil.move(temporary, path)


def save_straight(tree: object, path: str) -> None:
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    with open(path, "wb") as file:
        file.write(b"05" + buffer.getvalue()[2:])


def train(values: torch.Tensor, epoch: int) -> torch.Tensor:
    return values * 0.5 + epoch


def newest(letter: str) -> str:
    """The file whose path has the highest number, of all of its digits together; ValueError where there is none."""
    return max(glob(f"{RUN}/{letter}_*.pth"), key=lambda path: int("".join(filter(str.isdigit, path))))


def begin_s2() -> Start:
    generator = discriminator = None
    try:
        discriminator = newest("D")
        second = torch.load(discriminator, map_location="cpu")
        generator = newest("G")
        first = torch.load(generator, map_location="cpu")
        outcome = "goes on" if first["iteration"] == second["iteration"] else "mixed"
        return Start(
            outcome, os.path.basename(generator), os.path.basename(discriminator), first["iteration"], first["model"]["w"] + second["model"]["w"]
        )
    except Exception:  # noqa: BLE001 - as upstream: whatever goes wrong, training starts from the pretrained model
        there = glob(f"{RUN}/[GD]_*.pth")
        return Start("starts over" if there else "nothing there", None, None, 0, torch.zeros(4))


def run_s2(matrix: Matrix, clock: Clock) -> tuple[Start, torch.Tensor]:
    os.makedirs(RUN, exist_ok=True)
    os.makedirs("SoVITS_weights_v2", exist_ok=True)
    start = begin_s2()
    values = start.values
    for epoch in range(start.epoch + 1, EPOCHS + 1):
        values = train(values, epoch)
        number = LATEST if matrix.latest else epoch * STEPS
        for letter in "GD":
            tree = {"model": {"w": values / 2}, "iteration": epoch, "optimizer": None, "learning_rate": 1e-4}
            save(tree, f"{RUN}/{letter}_{number}.pth", clock)
        small = {"weight": {"w": values.half()}, "config": {}, "info": f"{epoch}epoch"}
        path = f"SoVITS_weights_v2/exp_e{epoch}_s{epoch * STEPS}.pth"
        if matrix.straight:
            save_straight(small, path)
        else:
            save(small, path, clock)
    return start, values


def newest_lightning() -> str | None:
    found = [(int(match[1]), int(match[2]), name) for name in os.listdir(CKPT) if (match := re.match(r"epoch=(\d+)-step=(\d+)\.ckpt", name))]
    return f"{CKPT}/{max(found)[2]}" if found else None


def run_s1(_: Matrix, clock: Clock) -> tuple[Start, torch.Tensor]:
    os.makedirs(CKPT, exist_ok=True)
    os.makedirs("GPT_weights_v2", exist_ok=True)
    path = newest_lightning()
    start = Start("nothing there", None, None, 0, torch.zeros(4))
    if path is not None:  # what fails here ends the run
        found = torch.load(path, map_location="cpu")
        start = Start("goes on", os.path.basename(path), None, found["epoch"] + 1, found["state_dict"]["w"])
    values = start.values
    for epoch in range(start.epoch, EPOCHS):
        values = train(values, epoch)
        older = os.listdir(CKPT)
        tree = {
            "epoch": epoch,
            "global_step": (epoch + 1) * STEPS,
            "pytorch-lightning_version": "2.5.6",
            "state_dict": {"w": values},
            "loops": {},
            "optimizer_states": [],
            "lr_schedulers": [],
        }
        save(tree, f"{CKPT}/epoch={epoch}-step={(epoch + 1) * STEPS}.ckpt", clock)
        for name in older:
            os.remove(f"{CKPT}/{name}")
        save({"weight": {"w": values.half()}, "config": {}, "info": f"GPT-e{epoch + 1}"}, f"GPT_weights_v2/exp-e{epoch + 1}.ckpt", clock)
    return start, values


def place_logs(matrix: Matrix) -> None:
    """`logs` in the folder, or on the other drive, which the environment names, behind a link."""
    if not matrix.elsewhere:
        os.makedirs("logs", exist_ok=True)
    elif not os.path.lexists("logs"):
        there = os.path.join(os.environ["ELSEWHERE"], os.path.basename(os.path.dirname(os.getcwd())))
        os.makedirs(there, exist_ok=True)
        os.symlink(there, "logs", target_is_directory=True)


def main(name: str, folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    matrix, clock = MATRICES[name], Clock()
    place_logs(matrix)
    try:
        start, values = (run_s2 if matrix.stage == "s2" else run_s1)(matrix, clock)
    except Exception as error:
        print("TRUTH " + json.dumps({"outcome": "stops", "why": f"{type(error).__name__}"}))
        raise
    torch.save(values, "final.pt")
    told = {"outcome": start.outcome, "G": start.generator, "D": start.discriminator, "epoch": start.epoch or None}
    print("TRUTH " + json.dumps(told))
    print(f"resumed from step {start.epoch * STEPS}")


if __name__ == "__main__":
    main(*sys.argv[1:])
