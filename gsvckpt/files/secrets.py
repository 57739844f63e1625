"""Keep secrets of URLs out of everything that is shown: a URL is passed around without them, and they are put back only to open it."""

from __future__ import annotations

import re
import zlib

from gsvckpt.files.paths import SCHEME, URL, WEB

_IN_TEXT = re.compile(SCHEME + r"[^\s'\"<>|]+")
_OPTION = re.compile(r"-[A-Za-z](?=" + SCHEME + ")")  # `-os3://...`, whose first letter would belong to the scheme
_HIDDEN = "..."
_MOST = 10_000  # URLs that are remembered; a service meets ever new signatures

_full: dict[str, str] = {}  # URLs with secrets, by what is shown of them; of this process alone


def conceal(word: str) -> str:
    """A path or a word of a command line, its URL without user, password, query and fragment: they may be secrets. `reveal` knows the whole of it.

    Two URLs that differ in these alone stay two.
    """
    option = _OPTION.match(word)
    found = URL.search(word, option.end() if option else 0)
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
    """The complete URL, for opening it; it must never be shown."""
    return _full.get(url, url)


def holds_secrets() -> bool:
    """Whether this process holds secrets of any URL."""
    return bool(_full)


def forget() -> None:
    """Forget all secrets, because a new command line begins."""
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
    if url.lower().startswith(WEB):
        rest = rest.partition("#")[0]
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if at and (":" in user or url.lower().startswith(WEB)):  # in `abfs://container@account` it is no user
        authority = host
    return f"{scheme}://{authority}{slash}{path}"


def _secrets(url: str, shown: str) -> list[str]:
    query = url.partition("?")[2]
    user = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    values = [part.partition("=")[2] for part in query.split("&")]
    return [secret for secret in (query, user, user.partition(":")[2], *values) if len(secret) > 3 and secret not in shown]
