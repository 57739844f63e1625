"""What migrate's JSON document says of a bundle."""

from __future__ import annotations

from gsvckpt.commands.bundle.contents import Bundle


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
