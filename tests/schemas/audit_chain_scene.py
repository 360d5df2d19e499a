"""Chains of audit entries, and what a check says of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from schemas.audit import (
    AuditEvent,
    ChainStarted,
    KafkaRecord,
    ProjectionRebuilt,
    put_in_chain,
)
from schemas.audit_chain import (
    Fault,
    Place,
    entry_hash,
    read_attributes,
)
from schemas.audit_trail import Expiry, Known, TrailCheck, TrailReport
from schemas.canonical import Strict

CHAIN = "cli/019b76da-a802-7000-8000-00000000c4a1"
OTHER = "api/019b76da-a802-7000-8000-00000000c4a2"
SOURCE = "lucid/cli/desk"
START = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = 365 * 86_400_000_000


def event(number: int, act: Strict | None = None, *, source: str = SOURCE) -> AuditEvent:
    return AuditEvent(
        act or ProjectionRebuilt(projection="sessions", events=number), source, "sessions",
        user="ada", id=f"{source}-{number}", time=START + timedelta(seconds=number),
    )  # fmt: skip


def chain(length: int, name: str = CHAIN) -> list[KafkaRecord]:
    """A chain of so many entries."""
    source = f"lucid/{name.partition('/')[0]}/desk"
    acts = [event(0, ChainStarted(reason="first", former=None), source=source),
            *(event(number, source=source) for number in range(1, length))]  # fmt: skip
    return [record for record, _ in put_in_chain(acts[:length], Place(name, 0))]


def hash_of(record: KafkaRecord) -> bytes:
    return entry_hash(read_attributes(record[1]), record[2])


def state_of(entries: Sequence[KafkaRecord], name: str = CHAIN) -> Known:
    """What the installation knows that wrote these entries."""
    last = len(entries) - 1
    return Known(name, "the state", {last: hash_of(entries[last])}, most=len(entries))


def check(topic: Sequence[KafkaRecord], *known: Known, expiry: Expiry | None = None) -> TrailReport:
    trail = TrailCheck()
    for offset, (_, headers, value) in enumerate(topic):
        trail.add(headers, value, offset)
    return trail.finish(known, expiry)


def faults(report: TrailReport) -> set[Fault]:
    found = [*report.findings, *(one for chain in report.chains for one in chain.findings)]
    return {one.fault for one in found}


def altered(record: KafkaRecord, header: str, value: bytes | None) -> KafkaRecord:
    """A record with another header; None takes it away."""
    key, headers, data = record
    kept = [(name, value if name == header else old) for name, old in headers]
    return key, [(name, text) for name, text in kept if text is not None], data
