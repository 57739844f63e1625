"""`make bench`: times and memory of gsvckpt beside those of what one would run instead, as ratios pair by pair.

It only reports: the exit code says whether it ran, not whether a ratio was reached.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from shutil import which

from tests.bench import growth, hostile, machine, measure, table
from tests.bench import jobs as jobs_
from tests.bench.files import Input, provide
from tests.bench.hostile import Hostile
from tests.bench.jobs import MB, Growth, Job, jobs

REPORT = Path("build", "benchmarks.json")
_LEGEND = """median of {pairs} runs in turns, in fresh processes, files cached unless said; ± half the range; memory: peak resident, and of that the
process's own (of a python that does nothing: {idle:.0f} MB); bytes read and written through system calls, all from one more run each"""


def main() -> int:
    every = jobs()
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="NAME", action="append", choices=[job.name for job in every], help="this job; may be given several times")
    parser.add_argument("--hostile", action="store_true", help="hostile files alone")
    parser.add_argument("--pairs", metavar="N", type=int, default=7, help="runs of each command, in turns (default 7)")
    parser.add_argument("--json", action="store_true", help=f"print what is written to {REPORT} instead of the table")
    parser.add_argument("--list", action="store_true", help="name the jobs and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{job.name:<24}{job.what}" for job in every))
        return 0
    if options.pairs < 1:
        parser.error("--pairs must be at least 1")
    about = machine.facts()
    idle = measure.weigh(jobs_.python("python -c pass", "pass")).anonymous or 0
    out = sys.stderr if options.json else sys.stdout  # with --json, stdout is for the document
    print(f"{machine.describe(about)}\n{_LEGEND.format(pairs=options.pairs, idle=idle / MB)}\n", file=out, flush=True)
    measured = []
    for job in every:
        if (options.only is None or job.name in options.only) and (isinstance(job, Hostile) or not options.hostile):
            entry = _measure(job, options.pairs, idle)
            measured.append(entry)
            print("\n".join([*table.lines(entry), ""]), file=out, flush=True)
    document = json.dumps({"schema": "gsvckpt.bench/2", "machine": about, "pairs": options.pairs, "interpreter": idle, "jobs": measured}, indent=1)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(document + "\n", encoding="utf-8")
    print(document if options.json else f"written to {REPORT}")
    return 0


def _measure(job: Job | Growth | Hostile, pairs: int, idle: int) -> dict[str, object]:
    if isinstance(job, Hostile):
        return hostile.measure(job)
    return grow(job, pairs) if isinstance(job, Growth) else compare(job, pairs, idle)


def _prepare(needs: Iterable[Input], cold: bool) -> str | None:
    """Why a job cannot be run here; None where it can."""
    if cold and not measure.can_forget():
        return "this system drops nothing from its cache on demand"
    return next((why for why in map(provide, needs) if why), None)


def compare(job: Job, pairs: int, idle: int) -> dict[str, object]:
    """Run one job. The result holds figures, or under `skipped` or `failed` why there are none."""
    entry: dict[str, object] = {"name": job.name, "what": job.what}
    missing = _prepare([*([job.needs] if job.needs else []), *job.also], bool(job.cold))
    if missing:
        return {**entry, "skipped": missing}
    there = [rival for rival in job.rivals if which(rival.command.arguments[0])]
    try:
        if job.before:
            measure.run(job.before)
        found = measure.compare([job.ours, *(rival.command for rival in there)], pairs, warm_up=True, cold=job.cold)
    except measure.FailedError as error:
        return {**entry, "failed": str(error)}
    finally:
        if job.before and job.before.output:
            job.before.output.unlink(missing_ok=True)
    ours = found[job.ours.name]
    slowest = max(job.slowest, key=lambda name: found[name].median, default=None)
    rivals = []
    for rival in there:
        theirs = found[rival.command.name]
        ratio = ours.ratio(theirs)
        limit = rival.limit if slowest is None or rival.command.name in (slowest, *({*found} - {*job.slowest})) else None
        met = None if limit is None else ratio <= limit
        rivals.append({"name": rival.command.name, **figures(theirs), "ratio": round(ratio, 4), "limit": limit, "met": met})
    goals: dict[str, object] = {}
    if job.peak_limit is not None and ours.costs.single is not None:
        goals = {"peak_limit": job.peak_limit, "peak_met": ours.costs.single - idle <= job.peak_limit}
    if job.items:
        rate = job.items / ours.median
        goals |= {"items": job.items, "rate": round(rate, 1), "rate_limit": job.rate, "rate_met": None if job.rate is None else rate >= job.rate}
    absent = [rival.command.name for rival in job.rivals if rival not in there]
    return {**entry, "gsvckpt": {**figures(ours), **goals}, "rivals": rivals, **({"absent": absent} if absent else {})}


def grow(job: Growth, pairs: int) -> dict[str, object]:
    """Run the command on its three sizes in turn, and lay a line through the medians."""
    entry: dict[str, object] = {"name": job.name, "what": job.what}
    missing = _prepare(growth.needs(job), cold=False)
    if missing:
        return {**entry, "skipped": missing}
    commands = [replace(command, name=f"{size:g} {job.unit}") for size, command, _ in job.sizes]
    try:
        found = measure.compare(commands, min(pairs, 5), warm_up=True)
    except measure.FailedError as error:
        return {**entry, "failed": str(error)}
    points = [(size, found[command.name].median) for (size, *_), command in zip(job.sizes, commands, strict=True)]
    start, slope, residue = growth.fit(points)
    sizes = [{"name": name, **figures(samples)} for name, samples in found.items()]
    return {**entry, "unit": job.unit, "sizes": sizes, "fit": {"start": round(start, 4), "each": slope, "residue": round(residue, 3)}}


def figures(samples: measure.Samples) -> dict[str, object]:
    rounded = [round(seconds, 4) for seconds in samples.seconds]
    costs = {"anonymous": samples.costs.anonymous, "read": samples.costs.read, "written": samples.costs.written}
    return {"seconds": round(samples.median, 4), "spread": round(samples.spread, 3), "peak": samples.peak, **costs, "samples": rounded}


if __name__ == "__main__":
    sys.exit(main())
