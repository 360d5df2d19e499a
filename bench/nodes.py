"""Nodes: heartbeats that the manager takes in a second, and credits of 1,000 nodes over 7 days."""

from __future__ import annotations

import asyncio
import time
from array import array

from agents.node.management.agent import build
from agents.node.management.keeper import NODES as COLLECTION
from agents.node.management.keeper import Shelves, States
from agents.node.management.settings import NodeManagementSettings
from agents.platform.catalog import Catalog
from agents.platform.contract import apply_contract, load_contract
from agents.platform.producer import Producer
from agents.platform.service import make_service, serve
from agents.platform.settings import Settings
from bench.services import on_own_stack
from schemas.node_base import SECOND
from schemas.node_credits import FIELDS, WINDOW_SLOTS, Day, Ledger, statement_bytes
from schemas.node_events import WorkCounted, WorkEvent
from schemas.node_health import SLOTS_A_DAY, take_heartbeat, work_of
from schemas.node_heartbeats import (
    SLOT,
    Beat,
    Figures,
    HeartbeatEvent,
    HeartbeatSent,
    SlotWork,
    sign_beat,
)
from schemas.node_registration import Hardware
from schemas.node_states import NodeState, Open
from schemas.notes import Signer

COUNT = 1000
ROUNDS = 5
FIRST_DAY = 20_775
SIGNER = Signer("bench/node", bytes(range(32)))
FIGURES = Figures(
    cpu=1, memory=2, disk=3, sent_bytes=4, received_bytes=5, processes=6, sessions=7
)  # fmt: skip


def run() -> dict[str, float]:
    """All figures."""
    return {**_pure(), **_credits(), **on_own_stack(_served)}


def _beat(node: str, counter: int, now: int) -> HeartbeatSent:
    work = [SlotWork(slot=now // SLOT, relay_bytes=counter, storage_proofs=1, signatures=1)]
    return sign_beat(SIGNER, Beat(node=node, counter=counter, time=now, figures=FIGURES, work=work))


def _node(name: str) -> NodeState:
    known = Open(
        id="8b1f0c9e-0f57-4a52-8d50-0a9d5d1c9a11", key=str(SIGNER.verifier), kind="worker",
        host="h", hardware=Hardware(cpus=1, memory_bytes=1, disk_bytes=1), max_sessions=1,
        challenge="ab" * 32, answer_by=0, decide_by=0, shown=True, reason="bench",
    )  # fmt: skip
    return NodeState(node=name, state="approved", registration=known)


def _pure() -> dict[str, float]:
    """Reading, checking and applying a heartbeat, without servers."""
    now = time.time_ns() // 1000
    records = [
        HeartbeatEvent(_beat("n", counter, now), "lucid/bench/h", "n").to_kafka()
        for counter in range(2000)
    ]
    state, begin = _node("n"), time.perf_counter()
    for key, headers, value in records:
        data = HeartbeatEvent.from_kafka(key, headers, value).data
        assert isinstance(data, HeartbeatSent)
        state = take_heartbeat(state, data, now).state
    return {"heartbeats read, checked and applied /s": 2000 / (time.perf_counter() - begin)}


def _full_day(day: int) -> list[WorkCounted]:
    """A node's events of a day, one a minute."""
    found: list[WorkCounted] = []
    for minute in range(1440):
        at = (day * 1440 + minute) * 60 * SECOND
        found += work_of(_unsigned(minute, at))
    return found


def _unsigned(counter: int, at: int) -> HeartbeatSent:
    work = [SlotWork(slot=at // SLOT, relay_bytes=10**6 + counter, storage_proofs=1, signatures=1)]
    beat = Beat(node="n", counter=counter, time=at, figures=FIGURES, work=work)
    return HeartbeatSent(node="n", beat=beat, signature="A" * 88)


def _credits() -> dict[str, float]:
    days = range(FIRST_DAY, FIRST_DAY + 7)
    week = [event for day in days for event in _full_day(day)]
    ledger, begin = Ledger(), time.perf_counter()
    for event in week:
        ledger.take(event)
    counting = time.perf_counter() - begin
    records = [WorkEvent(one, "lucid/bench/h", "n").to_kafka() for one in week[:2000]]
    begin = time.perf_counter()
    for key, headers, value in records:
        WorkEvent.from_kafka(key, [*headers], value)
    reading = (time.perf_counter() - begin) / len(records)
    cells = array("q", [10**9, 1, 1, 3] * SLOTS_A_DAY)
    assert len(cells) == FIELDS * SLOTS_A_DAY
    full = Ledger()
    for number in range(COUNT):
        for day in days:
            full.put(f"n{number}", day, Day(cells))
    as_of = (FIRST_DAY + 7) * SLOTS_A_DAY * SLOT
    begin = time.perf_counter()
    size = sum(len(statement_bytes(full.statement(name, as_of))) for name in full.nodes)
    adding = time.perf_counter() - begin
    assert size > 0
    assert full.statement("n0", as_of).slots == WINDOW_SLOTS
    return {
        "work events read from records /s": 1 / reading,
        "work events counted /s": len(week) / counting,
        "statements of 1,000 nodes over 7 days, s": adding,
        "1,000 nodes over 7 days from parsed events (10 million), s": (counting * COUNT + adding),
    }


async def _served(settings: Settings) -> dict[str, float]:
    """From the topic through the manager: all heartbeats of all nodes, states written."""
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    async with Catalog(settings) as catalog, Producer(settings, contract.limits) as producer:
        made = (_node(f"n{number:04d}") for number in range(COUNT))
        for document in Shelves([]).changed(made):
            await catalog.insert(COLLECTION, document)
        place = contract.topic("node.heartbeats").full_name
        sendings = []
        for counter in range(ROUNDS):
            now = time.time_ns() // 1000
            for number in range(COUNT):
                name = f"n{number:04d}"
                event = HeartbeatEvent(_beat(name, counter, now), "lucid/bench/h", name)
                sendings.append(await producer.submit_event(place, event))
        for sending in sendings:
            await producer.acknowledged(sending)
        return {"heartbeats of 1,000 nodes taken by the manager /s": await _take(settings, catalog)}


async def _take(settings: Settings, catalog: Catalog) -> float:
    service = make_service("node-management", settings, NodeManagementSettings(port=0))
    states = States(catalog)
    task = asyncio.create_task(serve(service, build))
    try:
        while (await states.node("n0000")).counter < 0:
            await asyncio.sleep(0.05)
        begin = time.perf_counter()
        done = sum(one.counter + 1 for one in (await states.nodes()).values())
        while any(one.counter < ROUNDS - 1 for one in (await states.nodes()).values()):
            await asyncio.sleep(0.25)
        return (COUNT * ROUNDS - done) / (time.perf_counter() - begin)
    finally:
        service.stop.set()
        await task
