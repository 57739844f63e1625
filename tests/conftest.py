"""For all tests."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import soak
from schemas import problems_of

from gsvckpt.files.secrets import forget
from gsvckpt.report import json_document


def pytest_report_header() -> str:
    return f"long tests: {'all' if soak.IS_WHOLE else 'a tenth'} of their cases, seed {soak.SEED} (SEED=N repeats one)"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Secrets of one test's URLs would keep the next one's files in this process."""
    yield
    forget()


@pytest.fixture(autouse=True)
def valid_documents(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every JSON document that a test prints in this process is as its schema in docs/json says."""
    problems: list[str] = []
    inner = json_document._Document.write
    printed: dict[json_document._Document, str] = {}

    def write(document: json_document._Document, text: str) -> None:
        inner(document, text)
        printed[document] = printed.get(document, "") + text
        if text.endswith("\n}\n"):  # its end
            found = json.loads(printed.pop(document))
            problems.extend(problems_of(found["schema"].removesuffix("/2").removeprefix("gsvckpt").removeprefix("."))(found))

    monkeypatch.setattr(json_document._Document, "write", write)
    yield
    assert not problems, problems[:20]
