"""The verdict on names. Whole files with payloads are judged in tests/hostile."""

from __future__ import annotations

import importlib.util
import pickle
import sys

import pytest

from gsvckpt.dtypes import DTYPES
from gsvckpt.model import Global
from gsvckpt.pickles import safety
from gsvckpt.pickles.safety import judge, judge_all


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
        *("dill.loads", "cloudpickle.loads", "joblib.load", "pip.main", "torch.utils.cpp_extension.load_inline", "collections.abc.Callable"),
    ],
)
def test_unsafe(name: str) -> None:
    assert verdict(name) == "unsafe"


@pytest.mark.parametrize("name", ["lightning.Thing", "utils.something", "torch.nn.Linear", "HParams", "", "torch.\n.x", "my_os.system"])
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


def test_no_module_of_the_standard_library_is_unknown() -> None:
    assert {judge(Global(module, "anything")) for module in sys.stdlib_module_names} == {"unsafe"}


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
    assert judge_all([safe, unsafe]).globals == (("torch.Size", "safe"), ("os.system", "unsafe"))
