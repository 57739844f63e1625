"""The recipe of convert-fp16: cast the weights to float16."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from gsvckpt.commands.rewrite.audit import audit, first_name
from gsvckpt.commands.rewrite.recipe import Planned
from gsvckpt.dtypes import DTYPES
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import OnOverflow, Written
from gsvckpt.errors import RefusedError, UsageError, similar_names
from gsvckpt.model import Checkpoint
from gsvckpt.transforms.cast import Selection, cast, select
from gsvckpt.transforms.plan import Plan


@dataclass(frozen=True, slots=True)
class ConvertFp16:
    """`max_error` is relative to a tensor's largest value."""

    keep: tuple[str, ...] = ()
    on_overflow: OnOverflow = "keep"
    max_error: float | None = None
    renames: ClassVar[bool] = False
    is_large: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise UsageError for a largest error that no error could be above or below."""
        if self.max_error is not None and not self.max_error >= 0:
            raise UsageError("must be a number from 0 on", where="--max-error")

    def open(self, path: str) -> AbstractContextManager[Checkpoint]:
        return open_checkpoint(path)

    def plan(self, examination: Examination, plan: Plan, stack: ExitStack, jobs: int) -> Planned:  # noqa: ARG002 - as Recipe has it
        weights = examination.weights
        for glob in self.keep:
            if weights and not any(fnmatchcase(name, glob) for name in weights):
                raise UsageError(f"no tensor is called {glob}", where="--keep", hint=similar_names(glob, list(weights)))
        chosen = self._select(examination).chosen
        planned = cast(plan, chosen, DTYPES["float16"], clamp=self.on_overflow == "clamp") if chosen else plan
        return Planned(planned, examination.identity, warnings=_tell_special(examination))

    def accept(self, written: Written) -> None:
        for storage, done in written.audits.items():
            if self.max_error is not None and storage in written.plan.casts and done.max_rel_error > self.max_error:
                raise RefusedError(
                    f"its largest error is {done.max_rel_error:.2g} of its largest value, above --max-error {self.max_error:g}",
                    where=first_name(written.plan.checkpoint.root, storage),
                    hint="--keep leaves this tensor as it is",
                )

    def details(self, examination: Examination, planned: Planned, written: Written | None) -> dict[str, object]:  # noqa: ARG002 - as Recipe has it
        return audit(written, self._select(examination), examination.weights)

    def _select(self, examination: Examination) -> Selection:
        return select(examination.checkpoint.root, examination.weights, DTYPES["float16"], self.keep)


def _tell_special(examination: Examination) -> tuple[str, ...]:
    """Which tensors are not looked into, so that they keep their types."""
    special = examination.special
    if not special:
        return ()
    name, first = next(iter(special.items()))
    rest = f", and {len(special) - 1:,} more" if len(special) > 1 else ""
    return (f"{name} ({first.form}){rest} {'are' if rest else 'is'} left as {'they are' if rest else 'it is'}: only plain tensors are cast",)
