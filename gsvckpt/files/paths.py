"""Where files are: paths of this machine, and URLs. A URL is known here by what may be shown of it; its secrets come back only to open it."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable

from gsvckpt.errors import UsageError

_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-_]+://"  # two letters at least: `C:` is a drive
_URL = re.compile(_SCHEME)
_IN_TEXT = re.compile(_SCHEME + r"[^\s'\"<>|]+")
_OPTION = re.compile(r"-[A-Za-z](?=" + _SCHEME + ")")  # `-os3://...`, whose first letter would belong to the scheme
_WEB = ("http://", "https://")
_LOCAL = ("file://", "local://")
_HIDDEN = "..."

_MOST = 10_000  # URLs that are remembered; a service meets ever new signatures

_full: dict[str, str] = {}  # URLs with secrets, by what is shown of them; of this process alone


def is_url(path: str) -> bool:
    """Whether a path is a URL, of whatever protocol."""
    return _URL.match(path) is not None


def conceal(word: str) -> str:
    """A path or a word of a command line, its URL without user, password, query and fragment: they may be secrets. `reveal` knows the whole of it.

    Two URLs that differ in these alone stay two.
    """
    option = _OPTION.match(word)
    found = _URL.search(word, option.end() if option else 0)
    if found is None:
        return word
    before, url = word[: found.start()], word[found.start() :]
    shown = _without_secrets(url)
    if shown != url:
        if _full.get(shown, url) != url:
            shown += f"?{zlib.crc32(url.encode('utf-8', 'surrogateescape')):08x}"
        _full[shown] = url
        if len(_full) > _MOST:
            del _full[next(iter(_full))]
    return before + shown


def reveal(url: str) -> str:
    """The whole of a URL, to open it; never to be shown."""
    return _full.get(url, url)


def holds_secrets() -> bool:
    """Whether there are URLs that only this process knows whole."""
    return bool(_full)


def forget() -> None:
    """Know no secrets any more: a new command line begins."""
    _full.clear()


def redact(text: str) -> str:
    """A text of others, such as an error of a library, without what `conceal` takes from URLs, also where that stands alone."""
    text = _IN_TEXT.sub(lambda found: _without_secrets(found[0]), text)
    secrets = {secret for shown, url in _full.items() for secret in _secrets(url, shown)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text


def _without_secrets(url: str) -> str:
    scheme, _, rest = url.partition("://")
    rest = rest.partition("?")[0]
    if url.lower().startswith(_WEB):
        rest = rest.partition("#")[0]
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if at and (":" in user or url.lower().startswith(_WEB)):  # in `abfs://container@account` it is no user
        authority = host
    return f"{scheme}://{authority}{slash}{path}"


def _secrets(url: str, shown: str) -> list[str]:
    query = url.partition("?")[2]
    user = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    values = [part.partition("=")[2] for part in query.split("&")]
    return [secret for secret in (query, user, user.partition(":")[2], *values) if len(secret) > 3 and secret not in shown]


def name_of(path: str) -> str:
    """The last part of a path or URL; for a folder's URL, that of the folder."""
    return path.partition("?")[0].rstrip("/").rpartition("/")[2] if is_url(path) else os.path.basename(path)


def folder_of(path: str) -> str:
    """The folder that a file is in; empty for a bare name of this machine."""
    if not is_url(path):
        return os.path.dirname(path)
    folder, slash, _ = path.partition("?")[0].rstrip("/").rpartition("/")
    return folder if _URL.match(folder) else f"{folder}{slash}"


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
    """Whether a path leads to a folder. A URL does where it ends in a slash: nobody is asked."""
    return path.endswith("/") if is_url(path) else os.path.isdir(path)


def require_local(paths: Iterable[str], where: str) -> None:
    """Raise UsageError for URLs where only files of this machine will do."""
    url = next((path for path in paths if is_url(path)), None)
    if url is not None:
        raise UsageError(f"works on files of this machine, and {url} is none", where=where)


def is_writable(url: str) -> bool:
    """Whether anything can be written to URLs of this protocol, as far as that is known without asking."""
    return not url.lower().startswith((*_WEB, "hf://"))  # of the hub, each write is a commit


def source_words(path: str) -> str:
    """A file as the source of a writing command in a hint, to be pasted. One with no room for an output beside it comes with a place for one."""
    from shlex import quote  # hints are rare

    return quote(path) if not is_url(path) or is_writable(path) else f"{quote(path)} -o ./"


def names_local(url: str) -> bool:
    """Whether a URL only spells a path of this machine."""
    return url.lower().startswith(_LOCAL)
