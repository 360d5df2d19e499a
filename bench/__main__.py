"""`make bench`, or `python -m bench [NAME …]`: prints the figures, and writes them as JSON."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

NAMES = (
    "sealing", "throughput", "storage", "verify", "memory", "capture", "recovery", "waiting",
    "audit", "reading", "nodes", "monitor", "rdp",
)  # fmt: skip
OUT = Path("bench/out")


def main() -> int:
    """Run the named benches, all by default."""
    wanted = sys.argv[1:] or list(NAMES)
    if unknown := [name for name in wanted if name not in NAMES]:
        print(f"there is no bench {unknown[0]}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    console = Console(highlight=False)
    results: dict[str, dict[str, float]] = {}
    for name in wanted:
        with console.status(f"Measuring {name}"):
            results[name] = importlib.import_module(f"bench.{name}").run()
        table = Table(box=None, pad_edge=False, title=name, title_justify="left")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for figure, value in results[name].items():
            table.add_row(figure, f"{value:.3f}")
        console.print(table)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"Written to {OUT / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
