"""The results of inspect as JSON objects and inventory lines; scripts rely on these keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from gsvckpt.commands.inspect.breakdown import Account, account, estimate_memory
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.json_objects import container_json, safety_json
from gsvckpt.engine.readers import find_readers
from gsvckpt.errors import UsageError, similar_names
from gsvckpt.files.paths import absolute, is_url
from gsvckpt.formats.shards import read_part
from gsvckpt.model import Checkpoint, Tensor
from gsvckpt.sovits.config import config_of
from gsvckpt.sovits.kinds import KINDS
from gsvckpt.sovits.names import experiment
from gsvckpt.sovits.upstream import Detection, UpstreamError

if TYPE_CHECKING:  # few runs measure or compare values, and start faster without them
    from gsvckpt.engine.difference import Difference
    from gsvckpt.engine.statistics import Stats


def upstream_json(detected: Detection | UpstreamError | None) -> dict[str, object] | None:
    """What GPT-SoVITS detects; null where its detection does not apply."""
    return None if detected is None else detected._asdict()


def part_json(checkpoint: Checkpoint) -> dict[str, object] | None:
    """Which of several files it is, as its name says; null for a file that is not one of several, and for an index, which stands for all."""
    part = read_part(checkpoint.source.path) if not checkpoint.container.shards else None
    return {"number": part.number, "of": part.total} if part is not None else None


def examination_json(examination: Examination, counted: Account) -> dict[str, object]:
    """One checkpoint as `inspect --json` shows it, without what has to be asked for."""
    identity, match = examination.identity, examination.official
    return {
        "path": examination.checkpoint.source.path,
        "size": examination.checkpoint.source.size,
        "container": container_json(examination.checkpoint.container),
        "part": part_json(examination.checkpoint),
        "kind": identity.kind,
        "version": identity.version,
        "version_evidence": list(identity.version_evidence),
        "upstream": upstream_json(examination.upstream),
        "warnings": list(examination.warnings),
        "runs_in": [found.as_json() for found in find_readers(examination)],
        "progress": {"epoch": identity.progress.epoch, "step": identity.progress.step, "info": identity.progress.info},
        "lora_rank": identity.lora_rank,
        "tensors": len(examination.state),
        "special": [{"name": name, **special.as_json()} for name, special in examination.special.items()],
        "parameters": sum(tensor.numel for tensor in examination.state.values()),
        "bytes": {
            "file": counted.file,
            "weights": counted.weights,
            "optimizer": counted.optimizer,
            "other": counted.other,
            "unused": counted.unused,
        },
        "dtypes": {name: {"tensors": tensors, "bytes": size} for name, (tensors, size) in counted.by_dtype.items()},
        "waste": {"duplicates": counted.duplicates, "float64": counted.float64},
        "saves": {"convert-fp16": counted.saves_fp16, "strip-optimizer": counted.saves_strip},
        "official": match.file.name if match else None,
        "official_confidence": match.confidence if match else None,
        "safety": safety_json(examination.safety),
    }


class View(NamedTuple):
    """The parts that the options ask for."""

    tensors: bool = False
    stats: bool = False
    config: str | None = None
    globals: bool = False
    memory: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    depth: int = 1
    sort: str | None = None
    verbose: bool = False

    @property
    def asks_for_parts(self) -> bool:
        """Whether only parts were asked for, instead of the overview."""
        return bool(self.tensors or self.config or self.globals or self.memory)

    def require_match(self, *states: Mapping[str, Tensor]) -> None:
        """Raise UsageError when --include names none of the tensors that there are."""
        names = [name for state in states for name in state]
        if self.include and names and not any(fnmatchcase(name, glob) for name in names for glob in self.include):
            raise UsageError(f"no tensor is called {' or '.join(self.include)}", where="--include", hint=similar_names(self.include[0], names))

    def choose(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that --include and --exclude leave, in the order of --sort."""
        chosen = {
            name: tensor
            for name, tensor in state.items()
            if (not self.include or any(fnmatchcase(name, glob) for glob in self.include))
            and not any(fnmatchcase(name, glob) for glob in self.exclude)
        }
        if self.sort == "name":
            return dict(sorted(chosen.items()))
        return dict(sorted(chosen.items(), key=lambda item: -item[1].nbytes)) if self.sort == "size" else chosen


def document(examination: Examination, view: View, measured: Mapping[str, Stats | None], counted: Account | None = None) -> dict[str, object]:
    """The JSON object of one file. `counted` is where its bytes go, where the caller knows that already."""
    counted = counted or account(examination)
    facts = examination_json(examination, counted)
    if view.tensors or view.stats:
        facts["state"] = [tensor_json(name, tensor, measured.get(name), view.stats) for name, tensor in view.choose(examination.state).items()]
    if view.config:
        facts["config"] = config_of(examination.checkpoint)
    if view.memory:
        facts["memory"] = estimate_memory(examination, counted)._asdict()
    return facts


@dataclass(frozen=True, slots=True)
class InventoryRow:
    """One line of an inventory."""

    path: str
    experiment: str
    kind: str
    version: str
    epoch: str
    size: int
    modified: float
    verdict: str
    warnings: int
    strippable: int


def make_entry(examination: Examination, counted: Account) -> InventoryRow:
    """Make the inventory line of one checkpoint."""
    identity, source = examination.identity, examination.checkpoint.source
    return InventoryRow(
        path=source.path,
        experiment=experiment(absolute(source.path)) or "",
        kind=KINDS[identity.kind],
        version=identity.version or "/".join(identity.versions),
        epoch="" if identity.progress.epoch is None else str(identity.progress.epoch),
        size=source.size,
        modified=getattr(source, "mtime_ns", 0) / 1e9 if is_url(source.path) else os.path.getmtime(source.path),
        verdict=examination.safety.verdict,
        warnings=len(examination.warnings),
        strippable=counted.saves_strip,
    )


def tensor_json(name: str, tensor: Tensor, stats: Stats | None, wanted: bool) -> dict[str, object]:
    """One entry of `state`."""
    facts: dict[str, object] = {"name": name, "dtype": tensor.dtype.name, "shape": list(tensor.shape), "bytes": tensor.nbytes}
    if wanted:
        facts["stats"] = None if stats is None else stats_json(stats)
    return facts


def stats_json(stats: Stats) -> dict[str, object]:
    """Statistics of the finite values, and counts of the others; null where there is no finite value."""
    moments = stats.moments
    known = moments.finite > 0
    return {
        "min": moments.low if known else None,
        "max": moments.high if known else None,
        "mean": moments.mean if known else None,
        "std": moments.std if known else None,
        "nan": moments.nan,
        "inf": moments.infinite,
        "zero": moments.zero,
        "histogram": list(stats.histogram),
    }


def diff_json(found: Difference) -> dict[str, object]:
    """The difference, key by key."""
    return {"equal": found.equal, **asdict(found)}
