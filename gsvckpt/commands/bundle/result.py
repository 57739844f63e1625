"""The result of bundling, and its part of migrate's JSON document."""

from __future__ import annotations

from dataclasses import dataclass

from gsvckpt.commands.bundle.contents import Bundle
from gsvckpt.engine.document import document


def as_json(bundle: Bundle) -> dict[str, object]:
    """The one file of the JSON document."""
    return {
        "source": bundle.source,
        "output": bundle.output,
        "bundle": [{"path": item.path, "from": item.origin, "bytes": item.size, "how": item.how} for item in bundle.items],
        "bytes_after": bundle.size,
        "written": not bundle.rehearsed,
        "warnings": list(bundle.warnings),
        "left_out": [{"path": left.path, "why": left.why} for left in bundle.left_out],
    }


@dataclass(frozen=True, slots=True)
class BundleResult:
    """A bundle that was made or, in a dry run, planned. `warnings` are about what is not in it, and about devices."""

    bundle: Bundle
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """What the command would exit with: not 0 where a checkpoint was left out that should have been in it."""
        return self.bundle.exit_code

    def as_json(self) -> dict[str, object]:
        """The document of `--json`."""
        return document("migrate", [as_json(self.bundle)], self.exit_code)
