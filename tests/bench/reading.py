"""Jobs that write nothing: inspect, verify, load, and prune's survey."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

from tests.bench.files import FLOATS, GPT, MANY_FLOATS, SAVES, V2, V3, VOICES, Input, place
from tests.bench.jobs import MEMORY, Command, Job, Rival, gsvckpt, python, shell, torch_load

_IMPORTS = python("import typer, rich.table", "import typer, rich.table")
_MAPPED = "torch.load(path, mmap=True, weights_only=False)"


def _inspect() -> tuple[Job, ...]:
    mapped = torch_load("torch.load(mmap=True)", _MAPPED, place(V3))
    inspect = gsvckpt("inspect", place(V3))
    many = gsvckpt("inspect", place(SAVES), "-r")
    return (
        Job("help", "gsvckpt --help", gsvckpt("--help"), (Rival(_IMPORTS),)),
        Job("inspect-85MB", "inspect v2 weights of 85 MB", gsvckpt("inspect", place(V2)), (Rival(_IMPORTS, 1.4),), V2),
        Job("inspect", "inspect v3 weights of 769 MB", inspect, (Rival(_IMPORTS, 1.4), Rival(mapped)), V3),
        Job("inspect-8GiB", "inspect 8 GiB of float32", gsvckpt("inspect", place(MANY_FLOATS)), (Rival(_IMPORTS, 1.4),), MANY_FLOATS),
        Job("inspect-cold", "inspect v3 weights of 769 MB that are not in the cache", inspect, (Rival(mapped),), V3, cold=(place(V3),)),
        Job("inventory", "inspect a folder of 10,000 saves", many, (Rival(_look(), None),), SAVES, items=10_000, rate=1_000),
    )


# Every core takes its part of the file; each chunk gets both sums, as verify has to have them.
_SUMS = """
    import os, sys, threading
    from xxhash import xxh3_128
    from isal.isal_zlib import crc32

    def work(begin, end):
        chunk, crc, digest = bytearray(1 << 21), 0, xxh3_128()
        while begin < end:
            view = memoryview(chunk)[:min(len(chunk), end - begin)]
            os.preadv(fd, [view], begin)
            crc, begin = crc32(view, crc), begin + len(view)
            digest.update(view)

    fd = os.open(sys.argv[1], os.O_RDONLY)
    size, cores = os.fstat(fd).st_size, len(os.sched_getaffinity(0))
    threads = [threading.Thread(target=work, args=(size * n // cores, size * (n + 1) // cores)) for n in range(cores)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    """
_SLOWEST = ("cat > /dev/null", "xxh3 and crc32, all cores")


def _pass(path: Path) -> tuple[Rival, ...]:
    return Rival(shell(_SLOWEST[0], 'cat "$1" > /dev/null', path), 1.3), Rival(python(_SLOWEST[1], _SUMS, path), 1.3)


def _verify() -> tuple[Job, ...]:
    def job(name: str, what: str, source: Input, *rivals: Rival, cold: bool = False) -> Job:
        path = place(source)
        ours = gsvckpt("verify", path)
        return Job(name, what, ours, (*_pass(path), *rivals), source, slowest=_SLOWEST, cold=(path,) if cold else ())

    path = place(FLOATS)
    sha, xxh = Rival(Command("sha256sum", ("sha256sum", str(path)))), Rival(Command("xxhsum -H2", ("xxhsum", "-H2", str(path))))
    unzip = Rival(Command("python -m zipfile -t", (sys.executable, "-m", "zipfile", "-t", str(path))))
    picklescan = python("picklescan", "import sys; from picklescan.cli import main; sys.argv[1:1] = ['-p']; sys.exit(main())", path)
    checks = "--checks=-layout,-version"  # their tensors are too small for a real voice
    one = gsvckpt("verify", place(VOICES), checks, "-j", "1", name="gsvckpt -j 1")
    safety = gsvckpt("verify", path, "--checks", "pickle.safety")
    every = "checksums, digests, NaN"
    return (
        job("verify-85MB", f"verify v2 weights of 85 MB: {every}", V2),
        job("verify-155MB", f"verify GPT weights of 155 MB: {every}", GPT),
        job("verify-769MB", f"verify v3 weights of 769 MB: {every}", V3),
        job("verify", f"verify 1 GiB of float32: {every}", FLOATS, sha, xxh, unzip),
        job("verify-8GiB", f"verify 8 GiB of float32: {every}", MANY_FLOATS),
        job("verify-cold", f"verify 1 GiB that is not in the cache: {every}", FLOATS, cold=True),
        Job(
            "verify-safety",
            "verify --checks pickle.safety of 1 GiB",
            safety,
            (Rival(picklescan),),
            FLOATS,
        ),
        Job("verify-many", "verify a folder of 500 weight files", gsvckpt("verify", place(VOICES), checks), (Rival(one),), VOICES, items=500),
    )


def _load() -> tuple[Job, ...]:
    whole = python("gsvckpt", "import gsvckpt, sys; gsvckpt.load_state_dict(sys.argv[1])", place(V3))
    part = python("gsvckpt", "import gsvckpt, sys; gsvckpt.load_state_dict(sys.argv[1], include='enc_p.*')", place(V3))
    plain = torch_load("torch.load", "torch.load(path, weights_only=False)", place(V3))
    # how GPT-SoVITS opens a file whose first two bytes name a version (process_ckpt.py:129-138)
    upstream = torch_load("GPT-SoVITS's own way", "torch.load(io.BytesIO(b'PK' + open(path, 'rb').read()[2:]), weights_only=False)", place(V3))
    job = Job("load", "load_state_dict of v3 weights of 769 MB", whole, (Rival(plain), Rival(upstream)), V3, peak_limit=None)
    return (job, replace(job, name="load-part", what="load_state_dict of its text encoder", ours=part, rivals=(Rival(plain),)))


_LOOK = """
    import os, sys
    for folder, _, names in os.walk(sys.argv[1]):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                file.read(65536)
                file.seek(max(os.fstat(file.fileno()).st_size - 65536, 0))
                file.read(65536)
    """


def _look() -> Command:
    look = 'find "$1" -ls > /dev/null; exec "$2" -c "$3" "$1"'
    return Command("find -ls, then both ends of each", ("sh", "-c", look, "sh", str(place(SAVES)), sys.executable, dedent(_LOOK)))


def _prune() -> tuple[Job, ...]:
    ours = gsvckpt("prune", place(SAVES), "--keep-last", "20", "--dry-run", "--quiet")
    what = "prune: survey and plan of 10,000 saves"
    return (Job("prune", what, ours, (Rival(_look(), 5),), SAVES, peak_limit=max(200_000_000, MEMORY), items=10_000),)


def jobs() -> tuple[Job, ...]:
    return (*_inspect(), *_verify(), *_load(), *_prune())
