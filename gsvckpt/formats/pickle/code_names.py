"""Names that can run code, open or delete files, open connections, or give access to such names.

A module stands for all in it; a name that is known to be data (see forms) is data all the same. Scanners' lists (picklescan, modelscan, fickling,
modelaudit) are covered. What stands nowhere is unknown, which is not safe either.
"""

from __future__ import annotations

# Modules of the standard library, of any Python from 2.7 to 3.14: what some have and others lack must not change a verdict.
_CODE_MODULES = frozenset(
    (
        "_aix_support _android_support _apple_support _ast _ast_unparse _asyncio _bootlocale _bootsubprocess _bz2 _colorize _compat_pickle "
        "_compression _crypt _ctypes _curses _curses_panel _dbm _dummy_thread _elementtree _frozen_importlib _frozen_importlib_external "
        "_functools _gdbm _hashlib _imp _interpchannels _interpqueues _interpreters _ios_support _lsprof _lzma _markupbase _msi "
        "_multiprocessing _opcode _operator _osx_support _overlapped _pickle _posixshmem _posixsubprocess _py_warnings _pyio _pyrepl "
        "_remote_debugging _scproxy _signal _sitebuiltins _socket _sqlite3 _ssl _suggestions _symtable _sysconfig _testcapi _testinternalcapi "
        "_thread _threading_local _tkinter _tokenize _tracemalloc _types _uuid _warnings _weakref _winapi _winreg _wmi _xxsubinterpreters _zstd "
        "__builtins__ aifc annotationlib antigravity ast asynchat asyncio asyncore atexit base64 bdb bsddb bz2 cPickle cProfile cgi cgitb chunk cmd "
        "code codeop commands compileall compression concurrent configparser contextlib copy crypt ctypes curses dbm difflib dircache dis "
        "distutils dl doctest dummy_threading ensurepip faulthandler fcntl filecmp fileinput fnmatch formatter ftplib functools gc genericpath "
        "getopt getpass gettext glob grp gzip hotshot http idlelib ihooks imaplib imghdr imp importlib imputil inspect lib2to3 linecache lzma "
        "macpath mailbox mailcap marshal mimetypes mmap modulefinder msilib msvcrt multiprocessing netrc new nis nntplib nt ntpath nturl2path "
        "operator optparse os os2 ossaudiodev parser pdb pickle pickletools pipes pkgutil platform popen2 poplib posix posixpath profile pstats "
        "pty pwd py_compile pyclbr pydoc pydoc_data pyexpat readline resource rexec rlcompleter runpy sched select selectors shelve shlex shutil "
        "signal site smtpd smtplib sndhdr socket socketserver spwd sqlite3 ssl subprocess sunau symtable sys sysconfig syslog tabnanny tarfile "
        "telnetlib tempfile termios test threading this timeit tkinter tokenize trace traceback tracemalloc tty turtle turtledemo types unittest "
        "urllib urllib2 binhex uu uuid venv warnings wave weakref webbrowser winreg winsound wsgiref xdrlib xml xmlrpc zipapp zipfile zipimport"
    ).split()
)
# The rest of it: nothing there runs code but what stands below.
_OTHER_MODULES = frozenset(
    (
        "__builtin__ __future__ _abc _bisect _blake2 _codecs _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _collections "
        "_collections_abc _contextvars _csv _datetime _decimal _heapq _hmac _io _json _locale _md5 _multibytecodec _opcode_metadata _py_abc "
        "_pydatetime _pydecimal _pylong _queue _random _sha1 _sha2 _sha256 _sha3 _sha512 _sre _stat _statistics _string _strptime _struct _typing "
        "_weakrefset _zoneinfo abc argparse array audioop binascii bisect builtins calendar cmath codecs collections colorsys contextvars "
        "copyreg csv dataclasses datetime decimal email encodings enum errno fractions graphlib hashlib heapq hmac html io ipaddress itertools "
        "json keyword locale logging math numbers opcode pathlib plistlib pprint queue quopri random re reprlib secrets sre_compile sre_constants "
        "sre_parse stat statistics string stringprep struct symbol textwrap time token tomllib typing unicodedata zlib zoneinfo"
    ).split()
)
PACKAGES = ("collections.abc", "email", "encodings", "html", "json", "logging", "pathlib._local", "zoneinfo")  # which have modules of their own
STANDARD_LIBRARY = _CODE_MODULES | _OTHER_MODULES
_NAMES_IN_OTHERS = (
    *(
        f"builtins.{name}"
        for name in (
            "eval exec execfile compile open file input raw_input getattr setattr delattr hasattr globals locals vars dir apply breakpoint reload "
            "exit quit help license copyright credits map filter reduce iter next aiter anext property classmethod "
            "staticmethod super __import__ __build_class__ __loader__ __spec__ __debug__"
        ).split()
    ),
    *("codecs.open codecs.EncodedFile codecs.decode codecs.encode codecs.lookup codecs.register codecs.StreamReaderWriter".split()),
    *("_codecs.decode _codecs.lookup _codecs.register _codecs.register_error".split()),
    *(f"{io}.{name}" for io in ("io", "_io") for name in "open open_code FileIO OpenWrapper TextIOWrapper _WindowsConsoleIO".split()),
    *("copyreg.add_extension copyreg.remove_extension copyreg.pickle copyreg.constructor copyreg.clear_extension_cache".split()),
    *(f"itertools.{name}" for name in "starmap accumulate takewhile dropwhile filterfalse groupby imap ifilter ifilterfalse".split()),
    *("dataclasses.make_dataclass dataclasses.dataclass dataclasses._create_fn dataclasses._process_class dataclasses._FuncBuilder".split()),
    *("typing.get_type_hints typing._eval_type typing.evaluate_forward_ref typing.ForwardRef".split()),
    *("logging.FileHandler logging.basicConfig logging.config logging.handlers logging.shutdown logging.StreamHandler".split()),
    *("re.sub re.subn re.Scanner string.Formatter argparse.FileType json.tool enum._simple_enum random._test zoneinfo._common".split()),
    *("zoneinfo._tzpath hashlib.file_digest plistlib.load locale.bindtextdomain encodings.search_function".split()),
)
_TORCH_CODE = (
    "load save compile hub jit package fx classes ops library export onnx vmap func from_file serialization storage._load_from_bytes "
    "multiprocessing utils.cpp_extension utils.collect_env utils.bottleneck utils.benchmark utils._config_module utils.data.datapipes "
    "utils.model_zoo utils.checkpoint utils.hipify utils.mobile_optimizer utils.model_dump utils.show_pickle utils.tensorboard "
    "utils._python_dispatch utils._pytree distributed.rpc distributed.launch distributed.run distributed.elastic _inductor _dynamo _export "
    "_functorch _higher_order_ops _ops _classes _library _compile _C._import_ir_module _C.import_ir_module _C._load_for_lite_interpreter "
    "_jit_internal _weights_only_unpickler testing cuda.jiterator cuda._compile_kernel Tensor.apply_ Tensor.map_ Tensor.map2_ "
    "Tensor.register_hook cuda.CUDAPluggableAllocator"
).split()
_NUMPY_CODE = (
    "load loads save savez savez_compressed savetxt loadtxt genfromtxt fromfile fromregex memmap DataSource frompyfunc vectorize safe_eval "
    "apply_along_axis apply_over_axes fromfunction piecewise testing f2py distutils ctypeslib compat lib.npyio lib._npyio_impl lib.format "
    "lib._format_impl lib._datasource lib.utils lib._utils_impl lib.user_array rec.fromfile core.records.fromfile core.memmap _core.memmap "
    "core.multiarray.fromfile _core.multiarray.fromfile core.numeric.load core.numeric.loads _pytesttester"
).split()
_THIRD_PARTIES = (
    "_pytest aiofiles aiohttp boto3 botocore celery cffi cloudpickle cupy.RawKernel Cython dask.config dill distributed django "
    "execnet fabric flask fsspec functorch.compile future.builtins gevent hydra.utils hydra._internal httpx httplib2 "
    "huggingface_hub invoke IPython ipykernel jinja2 joblib jsonpickle keras.models keras.saving keras.layers.Lambda keras.src.saving "
    "keras.src.layers.core.lambda_layer lightning.pytorch.cli llvmlite mako nox numba onnxruntime pandas.eval pandas.io pandas.read_pickle "
    "pandas.compat.pickle_compat paramiko past.builtins pexpect pip pkg_resources plumbum psutil ptyprocess pytest pyximport "
    "requests ruamel.yaml s3fs scipy.io scipy.LowLevelCallable setuptools sh six sklearn.externals.joblib sympy.sympify "
    "sympy.parsing tensorflow tornado tox triton twisted urllib3 wheel yaml"
).split()
RUNS_CODE = frozenset(
    [*_CODE_MODULES, *_NAMES_IN_OTHERS, *(f"torch.{name}" for name in _TORCH_CODE), *(f"numpy.{name}" for name in _NUMPY_CODE), *_THIRD_PARTIES]
)
# Of these it is known what they do, and it is neither harmless nor dangerous.
NEITHER = frozenset(
    [
        "zoneinfo.ZoneInfo._unpickle",  # reads the named zone from the system's own tables
        "types.GenericAlias",
        "types.UnionType",
        "types.NoneType",
        "types.EllipsisType",
        "types.NotImplementedType",
        "types.MappingProxyType",
        "functools.cached_property",
    ]
)
WAYS_OUT = frozenset("__builtins__ __globals__ __import__ __loader__ __subclasses__ __dict__ __getattribute__ __class__ __mro__ __bases__".split())
