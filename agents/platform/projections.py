"""Projections: views built from events alone, built anew beside the live one and swapped in.

A view's name is an alias (agents/platform/catalog.py); the document behind it:

    projections  {_id: name, version, collection, rebuild, frozen_until}

Every change of it raises `version`. A writer reads the alias before it handles an event and
again before it acks (`View`). If a rebuild froze or swapped the view in between, the event
is handled again, in whatever collection the name then stands for. So an event that was
acked without a freeze was on the topic before the freeze, and the rebuild, which reads the
topic's end after it has frozen, applies it, too. The swap is a compare-and-set on the
frozen version: a writer that no longer waits, because the freeze is over its time, lifts it
by the same means, and only one of the two succeeds.

Transient
└── Swapping          the view is about to change its place: handle the event again
LucidError
├── UnknownProjection no room has a projection of that name
└── SwapLost          another rebuild, or a writer that waited too long, came first
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agents.platform.catalog import ALIASES, Catalog, Document
from agents.platform.clock import wall_clock
from agents.platform.retry import Transient
from schemas.errors import LucidError
from schemas.topics import Contract

REGISTRY = {
    "sessions": "agents.session.pipeline.projection:SESSIONS",
    "chunk_pages": "agents.session.api.views:CHUNK_PAGES",
    "statistics": "agents.session.api.views:STATISTICS",
    "session_events": "agents.session.api.views:SESSION_EVENTS",
    "audit": "agents.session.api.audit_view:AUDIT",
    "receipts": "agents.session.api.receipts_view:RECEIPTS",
    "nodes": "agents.session.api.node_views:NODES",
    "node_figures": "agents.session.api.node_views:NODE_FIGURES",
    "node_alerts": "agents.session.api.node_views:NODE_ALERTS",
    "pools": "agents.session.api.node_views:POOLS",
    "node_work": "agents.session.api.node_views:NODE_WORK",
    "payouts": "agents.session.api.node_views:PAYOUTS",
    "rdp_server_states": "agents.session.api.rdp_views:SERVERS",
    "rdp_roster": "agents.session.api.rdp_views:ROSTER_VIEW",
    "rdp_processes": "agents.session.api.rdp_views:PROCESSES",
    "rdp_port_states": "agents.session.api.rdp_views:PORTS",
    "rdp_sessions": "agents.session.api.rdp_views:SESSIONS",
    "rdp_desktops": "agents.session.api.rdp_views:DESKTOPS",
    "rdp_metrics": "agents.session.api.rdp_views:METRICS",
    "rdp_history": "agents.session.api.rdp_views:HISTORY",
    "rdp_alerts": "agents.session.api.rdp_views:ALERTS",
}
"""Every projection, with the room's object: imported when it is asked for."""


class Swapping(Transient):
    """The view is being swapped; the event is handled again in a moment."""


class UnknownProjection(LucidError):
    """There is no projection of that name."""

    exit_status = 64  # EX_USAGE of sysexits.h


class SwapLost(LucidError):
    """The rebuilt view was not swapped in; the live one is as it was."""

    exit_status = 75  # EX_TEMPFAIL


class Record(Protocol):
    """What a projection looks at of a record, whoever read it."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...
    @property
    def value(self) -> bytes | None: ...


class Projection(Protocol):
    """What a room says of its view. Nothing here writes or sends anything."""

    @property
    def name(self) -> str: ...
    @property
    def topic(self) -> str:
        """The contract's name of the topic that it is built from."""

    def under(self, contract: Contract) -> Projection:
        """The same, where a rule depends on the contract."""

    def key(self, record: Record) -> str | None:
        """The `_id` of the document that a record changes, if any; raises FormatError."""

    async def fold(
        self, catalog: Catalog, document: Document | None, record: Record
    ) -> Document | None:
        """The document after a record, None for no change; raises FormatError.

        A record that was folded already changes nothing.
        """

    def keep(
        self, rebuilt: Document | None, live: Document, firsts: Mapping[int, int]
    ) -> Document | None:
        """What has to stand in the new view because only the live one has it.

        firsts: each partition's first offset. None: nothing, the rebuilt one stands. `live`
        itself if the document is carried over whole.
        """

    def settled(self, document: Document) -> bool:
        """Nothing but another event will change the document."""

    def same(self, rebuilt: Document, live: Document) -> bool:
        """Whether both say the same, but for what only counts writes or reads a clock."""


def find_projection(name: str) -> Projection:
    """The projection of that name; raises UnknownProjection."""
    place = REGISTRY.get(name)
    if place is None:
        raise UnknownProjection(
            f"there is no projection {name!r}", hint=f"There are {', '.join(sorted(REGISTRY))}"
        )
    module, _, attribute = place.partition(":")
    found: Projection = getattr(importlib.import_module(module), attribute)
    return found


@dataclass(frozen=True, slots=True)
class Alias:
    """Where a view is. rebuild: id of the rebuild at work; frozen_until: wall time, or None."""

    name: str
    collection: str
    version: int = 0
    rebuild: str | None = None
    frozen_until: int | None = None

    def document(self) -> Document:
        return {
            "_id": self.name, "collection": self.collection, "version": self.version,
            "rebuild": self.rebuild, "frozen_until": self.frozen_until,
        }  # fmt: skip

    def next_collection(self) -> str:
        """A name that no view has had: numbers go up, and no two rebuilds share one."""
        number = int(self.collection.removeprefix(f"{self.name}.").partition("-")[0])
        return f"{self.name}.{number + 1}-{secrets.token_hex(4)}"


async def read_alias(catalog: Catalog, name: str) -> Alias:
    """The alias as it is now."""
    document = await catalog.get(ALIASES, name)
    if document is None:
        return Alias(name, f"{name}.0")
    return Alias(name, document["collection"], document["version"], document["rebuild"],
                 document["frozen_until"])  # fmt: skip


async def change_alias(
    catalog: Catalog, before: Alias, *, collection: str | None = None,
    rebuild: str | None = None, frozen_until: int | None = None,
) -> Alias | None:  # fmt: skip
    """The alias after a compare-and-set; None when somebody else was first."""
    after = Alias(
        before.name, collection or before.collection, before.version + 1, rebuild, frozen_until
    )
    return after if await catalog.put_version(ALIASES, after.document()) else None


@dataclass(frozen=True, slots=True)
class View:
    """A projection as its live writer sees it.

    place = await view.open()       write to the collection `place.collection`
    await view.check(place)         before the event is acked
    """

    catalog: Catalog
    name: str
    clock: Callable[[], int] = field(default=wall_clock)

    async def open(self) -> Alias:
        """Where to write now; raises Swapping while the view is frozen."""
        found = await read_alias(self.catalog, self.name)
        if found.frozen_until is None:
            return found
        if self.clock() < found.frozen_until:
            raise Swapping(f"the view {self.name} is being swapped", retry_after=0.05)
        thawed = await change_alias(self.catalog, found, rebuild=found.rebuild)
        if thawed is None:
            raise Swapping(f"the view {self.name} has just been swapped", retry_after=0)
        return thawed

    async def check(self, place: Alias) -> None:
        """Raise Swapping if what was written may be in a view that is given up."""
        found = await read_alias(self.catalog, self.name)
        if found.version != place.version and (
            found.frozen_until is not None or found.collection != place.collection
        ):
            raise Swapping(f"the view {self.name} was swapped meanwhile", retry_after=0)
