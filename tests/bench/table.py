"""What was measured, as lines of a table."""

from __future__ import annotations

MB = 1_000_000


def lines(entry: dict) -> list[str]:
    """The part of the table for one job."""
    title = f"{entry['name']}: {entry['what']}"
    for word in ("skipped", "failed"):
        if word in entry:
            return [title, f"  {word}: {entry[word]}"]
    if "fit" in entry:
        return [title, *(_row(one["name"], one, "") for one in entry["sizes"]), _line(entry)]
    if "runs" in entry:
        return [title, *map(_cost, entry["runs"])]
    ours = entry["gsvckpt"]
    return [title, _row("gsvckpt", ours, _goals(ours)), *(_row(one["name"], one, _told(one)) for one in entry["rivals"])]


def _cost(run: dict) -> str:
    return f"  {run['name']:<56}{run['seconds']:8.3f} s{run['peak'] / MB:7.0f} MB   exit {run['code']}   {_verdict(run['met'])}"


def _row(name: str, measured: dict, told: str) -> str:
    memory = f"{measured['peak'] / MB:7.0f} {_number(measured['anonymous']):>6} MB"
    moved = f"{_number(measured['read']):>7} {_number(measured['written']):>6} MB"
    return f"  {name:<30}{measured['seconds']:8.3f} s ±{measured['spread'] / 2:4.0%}{memory}{moved}   {told}".rstrip()


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count / MB:.0f}"


def _told(rival: dict) -> str:
    ratio, limit = rival["ratio"], rival["limit"]
    told = f"{ratio:.2f} x its time" if ratio > 0.8 else f"{1 / ratio:.1f} times faster"
    if limit is None:
        return told
    asked = f"at most {limit:g} x" if limit >= 1 else f"at least {1 / limit:g} times"
    return f"{told} ({asked}: {_verdict(rival['met'], ratio / limit)})"


def _goals(ours: dict) -> str:
    told = []
    if "peak_limit" in ours:
        told.append(f"a process has at most {ours['peak_limit'] / MB:.0f} MB more than python: {_verdict(ours['peak_met'])}")
    if "rate" in ours:
        asked = (
            f" (at least {ours['rate_limit']:,.0f}: {_verdict(ours['rate_met'], ours['rate_limit'] / ours['rate'])})" if ours["rate_limit"] else ""
        )
        told.append(f"{ours['rate']:,.0f} files a second{asked}")
    return ", ".join(told)


def _line(entry: dict) -> str:
    fit = entry["fit"]
    line = f"{fit['start']:.3f} s + {fit['each'] * 1000:.3g} ms for each of {entry['unit']}"
    return f"  {line}; no time is further than {fit['residue']:.0%} from that line"


def _verdict(met: bool, factor: float = 1) -> str:
    return "met" if met else f"MISSED by {factor:.2f}" if factor > 1 else "MISSED"
