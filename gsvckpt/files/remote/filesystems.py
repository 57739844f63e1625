"""fsspec's file systems, and what their errors mean. Credentials come only from the environment, as each of them reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gsvckpt.errors import ChangedError, GsvError, MissingError, OutputError, UnreachableError
from gsvckpt.files.paths import name_of, names_local
from gsvckpt.files.secrets import redact, reveal
from gsvckpt.hints import Hint

_INSTALL = Hint("installs what opens URLs", 'pip install "gsvckpt[remote]"')
_EXTRA = ("s3", "s3a", "http", "https", "hf")  # what comes with the extra
_CREDENTIALS = "credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_PROFILE, HF_TOKEN, FSSPEC_..."
_CHANGED = "wait until it is written, then try again"
_ABSENT = ("EntryNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError")
_ODD = (TypeError, ValueError, AttributeError, NotImplementedError)  # of libraries that were asked for what they do not know: again helps nothing
_UNSET = frozenset({"ProfileNotFound", "ConfigNotFound", "ConfigParseError"})  # of the environment; nobody was asked yet
_DENIED = frozenset({"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError"})


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there. Raises MissingError, with a hint where a package is missing."""
    if names_local(url):
        raise MissingError("names a file of this machine", path=url, hint="give its path, without file://")
    scheme = url.partition("://")[0].lower()
    is_web = scheme in {"http", "https"}
    if "::" in url and not is_web:  # there it is an address
        raise MissingError("chained URLs are not supported", path=url, hint="unpack or copy the file first")
    with explained(url):
        try:
            from fsspec import filesystem
            from fsspec.config import conf
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingError("is a URL, and fsspec, which opens URLs, is not installed", path=url, hint=_INSTALL) from error
        try:
            if is_web:  # proxies and .netrc are of the environment, too
                return filesystem(scheme, client_kwargs={"trust_env": True, **conf.get(scheme, {}).get("client_kwargs", {})}), reveal(url)
            found, path = url_to_fs(reveal(url))
        except ImportError as error:
            hint = _INSTALL if scheme in _EXTRA else Hint("install it beside gsvckpt")
            raise MissingError(f"cannot be opened: {redact(str(error))}", path=url, hint=hint) from error
        except ValueError as error:
            if "rotocol" not in str(error):
                raise
            raise MissingError(
                f"there is no support for the protocol {url.partition('://')[0]}", path=url, hint="s3://, https://, hf:// and others"
            ) from error
    return found, path


def can_copy(filesystem: Any) -> bool:
    """Whether its server copies an object to another name in one step."""
    from fsspec import AbstractFileSystem

    return getattr(filesystem.cp_file, "__func__", None) is not AbstractFileSystem.cp_file  # that one only raises


@contextmanager
def explained(url: str, *, folder: bool = False) -> Iterator[None]:
    """What fsspec and what is below it raise inside becomes an error with one sentence, without secrets. `folder`: the URL is that of a folder."""
    try:
        yield
    except (GsvError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - each protocol has a library of its own, each library errors of its own
        raise explain(error, url, folder=folder) from None  # whose texts may hold what must not be shown


def explain(error: Exception, url: str, *, folder: bool = False) -> GsvError:
    """The error for a source that a library's error stands for."""
    if type(error).__name__ == "FileExpired":
        return ChangedError("changed while it was read", path=url, hint=_CHANGED)
    if _is_missing(error) and folder:
        return MissingError("there is no such folder", path=url)
    if _is_missing(error):
        return MissingError("there is no such file", path=url, hint="" if "." in name_of(url) else "a folder's URL ends in /")
    if _is_denied(error):
        return MissingError("cannot be read (permission denied)", path=url, hint=_CREDENTIALS)
    if type(error).__name__ in _UNSET:
        return MissingError(f"cannot be read: {_reason(error)}", path=url, hint=_CREDENTIALS)
    if isinstance(error, IsADirectoryError):
        return MissingError("is a folder", path=url, hint="a folder's URL ends in /")
    if isinstance(error, _ODD) and not isinstance(error, OSError):
        return MissingError(f"cannot be read: {_reason(error)}", path=url)
    return UnreachableError(f"cannot be read: {_reason(error)}", path=url, hint="see whether the network and the name are right, then try again")


def explain_output(error: Exception, url: str) -> OutputError:
    """The error for an output that a library's error stands for."""
    if _is_missing(error):
        return OutputError("there is no such bucket or folder", path=url, hint="make it first")
    if _is_denied(error):
        return OutputError("cannot be written (permission denied)", path=url, hint=_CREDENTIALS)
    return OutputError(f"cannot be written: {_reason(error)}", path=url, hint=_CREDENTIALS if type(error).__name__ in _UNSET else "")


def _is_missing(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or type(error).__name__ in _ABSENT or _status(error) in {404, 410}


def _is_denied(error: Exception) -> bool:
    return isinstance(error, PermissionError) or type(error).__name__ in _DENIED or _status(error) in {401, 403}


def _status(error: Exception) -> object:
    return getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception) -> str:
    if isinstance(error, NotImplementedError):
        return "its file system does not support this"
    if "InvalidU" in type(error).__name__:  # aiohttp's has the URL for its text
        return "it is not a valid URL"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "it did not answer in time"
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return " ".join(redact(text).split())[:200]
