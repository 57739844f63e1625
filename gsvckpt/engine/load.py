"""The Python interface to one checkpoint: open it, look at its tensors, load them. No code from a file is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, final

from gsvckpt.engine.open import blame, open_checkpoint, refuse_ambiguous
from gsvckpt.errors import MissingError, UnsupportedError, UsageError, closest
from gsvckpt.files.local import LocalSource
from gsvckpt.files.secrets import conceal
from gsvckpt.formats.pickle.safety import Safety, judge_checkpoint
from gsvckpt.model import Checkpoint, Source, Tensor
from gsvckpt.sovits.sections import find_state_path, state_recipes, state_tensors

if TYPE_CHECKING:
    import mmap

    import numpy as np
    import torch
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]  # names that OpenCheckpoint's own methods do not hide
    TorchTensor: TypeAlias = torch.Tensor
    TorchDevice: TypeAlias = str | torch.device

Include: TypeAlias = str | Sequence[str] | Callable[[str], bool]
"""Which tensors: a glob, several globs (any may match), or a predicate on the name."""


def open_file(path: str | os.PathLike[str]) -> OpenCheckpoint:
    """Open a checkpoint: its directory and its pickle are read, no tensor bytes. Close it, or use it in a `with` statement.

    Raises MissingError, NotCheckpointError, DamagedError or UnsupportedError, all of them GsvError, with the path filled in.
    """
    return OpenCheckpoint(path)


def load_state_dict(path: str | os.PathLike[str], device: TorchDevice = "cpu", include: Include | None = None) -> dict[str, TorchTensor]:
    """Load the model's tensors, wherever the file keeps them, by name; `include` chooses among them.

    Needs the memory of the tensors and a few MiB besides: bytes are read straight into their place, by several threads, and checked against the
    file's checksums. Tensors that share memory in the file share it here; views keep their strides. Training state is left in the file. Raises
    UsageError for a device that is not there, MissingError when nothing is chosen, ChangedError when the file changes meanwhile, and what `open_file`
    raises; UnsupportedError for a chosen tensor that is more than numbers in a storage, as sparse and quantized ones are.

    `auto` is the first CUDA device where there is one, else the CPU.
    """
    with open_file(path) as checkpoint, blame(conceal(os.fspath(path))):
        _refuse_special(checkpoint.root, include)
        chosen = select(checkpoint.state_dict, include)
        return _load(checkpoint.checkpoint, chosen, device)


@final
class OpenCheckpoint:
    """An open checkpoint; a folder with an index, or the index, is one, too.

    `checkpoint` holds its facts and its tree; tensors in it are descriptions until `numpy` or `torch` fetches their values.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = conceal(os.fspath(path))
        self._files = ExitStack()
        self._maps: dict[Source, mmap.mmap] = {}
        self._closed = False
        self.checkpoint: Checkpoint = self._files.enter_context(open_checkpoint(path))

    @property
    def root(self) -> object:
        """What torch.load would return, as plain values; objects of classes that are never imported stay `Opaque`."""
        return self.checkpoint.root

    @cached_property
    def state_dict(self) -> Mapping[str, Tensor]:
        """The model's tensors by name, in the file's order, without optimizer and other training state."""
        with blame(self._path):
            return state_tensors(self.root, find_state_path(self.root))

    @cached_property
    def safety(self) -> Safety:
        """Whether torch.load would run foreign code for this file: safe, unsafe or unknown, with every name that it holds."""
        return judge_checkpoint(self.checkpoint)

    def numpy(self, tensor: str | Tensor) -> Array:
        """A read-only view of the file itself, with the tensor's strides; nothing is read before it is looked at, and no checksum is checked.

        Views stay valid after `close`. Raises UnsupportedError for types that NumPy lacks, ChangedError when the file has changed since it was
        opened, and UsageError after `close`. A file that is cut short later ends the process when the view is looked at, so keep views of files that
        nobody writes.
        """
        found = self._find(tensor)
        self._require_open()
        with blame(self._path):
            if not found.dtype.numpy:
                raise UnsupportedError(f"NumPy has no {found.dtype.name}", hint="the `torch` method gives a torch tensor")
            _require_little_endian(self.checkpoint)
            refuse_ambiguous(self.checkpoint)
            try:
                return _view(found, self._map(found.storage.source))
            except ValueError as error:  # too many dimensions for this NumPy, or too many elements for any
                raise UnsupportedError(f"NumPy has no arrays of shape {list(found.shape)[:8]}") from error

    def torch(self, tensor: str | Tensor, device: TorchDevice = "cpu") -> TorchTensor:
        """The tensor with its values, read and checked as by `load_state_dict`. Raises UsageError after `close`."""
        self._require_open()
        with blame(self._path):
            return _load(self.checkpoint, {"": self._find(tensor)}, device)[""]

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError("the checkpoint is closed", path=self._path, hint="fetch tensors inside the `with` statement")

    def _map(self, source: Source) -> mmap.mmap:
        if source not in self._maps:
            if not isinstance(source, LocalSource):
                raise UnsupportedError(
                    "is on another machine, so it cannot be mapped into memory", hint="the `torch` method reads tensors from there"
                )
            self._maps[source] = source.map()
        return self._maps[source]

    def _find(self, tensor: str | Tensor) -> Tensor:
        return self.state_dict[_known(tensor, self.state_dict)] if isinstance(tensor, str) else tensor

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._closed = True
        self._files.close()
        while self._maps:
            _, mapped = self._maps.popitem()
            with suppress(BufferError):  # views are in use; the last one to go closes the map
                mapped.close()

    def __enter__(self) -> OpenCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse_special(root: object, include: Include | None) -> None:
    """Raise UnsupportedError where tensors are chosen that are kept as recipes: a state dict without them would lack names in silence."""
    recipes = state_recipes(root, find_state_path(root))
    name = next((name for name in recipes if _matches(name, include)), None)
    if name is not None:
        from gsvckpt.formats.pickle.special_tensors import describe  # few files have any

        why = f"is a special tensor ({describe(recipes[name]).form}), which only torch.load makes"
        raise UnsupportedError(why, where=name, hint="`include` chooses the others")


def _matches(name: str, include: Include | None) -> bool:
    from fnmatch import fnmatchcase

    if include is None:
        return True
    if callable(include):
        return include(name)
    return any(name == glob or fnmatchcase(name, glob) for glob in ((include,) if isinstance(include, str) else include))


def select(tensors: Mapping[str, Tensor], include: Include | None) -> dict[str, Tensor]:
    """The tensors that `include` chooses, in order; all for None. Raises MissingError when it chooses none."""
    chosen = {name: tensor for name, tensor in tensors.items() if _matches(name, include)}
    if not chosen and tensors and include is not None and not callable(include):
        globs = (include,) if isinstance(include, str) else tuple(include)
        if globs:
            _known(globs[0], tensors)
    if not chosen:
        raise MissingError(f"none of its {len(tensors):,} model tensors matches" if tensors else "it holds no model tensors", where="include")
    return chosen


def _known(name: str, names: Mapping[str, Tensor]) -> str:
    if name in names:
        return name
    close = closest(name, names)
    hint = f"there are {', '.join(close)}" if close else f"the first of {len(names):,} is {next(iter(names))}" if names else ""
    raise MissingError(f"no model tensor is called {name[:80]!r}", where="state dict", hint=hint)


def _load(checkpoint: Checkpoint, tensors: Mapping[str, Tensor], device: TorchDevice) -> dict[str, TorchTensor]:
    refuse_ambiguous(checkpoint)
    from gsvckpt.devices.presence import require_torch

    require_torch("loading tensors into torch", "load_state_dict")
    from gsvckpt.devices import transfer
    from gsvckpt.devices.choice import torch_device

    name = str(device)
    if name == "auto":
        import torch

        name = "cuda" if torch.cuda.is_available() else "cpu"
    return transfer.load(tensors, torch_device(name), jobs=min(os.cpu_count() or 1, 8))


def _view(tensor: Tensor, mapped: mmap.mmap) -> Array:
    import numpy as np

    if not tensor.numel:
        empty = np.empty(tensor.shape, tensor.dtype.numpy)
        empty.flags.writeable = False
        return empty
    itemsize = tensor.dtype.itemsize
    flat = np.frombuffer(mapped, tensor.dtype.numpy, tensor.extent, tensor.storage.offset + tensor.start * itemsize)
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, [step * itemsize for step in tensor.stride], writeable=False)


def _require_little_endian(checkpoint: Checkpoint) -> None:
    if checkpoint.container.byteorder != "little":
        why = "its numbers are those of a big-endian machine, so a view of the file does not have their values"
        raise UnsupportedError(why, hint="the `torch` method turns them round; gsvckpt migrate writes a little-endian file")
