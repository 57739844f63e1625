"""Whether torch can be had: most of gsvckpt needs none, so it is an extra of the package."""

from __future__ import annotations

from gsvckpt.errors import UsageError
from gsvckpt.hints import Hint

_INSTALL = Hint("installs it", 'pip install "gsvckpt[torch]"')
_RENEW = "install torch anew; on Windows a missing c10.dll needs Microsoft's Visual C++ Redistributable"


def require_torch(what: str, where: str) -> None:
    """Import torch. Raises UsageError where it is missing, or is there and does not load; `what` needs it, and `where` is the option that asked."""
    try:
        import torch  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        if error.name != "torch":  # one of its own parts
            raise _broken(what, where, error) from error
        raise UsageError(f"{what} needs torch, which is not installed", where=where, hint=_INSTALL) from error
    except (ImportError, OSError) as error:  # OSError: a library of its own that is broken or missing
        raise _broken(what, where, error) from error


def _broken(what: str, where: str, error: Exception) -> UsageError:
    why = " ".join(str(error).split())[:200]
    return UsageError(f"{what} needs torch, which is installed but does not load: {why}", where=where, hint=_RENEW)
