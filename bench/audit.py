"""Audit entries of a service to the broker, against a bare idempotent producer of equal records.

The bare producer sends what the audit trail sends, without a chain and without a disk. Then the
whole topic is checked, as `lucid audit verify` does, and entries are recorded one by one.
"""

from __future__ import annotations

import asyncio
import time

from aiokafka.admin import NewTopic

from agents.auditor.trail import check_trail
from agents.platform.audit import REQUEST_BYTES, Actor, Audit, AuditFull, audit_producer
from agents.platform.broker import administering
from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.producer import Producer, create_producer
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from bench.services import on_own_stack
from schemas.audit import AuditEvent, ResourceRead

NOTES, RECORDS, TOGETHER = 20_000, 100, 50
SESSION = "018bcfe5-6800-7000-8000-000000000001"
ADA = Actor("ada", "api", "203.0.113.9", ("auditor",))


def run() -> dict[str, float]:
    """Entries a second of each, and the ratio; goal 2,000 notes a second."""
    return on_own_stack(_measure)


async def _measure(settings: Settings) -> dict[str, float]:
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    bare = await _bare(settings)
    notes = await _notes(settings, contract)
    start = time.monotonic()
    report, _ = await check_trail(settings)
    checked = time.monotonic() - start
    if not report.ok or report.records != NOTES + 1:
        raise RuntimeError(f"the trail is not in order: {report}")
    return {
        "notes_s": NOTES / notes, "bare_s": NOTES / bare, "ratio": bare / notes,
        "checked_s": report.records / checked, "record_ms": await _records(settings, contract),
    }  # fmt: skip


def _act(number: int) -> ResourceRead:
    return ResourceRead(
        action="chunks.download", resource=f"/api/v1/sessions/{SESSION}/chunks/{number}",
        session=SESSION, request=f"r{number}", bytes=number, items=1, outcome="ok",
    )  # fmt: skip


async def _bare(settings: Settings) -> float:
    """Seconds to send as many events, made beforehand, to a topic of their own."""
    async with administering(settings) as admin:
        await admin.create_topics([NewTopic("bare", 1, 1)])
    records = [
        AuditEvent(
            _act(n), "lucid/api/bench", SESSION, user=ADA.user, user_type=ADA.user_type,
            address=ADA.address, roles=ADA.roles,
        ).to_kafka()
        for n in range(NOTES)
    ]  # fmt: skip
    bare = create_producer(settings, max_record=1024**2, batch_bytes=REQUEST_BYTES)
    async with bare as producer:
        start, futures = time.monotonic(), []
        for key, headers, value in records:
            futures.append(await producer.send("bare", value, key=key, headers=headers))
        await asyncio.gather(*futures)
        return time.monotonic() - start


async def _notes(settings: Settings, contract: Contract) -> float:
    """Seconds until the broker holds all notes; each is made as a request would make it."""
    async with (
        audit_producer(settings, contract) as producer,
        Audit(producer, contract, service="api") as audit,
    ):
        stop = StopSignal()
        sending = asyncio.create_task(audit.run(stop))
        start, number = time.monotonic(), 0
        while number < NOTES:
            try:
                audit.note(_act(number), SESSION, actor=ADA)
            except AuditFull:
                await asyncio.sleep(0.01)
                continue
            number += 1
            if not number % TOGETHER:
                await asyncio.sleep(0)
        await audit.deliver()
        seconds = time.monotonic() - start
        stop.set()
        await sending
        return seconds


async def _records(settings: Settings, contract: Contract) -> float:
    """Milliseconds of one entry that is waited for, as commands do."""
    async with Producer(settings, contract.limits) as producer:
        audit = Audit(producer, contract)
        start = time.monotonic()
        for number in range(RECORDS):
            await audit.record(_act(number), SESSION)
        return (time.monotonic() - start) * 1000 / RECORDS
