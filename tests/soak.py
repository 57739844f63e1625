"""Long tests: a tenth of their counts in the suite, all of them by `make soak`, which puts its figures into docs/reliability.md.

Their seed is printed at the head of every run; `SEED=N` repeats one. `python -m tests.soak` runs them whole, with a seed of its own.
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

SEED = os.environ.get("SEED", "20261201")
IS_WHOLE = os.environ.get("SOAK") == "1"
_TALLY = os.environ.get("SOAK_TALLY")
DOCUMENT = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- make soak writes from here -->", "<!-- to here -->"
LONG = [
    "tests/differential",
    "tests/hostile/test_fuzz.py",
    "tests/cli/test_prune_random.py",
    "tests/cli/test_prune_evidence.py",
    "tests/cli/test_verify_kills.py",
    "tests/cli/test_prune_kills.py",
]


def count(whole: int) -> int:
    """How many of `whole` cases this run does."""
    return whole if IS_WHOLE else max(whole // 10, 1)


def tally(what: str, **counts: int) -> None:
    """Note what a test did, for the table."""
    if _TALLY:
        with open(_TALLY, "a", encoding="utf-8") as file:
            file.write(json.dumps([what, counts]) + "\n")


def main() -> int:
    seed = os.environ.get("SEED") or str(random.randrange(1 << 32))
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "tally"
        notes.touch()
        command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", *LONG]
        begin = time.monotonic()
        code = subprocess.run(command, env={**os.environ, "SOAK": "1", "SEED": seed, "SOAK_TALLY": str(notes)}, check=False).returncode
        seconds = time.monotonic() - begin
        totals: dict[str, Counter[str]] = {}
        for line in notes.read_text(encoding="utf-8").splitlines():
            what, counts = json.loads(line)
            totals[what] = totals.get(what, Counter()) + Counter(counts)
    rows = [f"| {what} | {name} | {number:,} |" for what in sorted(totals) for name, number in sorted(totals[what].items())]
    told = f"{time.strftime('%Y-%m-%d')}, seed {seed}, {seconds:,.0f} s on {os.cpu_count()} cores, Python {platform.python_version()}"
    text = "\n".join(
        [BEGIN, "", f"{told}: {'all passed' if code == 0 else 'FAILED'}.", "", "| test | counted | number |", "|---|---|---:|", *rows, "", END]
    )
    print(text)
    if code == 0:
        before = DOCUMENT.read_text(encoding="utf-8")
        head, _, rest = before.partition(BEGIN)
        DOCUMENT.write_text(head + text + rest.partition(END)[2], encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
