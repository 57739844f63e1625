"""Kinds of checkpoints, in the words of people."""

from __future__ import annotations

from collections.abc import Mapping

KINDS: Mapping[str, str] = {
    "gpt-weights": "GPT weights",
    "gpt-training": "GPT training",
    "sovits-weights": "SoVITS weights",
    "sovits-lora": "SoVITS LoRA",
    "sovits-generator-training": "SoVITS G training",
    "sovits-discriminator-training": "SoVITS D training",
    "sovits-generator-base": "SoVITS G base",
    "sovits-discriminator-base": "SoVITS D base",
    "vocoder": "vocoder",
    "speaker-encoder": "speaker encoder",
    "training": "training checkpoint",
    "state-dict": "state dict",
    "torchscript": "TorchScript",
    "unknown": "unknown",
}
