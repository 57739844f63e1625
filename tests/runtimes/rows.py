"""What one output came to, and the table of all. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.runtimes.outputs import Output


class Verdict(NamedTuple):
    """What one program found of one output: cells of the table, and what is wrong with it."""

    cells: tuple[str, ...]
    problems: tuple[str, ...] = ()


class Row(NamedTuple):
    """One output as the programs found it. `problem` is empty where it is what it must be."""

    voice: str
    output: str
    tensors: str
    sound: str
    onnx: str
    problem: str


def judge_lite(output: Output, found: Mapping[str, Any] | None) -> Verdict:
    """What GSV-TTS-Lite got. Without a cast it must be the original, with one what torch's own cast gives. None: it was not asked."""
    if found is None:
        return Verdict(("-", "-"))
    if "error" in found:
        return Verdict(("-", "-"), (f"GSV-TTS-Lite: {found['error']}",))
    cells = _tensors(found), _sound(found)
    problems = []
    keys = {key: found[key] for key in ("missing", "unexpected", "strangers") if found[key]}
    if keys:
        problems.append(f"GSV-TTS-Lite: {keys}")
    must = found["by_torch"] if output.cast else found
    if must["differ"] or not must["same"]:
        told = f"{_tensors(must)}, sound {_sound(must)}"
        problems.append(f"GSV-TTS-Lite: {'not what torch casts: ' if output.cast else ''}{told}")
    if output.cast and not found["differ"]:
        problems.append("GSV-TTS-Lite: nothing differs from the original, though something was cast")
    return Verdict(cells, tuple(problems))


def judge_genie(must: Mapping[str, str] | None, made: Mapping[str, str] | None) -> Verdict:
    """The files that Genie-TTS made must be there, and those that it makes of the original, or of torch's own cast. None: it was not asked."""
    if must is None or made is None:
        return Verdict(("-",))
    wrong = sorted(name for name in must.keys() | made.keys() if must.get(name) != made.get(name))
    if wrong or not must:
        return Verdict(("differ",), (f"Genie-TTS: {', '.join(wrong) or 'nothing was converted'}",))
    return Verdict((f"{len(must)} files equal",))


def make_row(voice: str, output: str, lite: Verdict, genie: Verdict) -> Row:
    return Row(voice, output, *lite.cells, *genie.cells, "; ".join((*lite.problems, *genie.problems)))


def table(rows: Sequence[Row], seconds: float) -> str:
    """The table of docs/fidelity.md."""
    converted = sum(row.onnx != "-" for row in rows)
    told = f"{len(rows):,} outputs, {seconds:,.0f} s on {os.cpu_count()} cores: GSV-TTS-Lite loads all, with no key missing or unwanted; Genie-TTS"
    lines = [
        f"{told} makes the same ONNX of {converted:,} of {converted:,}.",
        "",
        "| voice | output | GSV-TTS-Lite: tensors | sound or tokens | Genie-TTS: ONNX |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {row.voice} | {row.output} | {row.tensors} | {row.sound} | {row.onnx} |" for row in rows]
    return "\n".join(lines)


def _tensors(found: Mapping[str, Any]) -> str:
    if not found["differ"]:
        return f"{found['tensors']:,} equal"
    return f"{found['differ']:,} of {found['tensors']:,} differ, by {found['largest']:.1e}"


def _sound(found: Mapping[str, Any]) -> str:
    if found["same"]:
        return "equal"
    return "other tokens" if found["noise"] is None else f"{found['noise']:.1f} dB"
