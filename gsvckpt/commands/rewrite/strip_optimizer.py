"""The recipe of strip-optimizer: remove what only training needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import ClassVar

from gsvckpt.commands.rewrite.optimizer_steps import count_steps
from gsvckpt.commands.rewrite.recipe import Planned
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import OnOverflow, Written
from gsvckpt.errors import RefusedError, UsageError
from gsvckpt.model import REMOVED, Checkpoint
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.training_progress import STEP
from gsvckpt.sovits.training_state import missing_keys, required, training_state
from gsvckpt.transforms.plan import Change, Plan
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
        stripped = strip(plan, training_state(plan.root, kind, drop=more, keep=self.keep, known=known))
        return Planned(_keep_step(stripped, plan.root, examination.identity), examination.identity)

    def accept(self, written: Written) -> None:
        """Everything that stays keeps its bytes."""

    def details(self, examination: Examination, planned: Planned, written: Written | None) -> dict[str, object]:  # noqa: ARG002 - as Recipe has it
        return {"removed": [{"key": change.where, "bytes": change.bytes} for change in planned.plan.changes if change.step == "strip"]}


def _keep_step(plan: Plan, before: object, identity: Identity) -> Plan:
    """Note the step in a SoVITS training file whose optimizer goes, as nothing else in the file tells it; upstream reads four other keys alone
    (utils.py:23-60). Where the file's name states another number, the name may be right, and nothing is noted.
    """
    root = plan.root
    if not isinstance(root, dict) or not identity.kind.startswith("sovits-") or STEP in root or root.get("optimizer", REMOVED) is not None:
        return plan
    counted = count_steps(before)
    if counted is None or identity.progress.step not in (None, counted):
        return plan
    change = Change("count", STEP, "counted by the optimizer", str(counted))
    return replace(plan, root={**root, STEP: counted}, changes=(*plan.changes, change))


def _keys(root: object) -> list[str]:
    return [str(key) for key in root] if isinstance(root, dict) else []
