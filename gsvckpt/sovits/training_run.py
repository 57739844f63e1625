"""The name that a checkpoint gives to its run: two runs of one architecture differ in nothing else."""

from __future__ import annotations

import json

from gsvckpt.model import Checkpoint
from gsvckpt.sovits.config import config_of, find_config, lookup
from gsvckpt.sovits.lightning import save_folder

_KOHYA = ("ss_session_id", "ss_output_name", "ss_training_started_at")


def identity_of(checkpoint: Checkpoint) -> str:
    """The experiment's name in GPT-SoVITS's configs (`name` of S2, `train.exp_name` of S1); of Lightning the folder that its callback saves in and
    the hyperparameters; of kohya's LoRAs the session. Empty where nothing inside tells.
    """
    config = find_config(checkpoint.root)
    for keys in (("name",), ("train", "exp_name")):
        told = lookup(config, *keys)
        if isinstance(told, str) and told:
            return told
    root = checkpoint.root
    if isinstance(root, dict) and "pytorch-lightning_version" in root:
        settings = config_of(checkpoint) if root.get("hyper_parameters") else None
        folder = save_folder(root)
        return json.dumps([folder, settings], sort_keys=True) if folder or settings else ""
    return "/".join(checkpoint.container.metadata[key] for key in _KOHYA if key in checkpoint.container.metadata)
