"""The verdict on names. Whole files with payloads are judged in tests/hostile."""

from __future__ import annotations

import _compat_pickle
import importlib.util
import pickle
import sys

import pytest
from support.builders import Make, Name, read, tensor, torch_zip
from torch._weights_only_unpickler import _get_allowed_globals

from gsvckpt.dtypes import DTYPES
from gsvckpt.errors import GsvError
from gsvckpt.formats.pickle import safety
from gsvckpt.formats.pickle.code_names import STANDARD_LIBRARY
from gsvckpt.formats.pickle.safety import Judged, judge, judge_all, judge_checkpoint
from gsvckpt.model import Global


def verdict(dotted: str) -> str:
    module, _, name = dotted.rpartition(".")
    return judge(Global(module, name))


@pytest.mark.parametrize(
    "name",
    [
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch.FloatStorage",
        "torch.storage.UntypedStorage",
        "torch.float16",
        "torch.Size",
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
        "utils.HParams",
        "__builtin__.set",
        "builtins.set",
        "_codecs.encode",
        "numpy.dtype",
        "numpy._core.multiarray.scalar",
    ],
)
def test_safe(name: str) -> None:
    assert verdict(name) == "safe"


@pytest.mark.parametrize("kind", [int, str, float, bool, list, dict, set, tuple, bytes, range, object])
def test_a_builtin_type_is_safe_as_protocol_2_spells_it(kind: type) -> None:
    """`defaultdict(int)` names `__builtin__.long` in the protocol in which torch saves."""
    module, name = pickle.dumps(kind, protocol=2)[3:].split(b"\n")[:2]
    assert judge(Global(module.decode(), name.decode())) == "safe"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_safe(dtype: str) -> None:
    assert verdict(f"torch.{dtype}") == "safe"


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "posix.system", "nt.system", "subprocess.Popen", "builtins.eval", "__builtin__.eval", "builtins.getattr", "sys.exit"),
        *(
            "importlib.import_module",
            "marshal.loads",
            "pickle.loads",
            "_pickle.loads",
            "shutil.rmtree",
            "pathlib.Path.unlink",
            "operator.methodcaller",
        ),
        *("functools.partial", "types.FunctionType", "types.CodeType", "commands.getoutput", "asyncio.run", "webbrowser.open", "ctypes.CDLL"),
        *("torch.load", "torch.serialization.load", "torch.storage._load_from_bytes", "torch.hub.load", "torch.jit.load", "numpy.load"),
        *("dill.loads", "cloudpickle.loads", "joblib.load", "pip.main", "torch.utils.cpp_extension.load_inline"),
    ],
)
def test_unsafe(name: str) -> None:
    assert verdict(name) == "unsafe"


@pytest.mark.parametrize(
    "name",
    [
        "lightning.Thing",
        "collections.abc.Callable",
        "statistics.mean",
        "types.GenericAlias",
        "utils.something",
        "torch.nn.Linear",
        "HParams",
        "",
        "torch.\n.x",
        "my_os.system",
    ],
)
def test_unknown(name: str) -> None:
    assert verdict(name) == "unknown"


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("torch", "serialization.os.system", "unsafe"),
        ("torch", "hub.load", "unsafe"),
        ("collections", "OrderedDict.fromkeys", "unsafe"),
        ("numpy", "os.system", "unsafe"),
        ("lightning.fabric", "Thing", "unknown"),
        ("numpy", "__builtins__.eval", "unsafe"),
        ("torch", "_utils.__builtins__", "unsafe"),
        ("a.__builtins__", "eval", "unsafe"),
        ("utils", "HParams.__init__.__globals__.get", "unsafe"),
        ("torch._utils", "torch.load", "unsafe"),
        ("torch._utils", "a.b.torch.storage._load_from_bytes", "unsafe"),
        ("sklearn", "joblib.load", "unsafe"),
        ("torch._utils", "torch", "unknown"),
        ("os.path", "join", "unsafe"),
    ],
)
def test_names_that_reach_through_attributes(module: str, name: str, expected: str) -> None:
    assert judge(Global(module, name)) == expected


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *[(module, "system") for module in ("os", "nt", "posix", "os2")],
        *[(module, "open") for module in ("io", "_io", "_pyio", "codecs", "builtins", "__builtin__", "tokenize", "webbrowser", "gzip", "shelve")],
        *[(module, "loads") for module in ("pickle", "_pickle", "cPickle", "marshal", "dill", "cloudpickle", "numpy")],
        *[(module, name) for module in ("operator", "_operator") for name in ("attrgetter", "methodcaller", "itemgetter", "call")],
        *[(module, name) for module in ("functools", "_functools") for name in ("partial", "reduce")],
        *[("__builtin__", name) for name in ("eval", "execfile", "reduce", "apply", "getattr", "intern", "file", "input", "map", "filter")],
        *[("itertools", name) for name in ("imap", "ifilter", "starmap", "takewhile", "groupby", "accumulate")],
        *[("types", name) for name in ("CodeType", "FunctionType", "MethodType", "ModuleType", "new_class")],
        *[("uuid", name) for name in ("_get_command_stdout", "_popen", "getnode")],
        *[("logging.config", name) for name in ("dictConfig", "fileConfig", "listen")],
        *[("torch.utils", name) for name in ("collect_env.run", "_config_module.ConfigModule.load_config", "bottleneck.__main__.run_cprofile")],
        *[("numpy", name) for name in ("fromfile", "memmap", "f2py.crackfortran.getlincoef", "testing._private.utils.runstring")],
        *[("torch", name) for name in ("save", "compile", "storage._load_from_bytes", "fx.experimental.symbolic_shapes", "ops.load_library")],
        ("_posixsubprocess", "fork_exec"),
        ("_io", "FileIO"),
        ("commands", "getoutput"),
        ("urllib2", "urlopen"),
        ("httplib", "HTTPSConnection"),
        ("SimpleHTTPServer", "test"),
        ("anydbm", "open"),
        ("thread", "start_new_thread"),
        ("test.test_support", "anything"),
        ("pkgutil", "resolve_name"),
        ("pathlib", "Path.unlink"),
        ("pathlib", "os.system"),
        ("random", "_os.system"),
        ("collections", "_sys.modules"),
        ("fractions", "Fraction.from_float"),
        ("typing", "get_type_hints"),
        ("typing", "sys.modules"),
        ("dataclasses", "make_dataclass"),
        ("string", "Formatter"),
        ("argparse", "FileType"),
        ("builtins", "Ellipsis.__class__"),
        ("builtins", "object.__subclasses__"),
        ("builtins", "object.__reduce_ex__"),
        ("datetime", "sys.modules"),
        ("hydra.utils", "instantiate"),
        ("weakref", "finalize"),
        ("numpy.lib._npyio_impl", "load"),
        ("torch.multiprocessing.reductions", "rebuild_storage_filename"),
        ("six.moves", "builtins.eval"),
    ],
)
def test_spellings_of_what_runs_code(module: str, name: str) -> None:
    assert judge(Global(module, name)) == "unsafe"


def test_names_are_judged_by_what_they_are_mapped_to() -> None:
    """Python's unpickler and torch's change names below protocol 3; a mapped name is never better than the one it is mapped to."""
    order = ["safe", "unknown", "unsafe"]
    for old, new in _compat_pickle.NAME_MAPPING.items():
        assert order.index(judge(Global(*old))) >= order.index(judge(Global(*new))), old
    for old, new in _compat_pickle.IMPORT_MAPPING.items():
        for name in ("anything", "system", "OrderedDict", "Namespace", "set", "eval"):
            renamed = _compat_pickle.NAME_MAPPING.get((old, name), (new, name))
            assert order.index(judge(Global(old, name))) >= order.index(judge(Global(*renamed))), (old, name)
    assert judge(Global("torch.tensor", "_rebuild_from_type_v2")) == "safe"
    assert judge(Global("UserDict", "UserDict")) == "unknown"  # protocol 3 takes a module of that name for what it is


def test_what_torch_opens_with_weights_only_is_safe() -> None:
    known = _get_allowed_globals()
    assert len(known) >= 144
    assert {name: verdict(name) for name in known if verdict(name) != "safe"} == {}


@pytest.mark.parametrize(
    "name",
    "typing.Any enum.Enum builtins.Ellipsis fractions.Fraction ipaddress.IPv4Address time.struct_time _io.BytesIO zoneinfo.ZoneInfo "
    "torch.torch_version.TorchVersion torch._utils._rebuild_nested_tensor torch.cuda.FloatStorage torch.sparse.FloatTensor".split(),
)
def test_data_of_the_standard_library_is_safe(name: str) -> None:
    assert verdict(name) == "safe"


def called(tree: object) -> dict[str, Judged]:
    return {judged.name: judged for judged in judge_checkpoint(read(torch_zip(tree))).globals}


def test_what_is_called_is_told_with_its_arguments() -> None:
    found = called([Make(Name("posix", "system"), ("calc.exe",)), Name("os", "remove"), Make(Name("somebody", "Thing"), new=True)])
    assert str(found["posix.system"]) == 'posix.system("calc.exe")'
    assert (found["os.remove"].called, str(found["os.remove"])) == (False, "os.remove")
    assert (found["somebody.Thing"].called, found["somebody.Thing"].arguments) == (True, "")
    tensors = called({"w": tensor("float32", (1,)), "v": tensor("float32", (1,))})
    assert {name: judged.called for name, judged in tensors.items()} == {
        "torch._utils._rebuild_tensor_v2": True,
        "torch.FloatStorage": False,
        "collections.OrderedDict": True,
    }


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (b"(X\2\0\0\0idios\nsystem\n.", 'os.system("id")'),
        (b"(cos\nsystem\nX\2\0\0\0ido.", 'os.system("id")'),
        (b"\x80\2csubprocess\nPopen\n]X\2\0\0\0ida\x85\x81.", 'subprocess.Popen(["id"])'),
        (b"\x80\4csubprocess\nPopen\n)}\x92.", "subprocess.Popen((), {})"),
        (b'\x80\2cos\nsystem\nX\5\0\0\0"\\\x1b[mR\x85R.', None),
    ],
)
def test_every_way_of_calling(code: bytes, told: str | None) -> None:
    try:
        known = read(torch_zip(code))
    except GsvError as error:
        known = error.known
    (judged,) = judge_all(known.globals, known.calls).globals
    assert judged.called == (told is not None)
    assert told is None or str(judged) == told


def test_arguments_are_cut() -> None:
    (judged,) = called(Make(Name("os", "system"), ("x" * 10_000, ["y" * 10_000] * 1_000))).values()
    assert len(judged.arguments) <= 120
    nested: object = "deep"
    for _ in range(200):
        nested = [nested]
    (judged,) = called(Make(Name("os", "system"), (nested,))).values()
    assert judged.arguments == "[[[[...]]]]"


@pytest.mark.parametrize(
    ("target", "name", "expected"),
    [
        (Name("somebody", "Colour"), "RED", "unknown"),
        (Name("zoneinfo", "ZoneInfo"), "_unpickle", "unknown"),
        (Name("os", "path"), "join", "unsafe"),
        (Name("torch", "os"), "system", "unsafe"),
        (Name("utils", "HParams"), "__globals__", "unsafe"),
        (Name("somebody", "Colour"), 7, "unsafe"),
        (Make(Name("somebody", "Colour")), "RED", "unsafe"),
    ],
)
@pytest.mark.parametrize("module", ["builtins", "__builtin__"])
def test_getattr_is_judged_by_what_it_leads_to(module: str, target: object, name: object, expected: str) -> None:
    assert called(Make(Name(module, "getattr"), (target, name)))[f"{module}.getattr"].verdict == expected
    assert called([Name(module, "getattr")])[f"{module}.getattr"].verdict == "unsafe"
    both = [Make(Name(module, "getattr"), (Name("somebody", "Colour"), "RED")), Make(Name(module, "getattr"), (target, name))]
    assert called(both)[f"{module}.getattr"].verdict == expected


def test_every_module_of_the_standard_library_was_thought_of() -> None:
    """Those that a new Python brings have to be put into one list or the other."""
    assert sys.stdlib_module_names <= STANDARD_LIBRARY
    assert {judge(Global(module, "Any.thing")) for module in STANDARD_LIBRARY} == {"unsafe"}


@pytest.mark.parametrize("module", "distutils.core imp asyncore pipes lib2to3 cgi telnetlib uu xdrlib binhex compression.zstd commands".split())
def test_the_verdict_does_not_depend_on_the_python_that_gives_it(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Modules of the standard library come and go: none of these is in every Python."""
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset())
    fresh = importlib.util.module_from_spec(importlib.util.find_spec(safety.__name__))
    fresh.__spec__.loader.exec_module(fresh)
    assert fresh.judge(Global(module, "anything")) == "unsafe"


def test_a_name_of_many_parts_is_judged_at_once() -> None:
    assert judge(Global("a." * 200_000, "b." * 200_000)) == "unknown"
    assert judge(Global("a", "b." * 200_000 + "torch.load")) == "unsafe"


def test_the_worst_name_decides() -> None:
    safe, unknown, unsafe = Global("torch", "Size"), Global("a", "b"), Global("os", "system")
    assert judge_all([]).verdict == "safe"
    assert judge_all([safe]).verdict == "safe"
    assert judge_all([safe, unknown]).verdict == "unknown"
    assert judge_all([unsafe, unknown, safe]).verdict == judge_all([safe, unknown, unsafe]).verdict == "unsafe"
    assert [(judged.name, judged.verdict) for judged in judge_all([safe, unsafe]).globals] == [("torch.Size", "safe"), ("os.system", "unsafe")]
