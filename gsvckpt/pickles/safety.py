"""Would loading this pickle run somebody's code? Judged by the names it holds, an allow-list first: what is not known to be data is not safe."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Literal, NamedTuple

from gsvckpt.dtypes import DTYPES, STORAGE_DTYPES
from gsvckpt.model import Checkpoint, Doubt, Global

Verdict = Literal["safe", "unsafe", "unknown"]

_BUILTINS = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names, which protocol 2 pickles carry
_PATHS = frozenset("Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath".split())

# Data only: making one and setting its state runs no code that the file chooses.
_DATA: dict[str, frozenset[str]] = {
    # the last three are what Python 3 calls range, int and str in protocol 2, as in defaultdict(int)
    "builtins": frozenset("set frozenset list dict tuple int float complex bool str bytes bytearray slice range object xrange long unicode".split()),
    "collections": frozenset("OrderedDict defaultdict Counter deque".split()),
    "_codecs": frozenset(["encode"]),
    "copyreg": frozenset(["_reconstructor"]),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,  # where Python 3.13 pickles them from
    "datetime": frozenset("datetime date time timedelta timezone".split()),
    "decimal": frozenset(["Decimal"]),
    "uuid": frozenset(["UUID"]),
    "argparse": frozenset(["Namespace"]),
    "types": frozenset(["SimpleNamespace"]),
    "utils": frozenset(["HParams"]),  # GPT-SoVITS's config class (GPT_SoVITS/utils.py)
    "torch": frozenset(
        [*DTYPES, *STORAGE_DTYPES, "Size", "device", "Tensor", "strided", "sparse_coo", "sparse_csr", "sparse_csc", "per_tensor_affine"]
    ),
    "torch.storage": frozenset(["UntypedStorage", "TypedStorage", *STORAGE_DTYPES]),
    "torch.serialization": frozenset(["_get_layout"]),
    "torch.nn.parameter": frozenset(["Parameter", "Buffer"]),
    "torch._tensor": frozenset(["_rebuild_from_type_v2"]),
    "torch._utils": frozenset(
        [
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            "_rebuild_sparse_tensor",
            "_rebuild_sparse_csr_tensor",
            "_rebuild_qtensor",
            "_rebuild_meta_tensor_no_storage",
            "_rebuild_device_tensor_from_cpu_tensor",
            "_rebuild_device_tensor_from_numpy",
            "_rebuild_wrapper_subclass",
        ]
    ),
    "numpy": frozenset(["dtype", "ndarray"]),
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), frozenset(["scalar", "_reconstruct"])),
}

# Third-party names known to run what they are given; every module of the standard library that is not data is unsafe without being listed.
_RUNS_CODE = frozenset(
    [
        "torch.load",
        "torch.serialization.load",
        "torch.storage._load_from_bytes",
        "torch.hub",
        "torch.jit",
        "torch.utils.cpp_extension",
        "torch.package",
        "torch.distributed.rpc",
        "torch._inductor",
        "torch._dynamo",
        "torch.fx",
        "numpy.load",
        "numpy.testing",
        "numpy.f2py",
        "numpy.ctypeslib",
        "pip",
        "setuptools",
        "pkg_resources",
        "cloudpickle",
        "dill",
        "joblib",
        "pandas.read_pickle",
        "IPython",
        "requests",
        "urllib3",
        "httpx",
        "paramiko",
        "fabric",
    ]
)
# What some Pythons have and others lack is listed, so that the verdict on a file does not depend on which of them runs this.
_OTHER_PYTHONS = frozenset(
    (
        "__builtin__ cPickle commands dummy_threading imputil new nt os2 popen2 posix "  # Python 2, and other systems
        "_bootlocale binhex formatter macpath parser symbol "  # gone by 3.11
        "asynchat asyncore distutils imp smtpd "  # gone in 3.12, and in 3.13 what follows
        "aifc audioop cgi cgitb chunk crypt imghdr lib2to3 mailcap msilib nis nntplib ossaudiodev pipes sndhdr spwd sunau telnetlib uu xdrlib "
        "_bootsubprocess _compression _crypt _msi _sha256 _sha512 "
        "tomllib annotationlib compression "  # new since 3.11
        "_android_support _apple_support _ast_unparse _colorize _hmac _interpchannels _interpqueues _interpreters _ios_support _opcode_metadata "
        "_py_warnings _pydatetime _pylong _pyrepl _remote_debugging _sha2 _suggestions _sysconfig _types _wmi _zstd"
    ).split()
)
_STANDARD_LIBRARY = sys.stdlib_module_names | _OTHER_PYTHONS
_WAYS_OUT = frozenset("__builtins__ __globals__ __import__ __loader__ __subclasses__".split())  # attributes that lead from anything to everything
_MOST_PARTS = 1 + max(name.count(".") for name in _RUNS_CODE)


class Safety(NamedTuple):
    """The verdict on a file and on each name in it, in order of first use; and the doubts with which it is unknown, whatever it names."""

    verdict: Verdict
    globals: tuple[tuple[str, Verdict], ...] = ()
    doubts: tuple[Doubt, ...] = ()


def modern_module(name: Global) -> str:
    """The module of a name, as Python 3 calls it."""
    return _BUILTINS.get(name.module, name.module)


def judge(name: Global) -> Verdict:
    """safe: known data; unsafe: can run code on any machine; unknown: neither."""
    module = modern_module(name)
    if name.name in _DATA.get(module, ()):
        return "safe"
    parts = f"{module}.{name.name}".split(".")
    reached = name.name.split(".")  # protocol 4 reaches through attributes, and modules have others as theirs: torch.serialization, os.system
    if parts[0] in _STANDARD_LIBRARY or not _STANDARD_LIBRARY.isdisjoint(reached[:-1]) or not _WAYS_OUT.isdisjoint(parts):
        return "unsafe"
    if _runs_code(parts[:_MOST_PARTS]) or any(_runs_code(reached[n : n + _MOST_PARTS]) for n in range(len(reached) - 1)):
        return "unsafe"
    return "unknown"


def _runs_code(parts: list[str]) -> bool:
    """Whether they begin with a listed name."""
    return any(".".join(parts[:n]) in _RUNS_CODE for n in range(1, len(parts) + 1))


def judge_checkpoint(checkpoint: Checkpoint) -> Safety:
    """The verdict on a file: that on its names, and never safe where readers may part."""
    found = judge_all(checkpoint.globals)
    verdict: Verdict = "unknown" if found.verdict == "safe" and checkpoint.doubts else found.verdict
    return Safety(verdict, found.globals, checkpoint.doubts)


def judge_all(names: Iterable[Global]) -> Safety:
    """The worst of all names; a file without any is safe."""
    verdicts = tuple((str(name), judge(name)) for name in names)
    worst: Verdict = "safe"
    for _, verdict in verdicts:
        if verdict == "unsafe" or (verdict == "unknown" and worst == "safe"):
            worst = verdict
    return Safety(worst, verdicts)
