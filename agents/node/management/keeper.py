"""The manager's states in the catalog: nodes, pools, payouts, and the clock of the log.

    node_states                  {_id: 00 to 15, version, nodes: {node: canonical JSON}}, as JSON
    pool_states, payout_states   {_id, version, state: canonical JSON}
    node_clock                   {_id: "heartbeats", version, state}

What is told goes to the broker first; then the state is written, by a compare-and-set on its
document's version, so that two managers never lose a change. A state knows the offset of the
last record of each topic that is in it, so that none is applied twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from agents.node.management.outlet import Cause, Outlet, tell
from agents.platform.catalog import Catalog, Document
from agents.platform.retry import Transient
from schemas.canonical import Strict, decode_any, encode
from schemas.node_base import shelf_of
from schemas.node_health import LogClock
from schemas.node_payouts import PayoutState
from schemas.node_pools import PoolState
from schemas.node_states import NodeState, Step

NODES, POOLS, PAYOUTS, CLOCKS = "node_states", "pool_states", "payout_states", "node_clock"
AT_ONCE = 32
Kept = TypeVar("Kept", PoolState, PayoutState)
Model = TypeVar("Model", bound=Strict)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Overtaken(Transient):
    """Another manager changed a state first: the record is handled again."""


class KeptClock(Strict):
    """The clock after the record at `position`."""

    now: int
    since: int
    position: int
    version: int = 0


async def gather(call: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> list[Result]:
    """The results in order; AT_ONCE calls run at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> Result:
        async with room:
            return await call(item)

    return await asyncio.gather(*(one(item) for item in items))


def _read(model: type[Model], document: Document) -> Model:
    found = decode_any(model, document["state"].encode())
    return found.model_copy(update={"version": int(document["version"])})


class Shelves:
    """Documents of nodes as they were read; a node is parsed when it is asked for."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._versions: dict[str, int] = {}
        self._texts: dict[str, dict[str, str]] = {}
        for one in documents:
            self._versions[one["_id"]] = int(one["version"])
            self._texts[one["_id"]] = json.loads(one["nodes"])
        self._read: dict[str, NodeState] = {}

    def node(self, name: str) -> NodeState:
        """A node's state; a new one when there is none."""
        if name not in self._read:
            text = self._texts.get(shelf_of(name), {}).get(name)
            self._read[name] = (
                NodeState(node=name) if text is None else decode_any(NodeState, text.encode())
            )
        return self._read[name]

    def all(self) -> dict[str, NodeState]:
        """All nodes of these documents, by their ids."""
        return {
            name: self.node(name) for name in sorted(n for t in self._texts.values() for n in t)
        }

    def changed(self, after: Iterable[NodeState]) -> list[Document]:
        """The next versions of the documents that have any of these changed."""
        fresh: dict[str, dict[str, str]] = {}
        for state in after:
            if state != self.node(state.node):
                name = shelf_of(state.node)
                texts = fresh.setdefault(name, dict(self._texts.get(name, {})))
                texts[state.node] = encode(state).decode()
        return [
            {"_id": name, "version": self._versions.get(name, 0) + 1,
             "nodes": json.dumps(texts, separators=(",", ":"))}
            for name, texts in fresh.items()
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class States:
    """Reads states. Every method raises CatalogUnreachable."""

    catalog: Catalog

    async def node(self, node: str) -> NodeState:
        """A node's state; a new one when there is none."""
        return (await self.shelves([node])).node(node)

    async def nodes(self) -> dict[str, NodeState]:
        """All nodes by their ids."""
        return (await self.shelves()).all()

    async def shelves(self, nodes: Iterable[str] | None = None) -> Shelves:
        """Where these nodes stand, or all of them."""
        if nodes is None:
            return Shelves(await self.catalog.find(NODES))
        names = sorted({shelf_of(node) for node in nodes})
        if len(names) > 4:  # one look at all of them is cheaper
            return Shelves(await self.catalog.find(NODES))
        found = await gather(lambda name: self.catalog.get(NODES, name), names)
        return Shelves([one for one in found if one is not None])

    async def pool(self, pool: str) -> PoolState | None:
        document = await self.catalog.get(POOLS, pool)
        return None if document is None else _read(PoolState, document)

    async def pools(self) -> dict[str, PoolState]:
        """All pools by their ids, disbanded ones, too."""
        found = await self.catalog.find(POOLS)
        return {str(one["_id"]): _read(PoolState, one) for one in found}

    async def payout(self, payout: str) -> PayoutState | None:
        document = await self.catalog.get(PAYOUTS, payout)
        return None if document is None else _read(PayoutState, document)

    async def payouts(self) -> list[PayoutState]:
        """All requests to pay."""
        return [_read(PayoutState, one) for one in await self.catalog.find(PAYOUTS)]


@dataclass(frozen=True, slots=True)
class Keeper(States):
    """Writes states, too. Every method raises Transient while catalog or broker fail.

    working: held from reading a state to writing it, so that the topics of one manager do not
    overtake each other; another manager is met by the compare-and-set.
    """

    outlet: Outlet
    working: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def write(self, collection: str, key: str, state: Kept) -> None:
        """Write a state over the version that it was made of; raises Overtaken."""
        version = state.version + 1
        fresh = state.model_copy(update={"version": version})
        document = {"_id": key, "version": version, "state": encode(fresh).decode()}
        if not await self.catalog.put_version(collection, document):
            raise Overtaken(f"{collection} {key} was changed by another manager", retry_after=0)

    async def write_nodes(self, shelves: Shelves, after: Iterable[NodeState]) -> None:
        """Write those that are not as they were on their shelves; raises Overtaken."""

        async def put(document: Document) -> None:
            if not await self.catalog.put_version(NODES, document):
                raise Overtaken(
                    f"{NODES} {document['_id']} was changed by another manager", retry_after=0
                )

        await gather(put, shelves.changed(after))

    async def change(
        self, node: str, topic: str, cause: Cause, change: Callable[[NodeState], Step]
    ) -> None:
        """Apply one record to one node; raises what `change` raises, before anything is told."""
        async with self.working:
            await self._change(node, topic, cause, change)

    async def _change(
        self, node: str, topic: str, cause: Cause, change: Callable[[NodeState], Step]
    ) -> None:
        shelves = await self.shelves([node])
        before = shelves.node(node)
        if before.has(topic, cause.offset):
            return
        step = change(before)
        await self.outlet.send(tell(step.events, cause))
        if step.state != before:
            await self.write_nodes(shelves, [step.state.at(topic, cause.offset)])

    async def clock(self) -> KeptClock:
        """The clock of the heartbeats' log, as far as it was kept."""
        document = await self.catalog.get(CLOCKS, "heartbeats")
        if document is None:
            return KeptClock(now=0, since=0, position=-1)
        return _read(KeptClock, document)

    async def keep_clock(self, before: KeptClock, clock: LogClock, position: int) -> None:
        """Keep the clock after a record; raises Overtaken."""
        version = before.version + 1
        state = KeptClock(now=clock.now, since=clock.since, position=position, version=version)
        document = {"_id": "heartbeats", "version": version, "state": encode(state).decode()}
        if not await self.catalog.put_version(CLOCKS, document):
            raise Overtaken("the clock was changed by another manager", retry_after=0)
