"""Legal holds: what is in force stands in the topic `session.holds`, who was first in the catalog.

    register = Register(settings, contract, catalog, producer)
    await register.sync()                      the catalog's document is that of the topic
    begun = await register.set_hold(hold)      returns once it is in force
    forbidding = await register.claim(session, project)

The topic is compacted and kept for ever, so that a catalog that is lost loses no hold. What
decides between a hold and an erasure is a row of documents, one for each change: an erasure
claims its session there before it touches anything, and gets no claim while a hold covers it;
a hold that comes behind a claim is told so.

    retention  {_id: "holds:<version>", version, offset, holds: [{id, offset, hold}],
                claims: [{session, at}]}

offset: behind the last record of the topic that is in here; hold: canonical JSON. Whoever
inserts the next version was first: a unique `_id` is the one thing that every catalog decides
atomically. (FerretDB 1.24 as published lets two replacements of a version both succeed.)

LucidError
├── NoSuchHold        there is no hold of that id
└── Transient
    └── Contended     others changed the document again and again
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from agents.platform.catalog import Catalog, Document
from agents.platform.clock import wall_clock
from agents.platform.contract import Contract
from agents.platform.producer import Producer
from agents.platform.reader import open_reader
from agents.platform.retry import Transient
from agents.platform.settings import Settings
from schemas.canonical import decode, encode
from schemas.errors import LucidError
from schemas.retention import Hold, holding

log = structlog.get_logger(__name__)

TOPIC = "session.holds"
COLLECTION = "retention"
PREFIX = "holds:"
KEPT = 100  # versions
TRIES = 200
FETCH_BYTES = 1024**2


class NoSuchHold(LucidError):
    """No hold of that id is in force."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


class Contended(Transient):
    """The document of holds changed under every try."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A hold in force, and the offset of its record in the topic."""

    hold: Hold
    offset: int


@dataclass(frozen=True, slots=True)
class State:
    """The document. claims: sessions that are being erased, and since when (microseconds)."""

    version: int = 0
    offset: int = 0
    entries: tuple[Entry, ...] = ()
    claims: dict[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> list[Hold]:
        return [entry.hold for entry in self.entries]

    def document(self) -> Document:
        return {
            "_id": f"{PREFIX}{self.version}", "version": self.version, "offset": self.offset,
            "holds": [
                {"id": one.hold.id, "offset": one.offset, "hold": encode(one.hold).decode()}
                for one in self.entries
            ],
            "claims": [{"session": name, "at": at} for name, at in self.claims.items()],
        }  # fmt: skip


def read_state(document: Document | None) -> State:
    """The state of a catalog document; raises FormatError."""
    if document is None:
        return State()
    entries = [
        Entry(decode(Hold, one["hold"].encode()), one["offset"]) for one in document["holds"]
    ]
    claims = {one["session"]: one["at"] for one in document["claims"]}
    return State(document["version"], document["offset"], tuple(entries), claims)


class Register:
    """The holds of an installation. Every method raises BrokerUnreachable, CatalogUnreachable."""

    def __init__(
        self, settings: Settings, contract: Contract, catalog: Catalog, producer: Producer,
        clock: Callable[[], int] = wall_clock,
    ) -> None:  # fmt: skip
        self._settings, self._contract = settings, contract
        self._catalog, self._producer = catalog, producer
        self._clock = clock
        self._topic = contract.topic(TOPIC).full_name

    async def state(self) -> State:
        """The newest version."""
        while versions := await self._versions():
            document = await self._catalog.get(COLLECTION, f"{PREFIX}{versions[-1]}")
            if document is not None:
                return read_state(document)
        return State()

    async def _versions(self) -> list[int]:
        ids = await self._catalog.ids(COLLECTION)
        return sorted(int(one.removeprefix(PREFIX)) for one in ids if one.startswith(PREFIX))

    async def _put(self, before: State, after: State) -> bool:
        """Insert the version behind `before`; whether nobody else had."""
        if not await self._catalog.insert(COLLECTION, after.document()):
            return False
        versions = await self._versions()
        if before.version and before.version not in versions:
            # So long ago that it was cleaned away: others have gone on, and this counts nothing.
            await self._catalog.delete(COLLECTION, f"{PREFIX}{after.version}")
            return False
        for old in versions[:-KEPT]:
            await self._catalog.delete(COLLECTION, f"{PREFIX}{old}")
        return True

    async def sync(self) -> State:
        """Make the document what the topic says, and give back a topic what it lost."""

        async def synced(before: State) -> State:
            entries, end = await self._read_topic()
            if end < before.offset:
                log.error("session.holds has lost records: its holds are written again",
                          end=end, known=before.offset)  # fmt: skip
                known = {one.hold.id for one in entries}
                for lost in before.holds:
                    if lost.id not in known:
                        await self._send(lost.id, encode(lost))
                entries, end = await self._read_topic()
            return replace(before, entries=tuple(entries), offset=end)

        return await self._change(synced)

    async def set_hold(self, hold: Hold) -> list[str]:
        """Put a hold in force; the sessions that were being erased when it came."""
        offset = await self._send(hold.id, encode(hold))

        async def with_hold(before: State) -> State:
            others = [one for one in before.entries if one.hold.id != hold.id]
            return replace(
                before,
                entries=(*others, Entry(hold, offset)),
                offset=max(before.offset, offset + 1),
            )

        return sorted((await self._change(with_hold)).claims)

    async def release(self, identifier: str) -> Hold:
        """Lift a hold; raises NoSuchHold."""
        found = [one for one in (await self.sync()).holds if one.id == identifier]
        if not found:
            raise NoSuchHold(
                f"there is no hold {identifier[:80]}", hint="`lucid hold list` shows all"
            )
        offset = await self._send(identifier, None)

        async def without(before: State) -> State:
            kept = [
                one for one in before.entries
                if one.hold.id != identifier or one.offset > offset
            ]  # fmt: skip
            return replace(before, entries=tuple(kept), offset=max(before.offset, offset + 1))

        await self._change(without)
        return found[0]

    async def claim(self, session: str, project: str) -> list[Hold]:
        """Claim a session for its erasure; the holds that forbid it, none when it is claimed.

        A claim that stands already stands only as long as no hold covers the session.
        """
        forbidding: list[Hold] = []

        async def claimed(before: State) -> State:
            forbidding[:] = holding(before.holds, session, project)
            claims = {**before.claims, session: before.claims.get(session, self._clock())}
            return before if forbidding else replace(before, claims=claims)

        await self._change(claimed)
        return forbidding

    async def free(self, session: str) -> None:
        """Give a claim back."""

        async def freed(before: State) -> State:
            claims = {name: at for name, at in before.claims.items() if name != session}
            return replace(before, claims=claims)

        await self._change(freed)

    async def _change(self, change: Callable[[State], Awaitable[State]]) -> State:
        """Apply a change by compare-and-set; what does not change anything is not written."""
        for _ in range(TRIES):
            before = await self.state()
            if not before.version:
                # A catalog that has none is new or was lost: the topic's holds are in force.
                entries, end = await self._read_topic()
                before = State(offset=end, entries=tuple(entries))
            after = await change(before)
            if after == before and before.version:
                return before
            after = replace(after, version=before.version + 1)
            if await self._put(before, after):
                return after
        raise Contended("the holds were changed by others again and again", retry_after=1)

    async def _send(self, identifier: str, value: bytes | None) -> int:
        placed = await self._producer.send(self._topic, value, key=identifier.encode(), partition=0)
        return int(placed.offset)

    async def _read_topic(self) -> tuple[Sequence[Entry], int]:
        """All holds in force, and the offset behind the last record."""
        found: dict[bytes, Entry] = {}
        async with open_reader(self._settings, self._contract, TOPIC, FETCH_BYTES) as reader:
            first, end = reader.bounds[0]
            async for raw in reader.records({0: first}):
                key = raw.key or b""
                if raw.value is None:
                    found.pop(key, None)
                else:
                    found[key] = Entry(decode(Hold, raw.value), raw.offset)
        return list(found.values()), end
