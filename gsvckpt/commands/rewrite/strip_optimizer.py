"""The recipe of strip-optimizer: remove what only training needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import ClassVar

from gsvckpt.commands.rewrite.recipe import Planned
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import OnOverflow, Written
from gsvckpt.errors import RefusedError, UsageError
from gsvckpt.model import Checkpoint
from gsvckpt.sovits.training_state import missing_keys, required, training_state
from gsvckpt.transforms.plan import Plan
from gsvckpt.transforms.strip import strip


@dataclass(frozen=True, slots=True)
class StripOptimizer:
    """`drop` and `keep` are root entries."""

    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    force: bool = False
    on_overflow: ClassVar[OnOverflow] = "keep"
    renames: ClassVar[bool] = False
    is_large: ClassVar[bool] = False

    def open(self, path: str) -> AbstractContextManager[Checkpoint]:
        return open_checkpoint(path)

    def plan(self, examination: Examination, plan: Plan, stack: ExitStack, jobs: int) -> Planned:  # noqa: ARG002 - as Recipe has it
        for option, keys in (("--drop", self.drop), ("--keep", self.keep)):
            unknown = missing_keys(plan.root, keys)
            if unknown:
                raise UsageError(f"there is no root entry {unknown[0]!r}", where=option, hint=f"root entries: {', '.join(_keys(plan.root))}")
        needed = [key for key in self.drop if key in required(plan.root, examination.identity.kind)]
        if needed and not self.force:
            raise RefusedError(f"training could not resume from it without {needed[0]}", where="--drop", hint="--force insists")
        kind, known = examination.identity.kind, examination.roles
        usual = training_state(plan.root, kind, known=known)
        more = [key for key in self.drop if key not in usual]  # a key that goes anyhow keeps what resuming needs in its place
        return Planned(strip(plan, training_state(plan.root, kind, drop=more, keep=self.keep, known=known)), examination.identity)

    def accept(self, written: Written) -> None:
        """Everything that stays keeps its bytes."""

    def details(self, examination: Examination, planned: Planned, written: Written | None) -> dict[str, object]:  # noqa: ARG002 - as Recipe has it
        return {"removed": [{"key": change.where, "bytes": change.bytes} for change in planned.plan.changes]}


def _keys(root: object) -> list[str]:
    return [str(key) for key in root] if isinstance(root, dict) else []
