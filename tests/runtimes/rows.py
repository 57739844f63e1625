"""What one output came to, and the table of all. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.runtimes.outputs import Output, Voice


class Row(NamedTuple):
    """One output as the programs found it. `problem` is empty where it is what it must be."""

    voice: str
    output: str
    tensors: str
    sound: str
    onnx: str
    problem: str


def judge(voice: Voice, output: Output, lite: Mapping[str, Any], converted: Mapping[str, Any]) -> Row:
    """Hold one output against the original. What neither program was asked about has dashes."""
    problems = []
    tensors = sound = onnx = "-"
    found = lite["others"].get(output.name)
    if found is not None and "error" in found:
        problems.append(f"GSV-TTS-Lite: {found['error']}")
    elif found is not None:
        tensors = (
            f"{found['tensors']:,} equal" if not found["differ"] else f"{found['differ']:,} of {found['tensors']:,} differ, by {found['largest']:.1e}"
        )
        sound = "equal" if found["same"] else "other tokens" if voice.kind == "gpt" else f"{found['noise']:.1f} dB"
        keys = {key: found[key] for key in ("missing", "unexpected", "strangers") if found[key]}
        if keys:
            problems.append(f"GSV-TTS-Lite: {keys}")
        if output.exact and (found["differ"] or not found["same"]):
            problems.append(f"GSV-TTS-Lite: {tensors}, sound {sound}")
        if not output.exact and not found["differ"]:
            problems.append("GSV-TTS-Lite: nothing differs, though something was cast")
    if output.name in converted:
        original, other = converted[""], converted[output.name]
        onnx = f"{len(original)} files equal" if original and other == original else "differ"
        if onnx == "differ":
            wrong = sorted(name for name in original.keys() | other.keys() if original.get(name) != other.get(name))
            problems.append(f"Genie-TTS: {', '.join(wrong) or 'nothing was converted'}")
    return Row(voice.name, output.name, tensors, sound, onnx, "; ".join(problems))


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
