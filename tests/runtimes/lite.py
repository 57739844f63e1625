"""GSV-TTS-Lite's own loader and networks, in a process of their own: `python -m tests.runtimes.lite JOB.json ANSWER.json`.

A job names an original, the files that gsvckpt made of it, and for casts the files that torch made; the answer says of each which keys were missing
or not wanted, how many tensors differ from the original's and by how much, and how much the sound (SoVITS) or the tokens (GPT) differ. The package is
imported without its __init__, which would ask for packages that play sound.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import types
from pathlib import Path
from typing import NamedTuple

import torch

SEED = 20261201
CODES, PHONES, FRAMES = 40, 24, 60  # of one second of speech
PEAK = 0.05  # a quieter signal would be a weak witness


class Loaded(NamedTuple):
    """A network: its tensors, what one fixed input makes of it, and the keys that its file lacked or had besides."""

    state: dict[str, torch.Tensor]
    made: torch.Tensor
    missing: list[str]
    unexpected: list[str]


def loader() -> types.ModuleType:
    """gsv_tts.Loader, without gsv_tts/__init__.py."""
    if "gsv_tts" in sys.modules:
        return importlib.import_module("gsv_tts.Loader")
    found = importlib.util.find_spec("gsv_tts")
    assert found is not None and found.submodule_search_locations
    package = types.ModuleType("gsv_tts")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["gsv_tts"] = package
    return importlib.import_module("gsv_tts.Loader")


def settings() -> types.SimpleNamespace:
    return types.SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, use_flash_attn=False, sovits_cache=[], gpt_cache=[(1, 64)])


def load(path: str, kind: str) -> Loaded:
    """Load one file, or the folder form, and use it. Raises whatever the loader raises."""
    told: list[object] = []
    inner = torch.nn.Module.load_state_dict

    def load_state_dict(module: torch.nn.Module, *args: object, **options: object) -> object:
        answer = inner(module, *args, **options)  # type: ignore[arg-type]
        told.append(answer)
        return answer

    torch.nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign,assignment]  # it is called with strict=False, which hides what is missing
    try:
        if kind == "sovits":
            net = LOADER.get_sovits_weights(path, settings()).vq_model
            made = speak(net)
        else:
            net = LOADER.get_gpt_weights(path, settings()).t2s_model
            made = tokens(net)
    finally:
        torch.nn.Module.load_state_dict = inner  # type: ignore[method-assign]
    missing = sorted(key for answer in told for key in answer.missing_keys)
    unexpected = sorted(key for answer in told for key in answer.unexpected_keys)
    return Loaded(dict(net.state_dict()), made, missing, unexpected)


def speak(net: torch.nn.Module) -> torch.Tensor:
    """The waveform of fixed codes and phones, with a fixed voice."""
    generator = torch.Generator().manual_seed(SEED)
    codes = torch.randint(0, 1024, (1, 1, CODES), generator=generator)
    phones = torch.randint(1, 300, (1, PHONES), generator=generator)
    with torch.inference_mode():
        voice = torch.randn(1, 20480, generator=generator) if net.is_v2pro else None
        ge = net.get_ge(torch.randn(1, 704, FRAMES, generator=generator), voice)
        torch.manual_seed(SEED)
        return net.decode(codes, phones, ge)[0].flatten()


def tokens(net: torch.nn.Module) -> torch.Tensor:
    """The tokens that are drawn for fixed phones after a fixed prompt."""
    generator = torch.Generator().manual_seed(SEED)
    phones = torch.randint(1, 300, (1, PHONES), generator=generator)
    prompt = torch.randint(0, 1000, (1, 16), generator=generator)
    torch.manual_seed(SEED)
    return net.infer(phones, prompt, torch.randn(1, PHONES, 1024, generator=generator)).flatten()


def compare(original: Loaded, other: Loaded) -> dict[str, object]:
    """How far `other` is from the original. `noise` is the signal-to-noise ratio in dB, null for equal sounds and for tokens."""
    names = original.state.keys() & other.state.keys()
    differ = [name for name in names if not is_same(original.state[name], other.state[name])]
    same = is_same(original.made, other.made)
    return {
        "missing": other.missing,
        "unexpected": other.unexpected,
        "tensors": len(original.state),
        "strangers": sorted(original.state.keys() ^ other.state.keys()),
        "differ": len(differ),
        "largest": max((_distance(original.state[name], other.state[name]) for name in differ), default=0.0),
        "same": same,
        "noise": None if same or not original.made.is_floating_point() else _noise(original.made.double(), other.made.double()),
    }


def is_same(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether all bytes are equal: torch.equal would take 0.0 for -0.0, and no NaN for itself."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), two.reshape(-1).view(torch.uint8))


def _distance(one: torch.Tensor, two: torch.Tensor) -> float:
    """The largest difference, relative to the largest value; infinite where there is no such number."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return math.inf
    distance = float((one.double() - two.double()).abs().max() / one.double().abs().max())
    return math.inf if math.isnan(distance) else distance


def _noise(signal: torch.Tensor, other: torch.Tensor) -> float:
    if signal.shape != other.shape:
        return -math.inf
    power = float((signal - other).square().sum())
    return 10 * math.log10(float(signal.square().sum()) / power) if power else math.inf


def try_one(original: Loaded, path: str, reference: str | None, kind: str) -> dict[str, object]:
    """Load and compare one file, with the original and with its reference, if it has one; whatever the loader raises is the answer for it."""
    try:
        loaded = load(path, kind)
    except Exception as error:  # noqa: BLE001 - as above
        return {"error": f"{type(error).__name__}: {error}"}
    found = compare(original, loaded)
    return found if reference is None else {**found, "by_torch": compare(load(reference, kind), loaded)}


def takes(path: str, kind: str) -> dict[str, object]:
    """Whether the loader fills its network from a file: without an error, and with no key missing."""
    try:
        found = load(path, kind)
    except Exception as error:  # noqa: BLE001 - whatever the loader raises is the answer for this file
        return {"takes": False, "why": f"{type(error).__name__}: {error}"[:200]}
    return {"takes": not found.missing, "why": f"{len(found.missing)} keys are missing" if found.missing else ""}


def main(job: str, answer: str) -> None:
    asked = json.loads(Path(job).read_text(encoding="utf-8"))
    if "takes" in asked:
        told = {name: takes(path, kind) for name, (kind, path) in asked["takes"].items()}
        Path(answer).write_text(json.dumps(told), encoding="utf-8")
        return
    original = load(asked["original"], asked["kind"])
    peak = float(original.made.double().abs().max())
    found: dict[str, object] = {"missing": original.missing, "unexpected": original.unexpected, "tensors": len(original.state), "peak": peak}
    others = {name: try_one(original, path, asked["references"].get(name), asked["kind"]) for name, path in asked["others"].items()}
    Path(answer).write_text(json.dumps({**found, "others": others}), encoding="utf-8")


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # without it numbers near zero make this twenty times slower
    LOADER = loader()
    main(*sys.argv[1:])
