"""Jobs that write: convert-fp16, strip-optimizer, migrate. What a rival writes is synced to the disk where gsvckpt's promise is compared with it."""

from __future__ import annotations

from dataclasses import replace
from textwrap import dedent

from tests.bench.files import FLOATS, GPT_FLOATS, LORA, MANY_FLOATS, SMALL_FLOATS, STREAM, TRAINING, V3, Input, place
from tests.bench.jobs import UTILS, Job, Rival, gsvckpt, python, shell

_HALVE = f"""{UTILS}
import os, torch
def halve(value):
    if isinstance(value, dict): return {{key: halve(item) for key, item in value.items()}}
    return value.half() if isinstance(value, torch.Tensor) else value
torch.save(halve(torch.load(sys.argv[1], weights_only=False, mmap=%s)), sys.argv[2])
"""
_READ_AND_WRITE = 'cat "$1" > /dev/null; head -c "$3" "$1" > "$2"; sync "$1" "$2"'  # in a shell, whose start costs a thousandth of a second
_COPY = 'cp "$1" "$2" && sync "$2"'


def _convert() -> tuple[Job, ...]:
    def job(name: str, what: str, source: Input, times: float | None, *, cold: bool = False) -> Job:
        path, output = place(source), place(source).with_name(f"halved-{name}.pth")
        theirs = output.with_name(f"theirs-{name}.pth")
        plain = python("torch load, half, save", _HALVE % "False", path, theirs, output=theirs)
        mapped = python("the same with mmap=True", _HALVE % "True", path, theirs, output=theirs)
        bare = shell("reading and writing as much", _READ_AND_WRITE, path, theirs, source.size // 2, output=theirs)
        rivals = (Rival(plain, times and 1 / times), Rival(mapped), Rival(bare, 1.5))
        ours = gsvckpt("convert-fp16", path, "-o", output, output=output)
        return Job(name, what, ours, rivals, replace(source, output=source.size), cold=(path,) if cold else ())

    return (
        job("convert-85MB", "convert-fp16 of 85 MB of float32", SMALL_FLOATS, 4),
        job("convert-310MB", "convert-fp16 of GPT weights in float32, 310 MB", GPT_FLOATS, 4),
        job("convert", "convert-fp16 of 1 GiB of float32", FLOATS, 4),
        job("convert-8GiB", "convert-fp16 of 8 GiB of float32", MANY_FLOATS, 2.5),
        job("convert-cold", "convert-fp16 of 1 GiB that is not in the cache", FLOATS, None, cold=True),
    )


def _copies() -> tuple[Job, ...]:
    """Jobs whose tensors keep their bytes, against a copy of what they write."""

    def job(name: str, what: str, source: Input, *command: str) -> Job:
        output, copy = (place(source).with_name(f"{stem}-{name}.pth") for stem in ("output", "copy"))
        before = gsvckpt(*command, place(source), "-o", output.with_name(f"before-{name}.pth"), output=output.with_name(f"before-{name}.pth"))
        rival = shell("cp and sync of its output", _COPY, before.output or output, copy, output=copy)
        ours = gsvckpt(*command, place(source), "-o", output, output=output)
        return Job(name, what, ours, (Rival(rival, 1.15),), replace(source, output=3 * source.size), before=before)

    return (
        job("strip", "strip-optimizer of a v2ProPlus training file of 1.2 GB", TRAINING, "strip-optimizer"),
        job("strip-8GiB", "strip-optimizer of 8 GiB without an optimizer", MANY_FLOATS, "strip-optimizer"),
        job("migrate", "migrate --plain of v3 weights of 769 MB", V3, "migrate", "--plain"),
        job("migrate-stream", "migrate of 1 GiB in a file of torch before 1.6", STREAM, "migrate"),
    )


_TO_SAFETENSORS = "import sys, torch; from safetensors.torch import save_file; save_file(torch.load(sys.argv[1]), sys.argv[2])"
_MERGE = """
    import sys, torch
    base, lora = torch.load(sys.argv[1], weights_only=False)["weight"], torch.load(sys.argv[2])["model"]
    merged = {}
    for name, value in base.items():
        layer = name.removesuffix(".weight").replace("cfm.", "cfm.base_model.model.", 1)
        if f"{layer}.lora_A.default.weight" in lora:
            value = value.float() + lora[f"{layer}.lora_B.default.weight"] @ lora[f"{layer}.lora_A.default.weight"]
        elif name in lora:
            value = lora[name]
        merged[name] = value.half()
    torch.save({"weight": merged}, sys.argv[3])
    """


def _migrate() -> tuple[Job, ...]:
    there, theirs = place(FLOATS).with_name("there.safetensors"), place(FLOATS).with_name("theirs.safetensors")
    small, part, merged, other = (place(TRAINING).with_name(name) for name in ("small.pth", "part.pth", "merged.pth", "merged-by-torch.pth"))
    read, written = 4 * 86_272_257, 2 * 86_272_257  # bytes of the small file's tensors, before and after
    copy = 'head -c "$3" "$1" > /dev/null; head -c "$4" "$1" > "$2"; sync "$2"'
    extract = ("migrate", place(TRAINING), "--to-inference", "--config", place(TRAINING).with_suffix(".json"), "-o", small)
    merge = ("migrate", place(LORA), "--merge-lora", place(V3), "--config", place(LORA).with_suffix(".json"), "-o", merged)
    return (
        Job(
            "safetensors",
            "migrate --to safetensors of 1 GiB of float32",
            gsvckpt("migrate", place(FLOATS), "--to", "safetensors", "-o", there, output=there),
            (Rival(python("torch.load, save_file", _TO_SAFETENSORS, place(FLOATS), theirs, output=theirs), 0.5),),
            replace(FLOATS, output=2 * FLOATS.size),
        ),
        Job(
            "to-inference",
            "migrate --to-inference of a v2ProPlus training file of 1.2 GB",
            gsvckpt(*extract, output=small),
            (Rival(shell("copying what it reads, writes", copy, place(TRAINING), part, read, written, output=part), 2),),
            TRAINING,
        ),
        Job(
            "merge",
            "migrate --merge-lora of a v3 LoRA training file of 1.8 GB",
            gsvckpt(*merge, output=merged),
            (Rival(python("torch: load, add, save", f"{UTILS}\n{dedent(_MERGE)}", place(V3), place(LORA), other, output=other)),),
            LORA,
            (V3,),
            peak_limit=250_000_000,  # torch is imported, for its product
        ),
    )


def jobs() -> tuple[Job, ...]:
    return (*_convert(), *_copies(), *_migrate())
