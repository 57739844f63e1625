"""Would loading this pickle run code? Judged by the names in it and how they are called; a name not known to be data is not safe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from gsvckpt.formats.pickle.calls import GETATTR, GETITEM
from gsvckpt.formats.pickle.code_names import NEITHER, PACKAGES, RUNS_CODE, STANDARD_LIBRARY, WAYS_OUT
from gsvckpt.formats.pickle.forms import FORMS
from gsvckpt.formats.pickle.python2 import readings
from gsvckpt.model import Call, Checkpoint, Doubt, Global

Verdict = Literal["safe", "unsafe", "unknown"]

_ORDER: tuple[Verdict, ...] = ("safe", "unknown", "unsafe")
_MOST_PARTS = 1 + max(name.count(".") for name in RUNS_CODE)


class Judged(NamedTuple):
    """A name, its verdict, and whether and how it is called: the arguments of the first call, and what is unusual about them or a state."""

    name: str
    verdict: Verdict
    called: bool = False
    arguments: str = ""
    oddity: str = ""

    def __str__(self) -> str:
        return f"{self.name}({self.arguments})" if self.called else self.name


class Safety(NamedTuple):
    """The verdict on a file and on each name in it, in order of first use; and the doubts with which it is unknown, whatever it names."""

    verdict: Verdict
    globals: tuple[Judged, ...] = ()
    doubts: tuple[Doubt, ...] = ()

    def of(self, verdict: Verdict) -> tuple[Judged, ...]:
        """The names that have this verdict."""
        return tuple(judged for judged in self.globals if judged.verdict == verdict)

    def tell_unsafe(self, most: int) -> str:
        """What loading the file would run, and what else can run code that it only names: `most` of each."""
        unsafe = self.of("unsafe")
        called, named = [judged for judged in unsafe if judged.called], [judged for judged in unsafe if not judged.called]
        parts = [f"would run {_list(called, most)} when it is loaded"] if called else []
        if named:
            parts.append(f"names {_list(named, most)}, which can run code")
        return " and ".join(parts)

    def tell_unknown(self, most: int) -> str:
        """Say which names are unknown."""
        unknown = self.of("unknown")
        odd, named = [judged for judged in unknown if judged.oddity], [judged for judged in unknown if not judged.oddity]
        parts = [f"names {_list([judged.name for judged in named], most)}; it is not known whether loading the file runs code"] if named else []
        parts += [f"holds {judged}, which {judged.oddity}, so loading it may do harm" for judged in odd[:most]]
        return "; ".join(parts)


def _list(things: Sequence[object], most: int) -> str:
    return ", ".join(map(str, things[:most])) + (f" and {len(things) - most} more" if len(things) > most else "")


def judge(name: Global) -> Verdict:
    """safe: known data; unsafe: can run code on any machine; unknown: neither. If readers resolve a name differently, the worst verdict counts."""
    return _worst(_judge(reading) for reading in readings(name))


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    return max(verdicts, key=_ORDER.index, default="safe")


def _judge(name: Global) -> Verdict:
    if name in FORMS:
        return "safe"
    parts = f"{name.module}.{name.name}".split(".")
    reached = name.name.split(".")  # protocol 4 reaches through attributes, and modules have others as theirs: torch.serialization, os.system
    if not WAYS_OUT.isdisjoint(parts) or not STANDARD_LIBRARY.isdisjoint(part.lstrip("_") or part for part in reached[:-1]):
        return "unsafe"
    if _runs_code(parts[:_MOST_PARTS]) or any(_runs_code(reached[n : n + _MOST_PARTS]) for n in range(len(reached) - 1)):
        return "unknown" if str(name) in NEITHER else "unsafe"
    attributes = len(reached) > 1 or ("." in name.module and not name.module.startswith(PACKAGES))
    if attributes and parts[0] in STANDARD_LIBRARY:  # a method, or a module that another one imported
        return "unknown" if str(name) in NEITHER else "unsafe"
    return "unknown"


def _runs_code(parts: list[str]) -> bool:
    """Whether they begin with a listed name."""
    return any(".".join(parts[:n]) in RUNS_CODE for n in range(1, len(parts) + 1))


def judge_all(names: Iterable[Global], calls: Iterable[Call] = ()) -> Safety:
    """The worst of all names, of which `calls` says how they are called; a file without any is safe."""
    by_name = {call.name: call for call in calls}
    judged = tuple(_judge_use(name, by_name.get(name)) for name in names)
    return Safety(_worst(one.verdict for one in judged), judged)


def judge_checkpoint(checkpoint: Checkpoint) -> Safety:
    """The verdict on a file: the verdict on its names, but never safe if readers may disagree."""
    found = judge_all(checkpoint.globals, checkpoint.calls)
    verdict: Verdict = "unknown" if found.verdict == "safe" and checkpoint.doubts else found.verdict
    return found._replace(verdict=verdict, doubts=checkpoint.doubts)


def _judge_use(name: Global, call: Call | None) -> Judged:
    verdict = judge(name)
    if call is None:
        return Judged(str(name), verdict)
    if call.reached and readings(name)[-1] in {GETATTR, *GETITEM} and name not in call.reached:
        verdict = _worst(("unknown", *map(judge, call.reached)))  # no more than the names that it leads to
    elif verdict == "safe" and call.oddity:
        verdict = "unknown"
    return Judged(str(name), verdict, called=True, arguments=call.arguments, oddity=call.oddity)
