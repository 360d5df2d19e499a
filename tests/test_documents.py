"""The OpenAPI and AsyncAPI documents under docs/ are those of the code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def _make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lucid_docs_make", DOCS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json"])
def test_a_document_is_what_the_code_says(name: str) -> None:
    make = _make()
    assert (DOCS / name).read_text() == make.text_of(make.documents()[name]), "run `make docs`"


def test_every_error_of_every_route_is_described_as_a_problem() -> None:
    document: dict[str, Any] = json.loads((DOCS / "openapi.json").read_text())
    for path, methods in document["paths"].items():
        assert set(methods) == {"get"}, path
        answers = methods["get"]["responses"]
        assert {"400", "401", "403", "405", "429", "503"} <= set(answers), path
        for status, answer in answers.items():
            if int(status) >= 400:
                assert set(answer["content"]) == {"application/problem+json"}, (path, status)
            elif status == "200":
                assert answer["content"], path
