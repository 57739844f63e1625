"""Give every tensor a storage of its own, in row-major order, as other programs expect of a safetensors file; and lay them out again as they lay.

Tensors that share bytes are one group. Where each lay in it is told by an OriginalView, which the file's metadata keep. Bytes that no tensor reaches
belong to no group, so they do not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count

from gsvckpt.dtypes import UNTYPED, DType
from gsvckpt.engine.rearranged import Placed, RowByRow, SpreadOut
from gsvckpt.engine.strided_read import Region, find_region
from gsvckpt.model import OriginalView, Source, Storage, Tensor, contiguous_stride, walk
from gsvckpt.transforms.plan import Plan
from gsvckpt.transforms.tree import edited, rebuild


@dataclass(frozen=True, slots=True)
class Separated:
    """A plan in which every tensor has its own storage. `repeated` are the bytes that stand in it more than once, for names that were tied;
    `unreached` those of the source that no tensor reaches.
    """

    plan: Plan
    repeated: int = 0
    unreached: int = 0


def separate(plan: Plan, *, compact: bool = False) -> Separated:
    """Give every tensor a contiguous storage of its own; a tensor that is one already keeps it, so that its bytes are copied as they are.

    With `compact`, a tensor that shares with no other and has gaps between its numbers is not to get them back.
    """
    root = rebuild(plan.root, _without_repeats())
    tensors = list({id(leaf): leaf for _, leaf in walk(root) if isinstance(leaf, Tensor)}.values())
    by_storage: dict[Storage, list[Tensor]] = {}
    for tensor in tensors:
        by_storage.setdefault(tensor.storage, []).append(tensor)
    numbers = count(1 + max((view.group for view in plan.views.values()), default=0))
    views: dict[Tensor, OriginalView] = {}
    made: dict[int, Tensor] = {}
    repeated = unreached = 0
    for storage, sharing in by_storage.items():
        if storage in plan.products or (len(sharing) == 1 and _fills_storage(sharing[0])):
            continue
        groups = _groups(sharing)
        unreached += storage.nbytes - sum(_reached(*group) for group in groups)
        for members, begin, end in groups:
            number = next(numbers)
            owners = [tensor for tensor in members if _fills_storage(tensor)][:1]
            for tensor in members:
                own = tensor if tensor in owners else _own(tensor)
                made[id(tensor)] = own
                if len(members) > 1 or (tensor.stride != own.stride and not (compact and not find_region(tensor).dense)):
                    views[own] = OriginalView(number, tensor.stride, tensor.start - begin // tensor.dtype.itemsize)
            repeated += max(sum(tensor.nbytes for tensor in members) - (end - begin), 0)
    if not made and root is plan.root:
        return Separated(plan)
    casts = dict(plan.casts)
    for tensor in tensors:
        if tensor.storage in plan.casts and id(tensor) in made:
            casts[made[id(tensor)].storage] = plan.casts[tensor.storage]
    changed = rebuild(root, lambda value: made.get(id(value), value))
    known = {made.get(id(tensor), tensor): view for tensor, view in plan.views.items()}
    return Separated(replace(plan, casts=casts, views={**known, **views}).with_root(changed), repeated, unreached)


def rejoin(plan: Plan) -> Plan:
    """Lay tensors out as they lay before they were separated. A group whose tensors are to have different types stays separated."""
    groups: dict[int, list[Tensor]] = {}
    for _, leaf in walk(plan.root):
        if isinstance(leaf, Tensor) and leaf in plan.views and all(leaf is not other for other in groups.get(plan.views[leaf].group, ())):
            groups.setdefault(plan.views[leaf].group, []).append(leaf)
    made: dict[int, Tensor] = {}
    casts = dict(plan.casts)
    for members in groups.values():
        types = {(tensor.dtype, tensor.storage.dtype, plan.casts.get(tensor.storage), tensor.storage.location) for tensor in members}
        if len(types) > 1 or any(tensor.storage in plan.products for tensor in members):
            continue
        storage = _joined([Placed(tensor, *plan.views[tensor][1:]) for tensor in members])
        cast = plan.casts.get(members[0].storage)
        casts |= {storage: cast} if cast is not None else {}
        for tensor in members:
            view = plan.views[tensor]
            made[id(tensor)] = replace(tensor, storage=storage, stride=view.stride, start=view.start)
    if not made:
        return replace(plan, views={})
    return replace(plan, casts=casts, views={}).with_root(rebuild(plan.root, lambda value: made.get(id(value), value)))


def partly_reached(plan: Plan) -> dict[Storage, tuple[Tensor, ...]]:
    """The tensors of each storage that is to be cast and that they do not reach all of; tied ones once."""
    found: dict[Storage, dict[Region, Tensor]] = {}
    entire: set[Storage] = set()
    for _, leaf in walk(plan.root) if plan.casts else ():
        storage = leaf.storage if isinstance(leaf, Tensor) else leaf
        if not isinstance(storage, Storage) or storage not in plan.casts or storage in entire:
            continue
        if not isinstance(leaf, Tensor) or leaf.numel == storage.numel:
            entire.add(storage)
        elif leaf.numel:
            found.setdefault(storage, {})[find_region(leaf)] = leaf
    return {storage: tuple(regions.values()) for storage, regions in found.items() if storage not in entire and not _covers(regions, storage)}


def _covers(regions: Iterable[Region], storage: Storage) -> bool:
    """Whether regions without gaps lie in a row over all of a storage."""
    end = 0
    for region in sorted(regions, key=lambda region: region.start):
        if region.start > end or not region.dense:
            return False
        end = max(end, region.start + region.extent)
    return end >= storage.numel


def _without_repeats() -> Callable[[object], object]:
    """The edits that give each place in dicts and lists a tensor of its own where several share one, as other programs look for each name."""
    seen: set[int] = set()

    def take(value: object) -> object:
        if isinstance(value, Tensor):
            if id(value) in seen:
                return replace(value)
            seen.add(id(value))
        return value

    def change(value: object) -> object:
        if isinstance(value, dict):
            entries = {key: take(part) for key, part in value.items()}
            return value if all(entries[key] is part for key, part in value.items()) else edited(value, entries)
        if isinstance(value, list):
            items = [take(part) for part in value]
            return value if all(one is two for one, two in zip(items, value, strict=True)) else items
        return value

    return change


def _groups(tensors: Iterable[Tensor]) -> list[tuple[list[Tensor], int, int]]:
    """Tensors of one storage whose bytes lie among each other, with the bytes from the first to the last of them."""
    spans = sorted(((tensor.start * tensor.dtype.itemsize, _end(tensor), tensor) for tensor in tensors), key=lambda span: span[:2])
    found: list[tuple[list[Tensor], int, int]] = []
    for begin, end, tensor in spans:
        if found and (begin < found[-1][2] or begin == end == found[-1][1]):
            members, first, last = found[-1]
            members.append(tensor)
            found[-1] = members, first, max(last, end)
        else:
            found.append(([tensor], begin, end))
    return found


def _reached(members: list[Tensor], begin: int, end: int) -> int:
    """The bytes that a group reaches: of one tensor its numbers, of several all from the first to the last."""
    region = find_region(members[0])
    return region.numel * region.dtype.itemsize if len(members) == 1 and members[0].numel and region.distinct else end - begin


def _end(tensor: Tensor) -> int:
    return (tensor.start + (find_region(tensor).extent if tensor.numel else 0)) * tensor.dtype.itemsize


def _fills_storage(tensor: Tensor) -> bool:
    return not tensor.start and tensor.stride == contiguous_stride(tensor.shape) and tensor.nbytes == tensor.storage.nbytes


def _own(tensor: Tensor) -> Tensor:
    """The same numbers in a storage of their own: read in place where they lie in row-major order, else put in order while they are read."""
    stride = contiguous_stride(tensor.shape)
    source: Source
    if tensor.stride == stride:
        source, offset = tensor.storage.source, tensor.storage.offset + tensor.start * tensor.dtype.itemsize
    else:
        source, offset = RowByRow(tensor), 0
    kind: DType = tensor.storage.dtype
    numel = tensor.nbytes if kind is UNTYPED else tensor.numel
    storage = Storage(tensor.storage.key, kind, numel, tensor.storage.location, source, offset)
    return replace(tensor, storage=storage, stride=stride, start=0)


def _joined(placed: list[Placed]) -> Storage:
    """The storage in which tensors lay, from the first of their bytes to the last."""
    first = placed[0].tensor
    laid = [replace(one.tensor, stride=one.stride, start=one.start) for one in placed]
    numel = max((tensor.start + find_region(tensor).extent if tensor.numel else 0) for tensor in laid)
    kind = first.storage.dtype
    size = numel * first.dtype.itemsize if kind is UNTYPED else numel
    different: Mapping[tuple[object, ...], Placed] = {(one.tensor.shape, one.stride, one.start): one for one in placed}
    source: Source = SpreadOut(list(different.values()), numel)
    if len(different) == 1 and find_region(laid[0]).dense and not laid[0].start:
        order = sorted(range(len(first.shape)), key=lambda axis: -placed[0].stride[axis])
        rows = contiguous_stride(first.shape)
        turned = replace(
            first,
            shape=tuple(first.shape[axis] if placed[0].stride[axis] or first.shape[axis] == 1 else 1 for axis in order),
            stride=tuple(rows[axis] for axis in order),
        )
        source = RowByRow(turned)
    return Storage(first.storage.key, kind, size, first.storage.location, source, 0)
