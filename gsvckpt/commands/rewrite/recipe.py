"""A recipe: what a writing command does to a file. It is a plain value, so it can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from gsvckpt.engine.examine import Examination
from gsvckpt.engine.write import OnOverflow, Written
from gsvckpt.model import Checkpoint, Tensor
from gsvckpt.sovits.kinds import Identity
from gsvckpt.transforms.plan import Plan


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be done to one file. `identity`: what the output will be; `name`: how it is to be called, where the user did not say; `consulted`:
    the other files that were looked into; `listed_in`: the folder in which GPT-SoVITS lists such weights; `lost`: tensors of the model that the
    source has no bytes of; `kept`: tensors that were to be cast but share their bytes with others; `complete`: something stands in the place of each
    lost tensor; `program`: the other program whose names for tensors the output has.
    """

    plan: Plan
    identity: Identity
    name: str | None = None
    warnings: tuple[str, ...] = ()
    consulted: tuple[str, ...] = ()
    listed_in: str = ""
    lost: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    complete: bool = True
    program: str = ""

    @property
    def keeps_all(self) -> bool:
        """Whether the source's model is complete. If not, a warning says so."""
        return not self.lost


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

    def plan(self, examination: Examination, plan: Plan, stack: ExitStack, jobs: int) -> Planned:
        """What is to be done, starting from the `plan` that changes nothing. `stack` keeps open what bytes are taken from."""

    def accept(self, written: Written) -> None:
        """Raise GsvError for a result that an option forbids."""

    def details(self, examination: Examination, planned: Planned, written: Written | None) -> dict[str, object]:
        """The keys that only this command's JSON has. `written` is None where there was nothing to do."""
