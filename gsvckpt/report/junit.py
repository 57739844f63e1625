"""Write findings as JUnit XML for CI systems: one test case for each file and check."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from gsvckpt.commands.verify.findings import CHECKS, SEVERITIES, Finding, Severity
from gsvckpt.commands.verify.result import Verification
from gsvckpt.errors import GsvError
from gsvckpt.units import printable


def junit(results: Sequence[Verification], failures: Sequence[GsvError], fail_on: Severity) -> str:
    """The document. A check fails with findings at or above `fail_on`; lesser ones are its output. One that was not made is skipped, with the reason.
    What could not be opened, read or written is an error.
    """
    root = ET.Element("testsuites", name="gsvckpt verify")
    for result in results:
        _suite(root, result, fail_on)
    for error in failures:
        suite = ET.SubElement(root, "testsuite", name=printable(error.path), tests="1", failures="0", errors="1", skipped="0", time="0")
        _error(suite, error.path, error.why, error.kind)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, result: Verification, fail_on: Severity) -> None:
    name, checks = printable(result.path), result.checks(fail_on)
    errors = 0 if result.error is None else 1
    counts = {"tests": len(CHECKS) + errors, "failures": len(checks.failed), "errors": errors, "skipped": len(checks.skipped)}
    suite = ET.SubElement(root, "testsuite", {"name": name, **{key: str(count) for key, count in counts.items()}, "time": "0"})
    if result.error is not None:
        _error(suite, result.path, result.error["why"], result.error["kind"])
    by_check: dict[str, list[Finding]] = {}
    for finding in result.findings:
        by_check.setdefault(finding.check, []).append(finding)
    for check in CHECKS:
        case = ET.SubElement(suite, "testcase", classname=name, name=check, time="0")
        found = by_check.get(check, [])
        failing = [finding for finding in found if _fails(finding, fail_on)]
        if check in checks.failed:
            failure = ET.SubElement(case, "failure", message=printable(failing[0].why), type=failing[0].severity)
            failure.text = "\n".join(map(_tell, failing))
        elif check in checks.skipped:
            ET.SubElement(case, "skipped", message=printable(checks.skipped[check]))
        if len(found) > len(failing):
            output = ET.SubElement(case, "system-out")
            output.text = "\n".join(_tell(finding) for finding in found if finding not in failing)


def _error(suite: ET.Element, path: str, why: str, kind: str) -> None:
    case = ET.SubElement(suite, "testcase", classname=printable(path), name="open", time="0")
    ET.SubElement(case, "error", message=printable(why), type=kind)


def _fails(finding: Finding, fail_on: Severity) -> bool:
    return SEVERITIES.index(finding.severity) <= SEVERITIES.index(fail_on)


def _tell(finding: Finding) -> str:
    parts = [f"{finding.severity}: {finding.where}: {finding.why}" if finding.where else f"{finding.severity}: {finding.why}"]
    parts += [f"found {finding.found}, expected {finding.expected}"] if finding.found and finding.expected else []
    parts += [f"hint: {finding.hint}"] if finding.hint else []
    return "\n".join(map(printable, parts))
