"""Copy sound checkpoints and restore them. Each copy is read back before it gets its name, and never replaces another good one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import xxhash

from gsvckpt.characters import escape_json
from gsvckpt.commands.verify.damaged_names import damaged_name
from gsvckpt.commands.verify.manifest import NAME, ManifestEntry, read_manifest, record
from gsvckpt.errors import ChangedError, DamagedError, OutputError, RefusedError
from gsvckpt.files.local import open_source, same_time
from gsvckpt.files.obstacles import file_obstacle
from gsvckpt.files.progress import Progress, Silent
from gsvckpt.files.publish import Target, publish, publish_bytes
from gsvckpt.files.streams import read_chunks
from gsvckpt.files.temporary import is_temporary
from gsvckpt.model import OpenSource
from gsvckpt.sovits.runs import LARGEST_CONFIG, find_config_file
from gsvckpt.units import plural

_DIGEST = "xxh3_128"
_CONFIG = ".config.json"  # behind the name of the checkpoint that it belongs to


class Copied(NamedTuple):
    """The copy of one file, and whether it was made now or existed before."""

    copy: str
    made: bool


class Restored(NamedTuple):
    """What became of one damaged or missing file: the copy it came back from, and where the damaged one is (None where there was none)."""

    source: str
    kept: str | None


class Backup:
    """A folder of copies. Each folder in it has a manifest, so that copies are known by their digests without being read again."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._by_digest: dict[str, list[str]] | None = None

    def store(self, path: str, place: str, entry: ManifestEntry, config: object, progress: Progress | None = None, *, reread: bool = False) -> Copied:
        """Copy a file that was found sound to `place` (below the folder), with its config beside it, unless its bytes are there already; `reread`
        says that a copy from before counts only if it still reads so, as the file is about to go.

        Raises ChangedError when its bytes are not those of `entry` any more, and OutputError when the copy cannot be written or reads back wrongly.
        """
        if any("\ud800" <= char <= "\udfff" for char in entry.name):  # a byte of a name that is none
            raise OutputError("its name is not valid Unicode, so a manifest cannot hold it", path=path, hint="rename the file")
        digest = entry.digests[_DIGEST]
        others = [copy for copy in self._copies().get(digest, []) if not (in_its_folder(copy, path) or _is_same(copy, path))]
        known = next((copy for copy in others if not reread or _digest_of(copy, progress) == digest), None)
        if known is not None:
            self._store_config(path, known, config)
            return Copied(known, made=False)
        target = os.path.join(self.folder, place)
        if in_its_folder(target, path):
            raise RefusedError("would be copied into its own folder, where it would be lost with it", path=path, hint="name another folder")
        obstacle = file_obstacle(target)
        if obstacle is not None:
            raise obstacle
        if _is_same(target, path) or (os.path.lexists(target) and _digest_of(target) != digest):  # another good copy, or not a file of ours: it stays
            stem, extension = os.path.splitext(target)
            target = f"{stem}.{digest[:8]}{extension}"
        made = not (os.path.lexists(target) and _digest_of(target) == digest)
        _make_folder(os.path.dirname(target))
        if made:
            copy_file(path, target, digest, entry.mtime_ns, overwrite=os.path.lexists(target), progress=progress)
        self._store_config(path, target, config)
        facts = os.stat(target)
        record(os.path.dirname(target), [entry._replace(name=os.path.basename(target), size=facts.st_size, mtime_ns=facts.st_mtime_ns)])
        self._copies().setdefault(digest, []).append(target)
        return Copied(target, made)

    def _copies(self) -> dict[str, list[str]]:
        """Copies by digest, from the manifests: those that are still of the recorded size and time."""
        if self._by_digest is None:
            self._by_digest = {}
            for folder, _, names in os.walk(self.folder):
                found = read_manifest(os.path.join(folder, NAME)) if NAME in names else None
                for entry in found.entries.values() if found is not None else ():
                    with suppress(OSError):
                        facts = os.stat(os.path.join(folder, entry.name))
                        if facts.st_size == entry.size and same_time(facts.st_mtime_ns, entry.mtime_ns) and _DIGEST in entry.digests:
                            self._by_digest.setdefault(entry.digests[_DIGEST], []).append(os.path.join(folder, entry.name))
        return self._by_digest

    def _store_config(self, path: str, copy: str, config: object) -> None:
        text = _config_text(config) if config else _config_nearby(path)
        if text and not os.path.lexists(copy + _CONFIG):
            publish_bytes(copy + _CONFIG, text, overwrite=False)


def in_its_folder(copy: str, path: str) -> bool:
    """Whether a copy would lie in the folder of the file itself, whatever leads there."""
    return os.path.realpath(os.path.dirname(copy)) == os.path.realpath(os.path.dirname(path))


def _is_same(copy: str, path: str) -> bool:
    """Whether two names lead to one file, as links do: its bytes are there once."""
    return os.path.exists(copy) and os.path.exists(path) and os.path.samefile(copy, path)


def _config_text(config: object) -> bytes:
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()
    return escape_json(text).encode()


def _config_nearby(path: str) -> bytes | None:
    """The config.json of its experiment, for a training file that holds none."""
    place = find_config_file(path)
    if place is not None:
        with suppress(OSError), open(place, "rb") as file:
            data = file.read(LARGEST_CONFIG + 1)
            return data if len(data) <= LARGEST_CONFIG else None
    return None


def restore(path: str, entry: ManifestEntry, backup: str, progress: Progress | None = None) -> Restored:
    """Bring `path` back from a copy below `backup` whose bytes are those of `entry`; a damaged file stays as `NAME.damaged`.

    Every copy of the right size is tried. Raises DamagedError where none has the right bytes, and OutputError.
    """
    obstacle = file_obstacle(path)
    if obstacle is not None:
        raise obstacle
    path = os.path.realpath(path)  # a link stays a link, to a file that is sound again
    tried = 0
    for copy in _of_size(backup, entry.size):
        if os.path.exists(path) and os.path.samefile(copy, path):
            continue
        tried += 1
        with suppress(DamagedError):
            if _digest_of(copy, progress) == entry.digests[_DIGEST]:
                return _put_back(copy, path, entry, progress)
    why = f"{backup} has no copy of it with the recorded digest" + (
        f"; {plural(tried, 'file')} of its size there: different or damaged" if tried else ""
    )
    raise DamagedError(why, path=path, hint="name the folder that --backup wrote to")


def _put_back(copy: str, path: str, entry: ManifestEntry, progress: Progress | None) -> Restored:
    kept: list[str | None] = []

    def keep() -> None:
        kept.append(_keep_aside(path))

    copy_file(copy, path, entry.digests[_DIGEST], entry.mtime_ns, overwrite=True, progress=progress, before=keep)
    return Restored(copy, kept[0])


def _of_size(folder: str, size: int) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            with suppress(OSError):
                if not is_temporary(name) and os.path.getsize(os.path.join(place, name)) == size:
                    yield os.path.join(place, name)


def _keep_aside(path: str) -> str | None:
    """Give the damaged file a second name. It keeps its own until the good copy takes that, so that a kill in between loses nothing."""
    if not os.path.lexists(path):
        return None
    for number in range(1, 1000):
        aside = damaged_name(path, number)
        try:
            if os.path.lexists(aside):
                if os.path.samefile(aside, path):  # an earlier run was killed here
                    return aside
                continue
            os.link(path, aside)
        except FileExistsError:
            continue
        except OSError:
            try:  # no hard links on FAT, exFAT and some network drives, each of which has an error of its own for that
                os.rename(path, aside)
            except OSError as failure:
                raise OutputError(f"cannot be moved aside: {failure.strerror}", path=path) from failure
        return aside
    raise OutputError("has too many damaged copies beside it", path=path, hint="remove some")


def copy_file(
    source: str,
    target: str,
    digest: str,
    mtime_ns: int,
    *,
    overwrite: bool,
    progress: Progress | None = None,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Copy bytes that have this xxh3_128, in one step, and read them back; `before` runs when the copy is about to take its name.

    Raises ChangedError where the bytes have another digest, and OutputError.
    """
    watched = progress or Silent()
    with open_source(source) as opened:
        watched.expect(2 * opened.size)

        def fill(written: Target) -> None:
            if _copy(opened, written, watched) != digest:
                raise ChangedError("changed after it was verified", path=source, hint="try again")

        def check(written: Target) -> None:
            if _digest_of(str(written.path), watched) != digest:
                raise OutputError("the output does not read back as it was written", path=target, hint="the disk may be failing")
            os.utime(written.path, ns=(mtime_ns, mtime_ns))

        def settle() -> None:
            opened.check_unchanged()
            before()

        publish(target, opened.size, fill, check, overwrite=overwrite, settle=settle)


def _copy(source: OpenSource, target: Target, progress: Progress) -> str:
    digest = xxhash.xxh3_128()
    for offset, chunk in read_chunks(source):
        digest.update(chunk)
        target.write_at(offset, chunk)
        progress.advance(len(chunk))
    return str(digest.hexdigest())


def _digest_of(path: str, progress: Progress | None = None) -> str:
    digest = xxhash.xxh3_128()
    with open_source(path) as source:
        for _, chunk in read_chunks(source):
            digest.update(chunk)
            if progress is not None:
                progress.advance(len(chunk))
    return str(digest.hexdigest())


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path or ".", exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be made: {error.strerror}", path=path, hint="choose another folder") from error


def place_for(path: str, root: str | None) -> str:
    """Where a file's copy goes below the backup folder: by its path below the folder that was named, or by its name where it was named itself."""
    if root is None:
        return os.path.basename(path)
    base = os.path.basename(os.path.abspath(root))
    return os.path.join(base, os.path.relpath(os.path.abspath(path), os.path.abspath(root)))
