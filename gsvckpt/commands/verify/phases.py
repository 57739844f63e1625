"""Open one file and read its bytes once, before any check. Each step returns what it learnt as a value."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

from gsvckpt.commands.verify.checks.tensors import overclaiming
from gsvckpt.commands.verify.result import Asked
from gsvckpt.devices.device import Extremes
from gsvckpt.engine.examine import Examination, examine
from gsvckpt.engine.open import open_checkpoint, read
from gsvckpt.engine.salvage import find_salvaged
from gsvckpt.errors import FLAWS, ChangedError, DamagedError, GsvError, NotCheckpointError, UnreachableError
from gsvckpt.formats import pickle_search, shards
from gsvckpt.formats.known import Known, known_of
from gsvckpt.formats.pickle.calls import merge_calls
from gsvckpt.formats.pickle.safety import Safety, judge_all
from gsvckpt.formats.sniff import read_head
from gsvckpt.formats.torch_salvage import Salvaged
from gsvckpt.model import Checkpoint, OpenSource, Record, Tensor, format_path, walk
from gsvckpt.sovits import official

_GONE = (UnreachableError, ChangedError)  # a source that breaks off: what was learnt until then says nothing


class Unreadable(NamedTuple):
    """A file that could not be opened as a checkpoint, or not to its end.

    `head` are its first bytes, `safety` is judged by the names that were met, `salvaged` is what of it is whole. `known` is what could be learnt of
    its container, `compared` says that only its digest is looked at, as it is no checkpoint and a list names it.
    """

    error: GsvError
    safety: Safety
    head: bytes = b""
    known: Known | None = None
    salvaged: Salvaged | None = None
    compared: bool = False


class Contents(NamedTuple):
    """What reading the bytes of a file came to. What was not asked for is empty or None.

    `crcs` are the checksums of its records, `extremes` the numbers of its tensors, `tensors` their digests, `digests` those of the whole file.
    `bombs` claim more than the file has and were left out. `error` is why the bytes could not be read.
    """

    crcs: Mapping[Record, int] | None = None
    extremes: Mapping[str, Extremes] | None = None
    tensors: Mapping[str, str] = {}
    digests: Mapping[str, str] = {}
    bombs: Mapping[str, Tensor] = {}
    error: GsvError | None = None


def open_file(source: OpenSource, asked: Asked, stack: ExitStack) -> Examination | Unreadable:
    """Open and examine a checkpoint, or say what is known of a file that is none. Of an index, that is the checkpoint in its shards."""
    is_index = shards.is_index(source.path)
    try:
        checkpoint = stack.enter_context(open_checkpoint(source.path)) if is_index else read(source)
        return examine(checkpoint)
    except _GONE:
        raise
    except GsvError as error:
        if is_index:  # it is text itself, which runs nothing
            return Unreadable(error, Safety("safe"))
        return _look_around(source, error, asked)


def _look_around(source: OpenSource, error: GsvError, asked: Asked) -> Unreadable:
    known = known_of(error)
    found = pickle_search.search(source, everywhere=True)
    names = (*(known.globals if known else ()), *found.names)
    safety = judge_all(dict.fromkeys(names), merge_calls(known.calls if known else (), found.calls))
    if safety.verdict == "safe":
        safety = Safety("unknown", safety.globals)
    if _is_compared(source, error, asked):
        return Unreadable(error, safety, known=known, compared=True)
    return Unreadable(error, safety, read_head(source), known, _salvage(source, error))


def _is_compared(source: OpenSource, error: GsvError, asked: Asked) -> bool:
    """Whether a file that is no checkpoint (a model for ONNX, a config) has a digest to be compared with, in place of being examined."""
    is_named = bool(official.named(source.path)) or asked.expected.listed is not None
    return is_named and isinstance(error, NotCheckpointError) and not asked.options.quick and source.size > 0


def _salvage(source: OpenSource, error: GsvError) -> Salvaged | None:
    if not isinstance(error, DamagedError):  # of what is no checkpoint, or of another form, nothing is salvaged
        return None
    with suppress(*FLAWS):
        return find_salvaged(source)
    return None


def read_opened(examination: Examination, source: OpenSource, asked: Asked) -> Contents:
    """Read a checkpoint, for every check that needs its bytes. Of a checkpoint in shards, the index: the shards are read by their own paths."""
    checkpoint = examination.checkpoint
    if checkpoint.container.shards:
        return read_file(source, frozenset(), asked)
    named = named_tensors(checkpoint, examination.state)
    bombs = overclaiming(named, source.size)
    sound = {name: tensor for name, tensor in named.items() if name not in bombs}
    numbers = asked.wants("tensor.finite", "tensor.range")
    return _read(checkpoint, sound, asked, numbers=numbers, all_tensors=not bombs)._replace(bombs=bombs)


def read_unreadable(found: Unreadable, source: OpenSource, asked: Asked) -> Contents:
    """Read what could not be opened: the records of a zip whose pickle is at fault, else the bytes as they are."""
    if found.compared:
        return read_file(source, frozenset({"sha256"} if official.named(source.path) else ()), asked)
    if found.known is not None and found.known.records and found.error.check != "record.crc":
        opened = Checkpoint(source, found.known.container, None, found.known.globals, found.known.records)
        return _read(opened, {}, asked, numbers=False, all_tensors=False)
    return read_file(source, frozenset() if shards.is_index(source.path) else frozenset({"xxh3_128"}), asked)


def _read(checkpoint: Checkpoint, tensors: Mapping[str, Tensor], asked: Asked, *, numbers: bool, all_tensors: bool) -> Contents:
    """`tensors` are those to look into; `all_tensors` says that there are no others, so that they make up the digest of the content."""
    checksums = asked.wants("record.crc")
    wanted = _wanted_digests(checkpoint.source.path, asked) - (frozenset() if all_tensors else {"content"})
    if asked.options.quick or not (checksums or numbers or wanted):
        return Contents()
    from gsvckpt.devices.choice import HostOnDemand
    from gsvckpt.engine.digest import read_contents

    try:  # on the host, which looks for NaN at 50 GB/s a core: bringing the bytes to a device takes longer, and opening one takes seconds
        device = HostOnDemand() if numbers else None
        found = read_contents(checkpoint, tensors, device, wanted, checksums=checksums, jobs=asked.jobs, progress=asked.progress)
    except _GONE:
        raise
    except GsvError as error:
        return Contents(error=error)
    entry = asked.expected.entry
    kept = found.digests if asked.options.tensors or (entry is not None and entry.tensors) else {}
    return Contents(found.crcs if checksums else None, found.extremes if numbers else None, dict(kept), found.file)


def read_file(source: OpenSource, names: frozenset[str], asked: Asked) -> Contents:
    """Digests of the bytes as they are, for what is no checkpoint: those of `names`, and those that were asked for."""
    if asked.options.quick:
        return Contents()
    from gsvckpt.engine.digest import digest_file

    wanted = (names | _wanted_digests(source.path, asked)) - {"content"}
    try:
        return Contents(digests=digest_file(source, wanted, asked.jobs, asked.progress))
    except _GONE:
        raise
    except GsvError as error:
        return Contents(error=error)


def _wanted_digests(path: str, asked: Asked) -> frozenset[str]:
    wanted = set(asked.options.digests)
    if asked.expected.entry is not None and asked.wants("manifest.*"):
        wanted.add("xxh3_128")
    if asked.expected.listed is not None and asked.wants("checksum.*"):
        wanted |= set(asked.expected.listed.algorithms)
    if official.named(path) and asked.wants("official.*"):
        wanted.add("sha256")
    return frozenset(wanted)


def named_tensors(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors: the model's by their names in its state dict, so that they are the same in every container; all others by their paths."""
    known = {id(tensor) for tensor in state.values()}
    found = dict(state)
    for path, leaf in walk(checkpoint.root):
        if isinstance(leaf, Tensor) and id(leaf) not in known:
            found.setdefault(format_path(path), leaf)
    return found
