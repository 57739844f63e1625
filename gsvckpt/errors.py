"""The errors that users see: one root class; each subclass has an exit code and a name in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import ClassVar, TypedDict

from gsvckpt.hints import Hint, HintJson

_LOOKED_AT = 5_000  # names that are compared with a wrong one


class ErrorJson(TypedDict):
    """The `error` object of the JSON documents."""

    kind: str
    where: str
    why: str
    hint: HintJson


class GsvError(Exception):
    """A failure, with a sentence for the user.

    `where` is the place inside the file or the option that is at fault, `why` one sentence, `hint` what to do next:
    a plain text where no command does it, empty when there is nothing to do. `path` is filled in by whoever knows it, usually the engine. `check` is
    the id of verify's check that finds such a failure (see findings). `torch` is what torch.load says of it, which users search for.
    """

    exit_code: ClassVar[int] = 3
    kind: ClassVar[str] = "error"
    usual_check: ClassVar[str] = "container.unreadable"

    def __init__(self, why: str, *, where: str = "", hint: Hint | str = "", path: str = "", check: str = "", torch: str = "") -> None:
        super().__init__(why)
        self.check = check or self.usual_check
        self.why = f"{why}{in_torch(torch)}"
        self.torch = torch
        self.where = where
        self.hint = Hint(hint) if isinstance(hint, str) else hint
        self.path = path
        self.known: object = None  # a Known (formats/known.py): what could be learnt all the same

    def __str__(self) -> str:
        """`PATH: where: why`, as far as they are known."""
        return ": ".join(part for part in (self.path, self.where, self.why) if part)

    def as_json(self) -> ErrorJson:
        """The `error` object of the JSON documents."""
        return {"kind": self.kind, "where": self.where, "why": self.why, "hint": self.hint.as_json()}


def in_torch(words: str) -> str:
    """Torch's own words for something, as they follow ours."""
    return f" (torch: {words})" if words else ""


def as_error(caught: GsvError | OSError, path: str, blame: type[GsvError], verb: str = "") -> GsvError:
    """What went wrong with the file at `path`; an error of the system becomes one of the class `blame`: it "cannot be read", or what `verb` says."""
    if isinstance(caught, GsvError):
        error = caught
    else:
        verb = verb or ("written" if blame is OutputError else "read")
        error = blame(f"cannot be {verb}: {caught.strerror}", path=str(caught.filename or path))
    error.path = error.path or path
    return error


class UsageError(GsvError):
    """The command line asks for something impossible or contradictory."""

    exit_code = 2
    kind = "usage"


class MissingError(GsvError):
    """An input is missing or cannot be read."""

    kind = "missing"


class UnreachableError(MissingError):
    """An input on another machine does not answer, so nothing is known about it."""

    kind = "unreachable"


class DamagedError(GsvError):
    """A checkpoint's bytes contradict themselves or end too early."""

    kind = "damaged"


class UnsupportedError(GsvError):
    """A sound file has a form that is not handled, or cannot be written back exactly."""

    kind = "unsupported"
    usual_check = "container.unsupported"


class NotCheckpointError(GsvError):
    """The file is not a checkpoint; `why` says what it is, and `subject` says it in one word for programs (`torchscript`)."""

    kind = "not-a-checkpoint"
    usual_check = "container.kind"

    def __init__(self, why: str, *, where: str = "", hint: Hint | str = "", path: str = "", check: str = "", subject: str = "") -> None:
        super().__init__(why, where=where, hint=hint, path=path, check=check)
        self.subject = subject


class ChangedError(GsvError):
    """The source changed while it was read."""

    kind = "changed"
    usual_check = "container.changed"


class ClusterError(GsvError):
    """A cluster cannot be used, or lost a file's task."""

    kind = "cluster"


class RefusedError(GsvError):
    """Would overwrite, lose data, or mislead GPT-SoVITS."""

    exit_code = 4
    kind = "refused"


class OutputError(GsvError):
    """The output could not be written; nothing is left behind."""

    exit_code = 5
    kind = "output"


FLAWS = (DamagedError, UnsupportedError, NotCheckpointError)  # errors about the file, not about access to it


def closest(word: str, known: Iterable[str], most: int = 3, likeness: float = 0.6) -> list[str]:
    """The known words most similar to a wrong one, the most similar first."""
    from difflib import get_close_matches  # only errors need it

    return get_close_matches(word, list(islice(known, _LOOKED_AT)), most, likeness)


def did_you_mean(word: str, known: Iterable[str], otherwise: str, most: int = 1) -> str:
    """A hint that suggests known words similar to the wrong one, or else `otherwise`."""
    found = closest(word, known, most)
    return f"did you mean {', '.join(found)}?" if found else otherwise


def similar_names(glob: str, names: Sequence[str]) -> str:
    """A hint of a few names that `glob`, which matches none, may have meant."""
    near = closest(glob.strip("*?"), names, likeness=0.3) or names[:3]
    return f"names are like {', '.join(near)}"
