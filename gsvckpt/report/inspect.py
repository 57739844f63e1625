"""Show one checkpoint: a panel of facts, its modules, what wastes space, and on request tensors, config, names and memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gsvckpt.commands.inspect.breakdown import Account, account, estimate_memory, group
from gsvckpt.commands.inspect.result import View, part_json
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.readers import find_readers
from gsvckpt.files.paths import name_of
from gsvckpt.hints import quote_word
from gsvckpt.report.console import VERDICTS
from gsvckpt.report.terminal import Folded, make_console, print_table, shorten
from gsvckpt.sovits.config import config_of
from gsvckpt.sovits.kinds import KINDS, Identity
from gsvckpt.sovits.runtimes import RunsIn
from gsvckpt.sovits.upstream import UpstreamError, correct, describe
from gsvckpt.units import count, plural, printable, size

if TYPE_CHECKING:
    from gsvckpt.engine.statistics import Stats
from gsvckpt.formats.known import Known
from gsvckpt.formats.pickle.safety import judge_all

_USES: Mapping[str, str] = {
    "gpt-weights": "for inference, and as a base for training",
    "gpt-training": "to resume training; inference needs the GPT weights",
    "sovits-weights": "for inference",
    "sovits-lora": "for inference, on top of the v3 or v4 base",
    "sovits-generator-training": "to resume training; inference needs the SoVITS weights",
    "sovits-discriminator-training": "to resume training, together with its G; never needed for inference",
    "sovits-generator-base": "to start training from",
    "sovits-discriminator-base": "to start training from, together with its G",
}
_BAR = 14
_FRAME = 6  # columns of a panel's upper edge that its title cannot take
_MOST_MODULES = 40  # rows, unless -v asks for all: rich needs a millisecond for each
_DEEPEST = 6  # name parts, where a single group is opened up


def print_examination(examination: Examination, view: View, measured: Mapping[str, Stats | None], *, heading: bool) -> None:
    """Print one file: the overview, or the parts that were asked for, under its name where `heading` says so."""
    console = make_console()
    counted = account(examination)
    if heading:
        console.print(Text(f"# {printable(examination.checkpoint.source.path)}", style="bold"), soft_wrap=True)
    if not view.asks_for_parts:
        _print_overview(console, examination, counted, view)
    if view.asks_for_parts:
        from gsvckpt.report import listings  # not needed for the overview, which is to appear at once
    if view.tensors:
        listings.print_tensors(view.choose(examination.state), measured, examination.special, stats=view.stats)
    if view.config:
        listings.print_config(config_of(examination.checkpoint), view.config, examination.checkpoint.source.path)
    if view.globals:
        listings.print_globals(console, examination.safety)
    if view.memory:
        listings.print_memory(console, examination, estimate_memory(examination, counted))


def _print_overview(console: Console, examination: Examination, counted: Account, view: View) -> None:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, text in _facts(examination, counted, view):
        facts.add_row(label, text)
    name = printable(name_of(examination.checkpoint.source.path))
    title = Text(shorten(name, console.width - _FRAME), style="bold")
    console.print(Panel(facts, title=title, title_align="left", box=box.ROUNDED))
    for warning in examination.warnings:
        console.print(Text(f"! {printable(warning)}", style="yellow"))
    if examination.state:
        print_table(console, _modules(console, examination, counted, view))
    for line in _advice(examination, counted):
        console.print(line, soft_wrap=True)  # a command broken into two lines cannot be pasted


def _facts(examination: Examination, counted: Account, view: View) -> Iterator[tuple[str, Text]]:
    identity, container = examination.identity, examination.checkpoint.container
    use = _USES.get(identity.kind)
    yield "kind", Text.assemble((KINDS[identity.kind], "bold"), f", {use}" if use else "")
    if identity.version or identity.versions:
        version = identity.version or " or ".join(identity.versions)
        evidence = identity.version_evidence if view.verbose else _deciding(identity)
        yield "version", Text.assemble((version, "bold"), printable(f" ({'; '.join(evidence)})" if evidence else ""))
    progress = identity.progress
    steps = [f"{word} {number:,}" for word, number in (("epoch", progress.epoch), ("step", progress.step)) if number is not None]
    if steps or progress.info:
        yield "trained", Text(printable(", ".join(steps) + (f" (info: {progress.info})" if progress.info else "")).strip())
    if identity.lora_rank is not None:
        yield "LoRA rank", Text(str(identity.lora_rank))
    dtypes = ", ".join(name if len(counted.by_dtype) == 1 else f"{name} x {tensors}" for name, (tensors, _) in counted.by_dtype.items())
    parameters = sum(tensor.numel for tensor in examination.state.values())
    if examination.state:
        yield "model", Text(f"{plural(len(examination.state), 'tensor')}, {count(parameters)} parameters, {dtypes}")
    if examination.special:
        forms = Counter(special.form for special in examination.special.values())
        told = ", ".join(f"{number:,} {form}" for form, number in forms.items())
        yield "special", Text(f"{plural(len(examination.special), 'more tensor')}: {printable(told)}; kept as they are")
    shares = [(counted.weights, "weights"), (counted.optimizer, "training state"), (counted.unused, "unused"), (counted.other, "other")]
    parts = [f"{size(amount)} {word}" for amount, word in shares if amount >= counted.file / 200]
    yield "size", Text(size(counted.file) + (f" = {' + '.join(parts)}" if len(parts) > 1 else ""))
    head = f", head {printable(container.head)}" if container.head is not None else ""
    folder = f", folder {printable(container.prefix)}" if container.prefix and view.verbose else ""
    files = f" in {plural(container.shards, 'file')}" if container.shards else ""
    named = part_json(examination.checkpoint)
    part = f", part {named['number']} of {named['of']}" if named is not None else ""
    yield "container", Text(f"{container.format}{head}{folder}, {plural(container.records, 'record')}{files}{part}")
    if examination.upstream is not None:
        yield "GPT-SoVITS", _upstream(examination)
    readers = _readers(examination, verbose=view.verbose)
    if readers is not None:
        yield "runs in", readers
    if examination.official is not None:
        yield "official", Text(f"{examination.official.file.name} ({examination.official.confidence})")
    yield "safety", _safety(examination)


def _deciding(identity: Identity) -> tuple[str, ...]:
    """The one piece of evidence to show: the first, unless that leaves a choice which the next one decides."""
    undecided = bool(identity.version) and " or " in identity.version_evidence[0] if identity.version_evidence else False
    return identity.version_evidence[1:2] if undecided and len(identity.version_evidence) > 1 else identity.version_evidence[:1]


def _upstream(examination: Examination) -> Text:
    detected = examination.upstream
    if detected is None or isinstance(detected, UpstreamError):
        return Text(f"cannot open it: {detected.error if detected else ''}", style="red")
    corrected = correct(detected, examination.rows)
    said = f"reads it as {describe(corrected.model, corrected.lora)}, by its {detected.rule}"
    if corrected.model != detected.model:
        said += f" as {detected.model}, then corrected from the tensors"
    return Text(said, style="yellow" if examination.warnings else "")


def _readers(examination: Examination, *, verbose: bool) -> Text | None:
    """The programs that take the file, and why others do not: of training files, that is no surprise; `verbose` tells every role."""
    found = find_readers(examination)
    if not found:
        return None
    own = [one.role for one in found if one.takes and one.runtime == "GPT-SoVITS"]
    others = [one.runtime for one in found if one.takes and one.runtime != "GPT-SoVITS"]
    taken = [*([f"GPT-SoVITS ({', '.join(own)})"] if own else []), *others]
    is_trained = any(one.role == "resume" and one.takes for one in found)
    refusals = [one for one in found if not one.takes and (verbose or (one.role in ("inference", "conversion") and not is_trained))]
    lines = [", ".join(taken) or "no program that gsvckpt knows", *(f"not in {_reader(one)}: {one.why}" for one in refusals)]
    return Text("\n".join(map(printable, lines)))


def _reader(found: RunsIn) -> str:
    return f"{found.runtime}'s {found.role}" if found.runtime == "GPT-SoVITS" else found.runtime


def _safety(examination: Examination) -> Text:
    safety = examination.safety
    why = {
        "safe": "it names only data"
        if safety.globals
        else "it holds no pickle"
        if examination.checkpoint.container.format == "safetensors"
        else "it names no classes or functions",
        "unsafe": f"it {safety.tell_unsafe(4)}",
        "unknown": f"it {safety.tell_unknown(4)}" if safety.of("unknown") else "; ".join(doubt.why for doubt in safety.doubts),
    }[safety.verdict]
    return Text.assemble((safety.verdict, VERDICTS[safety.verdict]), f", {printable(why)}")


def _modules(console: Console, examination: Examination, counted: Account, view: View) -> Table:
    state, depth = view.choose(examination.state), view.depth
    groups = group(state, depth)
    while len(groups) == 1 and groups[0].tensors > 1 and depth < _DEEPEST:  # GPT files keep everything below `model`
        depth += 1
        groups = group(state, depth)
    if view.sort != "name":
        groups.sort(key=lambda entry: -entry.bytes)
    shown = groups if view.verbose or len(groups) <= _MOST_MODULES else groups[: _MOST_MODULES - 1]
    rows = [(entry.name, f"{entry.tensors:,}", count(entry.parameters), entry.bytes, ", ".join(entry.dtypes)) for entry in shown]
    rest = groups[len(shown) :]
    if rest:
        numbers = f"{sum(entry.tensors for entry in rest):,}", count(sum(entry.parameters for entry in rest)), sum(entry.bytes for entry in rest)
        rows.append((f"({len(rest):,} more; -v lists them)", *numbers, ""))
    if counted.optimizer:
        rows.append(("(training state)", "", "", counted.optimizer, ""))
    if counted.unused:
        rows.append(("(unused)", "", "", counted.unused, ""))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("module")  # alone gives way where all is too wide
    table.add_column("tensors", justify="right", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=_BAR)
    mixed = len(counted.by_dtype) > 1  # a single dtype stands in the panel
    if mixed:
        table.add_column("dtype", overflow="fold")
    largest = max((row[3] for row in rows), default=0) or 1
    block = "█" if console.encoding.startswith("utf") else "#"
    for name, tensors, parameters, amount, dtypes in rows:
        bar = Text(block * max(round(_BAR * amount / largest), 1 if amount else 0), style="magenta" if name.startswith("(") else "cyan")
        table.add_row(Folded(Text(printable(name))), tensors, parameters, size(amount), bar, *([dtypes] if mixed else []))
    return table


def _advice(examination: Examination, counted: Account) -> Iterator[Text]:
    """What wastes space, and the command that gets it back; and what a training file is good for besides."""
    quoted = printable(quote_word(examination.checkpoint.source.path))
    if examination.identity.kind in ("gpt-training", "sovits-generator-training"):
        yield Text.assemble("weights for inference: ", (f"gsvckpt migrate {quoted} --to-inference", "bold"))
    if counted.saves_strip:
        yield _saving("training state", counted.saves_strip, counted, f"gsvckpt strip-optimizer {quoted}")
    if counted.saves_fp16:
        yield _saving("weights wider than float16", counted.saves_fp16, counted, f"gsvckpt convert-fp16 {quoted}")
    if counted.float64:
        yield Text(f"{size(counted.float64)} of it are float64, which no model needs")
    if counted.unused:
        yield _saving("bytes that no tensor reaches", counted.unused, counted, f"gsvckpt migrate {quoted} --compact")
    if counted.duplicates:
        yield Text(f"{size(counted.duplicates)} are stored twice: equal size and checksum")


def _saving(what: str, amount: int, counted: Account, command: str) -> Text:
    share = f"{size(amount)} ({amount / counted.file:.0%})"
    return Text.assemble(f"{what}: {share} can be removed", (": " if command else ""), (command, "bold"))


def print_known(known: Known) -> None:
    """Its size, its container, and the names in its pickle as far as that could be read."""
    container, safety = known.container, judge_all(known.globals, known.calls)
    head = f", head {printable(container.head)}" if container.head is not None else ""
    records = f", {plural(container.records, 'record')}" if container.records else ""
    names = ", ".join(f"{printable(judged.name if judged.verdict == 'safe' else str(judged))} ({judged.verdict})" for judged in safety.globals)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("size", size(known.size))
    facts.add_row("container", Text(f"{container.format}{head}{records}"))
    facts.add_row("names", Text(names or "none could be read"))
    make_console().print(facts)
