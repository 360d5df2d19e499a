"""Samples of events: Kafka records as Lucid wrote them when their type was new, as JSON.

A sample is never made again: later versions have to read it. Each make_*.py has the events of
one room and writes those that are not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from schemas.envelope import Event

AnyEvent = TypeVar("AnyEvent", bound=Event)
Sample = dict[str, Any]
Parts = tuple[bytes, list[tuple[str, bytes | None]], bytes]


def fields_of(event: Event) -> Sample:
    """The Kafka record of an event, for people."""
    key, headers, value = event.to_kafka()
    return {
        "key": key.decode(),
        "headers": {name: text.decode() for name, text in headers},
        "value": json.loads(value),
    }


def write_new(folder: Path, events: Iterable[Event]) -> None:
    """Write the samples that are not there, each under the name of its type."""
    folder.mkdir(exist_ok=True)
    for event in events:
        path = folder / f"{event.type}.json"
        if not path.exists():
            path.write_text(json.dumps(fields_of(event), indent=1, ensure_ascii=False) + "\n")


def names(folder: Path) -> list[str]:
    """The types that have a sample."""
    return sorted(path.name.removesuffix(".json") for path in folder.glob("*.json"))


def read(folder: Path, name: str) -> Sample:
    """The sample of a type."""
    found: Sample = json.loads((folder / f"{name}.json").read_text())
    return found


def record(fields: Sample) -> Parts:
    """Key, headers and value of a sample; the value as canonical JSON."""
    value = json.dumps(fields["value"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    headers: list[tuple[str, bytes | None]] = [
        (name, text.encode()) for name, text in fields["headers"].items()
    ]
    return fields["key"].encode(), headers, value.encode()


def read_and_written_again(kind: type[AnyEvent], fields: Sample) -> AnyEvent:
    """The event of a sample, which is written again byte for byte as it was."""
    key, headers, value = record(fields)
    event = kind.from_kafka(key, headers, value)
    again = event.to_kafka()
    assert (again[0], sorted(again[1]), again[2]) == (key, sorted(headers), value)
    return event
