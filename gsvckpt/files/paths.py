"""Local paths and URLs; a URL is handled by the part that may be shown (see secrets)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from gsvckpt.errors import UsageError
from gsvckpt.hints import quote_word

SCHEME = r"[A-Za-z][A-Za-z0-9+.\-_]+://"  # two letters at least: `C:` is a drive
URL = re.compile(SCHEME)
WEB = ("http://", "https://")
_LOCAL = ("file://", "local://")


def is_url(path: str) -> bool:
    """Whether a path is a URL, of whatever protocol."""
    return URL.match(path) is not None


def name_of(path: str) -> str:
    """The last part of a path or URL; for a folder's URL, that of the folder."""
    return path.partition("?")[0].rstrip("/").rpartition("/")[2] if is_url(path) else os.path.basename(path)


def folder_of(path: str) -> str:
    """The folder that a file is in; empty for a bare name of this machine."""
    if not is_url(path):
        return os.path.dirname(path)
    folder, slash, _ = path.partition("?")[0].rstrip("/").rpartition("/")
    return folder if URL.match(folder) else f"{folder}{slash}"


def join(folder: str, name: str) -> str:
    """The path of a name in a folder."""
    if not is_url(folder):
        return os.path.join(folder, name)
    return folder + name if folder.endswith("/") else f"{folder}/{name}"


def absolute(path: str) -> str:
    """The whole path of a file, as its folders may tell what it is."""
    return path if is_url(path) else os.path.abspath(path)


def below(root: str, path: str) -> str:
    """A path as seen from a folder."""
    return path.removeprefix(root.rstrip("/") + "/") if is_url(root) else os.path.relpath(path, root)


def is_folder(path: str) -> bool:
    """Whether a path leads to a folder. A URL does if it ends in a slash; no request is made."""
    return path.endswith("/") if is_url(path) else os.path.isdir(path)


def require_local(paths: Iterable[str], where: str) -> None:
    """Raise UsageError for URLs where only files of this machine will do."""
    url = next((path for path in paths if is_url(path)), None)
    if url is not None:
        raise UsageError(f"works only on files of this machine, and {url} is a URL", where=where)


def is_writable(url: str) -> bool:
    """Whether URLs of this protocol can be written to, as far as that is known without a request."""
    return not url.lower().startswith((*WEB, "hf://"))  # of the hub, each write is a commit


def file_words(path: str) -> Mapping[str, str]:
    """What stands for `<FILE>` and `<SOURCE>` in the command of a hint. A source of a writing command that has no room for an output beside it comes
    with a place for one.
    """
    word = quote_word(path)
    return {"<FILE>": word, "<SOURCE>": word if not is_url(path) or is_writable(path) else f"{word} -o ./"}


def names_local(url: str) -> bool:
    """Whether a URL only spells a path of this machine."""
    return url.lower().startswith(_LOCAL)


def is_inside(path: str, folder: str) -> bool:
    """Whether a path of this machine is a folder, or lies in it; links are not followed."""
    place, top = os.path.abspath(path), os.path.abspath(folder)
    return place == top or place.startswith(os.path.join(top, ""))
