"""Writes docs/openapi.json and docs/asyncapi.json from the code: `make docs`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from agents.platform.health import Health  # noqa: E402
from agents.platform.metrics import Metrics  # noqa: E402
from agents.session.api.app import make_app, openapi_document  # noqa: E402
from agents.session.api.metrics import ApiMetrics  # noqa: E402
from schemas.asyncapi import asyncapi_document  # noqa: E402
from schemas.topics import parse_contract  # noqa: E402


def documents() -> dict[str, dict[str, Any]]:
    """The documents by the names of their files."""
    metrics = Metrics("api", version="1")
    health = Health("api", version="1", metrics=metrics)
    contract = parse_contract((ROOT / "topics.yaml").read_text())
    return {
        "openapi.json": openapi_document(make_app(health, ApiMetrics(metrics.registry))),
        "asyncapi.json": asyncapi_document(contract),
    }


def text_of(document: dict[str, Any]) -> str:
    """The text of a file."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all of them."""
    for name, document in documents().items():
        (ROOT / "docs" / name).write_text(text_of(document))


if __name__ == "__main__":
    main()
