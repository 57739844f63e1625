"""Carry out plans: lay out a file, cast what has to be cast, write it and read it back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

from gsvckpt.devices.device import LARGEST, Audit, Device, Matrix
from gsvckpt.engine.open import read
from gsvckpt.engine.read_back import ask_library, difference
from gsvckpt.errors import ChangedError, DamagedError, GsvError, OutputError, RefusedError
from gsvckpt.files.local import LocalSource, open_source
from gsvckpt.files.progress import Progress, Silent
from gsvckpt.files.publish import Target, publish
from gsvckpt.files.streams import CHUNK, Buffers, buffer, check_unchanged, chunks, crc32, for_each
from gsvckpt.formats import torch_overlay, torch_zip
from gsvckpt.formats.layout import Layout, Text
from gsvckpt.model import Checkpoint, Storage, Tensor, walk
from gsvckpt.sovits.sections import find_state_path
from gsvckpt.sovits.upstream import padded_to
from gsvckpt.transforms.plan import Plan

_BLOCK = 1 << 23  # values of a product at a time; GPT-SoVITS's matrices have 1 << 20, and a whole one gives what torch gives for a whole one
_SMALL = 1 << 20  # bytes; nearly all tensors, and next to nothing of a file

OnOverflow = Literal["keep", "clamp", "error"]
Approve = Callable[[Layout], None]


def lay_out(plan: Plan) -> Layout:
    """The file that `plan` makes, to the byte. Raises UnsupportedError for what cannot be written back exactly."""
    if plan.container == "safetensors":
        from gsvckpt.formats import safetensors  # no other container needs it

        return safetensors.lay_out(plan.root, plan.dtype_of, plan.metadata, plan.head, find_state_path(plan.root), plan.views)
    if plan.over is not None:
        return torch_overlay.lay_out(plan.over, _over(plan, plan.over), plan.dtype_of)
    layout = torch_zip.lay_out(plan.root, plan.dtype_of, plan.head)
    wanted = padded_to(plan.window[0], layout.size) if plan.window else None
    if wanted is None:
        return layout
    empty = torch_zip.lay_out(plan.root, plan.dtype_of, plan.head, padding=0)
    return torch_zip.lay_out(plan.root, plan.dtype_of, plan.head, padding=max(wanted - empty.size, 0))


def _over(plan: Plan, base: Checkpoint) -> dict[str, Storage]:
    """Which storage is to stand in the place of which of the base's, by the base's keys."""
    places: dict[str, Storage] = {}
    theirs = {path: leaf for path, leaf in walk(base.root) if isinstance(leaf, Tensor)}
    for path, leaf in walk(plan.root):
        if isinstance(leaf, Tensor) and path in theirs:
            places[theirs[path].storage.key] = leaf.storage
    return places


class Written(NamedTuple):
    """What a plan came to: the plan as carried out (storages that overflowed may have kept their dtype), its layout, and the audit of each cast."""

    plan: Plan
    layout: Layout
    audits: Mapping[Storage, Audit]
    overflowed: Mapping[Storage, int]


Accept = Callable[[Written], bool]


def _approve_anything(_: Layout) -> None:
    """Any layout will do."""


def _accept_anything(_: Written) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Engine:
    """How plans are carried out: on which device (None where nothing is computed), with how many threads, seen by whom."""

    device: Device | None = None
    jobs: int = 1
    progress: Progress = field(default_factory=Silent)
    on_overflow: OnOverflow = "keep"

    def rehearse(self, plan: Plan, *, approve: Approve = _approve_anything) -> Written:
        """Carry out everything but the writing: what is cast is read and audited, so the result and its size are those of `write`.

        Raises DamagedError and ChangedError as `write` does.
        """
        written, _ = self._carry_out(plan, lay_out(plan), None, approve)
        check_unchanged(plan.sources)
        return written

    def write(self, plan: Plan, path: str, *, overwrite: bool, approve: Approve = _approve_anything, accept: Accept = _accept_anything) -> Written:
        """Write `plan` to `path` in one step (see `publishing.publish`), reading every byte back first.

        `approve` sees each layout before it is written, and may raise; `accept` sees the result before it is published, may raise, and says whether
        it is to be published at all. Raises DamagedError when the source's bytes do not have their checksums, ChangedError when the source changed
        meanwhile, RefusedError, and OutputError.
        """
        done: list[tuple[Written, Mapping[Storage, int]]] = []

        layout = lay_out(plan)

        def fill(target: Target) -> None:
            written, checksums = self._carry_out(plan, layout, None if target.ordered else target, approve, all_checksums=target.ordered)
            if not accept(written):
                target.drop()
            elif target.ordered:
                reached = _partly_reached(written.plan)
                move = partial(self._move, plan=written.plan, target=target, places=dict(written.layout.storages), reached=reached)
                checksums = write_in_order(written.layout, checksums, move, target, jobs=self.jobs, progress=self.progress)
            done.append((written, checksums))

        def check(target: Target) -> None:
            written, checksums = done[-1]
            self._read_back(written, checksums, target)

        def settle() -> None:
            check_unchanged(plan.sources)
            source = plan.checkpoint.source
            if isinstance(source, LocalSource):
                source.close()  # Windows does not replace an open file

        publish(path, layout.size, fill, check, overwrite=overwrite, settle=settle)
        return done[-1][0]

    def write_part(self, plan: Plan, layout: Layout, path: str) -> None:
        """Write one file of several, whose casts were rehearsed with the whole plan, and read its bytes back. Raises as `write` does."""
        checksums: dict[Storage, int] = {}

        def fill(target: Target) -> None:
            places = dict(layout.storages)
            self.progress.expect(sum(storage.nbytes for storage in places))
            work = partial(self._move, plan=plan, target=target, places=places, reached=_partly_reached(plan))
            checksums.update((storage, crc) for storage, (crc, _) in for_each(places, work, jobs=self.jobs, progress=self.progress).items())
            target.resize(layout.size)
            for offset, piece in (*layout.texts, *layout.close(checksums)):
                target.write_at(offset, piece)

        def check(target: Target) -> None:
            with open_source(target.path) as source:
                twins = {storage: Storage("", plan.dtype_of(storage), storage.numel, "", source, place) for storage, place in layout.storages}
                self._compare_bytes(twins, checksums)

        publish(path, layout.size, fill, check, overwrite=False)

    def _compare_bytes(self, twins: Mapping[Storage, Storage], checksums: Mapping[Storage, int]) -> None:
        """Raise DamagedError unless what was written for each storage has the checksum of what was meant."""
        self.progress.expect(sum(twin.nbytes for twin in twins.values()))
        found = for_each(twins.values(), _checksum, jobs=self.jobs, progress=self.progress)
        wrong = next((one for one, two in twins.items() if found[two] != checksums[one]), None)
        if wrong is not None:
            raise DamagedError("reads back differently from what was written", where=f"storage {wrong.key}")

    def _carry_out(
        self, plan: Plan, layout: Layout, target: Target | None, approve: Approve, *, all_checksums: bool = False
    ) -> tuple[Written, Mapping[Storage, int]]:
        """Carry out a plan, without a target as far as it has to be computed; `all_checksums` adds those that the finished file will state."""
        overflowed = self._foresee_overflow(plan)
        if overflowed:
            plan = plan.without_casts(frozenset(overflowed))
            layout = lay_out(plan)
        while True:
            approve(layout)
            computed = {*plan.casts, *plan.products}
            if all_checksums and layout.needs_checksums:
                computed |= {storage for storage, _ in layout.storages if storage.crc is None}
            places = {storage: offset for storage, offset in layout.storages if target is not None or storage in computed}
            self.progress.expect(sum(storage.nbytes for storage in places))
            work = partial(self._move, plan=plan, target=target, places=places, reached=_partly_reached(plan))
            moved = for_each(places, work, jobs=self.jobs, progress=self.progress)
            beyond = {storage: audit.overflowed for storage, (_, audit) in moved.items() if audit is not None and audit.overflowed}
            overflowed |= beyond
            if not beyond or plan.clamp:
                break
            if self.on_overflow == "error":
                raise RefusedError(
                    f"{sum(beyond.values()):,} values in {len(beyond):,} tensors are beyond {_beyond(plan, beyond)}",
                    hint="--on-overflow keep leaves those tensors as they are, --on-overflow clamp limits the values",
                )
            plan = plan.without_casts(frozenset(beyond))
            layout = lay_out(plan)  # the kept sizes move everything behind them
        checksums = {storage: crc for storage, (crc, _) in moved.items()}
        if all_checksums:
            checksums |= {storage: storage.crc for storage, _ in layout.storages if storage not in checksums and storage.crc is not None}
        if target is not None:
            target.resize(layout.size)
            for offset, piece in (*layout.texts, *layout.close(checksums)):
                target.write_at(offset, piece)
        audits = {storage: audit for storage, (_, audit) in moved.items() if audit is not None}
        return Written(plan, layout, audits, overflowed), checksums

    def _foresee_overflow(self, plan: Plan) -> dict[Storage, int]:
        """The small storages that will keep their dtype, found before anything is written: each one found later repeats the whole file."""
        if plan.clamp or self.on_overflow != "keep":
            return {}
        small = [storage for storage in plan.casts if storage.nbytes < _SMALL]
        self.progress.expect(sum(storage.nbytes for storage in small))
        work = partial(self._move, plan=plan, target=None, places=dict.fromkeys(small, 0), reached=_partly_reached(plan))
        moved = for_each(small, work, jobs=self.jobs, progress=self.progress)
        return {storage: audit.overflowed for storage, (_, audit) in moved.items() if audit is not None and audit.overflowed}

    def _move(
        self,
        storage: Storage,
        buffers: Buffers,
        *,
        plan: Plan,
        target: Target | None,
        places: Mapping[Storage, int],
        reached: Mapping[Storage, tuple[Tensor, ...]],
    ) -> tuple[int, Audit | None]:
        """Copy or cast one storage to its place. Returns the checksum of what was written, and the audit of a cast: of the values that tensors reach,
        which are `reached` where that is not all of the storage.
        """
        place, to = places[storage], plan.casts.get(storage)
        audit = Audit() if to is not None else None
        parts = reached.get(storage, ())
        crc = 0
        for chunk in self._contents(storage, plan, buffers):
            data = chunk
            if to is not None:
                assert self.device is not None and audit is not None  # noqa: S101 - whoever plans a cast brings a device; for the type checker
                data = buffers.out[: len(chunk) // storage.dtype.itemsize * to.itemsize]
                found = self.device.cast(chunk, storage.dtype, data, to, clamp=plan.clamp)
                audit += found if not parts else Audit()
            crc = crc32(data, crc)
            if target is not None:
                target.write_at(place, data)
                place += len(data)
        if parts:
            from gsvckpt.engine.strided_read import logical_bytes  # most files hold no slices
        for tensor in parts:
            assert self.device is not None and audit is not None and to is not None  # noqa: S101 - as above
            for part in logical_bytes(tensor, CHUNK // tensor.dtype.itemsize):
                scratch = buffer(len(part) // tensor.dtype.itemsize * to.itemsize)
                audit += self.device.cast(part, tensor.dtype, scratch, to, clamp=plan.clamp)
        return crc, audit

    def _contents(self, storage: Storage, plan: Plan, buffers: Buffers) -> Iterator[memoryview]:
        """The bytes of a storage in order, before any cast, some at a time: read, or computed a block of rows at a time."""
        product = plan.products.get(storage)
        if product is None:
            to = plan.dtype_of(storage)
            step = CHUNK * storage.dtype.itemsize // max(to.itemsize, storage.dtype.itemsize)  # what becomes of it must fit its buffer, too
            for _, chunk in chunks(storage, buffers, step=step):
                yield chunk
            return
        assert self.device is not None  # noqa: S101 - whoever plans a product brings a device; for the type checker
        up, down = (_matrix(part, buffers, 0, part.shape[0]) for part in (product.up, product.down))
        rows, width = product.base.shape[0], product.base.shape[1]
        together = max(_BLOCK // max(width, 1), 1)
        for start in range(0, rows, together):
            count = min(together, rows - start)
            base = _matrix(product.base, buffers, start, count)
            block = self.device.add_product(base, up.rows_from(start, count), down)
            for begin in range(0, len(block), CHUNK // 2):
                yield block[begin : begin + CHUNK // 2]

    def _read_back(self, written: Written, checksums: Mapping[Storage, int], target: Target) -> None:
        """Open what was written as any reader would and compare it with the plan, tree and bytes."""
        plan = written.plan
        with open_source(target.path) as source:
            try:
                there = read(source)
                twins: dict[Storage, Storage] = {}
                place = difference(plan, there.root, twins)
                if place is not None or source.size != written.layout.size:
                    raise DamagedError("differs from the plan", where=place or "size")
                self._compare_bytes(twins, checksums)
                ask_library(plan, source)
            except GsvError as error:
                raise OutputError(
                    f"the output does not read back as it was written: {error.where}: {error.why}", hint="the disk may be failing"
                ) from error


def _matrix(tensor: Tensor, buffers: Buffers, start: int, count: int) -> Matrix:
    """Some rows of a contiguous matrix, in memory of their own."""
    width = tensor.shape[1] * tensor.dtype.itemsize
    data = buffer(count * width)
    begin = (tensor.start * tensor.dtype.itemsize) + start * width
    for _ in chunks(tensor.storage, buffers, begin, begin + len(data), into=lambda at, size: data[at - begin : at - begin + size]):
        pass
    return Matrix(data, tensor.dtype, count, tensor.shape[1])


def _beyond(plan: Plan, storages: Iterable[Storage]) -> str:
    """The limit that values are beyond, in words."""
    names = sorted({plan.casts[storage].name for storage in storages})
    return " or ".join(f"{name} ({LARGEST[name]:,.6g})" for name in names)


def _checksum(storage: Storage, buffers: Buffers) -> int:
    crc = 0
    for _, chunk in chunks(storage, buffers):
        crc = crc32(chunk, crc)
    return crc


def write_in_order(
    layout: Layout,
    known: Mapping[Storage, int],
    move: Callable[[Storage, Buffers], tuple[int, object]],
    target: Target,
    *,
    jobs: int,
    progress: Progress,
) -> Mapping[Storage, int]:
    """Write all of `layout`, whose headers state the checksums `known`; `move` writes one storage. Returns the checksums of what was written.

    Raises ChangedError where these are others than those that are known.
    """
    pieces = layout.in_order(known)
    progress.expect(sum(piece.nbytes for piece in pieces if isinstance(piece, Storage)))

    def write(piece: Text | Storage, buffers: Buffers) -> int | None:
        try:
            if isinstance(piece, Storage):
                return move(piece, buffers)[0]
            target.write_at(piece.offset, piece.data)
        except BaseException:
            target.stop()  # the others would wait for what never comes
            raise
        return None

    written = for_each(pieces, write, jobs=jobs, progress=progress)  # its threads take pieces in order, so there is always one whose turn it is
    checksums = {piece: crc for piece, crc in written.items() if isinstance(piece, Storage) and crc is not None}
    changed = next((storage for storage, crc in checksums.items() if known.get(storage, crc) != crc), None)
    if changed is not None:
        raise ChangedError("was different when it was read a second time", where=f"storage {changed.key}", path=changed.source.path)
    return checksums


def _partly_reached(plan: Plan) -> Mapping[Storage, tuple[Tensor, ...]]:
    if not plan.casts:
        return {}
    from gsvckpt.engine.contiguous import partly_reached  # without a cast nobody looks into parts

    return partly_reached(plan)
