"""fsspec's file systems, and what their errors mean. Credentials come from the environment alone, as each of them reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gsvckpt.errors import ChangedError, GsvError, MissingError, OutputError, UnreachableError
from gsvckpt.locations import name_of, names_local, redact, reveal

_INSTALL = "pip install 'gsvckpt[remote]'"
_EXTRA = ("s3", "s3a", "http", "https", "hf")  # what comes with the extra
_CREDENTIALS = "credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_PROFILE, HF_TOKEN, FSSPEC_..."
_CHANGED = "wait until it is written, then try again"
_DENIED = frozenset({"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError"})


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there. Raises MissingError, with a hint where a package is missing."""
    if names_local(url):
        raise MissingError("names a file of this machine", path=url, hint="give its path, without file://")
    if "::" in url:
        raise MissingError("chains of URLs are not read", path=url, hint="unpack or copy the file first")
    with explained(url):
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingError("is a URL, which fsspec opens, and that is not installed", path=url, hint=_INSTALL) from error
        try:
            filesystem, path = url_to_fs(reveal(url))
        except ImportError as error:
            hint = _INSTALL if url.partition("://")[0] in _EXTRA else "install it beside gsvckpt"
            raise MissingError(f"cannot be opened: {redact(str(error))}", path=url, hint=hint) from error
        except ValueError as error:
            if "rotocol" not in str(error):
                raise
            raise MissingError(f"nobody knows the protocol {url.partition('://')[0]}", path=url, hint="s3://, https://, hf:// and others") from error
    return filesystem, path


def can_copy(filesystem: Any) -> bool:
    """Whether its server copies an object to another name in one step."""
    from fsspec import AbstractFileSystem

    return getattr(filesystem.cp_file, "__func__", None) is not AbstractFileSystem.cp_file  # that one only raises


@contextmanager
def explained(url: str) -> Iterator[None]:
    """What fsspec and what is below it raise inside becomes an error with one sentence, without secrets."""
    try:
        yield
    except (GsvError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - each protocol has a library of its own, each library errors of its own
        raise explain(error, url) from None  # whose texts may hold what must not be shown


def explain(error: Exception, url: str) -> GsvError:
    """What an error of a library means for a source."""
    name = type(error).__name__
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if name == "FileExpired":
        return ChangedError("changed while it was read", path=url, hint=_CHANGED)
    if isinstance(error, FileNotFoundError) or name in {"EntryNotFoundError", "RepositoryNotFoundError"} or status in {404, 410}:
        return MissingError("there is no such file", path=url, hint="" if "." in name_of(url) else "a folder's URL ends in /")
    if isinstance(error, PermissionError) or name in _DENIED or status in {401, 403}:
        return MissingError("may not be read (permission denied)", path=url, hint=_CREDENTIALS)
    if isinstance(error, IsADirectoryError):
        return MissingError("is a folder", path=url, hint="a folder's URL ends in /")
    return UnreachableError(f"cannot be read: {_reason(error)}", path=url, hint="see whether the network and the name are right, then try again")


def explain_output(error: Exception, url: str) -> OutputError:
    """What an error of a library means for an output."""
    found = explain(error, url)
    if isinstance(found, UnreachableError):
        return OutputError(f"cannot be written: {_reason(error)}", path=url)
    if isinstance(error, FileNotFoundError):
        return OutputError("there is no such bucket or folder", path=url, hint="make it first")
    return OutputError("may not be written (permission denied)", path=url, hint=_CREDENTIALS)


def _reason(error: Exception) -> str:
    if isinstance(error, NotImplementedError):
        return "its file system cannot do that"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "it does not answer in time"
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return " ".join(redact(text).split())[:200]
