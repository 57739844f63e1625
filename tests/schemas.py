"""JSON Schemas of the documents that `--json` prints, made from the classes of the results: `make schemas` writes docs/json/ anew.

What a class of gsvckpt describes is taken from it; what its functions put together is described here. The published schemas admit further keys, as
later versions add some. The tests hold every document to `strict`, which admits none, so a new key is described here, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from gsvckpt.commands.inspect.breakdown import Memory
from gsvckpt.commands.verify.backup import Copied, Restored
from gsvckpt.commands.verify.findings import Finding
from gsvckpt.commands.verify.result import Checks, Status
from gsvckpt.engine.difference import Difference
from gsvckpt.engine.saves import Ignored
from gsvckpt.errors import GsvError
from gsvckpt.formats.pickle.safety import Verdict
from gsvckpt.model import Container
from gsvckpt.sovits.kinds import Kind
from gsvckpt.sovits.runtimes import Role, Runtime
from gsvckpt.sovits.upstream import Detection, UpstreamError
from gsvckpt.sovits.versions import Version

FOLDER = Path(__file__).parents[1] / "docs" / "json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, object]
Error = get_type_hints(GsvError.as_json)["return"]
Format = get_type_hints(Container)["format"]
Upstream = Detection | UpstreamError | None


# --- parts that several commands have ------------------------------------------------------------------------------------------------------------


class _Outer(TypedDict):
    format: Format
    head: str | None
    prefix: str | None
    byteorder: str
    records: int


class Outer(_Outer, total=False):
    metadata: Mapping[str, str]


class _Name(TypedDict):
    name: str
    verdict: Verdict
    called: bool


class Name(_Name, total=False):
    arguments: str
    why: str


class Doubt(TypedDict):
    where: str
    why: str


class _Safe(TypedDict):
    verdict: Verdict
    globals: list[Name]


class Safe(_Safe, total=False):
    doubts: list[Doubt]


class _Failed(TypedDict):
    path: str
    error: Error


class Failed(_Failed, total=False):
    """A file or folder that failed; writing commands say what they were to make of it."""

    kind: str
    size: int
    container: Outer
    safety: Safe
    source: str
    output: str | None
    written: Literal[False]


class Place(TypedDict):
    path: str
    why: str


class Features(TypedDict):
    files: int
    bytes: int


# --- inspect -------------------------------------------------------------------------------------------------------------------------------------


class Progress(TypedDict):
    epoch: int | None
    step: int | None
    info: str | None


class Bytes(TypedDict):
    file: int
    weights: int
    optimizer: int
    other: int
    unused: int


class OfType(TypedDict):
    tensors: int
    bytes: int


class Waste(TypedDict):
    duplicates: int
    float64: int


Saves = TypedDict("Saves", {"convert-fp16": int, "strip-optimizer": int})


class Values(TypedDict):
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    nan: int
    inf: int
    zero: int
    histogram: list[int]


class _OneTensor(TypedDict):
    name: str
    dtype: str
    shape: list[int]
    bytes: int


class OneTensor(_OneTensor, total=False):
    stats: Values | None


class Part(TypedDict):
    number: int
    of: int


class Special(TypedDict):
    name: str
    form: str
    dtype: str
    shape: list[int | None]
    bytes: int


class RunsInRow(TypedDict):
    runtime: Runtime
    version: str
    role: Role
    takes: bool
    why: str


class _Inspected(TypedDict):
    path: str
    size: int
    container: Outer
    part: Part | None
    kind: Kind
    version: Version | None
    version_evidence: list[str]
    runs_in: list[RunsInRow]
    upstream: Upstream
    warnings: list[str]
    progress: Progress
    lora_rank: int | None
    tensors: int
    special: list[Special]
    parameters: int
    bytes: Bytes
    dtypes: Mapping[str, OfType]
    waste: Waste
    saves: Saves
    official: str | None
    official_confidence: str | None
    safety: Safe


class Inspected(_Inspected, total=False):
    state: list[OneTensor]
    config: object
    memory: Memory


Differences = TypedDict("Differences", {"equal": bool, **get_type_hints(Difference)})


# --- commands that write -------------------------------------------------------------------------------------------------------------------------


class Rewritten(TypedDict):
    source: str
    output: str | None
    changed: bool
    written: bool
    bytes_before: int
    bytes_after: int
    upstream_before: Upstream
    upstream_after: Upstream
    warnings: list[str]
    notes: list[str]


class Overflowed(TypedDict):
    name: str
    count: int


class Worst(TypedDict):
    name: str
    max_rel_error: float
    max_abs_error: float
    underflowed: int
    largest: float


class Cast(TypedDict):
    cast: int
    kept: int
    unchanged: int
    overflowed: list[Overflowed]
    underflowed: int
    max_abs_error: float
    max_rel_error: float
    worst: list[Worst]


class Converted(Rewritten, Cast):
    pass


class Removed(TypedDict):
    key: str
    bytes: int


class Stripped(Rewritten):
    removed: list[Removed]


Change = TypedDict("Change", {"step": str, "where": str, "from": str, "to": str})


class _Migrated(Rewritten):
    whole: bool
    changes: list[Change]


class MaybeCast(TypedDict, total=False):
    cast: int
    kept: int
    unchanged: int
    overflowed: list[Overflowed]
    underflowed: int
    max_abs_error: float
    max_rel_error: float
    worst: list[Worst]


class Migrated(_Migrated, MaybeCast):
    pass


BundleFile = TypedDict("BundleFile", {"path": str, "from": str | None, "bytes": int, "how": str})


class Bundled(TypedDict):
    source: str
    output: str
    bundle: list[BundleFile]
    bytes_after: int
    written: bool
    warnings: list[str]
    left_out: list[Place]


# --- verify --------------------------------------------------------------------------------------------------------------------------------------


class Reached(TypedDict):
    epoch: int | None
    step: int | None


class ResumedFrom(TypedDict):
    G: str | None
    D: str | None
    epoch: int | None


Resumed = TypedDict("Resumed", {"goes_on": bool, "from": ResumedFrom, "why": str})


class _Verified(TypedDict):
    path: str
    size: int
    kind: Kind | None
    version: Version | None
    progress: Reached
    official: str | None
    status: Status
    checks: Checks
    findings: list[Finding]
    digests: Mapping[str, str | None]
    safety: Safe


class Verified(_Verified, total=False):
    resume: Resumed
    tensors: Mapping[str, str]
    error: Error
    recorded: str
    backup: Copied
    restored: Restored


# --- prune ---------------------------------------------------------------------------------------------------------------------------------------


class _Decided(TypedDict):
    paths: list[str]
    reasons: list[str]
    bytes: int
    epoch: int | None
    step: int | None


class Decided(_Decided, total=False):
    bytes_after: int
    outputs: list[str]


class _Group(TypedDict):
    group: str
    folder: str
    keep: list[Decided]
    demote: list[Decided]
    remove: list[Decided]
    note: str


class Group(_Group, total=False):
    dates: str


class Rules(TypedDict):
    file: str | None
    rules: Mapping[str, object]
    options: Mapping[str, object]
    folders: list[str]


class Left(TypedDict):
    paths: list[str]
    why: str


class FeatureFolders(Features):
    folders: list[str]


class Dated(TypedDict):
    group: str
    folder: str
    dates: str


class Undone(TypedDict):
    run: str
    root: str
    paths: list[str]


# --- the documents -------------------------------------------------------------------------------------------------------------------------------


class Begun(TypedDict, total=False):
    folders: list[str]
    ignored: int
    features: Features
    skipped: list[Place]
    error: Error


class InspectDocument(Begun, total=False):
    diff: Differences | None


class VerifyDocument(TypedDict, total=False):
    folders: list[str]
    ignored: int
    skipped: list[Place]
    warnings: list[Place]
    resume: Resumed
    error: Error


class WriteDocument(TypedDict, total=False):
    error: Error


class PruneDocument(TypedDict, total=False):
    policy: Rules
    policies: list[Rules]
    groups: list[Group]
    runs: list[Dated] | list[Undone]
    ignored: list[Ignored]
    left: list[Left]
    features: FeatureFolders
    freed_bytes: int
    done: bool
    trash: list[str]
    error: Error


DOCUMENTS: Mapping[str, tuple[object, object]] = {
    "inspect": (InspectDocument, Inspected | Failed),
    "convert-fp16": (WriteDocument, Converted | Failed),
    "strip-optimizer": (WriteDocument, Stripped | Failed),
    "migrate": (WriteDocument, Migrated | Bundled | Failed),
    "verify": (VerifyDocument, Verified | Failed),
    "prune": (PruneDocument, Failed),
    "": (WriteDocument, Failed),  # where no command was recognised
}


def schema(command: str) -> Schema:
    """The schema of one command's document."""
    extra, file = DOCUMENTS[command]
    definitions: dict[str, Schema] = {}
    name = f"gsvckpt.{command}/2" if command else "gsvckpt/2"
    begin = {"schema": {"const": name}, "gsvckpt": {"type": "string"}, "files": {"type": "array", "items": _schema(file, definitions)}}
    more = {key: _schema(hint, definitions) for key, hint in get_type_hints(extra).items()}
    described = _object({**begin, **more, "exit_code": {"type": "integer"}}, ["schema", "gsvckpt", "files", "exit_code"])
    return {"$schema": DIALECT, "title": name, **described, "$defs": dict(sorted(definitions.items()))}


def _schema(hint: object, definitions: dict[str, Schema]) -> Schema:
    """The schema of one annotation. Classes stand in `definitions`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is object or hint == "Plain":
        return {}
    if hint is float:  # JSON has no NaN and no infinity
        return {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(part, definitions) for part in arguments]}
    if origin is tuple and Ellipsis not in arguments:
        return {"type": "array", "prefixItems": [_schema(part, definitions) for part in arguments], "minItems": len(arguments), "items": False}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if origin is not None and issubclass(origin, Sequence):
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    return _reference(hint, definitions)


_PLAIN = {str: "string", int: "integer", bool: "boolean", NoneType: "null"}


def _reference(described: object, definitions: dict[str, Schema]) -> Schema:
    assert is_typeddict(described) or is_dataclass(described) or hasattr(described, "_fields"), described
    name = described.__name__
    if name not in definitions:
        definitions[name] = {}
        hints = get_type_hints(described)
        properties = {key: _schema(hint, definitions) for key, hint in hints.items()}
        required = [key for key in hints if key in getattr(described, "__required_keys__", hints)]
        definitions[name] = _object(properties, required)
    return {"$ref": f"#/$defs/{name}"}


def _object(properties: Mapping[str, Schema], required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def strict(part: object) -> object:
    """The same schema, which admits no other keys."""
    if isinstance(part, list):
        return [strict(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {key: strict(value) for key, value in part.items()}
    return {**found, "additionalProperties": False} if "properties" in part and part.get("type") == "object" else found


@cache
def problems_of(command: str) -> Callable[[object], list[str]]:
    """A function that says in which places a document of this command is not what its schema admits."""
    from jsonschema import Draft202012Validator  # most tests print none

    validator = Draft202012Validator(strict(schema(command)))
    return lambda document: [f"{error.json_path}: {error.message[:500]}" for error in validator.iter_errors(document)]


def texts() -> dict[str, str]:
    """The files of docs/json."""
    return {f"{command or 'gsvckpt'}.schema.json": json.dumps(schema(command), indent=2, ensure_ascii=False) + "\n" for command in DOCUMENTS}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
