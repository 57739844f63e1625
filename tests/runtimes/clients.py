"""How the programs are asked: each in a process and a folder of its own, as each replaces modules that others need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Threads of torch wait for one another in a loop, so two programs side by side are several times slower with two threads each than with one.
_SURROUNDINGS = {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}


def ask(jobs: Mapping[str, Mapping[str, object]], folder: Path) -> dict[str, dict[str, Any]]:
    """Give each program its job, all at once. Ends the run where one of them fails; a file that one cannot read is an answer, no failure."""
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(_ask, client, job, folder / client) for client, job in jobs.items()]
        return {client: answer.result() for client, answer in zip(jobs, answers, strict=True)}


def _ask(client: str, job: Mapping[str, object], place: Path) -> dict[str, Any]:
    place.mkdir()
    (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", f"tests.runtimes.{client}", "job.json", "answer.json"]
    done = subprocess.run(command, cwd=place, env={**os.environ, **_SURROUNDINGS}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{client} failed ({done.returncode})\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads((place / "answer.json").read_text(encoding="utf-8"))
    shutil.rmtree(place)
    return answer
