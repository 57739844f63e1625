"""Names that unpicklers rename before they look them up: Python 2's in protocols below 3, and torch's own.

A copy of what CPython keeps in `_compat_pickle`, so that the verdict on a file does not depend on the Python that gives it. Exceptions are left out:
no verdict depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping

from gsvckpt.model import Global

_MODULES: Mapping[str, str] = dict(
    pair.split(":")
    for pair in (
        "__builtin__:builtins copy_reg:copyreg exceptions:builtins Queue:queue SocketServer:socketserver ConfigParser:configparser repr:reprlib "
        "tkFileDialog:tkinter.filedialog tkSimpleDialog:tkinter.simpledialog tkColorChooser:tkinter.colorchooser "
        "tkCommonDialog:tkinter.commondialog Dialog:tkinter.dialog Tkdnd:tkinter.dnd tkFont:tkinter.font tkMessageBox:tkinter.messagebox "
        "ScrolledText:tkinter.scrolledtext Tkconstants:tkinter.constants Tix:tkinter.tix ttk:tkinter.ttk Tkinter:tkinter "
        "FileDialog:tkinter.filedialog SimpleDialog:tkinter.simpledialog markupbase:_markupbase _winreg:winreg thread:_thread "
        "dummy_thread:_dummy_thread dbhash:dbm.bsd dumbdbm:dbm.dumb dbm:dbm.ndbm gdbm:dbm.gnu anydbm:dbm whichdb:dbm "
        "xmlrpclib:xmlrpc.client SimpleXMLRPCServer:xmlrpc.server DocXMLRPCServer:xmlrpc.server httplib:http.client Cookie:http.cookies "
        "cookielib:http.cookiejar BaseHTTPServer:http.server SimpleHTTPServer:http.server CGIHTTPServer:http.server "
        "htmlentitydefs:html.entities HTMLParser:html.parser test.test_support:test.support commands:subprocess urlparse:urllib.parse "
        "robotparser:urllib.robotparser urllib2:urllib.request _abcoll:collections.abc cPickle:pickle _elementtree:xml.etree.ElementTree "
        "UserDict:collections UserList:collections UserString:collections StringIO:io cStringIO:io torch.tensor:torch._tensor"
    ).split()
)
_NAMES: Mapping[str, str] = dict(
    pair.split(":")
    for pair in (
        "__builtin__.xrange:builtins.range __builtin__.reduce:functools.reduce __builtin__.intern:sys.intern __builtin__.unichr:builtins.chr "
        "__builtin__.unicode:builtins.str __builtin__.long:builtins.int __builtin__.basestring:builtins.str itertools.izip:builtins.zip "
        "itertools.imap:builtins.map itertools.ifilter:builtins.filter itertools.ifilterfalse:itertools.filterfalse "
        "itertools.izip_longest:itertools.zip_longest UserDict.IterableUserDict:collections.UserDict _socket.fromfd:socket.fromfd "
        "_multiprocessing.Connection:multiprocessing.connection.Connection multiprocessing.process.Process:multiprocessing.context.Process "
        "multiprocessing.forking.Popen:multiprocessing.popen_fork.Popen socket._socketobject:socket.SocketType"
    ).split()
)
_ALIASES = frozenset("__builtin__ copy_reg torch.tensor".split())  # are nothing else, in no Python 3: `torch.tensor` is a function


def readings(name: Global) -> tuple[Global, ...]:
    """What a name may be to those who load it, the one after which Python 3 and torch go in protocol 2 last."""
    renamed = _NAMES.get(str(name))
    if renamed is not None:
        module, _, attribute = renamed.rpartition(".")
        modern = Global(module, attribute)
    elif name.module in _MODULES:
        modern = Global(_MODULES[name.module], name.name)
    else:
        return (name,)
    return (modern,) if name.module in _ALIASES else (name, modern)
