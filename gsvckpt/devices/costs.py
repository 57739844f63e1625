"""How long work takes on the host and on a GPU, to choose between them. Plain arithmetic.

Host, measured (two cores of an AMD EPYC with AVX-512, NumPy 2.4, chunks of 2 MiB, bytes of what is read, one thread): casting float32 to float16 with
its audit 3.4 GB/s, statistics with their histogram 1.9 GB/s, differences 10 GB/s. Two threads do 1.5 to 1.9 times that, which counts as 2.

torch on the host is no third choice. Measured there: its cast with the same audit has 3.6 GB/s a thread as one would write it and 7.7 GB/s at best,
against NumPy's 3.4. So it saves at most 0.17 s for each GB and core, but its import takes 0.7 s where everything is cached (2 to 3.4 s elsewhere) and
200 MB; it would finish first from about 8 GB on for two cores, from 60 GB on for 16, which no disk keeps busy.

GPU: none could be measured. The figures below are for its best case, in which kernels take no time: a chunk crosses the bus from page-locked memory
at 10 GB/s (PCIe 4.0 x16 has 25 in theory, 3.0 has 12), statistics cross it twice, and threads share it. As they are guesses, a GPU has to win
clearly. `python -m tests.bench.accelerator` measures them where there is one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

IMPORT_TORCH = 2.0  # seconds
START_CUDA = 0.5  # seconds: the driver's context and the kernels' code
CLEARLY = 0.75  # of the host's time at most
_HOST = {"cast": 3.4e9, "stats": 1.9e9, "difference": 10e9}  # bytes a second and thread
_GPU = {"cast": 10e9, "stats": 5e9, "difference": 10e9}  # bytes a second for all threads together


class Work(NamedTuple):
    """What has to be computed: of how many bytes, on how many threads."""

    kind: Literal["cast", "stats", "difference", "product"]
    nbytes: int
    threads: int = 1


class Choice(NamedTuple):
    """A device's name, and why that one."""

    name: str
    why: str


def choose_by_time(work: Work, *, torch_is_loaded: bool) -> Choice:
    """`cpu`, or `cuda` where there is one. Products are the host's: their last bits depend on the device, and `auto` must not change results."""
    if work.kind == "product":
        return Choice("cpu", "the last bits of a product depend on the device")
    host = work.nbytes / (_HOST[work.kind] * work.threads)
    gpu = START_CUDA + (0 if torch_is_loaded else IMPORT_TORCH) + work.nbytes / _GPU[work.kind]
    if gpu < CLEARLY * host:
        return Choice("cuda", f"about {gpu:.1f} s there, {host:.1f} s on the cpu")
    return Choice("cpu", f"about {host:.1f} s there, {gpu:.1f} s on a GPU, its start included")
