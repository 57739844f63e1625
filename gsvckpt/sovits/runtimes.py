"""Which programs take a file, each by its own rule: what it reads, how it tells versions, and whether it then finds every tensor of its network.

"Takes" means that the program's own code fills its network from the right version; that it ends without an error is not enough, as most load with
strict=False. The rules were read in the sources named here; `make readers` proves those of the packages for every layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from gsvckpt.sovits.kinds import Kind
from gsvckpt.sovits.official import md5_hex
from gsvckpt.sovits.upstream import Detection, UpstreamError, misread, misread_base

Runtime = Literal["GPT-SoVITS", "GSV-TTS-Lite", "Genie-TTS"]
Role = Literal["inference", "training base", "resume", "ONNX export", "conversion"]

VERSIONS: Mapping[Runtime, str] = {"GPT-SoVITS": "48b1a01", "GSV-TTS-Lite": "0.4.7", "Genie-TTS": "2.0.2"}
GENIE_LIMIT = 150 * 1024 * 1024  # bytes of a SoVITS file above which Genie-TTS takes it for v2ProPlus (Converter/Converter.py)
_LITE_HEADS = {"01": "v2", "05": "v2Pro", "06": "v2ProPlus"}  # gsv_tts/Loader.py
_LITE = ("v2", "v2Pro", "v2ProPlus")
_SMALL = ("gpt-weights", "sovits-weights", "sovits-lora", "sovits-generator-base")
_TRAINING = ("gpt-training", "sovits-generator-training", "sovits-discriminator-training")
_S2_KEYS = frozenset({"iteration", "optimizer", "model", "learning_rate"})  # utils.py:23-60
_S1_KEYS = frozenset({"pytorch-lightning_version", "state_dict", "optimizer_states", "lr_schedulers"})  # measured with pytorch-lightning 2.5.6


class RuntimeFacts(NamedTuple):
    """What the rules ask of a file. `missing` says which tensors of its version's network it lacks, of inference files without `enc_q`; `full`,
    whether it has that as well. `config_version` is what its config calls the version; `detected` is GPT-SoVITS's answer after a look at the tensors;
    `plain` says that torch's safe reader opens it; `refused` why torch's ordinary one does not.
    """

    kind: Kind
    version: str | None
    lora: bool
    container: str
    head: str | None
    size: int
    detected: Detection | UpstreamError | None
    keys: frozenset[str]
    missing: str = ""
    full: bool = False
    config_version: str | None = None
    plain: bool = True
    has_top_k: bool = True
    refused: str = ""


class RunsIn(NamedTuple):
    """One program in one role, whether it takes the file, and why, or why not."""

    runtime: Runtime
    role: Role
    takes: bool
    why: str

    def as_json(self) -> dict[str, object]:
        """One entry of `runs_in` in the JSON document."""
        return {"runtime": self.runtime, "version": VERSIONS[self.runtime], "role": self.role, "takes": self.takes, "why": self.why}


def runs_in(facts: RuntimeFacts) -> tuple[RunsIn, ...]:
    """What each program makes of a file of GPT-SoVITS; nothing for other files, which none of them is meant for."""
    if facts.kind not in (*_SMALL, *_TRAINING):
        return ()
    return tuple(RunsIn(runtime, role, *_judge(rule, facts)) for runtime, role, rule in _RULES)


def _judge(rule: Callable[[RuntimeFacts], tuple[bool, str]], facts: RuntimeFacts) -> tuple[bool, str]:
    if facts.refused:
        return False, f"torch.load refuses it: {facts.refused}"
    if facts.container == "safetensors" and rule is not _lite:
        return False, "it reads no safetensors files"
    return rule(facts)


def _of_training(facts: RuntimeFacts) -> str:
    if facts.kind == "sovits-discriminator-training":
        return "only training needs a discriminator"
    return "it is a training file, of which --to-inference makes weights"


# --- GPT-SoVITS ----------------------------------------------------------------------------------------------------------------------------------


def _inference(facts: RuntimeFacts) -> tuple[bool, str]:
    """process_ckpt.py:100-138, inference_webui.py:318-375, TTS_infer_pack/TTS.py:599-603"""
    if facts.kind in _TRAINING:
        return False, _of_training(facts)
    if facts.kind == "gpt-weights":
        if facts.head not in ("PK", None):
            return False, f"GPT weights are opened as they are, and begin with {facts.head}"
        return (False, f"it stops: {facts.missing}") if facts.missing else (True, "it finds all tensors")
    detected = facts.detected
    if detected is None or isinstance(detected, UpstreamError):
        return False, f"it stops: {detected.error if detected is not None else 'it cannot tell the version'}"
    if misread(facts.version, facts.lora, detected):
        return False, f"it reads the file as {detected.model}{' LoRA' if detected.lora else ''}"
    if facts.missing:
        return False, f"{facts.missing}; those stay random, without an error"
    return True, f"it reads the file as {detected.model}{' LoRA, over its base' if detected.lora else ''}"


def _training_base(facts: RuntimeFacts) -> tuple[bool, str]:
    """s2_train.py:230-250, AR/models/t2s_lightning_module.py:24-35, prepare_datasets/3-get-semantic.py:18-28"""
    if facts.kind in _TRAINING:
        return False, "it is a training file, and a base holds weights"
    if facts.lora:
        return False, "a LoRA is no base: it is trained on one"
    if facts.head not in ("PK", None):
        return False, f"the trainers open a base as it is, and it begins with {facts.head}"
    if facts.missing:
        return False, facts.missing
    if facts.kind == "gpt-weights":
        return True, "it finds all tensors"
    wrong = misread_base(facts.version, facts.size)
    if not facts.full:
        return False, "enc_q is not in it, which training would begin from random numbers"
    return (False, wrong) if wrong else (True, "it finds all tensors")


def _resume(facts: RuntimeFacts) -> tuple[bool, str]:
    """utils.py:23-60; measured with pytorch-lightning 2.5.6"""
    if facts.kind not in _TRAINING:
        return False, "it holds no training state"
    if facts.head not in ("PK", None):
        return False, f"training files are opened as they are, and it begins with {facts.head}"
    lacking = sorted((_S1_KEYS if facts.kind == "gpt-training" else _S2_KEYS) - facts.keys)
    if lacking:
        return False, f"it lacks {', '.join(lacking)}"
    if facts.missing:
        return False, facts.missing
    pair = {"sovits-generator-training": "D", "sovits-discriminator-training": "G"}.get(facts.kind, "") if not facts.lora else ""
    return True, f"together with the {pair} of the same epoch" if pair else "it finds all that it asks for"


def _export(facts: RuntimeFacts) -> tuple[bool, str]:
    """onnx_export.py: a bare torch.load, and networks of v1 and v2 alone"""
    if facts.kind in _TRAINING:
        return False, _of_training(facts)
    if facts.head not in ("PK", None) or facts.container != "torch-zip":
        return False, "it opens the file with a plain torch.load, which needs a zip that begins with PK"
    if facts.missing:
        return False, facts.missing
    if facts.kind == "gpt-weights":
        return (True, "it finds all tensors") if facts.has_top_k else (False, "its config has no inference.top_k")
    return (True, f"it builds {facts.version}") if facts.version in ("v1", "v2") else (False, "it builds networks of v1 and v2 alone")


# --- others --------------------------------------------------------------------------------------------------------------------------------------


def _lite(facts: RuntimeFacts) -> tuple[bool, str]:
    """gsv_tts/Loader.py: heads 01, 05 and 06, hashes of official files, else the version that the config states; GPT strictly"""
    if facts.kind in _TRAINING:
        return False, _of_training(facts)
    if facts.container == "safetensors":
        return False, "it takes safetensors only in a folder of its own form: migrate --to safetensors --rules gsv-tts-lite"
    if facts.kind == "gpt-weights":
        if facts.head not in ("PK", None):
            return False, f"GPT weights are opened as they are, and begin with {facts.head}"
        return (False, f"it stops: {facts.missing}") if facts.missing else (True, "it finds all tensors")
    if facts.container != "torch-zip":
        return False, "it takes the file for a zip"
    detected = facts.detected
    told = _LITE_HEADS.get(facts.head or "")
    if told is None and isinstance(detected, Detection) and detected.rule == "hash":
        told = detected.model if detected.model in _LITE else None
    told = told or facts.config_version
    if told not in _LITE:
        return False, f"it knows v2, v2Pro and v2ProPlus, and takes this for {told or 'another version'}"
    if told != facts.version:
        return False, f"it takes the file for {told}"
    return (False, f"{facts.missing}; those stay random, without an error") if facts.missing else (True, f"it reads the file as {told}")


def _genie(facts: RuntimeFacts) -> tuple[bool, str]:
    """genie_tts/Converter/Converter.py: v2ProPlus above 150 MiB, else v2; GPT by torch's safe reader"""
    if facts.kind in _TRAINING:
        return False, _of_training(facts)
    if facts.missing:
        return False, facts.missing
    if facts.kind == "gpt-weights":
        if facts.head not in ("PK", None):
            return False, f"GPT weights are opened as they are, and begin with {facts.head}"
        if not facts.plain:
            return False, "torch's safe reader refuses it; --plain makes a file that it opens"
        if facts.version == "v1":
            return False, "it says that the conversion succeeded, but what it makes of v1 does not load"
        return True, "it finds all tensors"
    if facts.container != "torch-zip":
        return False, "it takes the file for a zip"
    told = "v2ProPlus" if facts.size > GENIE_LIMIT else "v2"
    if told == facts.version:
        return True, f"it takes the file for {told}, by its size"
    if facts.version == "v2Pro" or (told, facts.version) == ("v2", "v1"):
        return False, f"it takes the file for {told} by its size and says that the conversion succeeded, but what it makes does not load"
    return False, f"it takes the file for {told} by its size, and deletes its output folder"


_RULES: tuple[tuple[Runtime, Role, Callable[[RuntimeFacts], tuple[bool, str]]], ...] = (
    ("GPT-SoVITS", "inference", _inference),
    ("GPT-SoVITS", "training base", _training_base),
    ("GPT-SoVITS", "resume", _resume),
    ("GPT-SoVITS", "ONNX export", _export),
    ("GSV-TTS-Lite", "inference", _lite),
    ("Genie-TTS", "conversion", _genie),
)


def outgrown(kind: Kind, version: str | None, before: int, after: int) -> str | None:
    """A warning where a file of v1 or v2 grows to a size at which Genie-TTS takes it for v2ProPlus; None where it does not."""
    if kind != "sovits-weights" or version not in ("v1", "v2") or not before <= GENIE_LIMIT < after:
        return None
    return "Genie-TTS takes SoVITS files above 150 MiB for v2ProPlus: of this one it makes nothing, and deletes its output folder"


# --- whether a file is complete ------------------------------------------------------------------------------------------------------------------


def shapes_digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A digest of names and shapes in any order, by which a complete state dict is told without reading the layouts (12 ms)."""
    told = "\n".join(sorted(f"{name} {shape}" for name, shape in shapes.items()))
    return md5_hex(told.encode("utf-8", "surrogatepass"))


COMPLETE: Mapping[str, str] = {  # of each layout whose shapes are fixed; a test makes them anew from the layouts
    "5fb74f3c6e0f9136eb6ec27db0a99c93": "gpt-v1",
    "676c49dfc062aad57f99669342dccef0": "gpt-v2",
    "e4258980ee78aab014502371ce83d320": "sovits-v1",
    "6b9216fe976fc531cb3b98bc4a8539e8": "sovits-v1-small",
    "0b0b5222d0de099dde198e49eeae8ecc": "sovits-v2",
    "ec962acaaa91e208a1b8becdc431b9b4": "sovits-v2-small",
    "531f95b8c5dcc5fd9005625377316168": "sovits-v2Pro",
    "82efe80bf5ca73e133c156376e446957": "sovits-v2Pro-small",
    "496fa005bb4655af1971671a10700b01": "sovits-v2ProPlus",
    "e5017b6db8a3846ea492c8f526de79fa": "sovits-v2ProPlus-small",
    "a8e8ee0da4847dfe37070b8bb825da09": "sovits-v3",
    "87bf11b8bbd088cd81cf1fe9df4471f3": "discriminator-v2",
    "e025e0c2cd20eede91c2e092a414dacf": "discriminator-v2Pro",
    "10e0b70a08f01ac58550cd8a45c1056d": "lora-v3",  # of rank 32, the default
    "4df424c5e58c8bef12b2dde6264b6c7e": "lora-training-v3",
}
EQUAL: Mapping[str, str] = {  # layouts of the same names and shapes: v3 and v4, and discriminators
    "sovits-v4": "sovits-v3",
    "lora-v4": "lora-v3",
    "lora-training-v4": "lora-training-v3",
    "discriminator-v1": "discriminator-v2",
    "discriminator-v2ProPlus": "discriminator-v2Pro",
}
