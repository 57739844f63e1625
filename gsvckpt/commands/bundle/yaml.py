"""Write settings as YAML that YAML 1.1 and 1.2 read alike: in 1.1, which GPT-SoVITS uses, `1e-05` is text and `no` is false."""

from __future__ import annotations

import json
import math
import re

from gsvckpt.characters import escape_yaml

_KEY = r"[A-Za-z_][A-Za-z0-9_]*"
_WORDS = frozenset("y n yes no on off true false null".split())
_SPECIAL = {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}


def to_yaml(values: dict[str, object]) -> str:
    """Dicts of plain values as YAML, a line an entry; what is inside a list stays on one line."""
    return "".join(_lines(values, "")) or "{}\n"


def _lines(values: dict[str, object], indent: str) -> list[str]:
    lines: list[str] = []
    for key, value in values.items():
        nested = isinstance(value, dict) and bool(value)
        lines.append(f"{indent}{_key(key)}:\n" if nested else f"{indent}{_key(key)}: {_flow(value)}\n")
        lines += _lines(value, f"{indent}  ") if nested and isinstance(value, dict) else []
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(_KEY, key) and key.lower() not in _WORDS else _quoted(key)


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(str(key))}: {_flow(part)}' for key, part in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, float):
        return _float(value)
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _float(value: float) -> str:
    """With a dot, without which YAML 1.1 knows no float."""
    if not math.isfinite(value):
        return _SPECIAL[str(value)]
    digits, e, exponent = repr(value).partition("e")
    return f"{digits}{'' if '.' in digits else '.0'}{e}{exponent}"


def _quoted(text: str) -> str:
    """In double quotes, with everything escaped that turns or hides text; what is no Unicode becomes a question mark."""
    return escape_yaml(json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False))
