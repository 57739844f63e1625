"""`python -m tests.bench.accelerator`: what a GPU is good for. Loading to it beside others' ways, in one process that has started already, then
commands with and without it, in fresh processes. Where there is no GPU it says so and ends well.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.bench.files import FLOATS, LORA, V3, Input, cache, place
from tests.bench.jobs import MB, Job, Rival, gsvckpt, shell

REPORT = Path("build", "benchmarks-gpu.json")
AT_MOST = 0.5  # of the time of the fastest rival, when loading
Way = Callable[[], Mapping[str, object]]


class Voice(NamedTuple):
    """One checkpoint in the forms that its rivals open: GPT-SoVITS's with its head, the same without, and the weights as safetensors."""

    headed: Path
    plain: Path
    safetensors: Path


def build(version: str) -> Voice:
    """Build what is not there yet, all of it in the cache."""
    from safetensors.torch import save_file

    from gsvckpt import load_state_dict
    from tests.support import voices

    voice = Voice(*(cache() / "gpu" / f"{version}{ending}" for ending in (".pth", "-plain.pth", ".safetensors")))
    if not voice.safetensors.exists():  # the last one
        tree = voices.sovits_weights(voices.Maker(), "bench", version, epoch=8, step=200)
        voices.write(tree, voice.headed, version)
        voices.write(tree, voice.plain)
        save_file(load_state_dict(voice.plain), voice.safetensors)
    return voice


def ways(voice: Voice, device: str) -> dict[str, Way]:
    """How to bring the weights to a device; gsvckpt's way comes first. torch's ways get the file without a head, which they can open as it is."""
    import torch
    from safetensors.torch import load_file

    from gsvckpt import load_state_dict

    utils = sys.modules["utils"] = types.ModuleType("utils")  # upstream's, which the config's pickle names
    utils.HParams = type("HParams", (), {})

    def upstream() -> Mapping[str, object]:  # process_ckpt.py:129-138
        whole = io.BytesIO(b"PK" + voice.headed.read_bytes()[2:])
        return torch.load(whole, map_location=device, weights_only=False)["weight"]

    def mapped() -> Mapping[str, object]:
        return {name: value.to(device) for name, value in torch.load(voice.plain, mmap=True, weights_only=False)["weight"].items()}

    return {
        "gsvckpt": lambda: load_state_dict(voice.headed, device),
        "GPT-SoVITS's own way": upstream,
        "torch.load(map_location)": lambda: torch.load(voice.plain, map_location=device, weights_only=False)["weight"],
        "torch.load(mmap=True), to": mapped,
        "safetensors load_file": lambda: load_file(voice.safetensors, device),
    }


def compare_loads(version: str, device: str, rounds: int) -> dict[str, object]:
    """Load in turns, after one round that warms up and finds out that all ways load the same."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    voice = build(version)
    known = ways(voice, device)
    expected = known["gsvckpt"]()
    for name, load in known.items():
        found = load()
        if found.keys() != expected.keys() or not all(torch.equal(value, expected[key]) for key, value in found.items()):
            sys.exit(f"{name} loads something else")
    samples: dict[str, list[float]] = {name: [] for name in known}
    del found, expected
    for _ in range(rounds):
        for name, load in known.items():
            wait()
            begin = time.perf_counter()
            load()
            wait()
            samples[name].append(time.perf_counter() - begin)
    size = voice.headed.stat().st_size
    print(f"load-{version}: {size / MB:.0f} MB to {device}, in a process that has started already")
    ours = median(samples["gsvckpt"])
    fastest = min(median(found) for name, found in samples.items() if name != "gsvckpt")
    for name, found in samples.items():
        spread = (max(found) - min(found)) / median(found) / 2
        told = "" if name == "gsvckpt" else f"   {median(found) / ours:.1f} times its time"
        print(f"  {name:<28}{median(found):8.3f} s  ±{spread:4.0%}{size / median(found) / 1e9:8.1f} GB/s{told}")
    print(
        f"  {ours / fastest:.2f} x the fastest rival's time (at most {AT_MOST:g} x: {'met' if ours <= AT_MOST * fastest else 'MISSED'})\n", flush=True
    )
    return {"name": f"load-{version}", "bytes": size, "seconds": samples, "ratio": ours / fastest, "met": ours <= AT_MOST * fastest}


def jobs(device: str = "cuda") -> tuple[Job, ...]:
    """Commands on a device against the same on the CPU, from start to end."""
    floats, lora = place(FLOATS), place(LORA)
    halved, merged = floats.with_name("halved-there.pth"), lora.with_name("merged-there.pth")
    merge = ("migrate", lora, "--merge-lora", place(V3), "--config", lora.with_suffix(".json"), "-o", merged)
    read = Rival(shell("cat both > /dev/null", 'cat "$1" "$2" > /dev/null', lora, place(V3)))

    def job(name: str, what: str, *command: str | Path, needs: Input = FLOATS, output: Path | None = None, rivals: tuple[Rival, ...] = ()) -> Job:
        ours = gsvckpt(*command, "--device", device, output=output)
        others = (Rival(gsvckpt(*command, "--device", other, output=output, name=f"--device {other}")) for other in ("cpu", "auto"))
        return Job(name, f"{what}, --device {device}", ours, (*others, *rivals), needs, (V3,) if needs is LORA else (), peak_limit=None)

    return (
        job("gpu-convert", "convert-fp16 of 1 GiB of float32", "convert-fp16", floats, "-o", halved, output=halved),
        job("gpu-stats", "inspect --stats of 1 GiB of float32", "inspect", floats, "--tensors", "--stats"),
        job("gpu-verify", "verify of 1 GiB of float32", "verify", floats),
        job("gpu-merge", "migrate --merge-lora of a v3 LoRA training file of 1.8 GB", *merge, needs=LORA, output=merged, rivals=(read,)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.accelerator", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--device", metavar="NAME", default="cuda", help="the device (default cuda)")
    parser.add_argument("--pairs", metavar="N", type=int, default=7, help="runs of each, in turns (default 7)")
    parser.add_argument("--only", choices=["load", "commands"], help="loading in one process, or commands in fresh ones")
    options = parser.parse_args()
    from tests.bench import __main__ as bench
    from tests.bench import machine, table

    missing = _missing(options.device)
    if missing:
        print(f"skipped: {missing}")
        return 0
    measured = []
    for job in jobs(options.device) if options.only != "load" else ():  # first, as this process is still small (see measure)
        measured.append(bench.compare(job, options.pairs, 0))
        print("\n".join([*table.lines(measured[-1]), ""]), flush=True)
    import torch

    about = machine.facts() | {"gpu": torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else None}
    print(f"{machine.describe(about)}\n{about['gpu']}\n")
    loads = [] if options.only == "commands" else [compare_loads(version, options.device, options.pairs) for version in ("v2ProPlus", "v3")]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps({"schema": "gsvckpt.bench-gpu/1", "machine": about, "loads": loads, "jobs": measured}, indent=1) + "\n")
    print(f"written to {REPORT}")
    return 0


def _missing(device: str) -> str:
    """Why a device cannot be used, empty where it can; asked of another process."""
    from tests.bench.jobs import python
    from tests.bench.measure import FailedError, run

    try:
        run(python("torch", f"import torch; torch.ones(1, device={device!r}).item()"))
    except FailedError as error:
        return str(error).splitlines()[-1]
    return ""


if __name__ == "__main__":
    sys.exit(main())
