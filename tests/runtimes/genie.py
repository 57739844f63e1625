"""Genie-TTS's own converter, in a process of its own: `python -m tests.runtimes.genie JOB.json ANSWER.json`.

A job names pairs of a GPT and a SoVITS file; the answer has the SHA-256 of every file that the converter made of each pair. It raises nothing for a
bad file, but logs an error and removes its output, so no file means that it failed. It keeps its cache in the working folder, which must be its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import sys
import types
from pathlib import Path

PROMPT = "prompt_encoder_fp32.onnx"  # of v2ProPlus alone
SESSIONS = {
    "t2s_encoder_fp32.onnx": "",
    "t2s_first_stage_decoder_fp32.onnx": "t2s_shared_fp16.bin",
    "t2s_stage_decoder_fp32.onnx": "t2s_shared_fp16.bin",
    "vits_fp32.onnx": "vits_fp16.bin",
    PROMPT: "prompt_encoder_fp16.bin",
}


def converter() -> object:
    """genie_tts.Converter.Converter.convert, without running genie_tts/__init__.py, which would ask for packages that play sound."""
    found = importlib.util.find_spec("genie_tts")
    assert found is not None
    package = importlib.util.module_from_spec(found)  # importlib.resources needs a real one
    sys.modules["genie_tts"] = package
    return importlib.import_module("genie_tts.Converter.Converter").convert


def loads(folder: Path) -> bool:
    """Whether what was converted can be loaded, by the function with which Genie-TTS loads it (ModelManager.load_character)."""
    import onnxruntime

    load = session_loader()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # only whether all weights fit is of interest
    try:
        for name, weights in SESSIONS.items():
            if (folder / name).exists() and weights:
                load(str(folder / name), str(folder / weights), ["CPUExecutionProvider"], options)
            elif (folder / name).exists():
                onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"], sess_options=options)
            elif name != PROMPT:
                return False
    except Exception:  # noqa: BLE001 - onnxruntime has errors of its own
        return False
    return True


def session_loader() -> object:
    """genie_tts.ModelManager.load_session_with_fp16_conversion. Its module asks for packages and data that loading a voice does not need."""
    for name, attribute in (("tokenizers", "Tokenizer"), ("huggingface_hub", "snapshot_download")):
        module = types.ModuleType(name)
        setattr(module, attribute, None)
        sys.modules.setdefault(name, module)
    for variable in ("GENIE_DATA_DIR", "HUBERT_MODEL_DIR", "SV_MODEL", "ROBERTA_MODEL_DIR"):
        os.environ[variable] = os.getcwd()
    return importlib.import_module("genie_tts.ModelManager").load_session_with_fp16_conversion


def main(job: str, answer: str) -> None:
    asked = json.loads(Path(job).read_text(encoding="utf-8"))
    convert = converter()
    logging.getLogger().setLevel(logging.CRITICAL)
    if asked.get("load"):
        told = {}
        for name, (gpt, sovits) in asked["pairs"].items():
            convert(gpt, sovits, "made")
            told[name] = {"takes": loads(Path("made")), "why": ""}
            shutil.rmtree("made", ignore_errors=True)
        Path(answer).write_text(json.dumps(told), encoding="utf-8")
        return
    found: dict[str, dict[str, str]] = {}
    for name, (gpt, sovits) in asked["pairs"].items():
        output = Path("made")
        convert(gpt, sovits, str(output))
        files = sorted(path for path in output.rglob("*") if path.is_file()) if output.exists() else []
        found[name] = {path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        shutil.rmtree(output, ignore_errors=True)
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
