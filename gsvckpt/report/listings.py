"""Print lists that `inspect` shows on request: tensors with statistics, the config, pickled names, memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gsvckpt.characters import escape_toml
from gsvckpt.commands.inspect.breakdown import Memory
from gsvckpt.engine.document import finite
from gsvckpt.engine.examine import Examination
from gsvckpt.formats.pickle.safety import Safety
from gsvckpt.model import Tensor
from gsvckpt.report.console import VERDICTS
from gsvckpt.report.output import write_out
from gsvckpt.report.terminal import make_console
from gsvckpt.units import printable, shape, size

if TYPE_CHECKING:
    from gsvckpt.engine.statistics import Stats
    from gsvckpt.formats.pickle.special_tensors import SpecialTensor

_LEVELS = " ▁▂▃▄▅▆▇█"
_ASCII_LEVELS = " .:-=+*#%@"
_STATISTICS = f" {'min':>9} {'max':>9} {'mean':>9} {'std':>8} {'histogram':<16}"


def print_tensors(state: Mapping[str, Tensor], measured: Mapping[str, Stats | None], special: Mapping[str, SpecialTensor], *, stats: bool) -> None:
    """One line a tensor in fixed columns, which grep and awk understand and which prints thousands at once, as a rich table does not.

    The name stands last, so that a long one breaks nothing; a `special` tensor has its form behind it. On a terminal that is too narrow for
    statistics, they have a line of their own.
    """
    console = make_console()
    levels = _LEVELS if console.encoding.startswith("utf") else _ASCII_LEVELS
    shapes = [shape(tensor.shape) for tensor in state.values()]
    width = max([len(text) for text in shapes] + [5])
    out = [f"{'dtype':<9} {'shape':<{width}} {'size':>9}{_STATISTICS if stats else ''} name"]
    for (name, tensor), text in zip(state.items(), shapes, strict=True):
        columns = f"{tensor.dtype.name:<9} {text:<{width}} {size(tensor.nbytes):>9}"
        out.append(f"{columns}{_statistics(measured.get(name), levels) if stats else ''} {printable(name)}")
    if stats and console.is_terminal and max(map(len, out)) > console.width:
        out = ["name, dtype, size", f"  {'shape':<{width}}{_STATISTICS}"]
        for (name, tensor), text in zip(state.items(), shapes, strict=True):
            out.append(f"{printable(name)}, {tensor.dtype.name}, {size(tensor.nbytes)}")
            out.append(f"  {text:<{width}}{_statistics(measured.get(name), levels)}")
    for name, one in special.items():
        sizes = f"[{', '.join('?' if number < 0 else str(number) for number in one.shape)}]"
        out.append(f"{one.dtype:<9} {sizes:<{width}} {size(one.nbytes):>9} {printable(name)} ({printable(one.form)})")
    write_out("\n".join(out) + "\n")


def _statistics(stats: Stats | None, levels: str) -> str:
    if stats is None or not stats.moments.finite:
        empty = f" {'-':>9} {'-':>9} {'-':>9} {'-':>8} {'':<16}"
        return empty + (_oddities(stats) if stats else "")
    moments = stats.moments
    numbers = f" {moments.low:>9.3g} {moments.high:>9.3g} {moments.mean:>9.2g} {moments.std:>8.2g}"
    return f"{numbers} {histogram(stats.histogram, levels):<16}{_oddities(stats)}"


def _oddities(stats: Stats) -> str:
    moments = stats.moments
    odd = [f"{number:,} {word}" for number, word in ((moments.nan, "NaN"), (moments.infinite, "inf")) if number]
    if moments.zero and moments.zero == moments.count:
        odd.append("all zero")
    elif moments.zero > moments.count / 2:
        odd.append(f"{moments.zero / moments.count:.0%} zero")
    return f" [{', '.join(odd)}]" if odd else ""


def histogram(counts: tuple[int, ...], levels: str = _LEVELS) -> str:
    """Counts as a line of blocks; what is not empty is never blank."""
    top = max(counts, default=0) or 1
    last = len(levels) - 1
    return "".join(levels[0] if not number else levels[max(1, round(number / top * last))] for number in counts)


def print_config(config: object, form: str, path: str) -> None:
    """The embedded config, to be redirected into a file."""
    if config is None:
        write_out(f"# {printable(path)} holds no config\n")
    elif form == "json":
        write_out(json.dumps(finite(config), indent=2) + "\n")
    else:
        import tomli_w

        from gsvckpt.commands.rewrite.training_config import NULLS

        unset: list[str] = []
        table = _without_none(config if isinstance(config, dict) else {"value": config}, "", unset)
        write_out(escape_toml(tomli_w.dumps(table)))  # type: ignore[arg-type]  # a dict by construction
        if unset:
            write_out(f"\n{NULLS}{printable(', '.join(unset))}\n")


def _without_none(value: object, place: str, unset: list[str]) -> object:
    if isinstance(value, dict):
        kept = {}
        for key, part in value.items():
            here = f"{place}.{key}" if place else str(key)
            if part is None:
                unset.append(here)
            else:
                kept[str(key)] = _without_none(part, here, unset)
        return kept
    if isinstance(value, list):
        return [_without_none("null" if part is None else part, place, unset) for part in value]
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 63:
        return str(value)  # beyond what TOML readers must understand
    return value


def print_globals(console: Console, safety: Safety) -> None:
    """What the pickle names, worst first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("verdict", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("use", overflow="fold")
    order = ("unsafe", "unknown", "safe")
    for judged in sorted(safety.globals, key=lambda judged: order.index(judged.verdict)):
        told = f"called with ({judged.arguments})" if judged.verdict != "safe" and judged.arguments else "called" if judged.called else "named"
        use = f"{told}; {judged.oddity}" if judged.oddity and judged.verdict == "unknown" else told
        table.add_row(Text(judged.verdict, style=VERDICTS[judged.verdict]), Text(printable(judged.name)), Text(printable(use)))
    console.print(table if safety.globals else Text("it names no classes or functions"))


def print_memory(console: Console, examination: Examination, memory: Memory) -> None:
    """Estimates for the weights; activations come on top."""
    headed = examination.checkpoint.container.head not in (None, "PK")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("use", overflow="fold")
    table.add_column("memory", justify="right", no_wrap=True)
    rows = [
        ("GPT-SoVITS loads it (a file with this head is held three times)" if headed else "torch.load", memory.torch_load),
        ("gsvckpt.load_state_dict", memory.load_state_dict),
        ("inference in float16", memory.inference_fp16),
        ("inference in float32", memory.inference_fp32),
        ("resuming training: the file, weights, gradients, two moments", memory.resume_training),
    ]
    for use, amount in rows:
        if amount is not None:
            table.add_row(use, size(amount))
    console.print(table)
