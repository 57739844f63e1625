"""Record which names a pickle calls, with which arguments, and whether in the form that the library's own pickles have."""

from __future__ import annotations

from collections.abc import Iterable

from gsvckpt.formats.pickle.forms import FORMS, Form, never
from gsvckpt.formats.pickle.mentions import objects_of
from gsvckpt.formats.pickle.python2 import readings
from gsvckpt.model import Call, Global, Opaque, Storage, Tensor

_LONGEST = 120  # characters of all arguments
_LONGEST_TEXT = 60  # of one text
_MOST_PARTS, _DEEPEST = 4, 3
_MOST_REACHED = 1_000
_WRITERS = {"numpy": "NumPy", "torch": "torch", "utils": "GPT-SoVITS"}
GETATTR, GETITEM = Global("builtins", "getattr"), frozenset([Global("operator", "getitem"), Global("_operator", "getitem")])


def tell_calls(made: Iterable[Opaque], called: Iterable[Global] = ()) -> tuple[Call, ...]:
    """One Call for each name: of the objects that were `made`, and of those `called` for something else."""
    found: dict[Global, Call] = {}
    forms: dict[int, Form | None] = {}  # by identity: a machine has one object for each name
    reached: dict[Global, dict[Global, None]] = {}
    for one in made:
        name = one.name
        if id(name) not in forms:
            forms[id(name)] = _form(name)
            found.setdefault(name, Call(name, spell(one.args)))
        form = forms[id(name)]
        if form is not None and not found[name].oddity and not form(one):
            found[name] = Call(name, spell(one.args), _oddity(name, form))
        leads = _leads_to(one)
        if leads is not None and len(reached.setdefault(name, {})) < _MOST_REACHED:
            reached[name][leads] = None
    for name in called:
        found.setdefault(name, Call(name))
    for name, leads_to in reached.items():
        known = leads_to if len(leads_to) < _MOST_REACHED else {name: None}
        found[name] = found[name]._replace(reached=tuple(known))
    return tuple(found.values())


def calls_of(root: object) -> tuple[Call, ...]:
    """The calls that a tree stands for, as `Checkpoint.calls` has those of a pickle."""
    return tell_calls(objects_of(root))


def merge_calls(*several: Iterable[Call]) -> tuple[Call, ...]:
    """The calls of several pickles as those of one."""
    found: dict[Global, Call] = {}
    for calls in several:
        for call in calls:
            before = found.get(call.name, call)
            first = before if before.oddity or not call.oddity else call  # arguments belong to the oddity
            found[call.name] = first._replace(
                arguments=first.arguments or call.arguments, reached=tuple(dict.fromkeys((*before.reached, *call.reached)))
            )
    return tuple(found.values())


def _form(name: Global) -> Form | None:
    """The form that a name is known in; None where the name is not known to be data."""
    return next((FORMS[reading] for reading in readings(name) if reading in FORMS), None)


def _oddity(name: Global, form: Form) -> str:
    if form is never:
        return "is called, which no checkpoint does"
    module = readings(name)[-1].module.split(".")[0]
    return f"is not in the form in which {_WRITERS.get(module, 'Python')} writes it"


def _leads_to(one: Opaque) -> Global | None:
    """The name that `getattr(Class, "name")` or `typing.List[int]` stands for; the function itself where that is not known; None for other calls."""
    name = readings(one.name)[-1]
    if name != GETATTR and name not in GETITEM:
        return None
    if one.how == "reduce" and isinstance(one.args, tuple) and len(one.args) == 2 and isinstance(one.args[0], Global):
        target: Global = one.args[0]
        key = one.args[1]
        if name == GETATTR and isinstance(key, str):
            return Global(target.module, f"{target.name}.{key}")
        if name in GETITEM and target.module == "typing":
            return target
    return one.name


def spell(args: object) -> str:
    """Arguments as text for people, of limited length, whatever they are."""
    parts = args if isinstance(args, tuple) else (args,)
    told = ", ".join(_spell(part, 0) for part in parts[:_MOST_PARTS]) + (", ..." if len(parts) > _MOST_PARTS else "")
    return told if len(told) <= _LONGEST else f"{told[: _LONGEST - 3]}..."


def _spell(value: object, depth: int) -> str:
    if isinstance(value, str):
        return '"' + _cut(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bytes):
        return repr(value[:_LONGEST_TEXT]) + ("..." if len(value) > _LONGEST_TEXT else "")
    if value is None or isinstance(value, (bool, float)):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 128 else "a large number"
    if isinstance(value, (Tensor, Storage)):
        return f"a {type(value).__name__.lower()}"
    if isinstance(value, Global):
        return str(Global(_cut(value.module), _cut(value.name)))
    if isinstance(value, Opaque):
        return f"{_spell(value.name, depth)}({_spell_all(value.args, depth) if isinstance(value.args, tuple) else '...'})"
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    if isinstance(value, (list, tuple)):
        inside = _spell_all(value, depth)
        return f"[{inside}]" if isinstance(value, list) else f"({inside},)" if len(value) == 1 else f"({inside})"
    return f"a {type(value).__name__}"


def _spell_all(values: list[object] | tuple[object, ...], depth: int) -> str:
    if depth >= _DEEPEST:
        return "..." if values else ""
    return ", ".join(_spell(value, depth + 1) for value in values[:_MOST_PARTS]) + (", ..." if len(values) > _MOST_PARTS else "")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
