"""Events of a made session and its entries in the catalog, for the keeper."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer

from agents.session.pipeline.keeper import SessionKeeper
from schemas.canonical import Strict
from schemas.events import (
    ManifestStored,
    RecordsExpired,
    SessionClosed,
    SessionEvent,
    SessionOpened,
    chunk_stored,
)
from schemas.manifests import manifest_hash
from schemas.notes import Signer
from tests.conftest import Stack
from tests.factories import MadeSession

FOREIGN = Signer("foreign.example/one", b"\x07" * 32)
SECOND = 1_000_000
HOUR = 3600 * SECOND
BEGIN = 1_800_000_000 * SECOND


def event(made: MadeSession, data: Strict) -> SessionEvent:
    return SessionEvent(data, "lucid/test/h", made.manifest.session,
                        time=datetime.fromtimestamp(BEGIN / SECOND, UTC))  # fmt: skip


def opened(made: MadeSession) -> SessionEvent:
    return event(made, SessionOpened(
        session=made.manifest.session, partition=2, offset=0, host="desk", recorder="r",
        codec="bytes/1", source={}, started=BEGIN,
    ))  # fmt: skip


def closed(made: MadeSession) -> SessionEvent:
    return event(made, SessionClosed(
        session=made.manifest.session, next_seq=made.manifest.next_seq, raw_bytes=1, reason="done",
    ))  # fmt: skip


async def store(keeper: SessionKeeper, made: MadeSession, *, but: int = -1) -> list[SessionEvent]:
    """Put a session into the catalog as storage does; its events."""
    session, found = made.manifest.session, []
    for chunk in made.chunks:
        header = chunk.header
        if header.index != but:
            await keeper.catalog.insert("chunks", {
                "_id": f"{session}:{header.index}", "session": session, "index": header.index,
                "leaf": chunk.leaf.hex(), "size": len(chunk.data), "records": header.records,
                "missing": header.missing, "first_seq": header.first_seq,
                "next_seq": header.next_seq, "raw_size": header.raw_size, "last": header.last,
            })  # fmt: skip
        found.append(event(made, chunk_stored(header, chunk.leaf, len(chunk.data))))
    await keeper.catalog.insert("manifests", {
        "_id": session, "manifest": made.manifest_bytes.decode(), "checkpoint": made.checkpoint,
        "hash": manifest_hash(made.manifest_bytes).hex(),
    })  # fmt: skip
    digest = manifest_hash(made.manifest_bytes).hex()
    return [*found, event(made, ManifestStored(session=session, manifest_hash=digest))]


async def read_all(keeper: SessionKeeper, topic: str, stack: Stack) -> list[object]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=stack.kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        batches = await consumer.getmany(timeout_ms=5000)
        return [raw for batch in batches.values() for raw in batch]
    finally:
        await consumer.stop()


def expired(
    topic: str, *, partition: int = 2, first: int = 0, session: str | None = None
) -> SessionEvent:
    return SessionEvent(
        RecordsExpired(
            session=session, topic=topic, partition=partition, first_offset=first,
            next_offset=first + 5, next_seq=7 if session else None,
        ),
        "lucid/test/h", session or f"{topic}/{partition}",
    )  # fmt: skip


def at(keeper: SessionKeeper, seconds: int) -> SessionKeeper:
    return replace(keeper, clock=lambda: BEGIN + seconds * SECOND)
