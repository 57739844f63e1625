"""`make bench`: times and memory of gsvckpt beside those of what one would run instead, as ratios of medians.

It only reports: the exit code says whether it ran, not whether a ratio was reached.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.bench import machine
from tests.bench.files import provide
from tests.bench.jobs import MB, Job, jobs
from tests.bench.measure import FailedError, Samples, compare, run

REPORT = Path("build", "benchmarks.json")


def main() -> int:
    every = jobs()
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="NAME", action="append", choices=[job.name for job in every], help="this job; may be given several times")
    parser.add_argument("--pairs", metavar="N", type=int, default=5, help="runs of each command, in turns (default 5)")
    parser.add_argument("--json", action="store_true", help=f"print what is written to {REPORT} instead of the table")
    parser.add_argument("--list", action="store_true", help="name the jobs and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{job.name:<14}{job.what}" for job in every))
        return 0
    if options.pairs < 1:
        parser.error("--pairs must be at least 1")
    about = machine.facts()
    out = sys.stderr if options.json else sys.stdout  # with --json, stdout is for the document
    print(
        f"{machine.describe(about)}\nmedian of {options.pairs} runs in turns, in fresh processes, files cached; ± half the range; peak memory\n",
        file=out,
        flush=True,
    )
    measured = []
    for job in every:
        if options.only is None or job.name in options.only:
            entry = measure(job, options.pairs)
            measured.append(entry)
            print("\n".join([*lines(entry), ""]), file=out, flush=True)
    document = json.dumps({"schema": "gsvckpt.bench/1", "machine": about, "pairs": options.pairs, "jobs": measured}, indent=1)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(document + "\n", encoding="utf-8")
    print(document if options.json else f"written to {REPORT}")
    return 0


def measure(job: Job, pairs: int) -> dict[str, object]:
    """Run one job. The result holds figures, or under `skipped` or `failed` why there are none."""
    entry: dict[str, object] = {"name": job.name, "what": job.what}
    missing = provide(job.needs) if job.needs else None
    if missing:
        return {**entry, "skipped": missing}
    try:
        if job.before:
            run(job.before)
        found = compare([job.ours, *(rival.command for rival in job.rivals)], 1 if job.once else pairs, warm_up=not job.once)
    except FailedError as error:
        return {**entry, "failed": str(error)}
    finally:
        if job.before and job.before.output:
            job.before.output.unlink(missing_ok=True)
    ours = found[job.ours.name]
    rivals = []
    for rival in job.rivals:
        theirs = found[rival.command.name]
        ratio = ours.median / theirs.median
        met = None if rival.limit is None else ratio <= rival.limit
        rivals.append({"name": rival.command.name, **figures(theirs), "ratio": round(ratio, 4), "limit": rival.limit, "met": met})
    peak = {"peak_limit": job.peak_limit, "peak_met": None if job.peak_limit is None else ours.peak <= job.peak_limit}
    return {**entry, "gsvckpt": {**figures(ours), **peak}, "rivals": rivals}


def figures(samples: Samples) -> dict[str, object]:
    rounded = [round(seconds, 4) for seconds in samples.seconds]
    return {"seconds": round(samples.median, 4), "spread": round(samples.spread, 3), "peak": samples.peak, "samples": rounded}


def lines(entry: dict) -> list[str]:
    """The part of the table for one job."""
    for word in ("skipped", "failed"):
        if word in entry:
            return [f"{entry['name']}: {entry['what']}", f"  {word}: {entry[word]}"]
    ours = entry["gsvckpt"]
    found = [f"{entry['name']}: {entry['what']}", _row("gsvckpt", ours, _peak_goal(ours))]
    for rival in entry["rivals"]:
        ratio = rival["ratio"]
        told = f"{ratio:.2f} x its time" if ratio > 0.8 else f"{1 / ratio:.1f} times faster"
        found.append(_row(rival["name"], rival, told + _goal(rival)))
    return found


def _row(name: str, measured: dict, told: str) -> str:
    return f"  {name:<26}{measured['seconds']:8.3f} s  ±{measured['spread'] / 2:4.0%}{measured['peak'] / MB:8.0f} MB   {told}".rstrip()


def _goal(rival: dict) -> str:
    limit = rival["limit"]
    if limit is None:
        return ""
    asked = f"at most {limit:g} x" if limit >= 1 else f"at least {1 / limit:.0f} times"
    return f" ({asked}: {'met' if rival['met'] else 'MISSED'})"


def _peak_goal(ours: dict) -> str:
    limit = ours["peak_limit"]
    return "" if limit is None else f"memory at most {limit / MB:.0f} MB: {'met' if ours['peak_met'] else 'MISSED'}"


if __name__ == "__main__":
    sys.exit(main())
