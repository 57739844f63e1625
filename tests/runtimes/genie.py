"""Genie-TTS's own converter, in a process of its own: `python -m tests.runtimes.genie JOB.json ANSWER.json`.

A job names pairs of a GPT and a SoVITS file; the answer has the SHA-256 of every file that the converter made of each pair. It raises nothing for a
bad file, but logs an error and removes its output, so no file means that it failed. It keeps its cache in the working folder, which must be its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import shutil
import sys
from pathlib import Path


def converter() -> object:
    """genie_tts.Converter.Converter.convert, without running genie_tts/__init__.py, which would ask for packages that play sound."""
    found = importlib.util.find_spec("genie_tts")
    assert found is not None
    package = importlib.util.module_from_spec(found)  # importlib.resources needs a real one
    sys.modules["genie_tts"] = package
    return importlib.import_module("genie_tts.Converter.Converter").convert


def main(job: str, answer: str) -> None:
    asked = json.loads(Path(job).read_text(encoding="utf-8"))
    convert = converter()
    logging.getLogger().setLevel(logging.CRITICAL)
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
