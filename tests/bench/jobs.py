"""What is measured, against what, and which ratio is asked for. Every rival does in a fresh process what one would do without gsvckpt."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent

from tests.bench.files import FLOATS, LORA, MANY_FLOATS, SAVES, TRAINING, V3, VOICES, Input, place
from tests.bench.measure import Command

MB = 1_000_000


@dataclass(frozen=True)
class Rival:
    """`limit`: gsvckpt may take at most this many times the rival's time; None where nothing is asked for."""

    command: Command
    limit: float | None = None


@dataclass(frozen=True)
class Job:
    """`before` makes what a rival needs. `peak_limit` is for gsvckpt's own memory, in bytes. `once`: too long to repeat."""

    name: str
    what: str
    ours: Command
    rivals: tuple[Rival, ...] = ()
    needs: Input | None = None
    before: Command | None = None
    peak_limit: int | None = None
    once: bool = False


def _gsvckpt(*arguments: str | Path, output: Path | None = None) -> Command:
    program = Path(sys.executable).with_name("gsvckpt")
    return Command("gsvckpt", tuple(map(str, (program, *arguments))), output)


def _python(name: str, code: str, *arguments: Path, output: Path | None = None) -> Command:
    return Command(name, (sys.executable, "-c", dedent(code), *map(str, arguments)), output)


# Stands in for upstream's module, which torch.load imports for the config.
_UTILS = "import sys, types; sys.modules['utils'] = utils = types.ModuleType('utils'); utils.HParams = type('HParams', (), {})"

_IMPORTS = _python("import typer, rich.table", "import typer, rich.table")
_HALVE = """
    import os, sys, torch
    state = torch.load(sys.argv[1])
    torch.save({key: value.half() for key, value in state.items()}, sys.argv[2])
    """


def _torch_load(name: str, how: str) -> Command:
    return _python(name, f"{_UTILS}; import torch, io; path = sys.argv[1]; {how}", place(V3))


def _inspect() -> tuple[Job, ...]:
    mapped = _torch_load("torch.load(mmap=True)", "torch.load(path, mmap=True, weights_only=False)")
    return (
        Job("help", "gsvckpt --help", _gsvckpt("--help"), (Rival(_IMPORTS),)),
        Job(
            "inspect",
            "inspect a v3 file of 769 MB",
            _gsvckpt("inspect", place(V3)),
            (Rival(_IMPORTS, 1.6), Rival(mapped, 0.1)),
            V3,
            peak_limit=50 * MB,
        ),
    )


def _convert() -> tuple[Job, ...]:
    def ours(source: Input) -> Command:
        output = place(source).with_name("halved.pth")
        return _gsvckpt("convert-fp16", place(source), "-o", output, output=output)

    output = place(FLOATS).with_name("halved-by-torch.pth")
    plain = _python("torch load, half, save", _HALVE, place(FLOATS), output, output=output)
    synced = _python("the same, synced to disk", _HALVE + "os.fsync(os.open(sys.argv[2], os.O_RDWR))\n", place(FLOATS), output, output=output)
    return (
        Job("convert", "convert-fp16 of 1 GiB of float32", ours(FLOATS), (Rival(plain, 1 / 3), Rival(synced)), FLOATS, peak_limit=100 * MB),
        Job("convert-8GiB", "convert-fp16 of 8 GiB of float32", ours(MANY_FLOATS), (), MANY_FLOATS, peak_limit=100 * MB, once=True),
    )


def _strip() -> tuple[Job, ...]:
    def ours(name: str) -> Command:
        output = place(TRAINING).with_name(name)
        return _gsvckpt("strip-optimizer", place(TRAINING), "-o", output, output=output)

    before, copy = ours("stripped-before.pth"), place(TRAINING).with_name("copied.pth")
    rival = Command("cp and sync of its output", ("sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(before.output), str(copy)), copy)
    what = "strip-optimizer of a v2ProPlus training file of 1.2 GB"
    return (Job("strip", what, ours("stripped.pth"), (Rival(rival, 1.5),), TRAINING, before, peak_limit=100 * MB),)


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
    copy = f'head -c {read} "$1" > /dev/null; head -c {written} "$1" > "$2"; sync "$2"'
    extract = ("migrate", place(TRAINING), "--to-inference", "--config", place(TRAINING).with_suffix(".json"), "-o", small)
    merge = ("migrate", place(LORA), "--merge-lora", place(V3), "--config", place(LORA).with_suffix(".json"), "-o", merged)
    return (
        Job(
            "safetensors",
            "migrate --to safetensors of 1 GiB of float32",
            _gsvckpt("migrate", place(FLOATS), "--to", "safetensors", "-o", there, output=there),
            (Rival(_python("torch.load, save_file", _TO_SAFETENSORS, place(FLOATS), theirs, output=theirs), 0.5),),
            replace(FLOATS, output=2 * FLOATS.size),
            peak_limit=100 * MB,
        ),
        Job(
            "to-inference",
            "migrate --to-inference of a v2ProPlus training file of 1.2 GB",
            _gsvckpt(*extract, output=small),
            (Rival(Command("copying what it reads, writes", ("sh", "-c", copy, "sh", str(place(TRAINING)), str(part)), part), 2),),
            TRAINING,
            peak_limit=100 * MB,
        ),
        Job(
            "merge",
            "migrate --merge-lora of a v3 LoRA training file of 1.8 GB",
            _gsvckpt(*merge, output=merged),
            (Rival(_python("torch: load, add, save", f"{_UTILS}\n{dedent(_MERGE)}", place(V3), place(LORA), other, output=other)),),
            LORA,
            _gsvckpt("inspect", place(V3)),
            peak_limit=250 * MB,
        ),
    )


def _load() -> tuple[Job, ...]:
    whole = _python("gsvckpt", "import gsvckpt, sys; gsvckpt.load_state_dict(sys.argv[1])", place(V3))
    part = _python("gsvckpt", "import gsvckpt, sys; gsvckpt.load_state_dict(sys.argv[1], include='enc_p.*')", place(V3))
    plain = _torch_load("torch.load", "torch.load(path, weights_only=False)")
    # how GPT-SoVITS opens a file whose first two bytes name a version (process_ckpt.py:129-138)
    upstream = _torch_load("GPT-SoVITS's own way", "torch.load(io.BytesIO(b'PK' + open(path, 'rb').read()[2:]), weights_only=False)")
    return (
        Job("load", "load_state_dict of a v3 file of 769 MB", whole, (Rival(plain), Rival(upstream)), V3),
        Job("load-part", "load_state_dict of its text encoder", part, (Rival(plain),), V3),
    )


def _verify() -> tuple[Job, ...]:
    path = place(FLOATS)
    sha = Command("sha256sum", ("sha256sum", str(path)))
    unzip = Command("python -m zipfile -t", (sys.executable, "-m", "zipfile", "-t", str(path)))
    picklescan = _python("picklescan", "import sys; from picklescan.cli import main; sys.argv[1:1] = ['-p']; sys.exit(main())", path)
    checks = "--checks=-layout,-version"  # their tensors are too small for a real voice
    one = Command("gsvckpt -j 1", _gsvckpt("verify", place(VOICES), checks, "-j", "1").arguments)
    return (
        Job(
            "verify",
            "verify 1 GiB: checksums, digests, NaN",
            _gsvckpt("verify", path),
            (Rival(sha, 0.5), Rival(unzip, 0.5)),
            FLOATS,
            peak_limit=120 * MB,
        ),
        Job(
            "verify-safety",
            "verify --checks pickle.safety of 1 GiB",
            _gsvckpt("verify", path, "--checks", "pickle.safety"),
            (Rival(picklescan, 1),),
            FLOATS,
        ),
        Job("verify-many", "verify a folder of 500 weight files on all cores", _gsvckpt("verify", place(VOICES), checks), (Rival(one, 0.7),), VOICES),
    )


_LOOK = """
    import os, sys
    for folder, _, names in os.walk(sys.argv[1]):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                file.read(65536)
                file.seek(max(os.fstat(file.fileno()).st_size - 65536, 0))
                file.read(65536)
    """


def _prune() -> tuple[Job, ...]:
    look = 'find "$1" -ls > /dev/null; exec "$2" -c "$3" "$1"'
    rival = Command("find -ls, then both ends of each", ("sh", "-c", look, "sh", str(place(SAVES)), sys.executable, dedent(_LOOK)))
    ours = _gsvckpt("prune", place(SAVES), "--keep-last", "20", "--dry-run", "--quiet")
    return (Job("prune", "prune: survey and plan of 10,000 saves", ours, (Rival(rival, 5),), SAVES, peak_limit=200 * MB),)


def jobs() -> tuple[Job, ...]:
    return (*_inspect(), *_convert(), *_strip(), *_migrate(), *_load(), *_verify(), *_prune())
