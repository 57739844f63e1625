"""What each writing command makes of a file, as plain values, so that they can go between processes."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Protocol

from gsvckpt.commands.rewrite.audit import audit, first_name
from gsvckpt.commands.rewrite.file import Planned, Rewritten
from gsvckpt.commands.rewrite.migrate import Migration, Steps
from gsvckpt.dtypes import DTYPES
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.salvage import open_remains
from gsvckpt.engine.write import OnOverflow, Outcome
from gsvckpt.errors import RefusedError, UsageError, similar_names
from gsvckpt.model import Checkpoint
from gsvckpt.sovits.sections import divide
from gsvckpt.sovits.training_state import missing_keys, required, training_state
from gsvckpt.transforms.cast import Selection, cast, select
from gsvckpt.transforms.plan import Plan
from gsvckpt.transforms.strip import strip


class Recipe(Protocol):
    """`renames` says that an output's name may depend on what is in the file; `is_large`, that one file alone takes much memory."""

    @property
    def on_overflow(self) -> OnOverflow: ...
    @property
    def renames(self) -> bool: ...
    @property
    def is_large(self) -> bool: ...
    def open(self, path: str) -> AbstractContextManager[Checkpoint]:
        """The source."""

    def make(self, examination: Examination, plan: Plan, stack: ExitStack, jobs: int) -> Planned:
        """Plan it. `stack` keeps open what the plan takes bytes from."""

    def accept(self, outcome: Outcome) -> None:
        """Raise GsvError for a result that was not asked for."""

    def details(self, written: Rewritten) -> dict[str, object]:
        """The keys that only this command's JSON has."""


@dataclass(frozen=True, slots=True)
class Halving:
    """What convert-fp16 does. `max_error` is relative to a tensor's largest value."""

    keep: tuple[str, ...] = ()
    on_overflow: OnOverflow = "keep"
    max_error: float | None = None
    renames: ClassVar[bool] = False
    is_large: ClassVar[bool] = False

    def open(self, path: str) -> AbstractContextManager[Checkpoint]:
        return open_checkpoint(path)

    def make(self, examination: Examination, plan: Plan, stack: ExitStack, jobs: int) -> Planned:  # noqa: ARG002 - as Recipe has it
        weights = examination.weights
        for glob in self.keep:
            if weights and not any(fnmatchcase(name, glob) for name in weights):
                raise UsageError(f"no tensor is called {glob}", where="--keep", hint=similar_names(glob, list(weights)))
        chosen = self._select(examination).chosen
        planned = cast(plan, chosen, DTYPES["float16"], clamp=self.on_overflow == "clamp") if chosen else plan
        return Planned(planned, examination.identity)

    def accept(self, outcome: Outcome) -> None:
        for storage, done in outcome.audits.items():
            if self.max_error is not None and storage in outcome.plan.casts and done.max_rel_error > self.max_error:
                raise RefusedError(
                    f"its largest error is {done.max_rel_error:.2g} of its largest value, above --max-error {self.max_error:g}",
                    where=first_name(outcome.plan.checkpoint.root, storage),
                    hint="--keep leaves this tensor as it is",
                )

    def details(self, written: Rewritten) -> dict[str, object]:
        return audit(written, self._select(written.examination), written.examination.weights)

    def _select(self, examination: Examination) -> Selection:
        return select(examination.checkpoint.root, examination.weights, DTYPES["float16"], self.keep)


@dataclass(frozen=True, slots=True)
class Stripping:
    """What strip-optimizer does: `drop` and `keep` are root entries."""

    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    force: bool = False
    on_overflow: ClassVar[OnOverflow] = "keep"
    renames: ClassVar[bool] = False
    is_large: ClassVar[bool] = False

    def open(self, path: str) -> AbstractContextManager[Checkpoint]:
        return open_checkpoint(path)

    def make(self, examination: Examination, plan: Plan, stack: ExitStack, jobs: int) -> Planned:  # noqa: ARG002 - as Recipe has it
        for option, keys in (("--drop", self.drop), ("--keep", self.keep)):
            unknown = missing_keys(plan.root, keys)
            if unknown:
                raise UsageError(f"there is no root entry {unknown[0]!r}", where=option, hint=f"root entries: {', '.join(_keys(plan.root))}")
        needed = [key for key in self.drop if key in required(plan.root, examination.identity.kind)]
        if needed and not self.force:
            raise RefusedError(f"training could not go on from it without {needed[0]}", where="--drop", hint="--force insists")
        kind, known = examination.identity.kind, examination.roles
        usual = training_state(plan.root, kind, known=known)
        more = [key for key in self.drop if key not in usual]  # a key that goes anyhow keeps what resuming needs in its place
        return Planned(strip(plan, training_state(plan.root, kind, drop=more, keep=self.keep, known=known)), examination.identity)

    def accept(self, outcome: Outcome) -> None:
        """Everything that stays keeps its bytes."""

    def details(self, written: Rewritten) -> dict[str, object]:
        return {"removed": [{"key": change.where, "bytes": change.bytes} for change in written.plan.changes]}


def _keys(root: object) -> list[str]:
    return [str(key) for key in root] if isinstance(root, dict) else []


@dataclass(frozen=True, slots=True)
class Migrating:
    """What migrate does."""

    steps: Steps
    on_overflow: OnOverflow = "keep"

    @property
    def renames(self) -> bool:
        steps = self.steps
        return steps.to_inference or steps.merge_lora is not None or steps.scrub_paths or steps.to is not None

    @property
    def is_large(self) -> bool:
        return self.steps.merge_lora is not None  # torch's own product

    def open(self, path: str) -> AbstractContextManager[Checkpoint]:
        return open_remains(path) if self.steps.salvage else open_checkpoint(path, inflate=True)

    def make(self, examination: Examination, plan: Plan, stack: ExitStack, jobs: int) -> Planned:
        return Planned(*Migration(self.steps, stack, jobs).plan(examination, plan))

    def accept(self, outcome: Outcome) -> None:
        """What is overflowed is told."""

    def details(self, written: Rewritten) -> dict[str, object]:
        """The audit stands there only where something was cast."""
        facts: dict[str, object] = {"whole": written.whole}
        facts["changes"] = [
            {"step": change.step, "where": change.where, "from": change.before, "to": change.after} for change in written.plan.changes
        ]
        if not written.plan.casts and not written.kept and not (written.outcome and written.outcome.overflowed):
            return facts
        tensors = divide(written.plan.root).tensors
        storages = {*written.plan.casts, *(written.outcome.overflowed if written.outcome else ())}
        chosen = {name: tensor for name, tensor in tensors.items() if tensor.storage in storages}
        kept = {name: tensor for name, tensor in tensors.items() if name in written.kept and name not in chosen}
        others = {name: tensor for name, tensor in tensors.items() if name not in chosen and name not in kept}
        return {**facts, **audit(written, Selection(chosen, kept, others), tensors)}
