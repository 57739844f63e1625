"""A tree as JSON text, and the way back: exact, readable by people and by other programs, without a pickle in it. Tensors are left to the caller.

Plain values are written as json_values says, a list is an array, and all else is an object whose first key says what it is:

    {"dict": {"key": value}}, or {"dict": [[key, value], ...]} where some key is no plain text
    {"ordered": as in dict, "metadata": value}: an OrderedDict and, where it has one, its `_metadata`
    {"tuple": [...]}  {"tensor": description}  {"storage": description}
    {"object": [module, name], "how": how, "args": [...], "steps": [["build", state], ["append", [...]], ["setitem", [[key, value], ...]]]}: an Opaque

What is reached more than once ends with "id": n where it is met first, a list as {"list": [...], "id": n}, and is {"same": n} from then on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeGuard

from gsvckpt.errors import UnsupportedError
from gsvckpt.files import budget
from gsvckpt.formats.json_values import PLAIN, Json, array_of, damaged, from_json, is_sound, key_fault, pairs_of, read_json, to_json, write_json
from gsvckpt.model import MAX_DEPTH, Global, Opaque, Storage, Tensor, children, format_path, state_dict_metadata

_MOST_LETTERS = 1 << 25  # a pickle may spell a long text once and name it a million times
_NODES = (list, dict, tuple, Opaque, Tensor, Storage)  # what is shared by identity
_HOWS: Mapping[str, Literal["reduce", "newobj", "newobj_ex"]] = {"reduce": "reduce", "newobj": "newobj", "newobj_ex": "newobj_ex"}
_FIELDS: Mapping[str, set[str]] = {  # the first key -> what may follow
    "same": set(),
    **{tag: {"id"} for tag in ("tensor", "storage", "list", "tuple", "dict")},
    "ordered": {"metadata", "id"},
    "object": {"how", "args", "steps", "id"},
}


def encode(root: object, describe: Callable[[Tensor | Storage], Json]) -> str:
    """Return the text of `root`, the same for the same tree. `describe` tells tensors and storages in JSON whose integers are below 2**53.

    Raises UnsupportedError, naming the place in the tree, for what would not come back exactly and for trees deeper than MAX_DEPTH.
    """
    return write_json(_Encoder(root, describe).run(root))


def decode(text: str, resolve: Callable[[Json], Tensor | Storage]) -> object:
    """Return the tree that `encode` was given: values, types, order, float bits, and which nodes are shared. `resolve` undoes `describe`.

    Takes any text: raises DamagedError for what is not of this form, and memory stays in proportion.
    """
    return _Decoder(resolve).run(read_json(text))


class _Encoder:
    """From values to JSON. A level of the tree takes two calls, so that MAX_DEPTH of them fit in half of what Python's recursion allows."""

    def __init__(self, root: object, describe: Callable[[Tensor | Storage], Json]) -> None:
        self._describe = describe
        self._shared = _find_shared(root)
        self._numbers: dict[int, int] = {}  # id() of a shared node -> its "id"
        self._unmade: set[int] = set()  # tuples and objects that cannot exist before what is being written
        self._path: list[object] = []
        self._letters = 0

    def run(self, root: object) -> Json:
        try:
            return self._make(root)
        except UnsupportedError as error:
            error.where = error.where or format_path(tuple(self._path))
            raise
        except RecursionError as error:  # the caller's own stack is deep
            raise UnsupportedError("nested too deeply to be written") from error

    def _make(self, value: object, *above: object) -> Json:
        """The JSON of a value; `above` leads to it from what holds it."""
        depth = len(self._path)
        self._path.extend(above)
        if not isinstance(value, _NODES):
            made = self._plain(value)
        elif id(value) in self._unmade:
            raise UnsupportedError(f"{_named(value)} that is made from itself cannot be written")
        elif id(value) in self._numbers:
            made = {"same": self._numbers[id(value)]}
        else:
            if id(value) in self._shared:
                self._numbers[id(value)] = len(self._numbers) + 1
            if isinstance(value, (Tensor, Storage)):
                made = {"tensor" if isinstance(value, Tensor) else "storage": self._describe(value)}
            elif len(self._path) > MAX_DEPTH:
                raise UnsupportedError(f"nested deeper than {MAX_DEPTH} levels", where=format_path(tuple(self._path[:4])) + "/...")
            elif type(value) is list:
                items = self._each(value)
                made = {"list": items} if id(value) in self._shared else items
            elif type(value) is tuple:
                self._unmade.add(id(value))
                made = {"tuple": self._each(value)}
                self._unmade.remove(id(value))
            elif isinstance(value, Opaque):
                made = self._object(value)
            elif isinstance(value, dict) and type(value) in {dict, OrderedDict}:
                made = self._dict(value)
            else:
                raise UnsupportedError(f"{_named(value)} cannot be written as JSON")
            if id(value) in self._shared and isinstance(made, dict):
                made["id"] = self._numbers[id(value)]
        del self._path[depth:]
        return made

    def _plain(self, value: object) -> Json:
        self._letters += len(value) if isinstance(value, (str, bytes)) else 1
        if self._letters > _MOST_LETTERS:
            raise UnsupportedError(f"needs more than {_MOST_LETTERS:,} characters of text", where="tree")
        return to_json(value)

    def _each(self, values: Iterable[object], *above: str) -> list[Json]:
        made = []
        for index, value in enumerate(values):
            made.append(self._make(value, *above, index))  # before Python 3.12 a comprehension would be a call of its own
        return made

    def _each_pair(self, pairs: Iterable[tuple[object, object]]) -> list[Json]:
        made: list[Json] = []
        for index, (key, value) in enumerate(pairs):
            made.append([self._make(key, "<setitem>", index, 0), self._make(value, "<setitem>", index, 1)])
        return made

    def _dict(self, value: dict[object, object]) -> dict[str, Json]:
        ordered = isinstance(value, OrderedDict)
        if ordered and not vars(value).keys() <= {"_metadata"}:
            raise UnsupportedError("an OrderedDict with attributes that torch does not set")
        texts: dict[str, Json] = {}
        pairs: list[Json] = []
        plain = all(type(key) is str and is_sound(key) for key in value)
        for key, item in value.items():
            if plain:
                texts[str(key)] = self._make(item, key)
            elif fault := key_fault(key):
                raise UnsupportedError(fault)
            else:
                pairs.append([self._make(key, key), self._make(item, key)])
        made: dict[str, Json] = {"ordered" if ordered else "dict": texts if plain else pairs}
        metadata = state_dict_metadata(value)
        return made if metadata is None else made | {"metadata": self._make(metadata, "<metadata>")}

    def _object(self, value: Opaque) -> dict[str, Json]:
        if not _is_call(value.args, value.how):
            raise UnsupportedError(f"{_named(value)} with arguments that no pickle has cannot be written")
        name: Any = self._make(value.name, "<name>")
        self._unmade.add(id(value))
        args = self._make(value.args, "<args>") if id(value.args) in self._shared else self._each(value.args, "<args>")
        self._unmade.remove(id(value))
        steps: list[Json] = []
        for step, payload in value.steps:
            if step == "build":
                steps.append([step, self._make(payload, "<build>")])
            elif self._known_once(payload, step):
                steps.append([step, self._each(payload, "<append>") if step == "append" else self._each_pair(payload)])
            else:
                raise UnsupportedError(f"{_named(value)} with steps that no pickle has cannot be written")
        return {"object": name["name"], "how": value.how, "args": args, "steps": steps}

    def _known_once(self, payload: object, step: str) -> TypeGuard[list[Any]]:
        """Whether what a step adds is a list, or a list of pairs, to which nothing else refers: the only kind that reading a pickle makes."""
        if type(payload) is not list or id(payload) in self._shared:
            return False
        return step == "append" or all(type(pair) is tuple and len(pair) == 2 and id(pair) not in self._shared for pair in payload)


class _Decoder:
    """From JSON to values. As in the encoder, a level takes two calls; `depth` counts the keys above a value."""

    def __init__(self, resolve: Callable[[Json], Tensor | Storage]) -> None:
        self._resolve = resolve
        self._made: dict[int, object] = {}  # "id" -> what has it
        self._comparisons = budget.Comparisons()
        self._containers = 0

    def run(self, tree: Json) -> object:
        try:
            return self._make(tree, 0)
        except RecursionError as error:  # the caller's own stack is deep
            raise damaged("is nested too deeply") from error

    def _make(self, json: Json, depth: int) -> Any:
        fields: Json = {"list": json} if isinstance(json, list) else json
        if not isinstance(fields, dict) or next(iter(fields), "") in PLAIN:
            return from_json(fields)
        tag = next(iter(fields), "")
        if tag not in _FIELDS or not fields.keys() <= {tag} | _FIELDS[tag]:
            raise damaged(f"has an object of an unknown form that begins with {tag[:40]!r}")
        content = fields[tag]
        if tag == "same":
            if type(content) is not int or content not in self._made:
                raise damaged("refers to something that is not defined yet")
            return self._made[content]
        if tag in {"tensor", "storage"}:
            found = self._resolve(content)
            if not isinstance(found, Tensor if tag == "tensor" else Storage):
                raise damaged(f"describes something else as a {tag}")
            return self._keep(fields, found)
        self._containers += 1
        if self._containers > budget.MOST_CONTAINERS:
            raise budget.too_much("lists and dicts", budget.MOST_CONTAINERS, where="metadata")
        if depth > MAX_DEPTH:
            raise damaged(f"is nested deeper than {MAX_DEPTH} levels")
        if tag == "tuple":
            return self._keep(fields, tuple(self._each(array_of(content), depth + 1)))
        if tag == "list":
            made = self._keep(fields, [])
            made.extend(self._each(array_of(content), depth + 1))
            return made
        return self._object(fields, depth) if tag == "object" else self._dict(tag, fields, depth + 1)

    def _each(self, values: Iterable[Json], depth: int) -> list[Any]:
        made = []
        for value in values:
            made.append(self._make(value, depth))  # noqa: PERF401 - as in the encoder
        return made

    def _dict(self, tag: str, fields: dict[str, Json], depth: int) -> Any:
        made = self._keep(fields, OrderedDict() if tag == "ordered" else {})
        content = fields[tag]
        if isinstance(content, dict):
            for name, item in content.items():
                made[name] = self._make(item, depth)
        else:
            for first, second in pairs_of(content):
                key = self._make(first, depth)
                if fault := key_fault(key):
                    raise damaged(f"has {fault}")
                self._comparisons.count(key, made)
                if key in made:
                    raise damaged("has a key twice")
                made[key] = self._make(second, depth)
        if "metadata" in fields:
            made._metadata = self._make(fields["metadata"], depth)  # noqa: SLF001 - torch's own, set as the reader of pickles sets it
        return made

    def _object(self, fields: dict[str, Json], depth: int) -> Opaque:
        name, how, given = from_json({"name": fields["object"]}), fields.get("how"), fields.get("args")
        args = tuple(self._each(given, depth + 2)) if isinstance(given, list) else self._make(given, depth + 1)
        if not isinstance(name, Global) or not isinstance(how, str) or how not in _HOWS or not _is_call(args, how):
            raise damaged("has an object that is made in an unknown way")
        made = Opaque(name, _HOWS[how], args)
        self._keep(fields, made)
        for step, payload in pairs_of(fields.get("steps")):
            if step == "build":
                made.steps.append(("build", self._make(payload, depth + 1)))
            elif step == "append":
                made.steps.append(("append", self._each(array_of(payload), depth + 2)))
            elif step == "setitem":
                made.steps.append(("setitem", [(self._make(key, depth + 3), self._make(value, depth + 3)) for key, value in pairs_of(payload)]))
            else:
                raise damaged("has an object with a step of an unknown kind")
        return made

    def _keep(self, fields: dict[str, Json], made: Any) -> Any:
        if "id" in fields and not (type(number := fields["id"]) is int and self._made.setdefault(number, made) is made):
            raise damaged("has an id that is not a number or is used twice")
        return made


def _find_shared(root: object) -> set[int]:
    """The id() of each node that is reached more than once. The empty tuple is one object everywhere, so it does not count."""
    met, shared = {id(root)}, set()
    waiting = [root]
    while waiting:
        for pair in children(waiting.pop()):
            for node in pair:
                if isinstance(node, _NODES) and node != ():
                    if id(node) in met:
                        shared.add(id(node))
                    else:
                        met.add(id(node))
                        waiting.append(node)
    return shared


def _is_call(args: object, how: str) -> TypeGuard[tuple[object, ...]]:
    """Whether `args` are what model.Opaque says of `how`."""
    return type(args) is tuple and (how != "newobj_ex" or [type(part) for part in args] == [tuple, dict])


def _named(value: object) -> str:
    return f"a {value.name}" if isinstance(value, Opaque) else f"a {type(value).__name__}"
