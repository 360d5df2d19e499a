"""One part in a process of its own: `python -m bench.part NAME full|quick RESULT.json`."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from bench.parts import BY_NAME

Found = Mapping[str, float | Sequence[float]]


def measured(found: Found) -> dict[str, list[float]]:
    """Every figure as a list: what was measured several times in a run has several values."""
    return {
        name: [float(one) for one in (value if isinstance(value, Sequence) else [value])]
        for name, value in found.items()
    }


def main() -> None:
    name, kind, path = sys.argv[1:]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    module = importlib.import_module(f"bench.{name}")
    for constant, value in BY_NAME[name].constants(quick=kind == "quick").items():
        if not hasattr(module, constant):
            raise AttributeError(f"bench.{name} has no {constant} that bench/parts.py could set")
        setattr(module, constant, value)
    Path(path).write_text(json.dumps(measured(module.run())))


if __name__ == "__main__":
    main()
