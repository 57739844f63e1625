"""Write findings as JUnit XML for CI systems: one test case for each file and check."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from gsvckpt.commands.verify.findings import CHECKS, SEVERITIES, Finding, Severity, family
from gsvckpt.commands.verify.result import Options, Verification
from gsvckpt.errors import GsvError
from gsvckpt.units import printable

_READ = frozenset({"record.crc", "tensor.finite", "tensor.range"})  # what --quick leaves out


def junit(results: Sequence[Verification], failures: Sequence[GsvError], options: Options, fail_on: Severity) -> str:
    """The document. A check fails with findings at or above `fail_on`; lesser ones are its output. What could not be examined, read or written is an
    error.
    """
    root = ET.Element("testsuites", name="gsvckpt verify")
    for result in results:
        _suite(root, result, options, fail_on)
    for error in failures:
        suite = ET.SubElement(root, "testsuite", name=printable(error.path), tests="1", failures="0", errors="1", skipped="0", time="0")
        _error(suite, error.path, error.why, error.kind)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, result: Verification, options: Options, fail_on: Severity) -> None:
    name = printable(result.path)
    suite = ET.SubElement(root, "testsuite", name=name)
    by_check: dict[str, list[Finding]] = {}
    for finding in result.findings:
        by_check.setdefault(finding.check, []).append(finding)
    checks = [check for check in CHECKS if check in by_check or (check in options.checks and _applies(check, options))]
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    if result.error is not None:
        _error(suite, result.path, result.error["why"], result.error["kind"])
        counts["tests"], counts["errors"], checks = 1, 1, []
    for check in checks:
        case = ET.SubElement(suite, "testcase", classname=name, name=check, time="0")
        counts["tests"] += 1
        found = by_check.get(check, [])
        failing = [finding for finding in found if _fails(finding, fail_on)]
        if failing:
            message = printable(failing[0].why)
            failure = ET.SubElement(case, "failure", message=message, type=failing[0].severity)
            failure.text = "\n".join(map(_tell, failing))
            counts["failures"] += 1
        elif not found and options.quick and check in _READ:
            ET.SubElement(case, "skipped")
            counts["skipped"] += 1
        if len(found) > len(failing):
            output = ET.SubElement(case, "system-out")
            output.text = "\n".join(_tell(finding) for finding in found if finding not in failing)
    for key, count in counts.items():
        suite.set(key, str(count))
    suite.set("time", "0")


def _error(suite: ET.Element, path: str, why: str, kind: str) -> None:
    case = ET.SubElement(suite, "testcase", classname=printable(path), name="open", time="0")
    ET.SubElement(case, "error", message=printable(why), type=kind)


def _applies(check: str, options: Options) -> bool:
    """Checks that answer a question stand in the list only where it was asked."""
    return not (family(check) == "resume" and not options.resume) and not (family(check) == "against" and options.against is None)


def _fails(finding: Finding, fail_on: Severity) -> bool:
    return SEVERITIES.index(finding.severity) <= SEVERITIES.index(fail_on)


def _tell(finding: Finding) -> str:
    parts = [f"{finding.severity}: {finding.where}: {finding.why}" if finding.where else f"{finding.severity}: {finding.why}"]
    parts += [f"found {finding.found}, expected {finding.expected}"] if finding.found and finding.expected else []
    parts += [f"hint: {finding.hint}"] if finding.hint else []
    return "\n".join(map(printable, parts))
