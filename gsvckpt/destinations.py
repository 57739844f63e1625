"""Where outputs go, and what must not be written there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from gsvckpt.errors import OutputError, RefusedError, UsageError
from gsvckpt.sovits.names import resumes


@dataclass(frozen=True, slots=True)
class Destination:
    """`word` is what default names say of the command: `x.fp16.pth`."""

    word: str
    output: str | None = None
    in_place: bool = False
    force: bool = False
    dry_run: bool = False
    check: bool = False

    @property
    def writes(self) -> bool:
        return not (self.dry_run or self.check)

    def assign(self, sources: Sequence[str]) -> list[str]:
        """The output of each source. Raises UsageError when options contradict each other or two sources would share one output."""
        if self.in_place and self.output is not None:
            raise UsageError("--in-place and --output exclude each other")
        if self.output is None:
            outputs = [source if self.in_place else name_beside(source, self.word) for source in sources]
        elif len(sources) > 1 or self.output.endswith(("/", os.sep)) or os.path.isdir(self.output):
            if os.path.exists(self.output) and not os.path.isdir(self.output):
                raise UsageError(f"{self.output} is a file, where several sources need a folder", where="--output")
            outputs = [os.path.join(self.output, os.path.basename(source)) for source in sources]
        else:
            outputs = [self.output]
        seen: dict[str, str] = {}
        for source, output in zip(sources, outputs, strict=True):
            other = seen.setdefault(os.path.realpath(output), source)
            if other != source:
                raise UsageError(f"{other} and {source} would both be written to {output}", hint="give each its own run with -o PATH")
        return outputs

    def prepare(self, source: str, output: str) -> None:
        """Make the folder of an `-o FOLDER/` and refuse what exists, before any work is done."""
        if self.output is not None and self.output != output:
            try:
                os.makedirs(self.output, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot be made: {error.strerror}", path=self.output, hint="write elsewhere with -o PATH") from error
        if self.in_place or self.force or not os.path.exists(output):
            return
        if os.path.exists(source) and os.path.samefile(source, output):
            raise RefusedError("is the source itself", path=output, hint="--in-place replaces it; -o PATH writes elsewhere")
        raise RefusedError("exists already", path=output, hint="--force overwrites it; -o PATH writes elsewhere")


def name_beside(source: str, word: str) -> str:
    """`x.pth` -> `x.fp16.pth`; but `G_16.pth` -> `fp16-G_16.pth`, as GPT-SoVITS would take `G_16.fp16.pth` for a checkpoint to resume from."""
    folder, name = os.path.split(source)
    stem, extension = os.path.splitext(name)
    named = f"{stem}.{word}{extension}"
    return os.path.join(folder, f"{word}-{name}" if resumes(name) or resumes(named) else named)
