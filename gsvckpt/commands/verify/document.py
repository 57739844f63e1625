"""The JSON object of one verified file, with what was done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gsvckpt.commands.verify.findings import Severity
from gsvckpt.commands.verify.result import Verification
from gsvckpt.engine.json_objects import safety_json

if TYPE_CHECKING:
    from gsvckpt.commands.verify.backup import Copied, Restored


class DoneAfterVerify(NamedTuple):
    """The work done after checking, by path: files recorded, copied and brought back; and the options that asked for it."""

    recorded: Mapping[str, str] = {}
    copied: Mapping[str, Copied] = {}
    restored: Mapping[str, Restored] = {}
    asked: Sequence[str] = ()


def as_json(result: Verification, after: DoneAfterVerify, fail_on: Severity = "error") -> dict[str, object]:
    """One file of the JSON document. From the severity `fail_on` on, a finding means that its check failed."""
    document: dict[str, object] = {
        "path": result.path,
        "size": result.size,
        "kind": result.kind,
        "version": result.version,
        "progress": {"epoch": result.epoch, "step": result.step},
        "official": result.official,
        "status": result.status,
        "checks": result.checks(fail_on).as_json(),
        "findings": [finding.as_json() for finding in result.findings],
        "digests": {name: result.digests.get(name) for name in ("md5", "sha256", "xxh3_128", "content")}
        | {name: digest for name, digest in result.digests.items() if name not in ("md5", "sha256", "xxh3_128", "content")},
        "safety": safety_json(result.safety),
    }
    if result.resumption is not None:
        document["resume"] = result.resumption.as_json()
    if result.tensors:
        document["tensors"] = dict(result.tensors)
    if result.error is not None:
        document["error"] = dict(result.error)
    if result.path in after.recorded:
        document["recorded"] = after.recorded[result.path]
    if result.path in after.copied:
        document["backup"] = after.copied[result.path]._asdict()
    if result.path in after.restored:
        document["restored"] = after.restored[result.path]._asdict()
    return document
