"""Runs scenarios of commands in one process and writes what each came to: `driver.py SCENARIOS.json ANSWER.json`. It runs on both systems."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
from pathlib import Path

from gsvckpt.cli.app import main


def run(line: str) -> dict[str, object]:
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(shlex.split(line))
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8"))  # type: ignore[attr-defined]
    return {"code": code, "out": texts[0], "err": texts[1]}


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = {}
    for name, lines in asked.items():
        os.chdir(name)
        found[name] = [run(line) for line in lines]
        os.chdir(os.pardir)
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
