"""`make windows`: run gsvckpt with a real Windows Python, in wine, beside that of this system, and compare exit codes, JSON and every file's bytes.

Then what only Windows has: wildcards that its shell leaves to the program, hints in cmd.exe, code pages, a reader that leaves, and files that another
program has open. The run fails at the first kind of difference that is not known; `--setup` only fetches what is needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.windows import machine
from tests.windows.scenarios import SCENARIOS, make_files

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("driver.py")
_TIMES = re.compile(rb"mtime_ns = \d+|\"(?:mtime_ns|modified)\": [^,\n]+")  # Windows counts in steps of 100 ns
_STAMPS = re.compile(r"\d{8}[T-]\d{6}[-.\w]*")  # runs in the trash are called by the time


def main(argv: Sequence[str] | None = None) -> int:
    """Compare both systems. Returns 1 where they differ."""
    parser = argparse.ArgumentParser(prog="make windows", description=__doc__)
    parser.add_argument("--setup", action="store_true", help="only fetch the Windows Python")
    asked = parser.parse_args(argv)
    if machine.find_wine() is None:
        print("Windows not tested: there is no wine (on Debian and Ubuntu: apt-get install wine64 wine)")
        return 0
    try:
        machine.prepare()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Windows not tested: its Python could not be fetched ({error})")
        return 0
    if asked.setup:
        return 0
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems = [*compare(folder / "both"), *only_there(folder / "windows")]
    for problem in problems:
        print(f"  DIFFERS: {problem}")
    count = sum(map(len, SCENARIOS.values()))
    print(f"{count} commands on both systems, {len(CHECKS)} checks on Windows, {time.monotonic() - begin:.0f} s: {len(problems)} problems")
    return 1 if problems else 0


# --- the same on both systems --------------------------------------------------------------------------------------------------------------------


def compare(folder: Path) -> Iterator[str]:
    """Where the two systems differ: exit codes, documents, and files."""
    files = folder / "files"
    files.mkdir(parents=True)
    make_files(files)
    for system in ("here", "there"):
        for name in SCENARIOS:
            shutil.copytree(files, folder / system / name)
        (folder / system / "scenarios.json").write_text(json.dumps(SCENARIOS), encoding="utf-8")
    words = ("scenarios.json", "answer.json")
    here = subprocess.run([sys.executable, DRIVER, *words], cwd=folder / "here", env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    there = machine.run(ROOT, folder / "there", machine.windows_path(DRIVER), *words)
    if here.returncode or there.returncode:
        yield f"the driver ended with {here.returncode} and {there.returncode}: {there.stderr.decode('utf-8', 'replace')[-2000:]}"
        return
    one, two = (json.loads((folder / system / "answer.json").read_text(encoding="utf-8")) for system in ("here", "there"))
    for name, lines in SCENARIOS.items():
        for line, mine, other in zip(lines, one[name], two[name], strict=True):
            if mine["code"] != other["code"]:
                yield f"{line}: exit {mine['code']} and {other['code']}: {other['err'][-500:]}"
            elif _plain(mine["out"]) != _plain(other["out"]):
                yield f"{line}: {_first_difference(_plain(mine['out']), _plain(other['out']))}"
        yield from _trees(folder / "here" / name, folder / "there" / name)


def _plain(text: str) -> str:
    """A text with the system's own ways of saying the same taken out: line ends, separators, drives, how a hint is printed, and times."""
    text = re.sub(r"(gsvckpt [^#\n]*?)  # ([\w ,;]+)", r"\2: \1", text.replace("\r\n", "\n"))
    text = re.sub(r'(?<=")(?:Z:)?[\\/]+tmp[\\/][^"]*?[\\/](?:here|there)[\\/]+', "", text)
    text = _TIMES.sub(b"TIME", text.encode("utf-8")).decode("utf-8")
    text = re.sub(r'"command": "(?:[^"\\]|\\.)*"', '"command": "..."', text)
    return _STAMPS.sub("STAMP", text.replace("\\\\", "/").replace("\\", "/"))


def _first_difference(one: str, two: str) -> str:
    pairs = zip(one.splitlines(), two.splitlines(), strict=False)
    return next((f"{mine.strip()[:200]!r} and {other.strip()[:200]!r}" for mine, other in pairs if mine != other), "one of them ends early")


def _trees(here: Path, there: Path) -> Iterator[str]:
    one, two = _digests(here), _digests(there)
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            yield f"{here.name}: {name} is {'not there' if name not in two else 'only there' if name not in one else 'another'}"


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix in (".toml", ".jsonl", ".json"):
                data = _STAMPS.sub("STAMP", _TIMES.sub(b"TIME", data).decode("utf-8")).replace("\\\\", "/").encode()
            found[_STAMPS.sub("STAMP", path.relative_to(folder).as_posix())] = hashlib.sha256(data).hexdigest()
    return found


# --- what only Windows has -----------------------------------------------------------------------------------------------------------------------


def only_there(folder: Path) -> Iterator[str]:
    """Each check in a folder of its own."""
    for check in CHECKS:
        place = folder / check.__name__
        place.mkdir(parents=True)
        make_files(place)
        problem = check(place)
        if problem:
            yield f"{check.__name__}: {problem}"


def _gsvckpt(folder: Path, *words: str, **variables: str) -> tuple[int, str, str]:
    done = machine.run(ROOT, folder, "-m", "gsvckpt", *words, **variables)
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def wildcards(folder: Path) -> str:
    """Only paths are patterns, and only where no file has the name."""
    shutil.copyfile(folder / "a b.pth", folder / "voice1.pth")
    shutil.copyfile(folder / "a b.pth", folder / "voice[1].pth")
    code, out, err = _gsvckpt(folder, "inspect", "voice[1].pth", "--json")
    if code or [file["path"] for file in json.loads(out)["files"]] != ["voice[1].pth"]:
        return f"voice[1].pth: {out[:300]}{err}"
    code, out, err = _gsvckpt(folder, "inspect", "logs\\alice\\logs_s2_v2\\G_*.pth", "--json")
    if code or len(json.loads(out)["files"]) != 2:
        return f"G_*.pth: {err}"
    code, _, err = _gsvckpt(folder, "inspect", "x*.pth")
    if code != 3 or "no file has such a name" not in err:
        return f"x*.pth: {code} {err}"
    code, out, err = _gsvckpt(folder, "prune", "logs", "--keep", "G_*.pth", "--keep-last", "1", "-n", "--json")
    return "" if code == 0 else f"--keep G_*.pth: {err}"


def hints_in_cmd(folder: Path) -> str:
    """A hint's command runs in cmd.exe as it is printed, with what it has a meaning for in the name. Wine's reads no UTF-8 in a script."""
    name = "my (old) voices & more"
    (folder / name).mkdir()
    shutil.copyfile(folder / "cut.pth", folder / name / "cut.pth")
    code, out, err = _gsvckpt(folder, "verify", f"{name}\\cut.pth", PYTHONIOENCODING="utf-8")
    found = re.search(r"gsvckpt (migrate .*--salvage)$", out.replace("\r", ""), re.MULTILINE)
    if code != 1 or found is None:
        return f"{code}: {out}{err}"
    line = f'"{machine.windows_path(machine.HOME / "python.exe")}" -m gsvckpt {found[1]}'
    (folder / "hint.bat").write_bytes(f"@{line}\r\n".encode())
    done = machine.cmd(folder, "hint.bat")
    made = folder / name / "cut.salvaged.pth"
    return "" if made.exists() else f"{line}: {done.stdout.decode('utf-8', 'replace')}{done.stderr.decode('utf-8', 'replace')}"


def code_pages(folder: Path) -> str:
    """What a machine reads is UTF-8 whatever the code page is."""
    path = "SoVITS_weights_v2\\鲁迅_e8_s200.pth"
    done = machine.run(ROOT, folder, "-m", "gsvckpt", "inspect", path, "--config", PYTHONIOENCODING="gbk")
    return "" if 'name = "鲁迅"'.encode() in done.stdout else repr(done.stdout[:300])


def dropped_files(folder: Path) -> str:
    """Files in place of a command are inspected."""
    code, out, err = _gsvckpt(folder, "a b.pth", "--json")
    return "" if code == 0 and json.loads(out)["schema"] == "gsvckpt.inspect/2" else f"{code} {err}"


def open_elsewhere(folder: Path) -> str:
    """A save of which a file is open in another program stays whole, and --undo and --empty-trash lose nothing of it."""
    holder = (
        "import subprocess, sys\n"
        "held = open(r'logs\\alice\\logs_s2_v2\\G_100.pth', 'rb')\n"
        "words = [sys.executable, '-m', 'gsvckpt', 'prune', 'logs', '--keep-last', '1', '-y']\n"
        "print(subprocess.run(words, capture_output=True).returncode)\n"
    )
    done = machine.run(ROOT, folder, "-c", holder)
    run = folder / "logs" / "alice" / "logs_s2_v2"
    left = sorted(path.name for path in run.glob("*.pth"))
    return "" if {"G_100.pth", "D_100.pth"} <= set(left) else f"{left} {done.stdout!r} {done.stderr[-500:]!r}"


def trash_of_another_system(folder: Path) -> str:
    """What one system pruned, the other brings back: a disk may move between them."""
    here = [sys.executable, "-m", "gsvckpt", "prune", "logs"]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = _digests(folder)
    code, _, err = _gsvckpt(folder, "prune", "logs", "--keep-last", "1", "-y")
    if code or _digests(folder) == before:
        return f"pruned there: {code} {err}"
    done = subprocess.run([*here, "--undo"], cwd=folder, env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode or _digests(folder) != before:
        return f"brought back here: {done.returncode} {done.stderr}"
    subprocess.run([*here, "--keep-last", "1", "-y"], cwd=folder, env=surroundings, capture_output=True, check=False)
    code, _, err = _gsvckpt(folder, "prune", "logs", "--undo")
    return "" if code == 0 and _digests(folder) == before else f"brought back there: {code} {err}"


CHECKS = (wildcards, hints_in_cmd, code_pages, dropped_files, open_elsewhere, trash_of_another_system)

if __name__ == "__main__":
    sys.exit(main())
