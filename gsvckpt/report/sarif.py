"""Write findings as SARIF 2.1.0, which code hosts show beside the files (OASIS standard, docs.oasis-open.org/sarif)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import quote

from gsvckpt.commands.verify.findings import CHECKS, Finding, Severity
from gsvckpt.commands.verify.result import Verification
from gsvckpt.errors import GsvError
from gsvckpt.files.paths import is_url
from gsvckpt.units import printable
from gsvckpt.version import __version__

_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_RULES = list(CHECKS)
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"


def sarif(results: Sequence[Verification], failures: Sequence[GsvError], exit_code: int, fail_on: Severity) -> dict[str, object]:
    """The document: one run, one result for each finding, one notification for each file that could not be opened, read or written.

    What became of all checks stands with each file, among the artifacts: code hosts would show a result that passed as an alert.
    """
    driver = {
        "name": "gsvckpt",
        "version": __version__,
        "rules": [{"id": check, "shortDescription": {"text": question}} for check, question in CHECKS.items()],
    }
    failed = [(result.path, result.error["why"]) for result in results if result.error is not None]
    failed += [(error.path, error.why) for error in failures]
    notes = [
        {"level": "error", "message": {"text": printable(why)}, "locations": [{"physicalLocation": _place(path)}] if path else []}
        for path, why in failed
    ]
    invocation: dict[str, object] = {"executionSuccessful": not notes, "exitCode": exit_code}
    if notes:
        invocation["toolExecutionNotifications"] = notes
    found = [_result(result.path, finding) for result in results for finding in result.findings]
    files = [{"location": _place(result.path)["artifactLocation"], "properties": {"checks": result.checks(fail_on).as_json()}} for result in results]
    run = {"tool": {"driver": driver}, "invocations": [invocation], "artifacts": files, "results": found}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(path: str, finding: Finding) -> dict[str, object]:
    text = f"{finding.why}\n{finding.hint}" if finding.hint else finding.why
    location: dict[str, object] = {"physicalLocation": _place(path)}
    if finding.where:
        location["logicalLocations"] = [{"fullyQualifiedName": printable(finding.where)}]
    properties = {key: value for key, value in (("found", finding.found), ("expected", finding.expected)) if value}
    return {
        "ruleId": finding.check,
        "ruleIndex": _RULES.index(finding.check),
        "level": _LEVELS[finding.severity],
        "message": {"text": "\n".join(map(printable, text.splitlines()))},
        "locations": [location],
        **({"properties": properties} if properties else {}),
    }


def _place(path: str) -> dict[str, object]:
    """A path below the working folder stays relative, as hosts look for it in the checkout; any other becomes a file: URL. A URL stays what it is."""
    if is_url(path):
        return {"artifactLocation": {"uri": quote(path.encode("utf-8", "surrogateescape"), safe="/:@")}}
    relative = os.path.relpath(path) if os.path.splitdrive(os.path.abspath(path))[0] == os.path.splitdrive(os.getcwd())[0] else path
    inside = not relative.startswith(os.pardir) and not os.path.isabs(relative)
    text = (relative if inside else os.path.abspath(path)).replace(os.sep, "/")
    url = quote(text.encode("utf-8", "surrogateescape"))
    return {"artifactLocation": {"uri": url if inside else f"file://{'' if url.startswith('/') else '/'}{url}"}}
