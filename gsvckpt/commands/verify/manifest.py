"""Read and write `gsvckpt.toml`: what the checkpoints of a folder were when they were found sound.

It stands beside the files. What others wrote into it stays: the text above the line `MARK` word for word, other tables as data.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from gsvckpt.characters import escape_toml
from gsvckpt.errors import DamagedError, MissingError, RefusedError, as_error
from gsvckpt.files.lock import locked
from gsvckpt.files.obstacles import file_obstacle
from gsvckpt.files.publish import publish_bytes

NAME = "gsvckpt.toml"
MARK = "# --- written by gsvckpt verify --record; what stands below is written anew each time ---\n"
LARGEST = 1 << 26  # bytes; 10,000 files have 3 MB, 1,000 with digests of every tensor 40 MB


class ManifestEntry(NamedTuple):
    """One file as it was recorded. `digests` of its bytes and its content by name, `tensors` those of each tensor where that was asked for."""

    name: str
    size: int
    mtime_ns: int
    kind: str | None = None
    version: str | None = None
    epoch: int | None = None
    step: int | None = None
    digests: Mapping[str, str] = {}
    tensors: Mapping[str, str] = {}

    def as_table(self) -> dict[str, object]:
        facts = {"size": self.size, "mtime_ns": self.mtime_ns, "kind": self.kind, "version": self.version, "epoch": self.epoch, "step": self.step}
        table: dict[str, object] = {key: value for key, value in (*facts.items(), *self.digests.items()) if value is not None}
        return {**table, "tensors": dict(self.tensors)} if self.tensors else table


DIGESTS = ("xxh3_128", "sha256", "md5", "content")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The entries of one manifest, by file name."""

    path: str
    entries: Mapping[str, ManifestEntry] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path) or "."


def read_manifest(path: str) -> Manifest | None:
    """The manifest at `path`; None where there is none. Raises DamagedError for one that cannot be understood."""
    text = _read(path)
    return None if text is None else Manifest(path, _entries(path, _parse(path, text)))


def record(folder: str, entries: Iterable[ManifestEntry], *, forget: Callable[[str], bool] = lambda _: False) -> str:
    """Put entries into the folder's manifest, in one step, and drop those whose name `forget` says. Returns the manifest's path.

    Others that record at the same time wait, so nothing is lost. Raises DamagedError where the manifest that is there cannot be understood, which
    is then left as it is, RefusedError where its name is taken by something that is not a regular file, and OutputError.
    """
    path = os.path.join(folder, NAME)
    obstacle = file_obstacle(path)
    if obstacle is not None:
        raise obstacle
    with locked(folder or "."):
        text, newline = _read_text(path) or ("", "\n")
        document = _parse(path, text)
        before = _entries(path, document)
        known = {name: entry for name, entry in before.items() if not forget(name)}
        known |= {entry.name: entry for entry in entries}
        own = _own_text(path, text, document, spell(before))
        renewed = f"{own}{MARK}\n{spell(known)}"
        _require_same(path, document, renewed, known)
        publish_bytes(path, renewed.replace("\n", newline).encode(), overwrite=True)
    return path


def spell(entries: Mapping[str, ManifestEntry]) -> str:
    """The entries as a manifest has them below its mark."""
    import tomli_w

    return escape_toml(tomli_w.dumps({"files": {name: entries[name].as_table() for name in sorted(entries)}}))


def _own_text(path: str, text: str, document: Mapping[str, object], generated: str) -> str:
    """What others wrote, word for word: the text above the mark, and what was added behind what stood below it. Raises RefusedError where the two
    cannot be told apart.
    """
    mark = re.search(rf"^{re.escape(MARK)}", text, re.MULTILINE)
    if mark is None and "files" not in document:
        own = text
    elif mark is not None and text[mark.end() :].removeprefix("\n").startswith(generated):
        own = text[: mark.start()] + text[mark.end() :].removeprefix("\n").removeprefix(generated)
    else:  # somebody changed entries, which is nothing to lose; but words of theirs would be
        own = text[: mark.start()] if mark is not None else ""
        below = text[mark.end() :] if mark is not None else text
        if "#" in below or set(document) != {"files", *_parse(path, own)}:
            hint = f"move what is yours above the line {MARK.strip()!r}"
            raise RefusedError("your edits inside the generated section would be lost", path=path, hint=hint)
    return own if not own or own.endswith("\n\n") else own.rstrip("\n") + "\n\n"


def _require_same(path: str, before: Mapping[str, object], renewed: str, entries: Mapping[str, ManifestEntry]) -> None:
    """Raise RefusedError unless the new text says what the old one said, but for the entries."""
    try:
        after = _parse(path, renewed)
        if _entries(path, after) == dict(entries) and {**after, "files": 0} == {**before, "files": 0}:
            return
    except DamagedError:
        pass
    hint = f"move what is yours above the line {MARK.strip()!r}"
    raise RefusedError("cannot be updated without changing what others wrote in it", path=path, hint=hint)


def _read(path: str) -> str | None:
    found = _read_text(path)
    return None if found is None else found[0]


def _read_text(path: str) -> tuple[str, str] | None:
    """The text with plain line ends, and the line end that it has; None where there is no manifest."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):  # a pipe would never end
            raise MissingError("is not a regular file", path=path, hint="move it away")
        if facts.st_size > LARGEST:
            raise DamagedError(f"is larger than {LARGEST:,} bytes", path=path)
        with open(path, encoding="utf-8-sig", newline="") as file:  # Windows' own editor puts a mark in front
            text = file.read()
        return text.replace("\r\n", "\n"), "\r\n" if "\r\n" in text else "\n"
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise DamagedError("is not UTF-8 text", path=path, hint="move it away, and record anew") from error
    except OSError as error:
        raise as_error(error, path, MissingError) from error


def _parse(path: str, text: str) -> dict[str, object]:
    from gsvckpt.files import toml  # most folders have no manifest, and need neither reader nor writer

    try:
        return toml.load(text)
    except ValueError as error:  # TOMLDecodeError is one
        raise DamagedError(f"is not valid TOML: {error}", path=path, hint="mend that line, or move the file away and record anew") from error


def _entries(path: str, document: Mapping[str, object]) -> dict[str, ManifestEntry]:
    files = document.get("files", {})
    if not isinstance(files, dict):
        raise DamagedError("its `files` must be a table", path=path)
    return {name: _entry(path, name, table) for name, table in files.items()}


def _entry(path: str, name: str, table: object) -> ManifestEntry:
    if not isinstance(table, dict) or type(table.get("size")) is not int or type(table.get("mtime_ns")) is not int:
        raise DamagedError("an entry without size and mtime_ns", path=path, where=f"files.{name}")
    texts = {key: table.get(key) for key in ("kind", "version", *DIGESTS)}
    counts = {key: table.get(key) for key in ("epoch", "step")}
    tensors = table.get("tensors", {})
    if any(value is not None and not isinstance(value, str) for value in texts.values()) or not isinstance(tensors, dict):
        raise DamagedError("an entry with a value of the wrong type", path=path, where=f"files.{name}")
    if any(value is not None and type(value) is not int for value in counts.values()) or os.path.basename(name) != name:
        raise DamagedError("an entry with a value of the wrong type", path=path, where=f"files.{name}")
    digests = {key: cast("str", texts[key]) for key in DIGESTS if texts[key] is not None}
    return ManifestEntry(name, table["size"], table["mtime_ns"], texts["kind"], texts["version"], counts["epoch"], counts["step"], digests, tensors)
