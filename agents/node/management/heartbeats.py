"""`node.heartbeats`: heartbeats in batches, and what a tick makes of all nodes and pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from agents.node.management.keeper import POOLS, Keeper, KeptClock, gather
from agents.node.management.metrics import ManagementMetrics
from agents.node.management.outlet import Cause, Told, tell
from agents.platform.lanes import Record
from schemas.errors import FormatError, LucidError
from schemas.node_health import LogClock, Rules, aged, refused, take_heartbeat
from schemas.node_heartbeats import HeartbeatEvent, HeartbeatSent
from schemas.node_pools import Scaling, refreshed
from schemas.node_states import NodeRefused, NodeState, Step

log = structlog.get_logger(__name__)
TOPIC = "heartbeats"


@dataclass(slots=True)
class _Batch:
    """How far the clock has come with the records of a batch."""

    clock: LogClock
    position: int


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """The handler of the topic. Raises Transient: the records come again."""

    keeper: Keeper
    rules: Rules
    scaling: Scaling
    metrics: ManagementMetrics

    async def take(self, records: Sequence[Record]) -> Mapping[int, LucidError]:
        """Records of the partition in order; the errors of those that are no such events."""
        bad: dict[int, LucidError] = {}
        events: list[tuple[Record, HeartbeatEvent]] = []
        for record in records:
            try:
                event = HeartbeatEvent.from_kafka(record.key, record.headers, record.value)
            except FormatError as error:
                bad[record.offset] = error
                continue
            events.append((record, event))
        async with self.keeper.working:
            await self._take(events)
        return bad

    async def _take(self, events: Sequence[tuple[Record, HeartbeatEvent]]) -> None:
        kept = await self.keeper.clock()
        batch = _Batch(LogClock(kept.now, kept.since), kept.position)
        run: list[tuple[Record, HeartbeatSent]] = []
        for record, event in events:
            if isinstance(event.data, HeartbeatSent):
                run.append((record, event.data))
                continue
            await self._heartbeats(batch, run)
            run = []
            await self._tick(batch, record)
        await self._heartbeats(batch, run)
        await self._keep(kept, batch)

    async def _keep(self, kept: KeptClock, batch: _Batch) -> None:
        if batch.position > kept.position:
            await self.keeper.keep_clock(kept, batch.clock, batch.position)

    def _advance(self, batch: _Batch, record: Record) -> Cause:
        cause = Cause.of(record)
        if record.offset > batch.position:
            batch.clock, batch.position = batch.clock.at(cause.at), record.offset
        return cause

    async def _heartbeats(self, batch: _Batch, run: Sequence[tuple[Record, HeartbeatSent]]) -> None:
        """Heartbeats between two ticks: each node is read and written once."""
        if not run:
            return
        names = list(dict.fromkeys(sent.node for _, sent in run))
        shelves = await self.keeper.shelves(names)
        now = {name: shelves.node(name) for name in names}
        told: list[Told] = []
        for record, sent in run:
            cause = self._advance(batch, record)
            state = now[sent.node]
            if state.has(TOPIC, record.offset):
                continue
            step = self._one(state, sent, cause)
            told += tell(step.events, cause)
            if step.state != state:
                now[sent.node] = step.state.at(TOPIC, record.offset)
        await self.keeper.outlet.send(told)
        await self.keeper.write_nodes(shelves, now.values())

    def _one(self, state: NodeState, sent: HeartbeatSent, cause: Cause) -> Step:
        try:
            step = take_heartbeat(state, sent, cause.at)
        except NodeRefused as error:
            self.metrics.refused(error.cause)
            log.warning("heartbeat refused", node=sent.node, cause=error.cause, error=error.what)
            return refused(state, error, cause.at, f"{TOPIC} offset {cause.offset}")
        self.metrics.taken()
        return step

    async def _tick(self, batch: _Batch, record: Record) -> None:
        """The clock went on: who is silent, in maintenance, and what that makes of pools."""
        cause = self._advance(batch, record)
        shelves = await self.keeper.shelves()
        now = shelves.all()
        told: list[Told] = []
        for name, state in [*now.items()]:
            if state.has(TOPIC, record.offset):
                continue
            step = aged(state, batch.clock, self.rules)
            if step.state != state:
                told += tell(step.events, cause)
                now[name] = step.state.at(TOPIC, record.offset)
        await self.keeper.outlet.send(told)
        await self.keeper.write_nodes(shelves, now.values())
        await self._pools(now, batch.clock.now, cause)
        self.metrics.seen(now)

    async def _pools(self, nodes: Mapping[str, NodeState], now: int, cause: Cause) -> None:
        pools = await self.keeper.pools()
        steps = {
            name: refreshed(pool, nodes, now, self.scaling)
            for name, pool in pools.items()
            if not pool.disbanded and not pool.has(TOPIC, cause.offset)
        }
        changed = {name: step for name, step in steps.items() if step.state != pools[name]}
        await self.keeper.outlet.send(
            [one for step in changed.values() for one in tell(step.events, cause)]
        )

        async def write(name: str) -> None:
            await self.keeper.write(POOLS, name, changed[name].state.at(TOPIC, cause.offset))

        await gather(write, changed)
