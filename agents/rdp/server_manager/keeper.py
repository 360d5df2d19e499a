"""Applies commands, process events and time to servers, and tells what came of it.

    rdp_server_records  {_id: server id, version, …ServerRecord}    replaced by version
    rdp_name_claims     {_id: name, server, since}                  insert only, deleted when free

Each change is one compare-and-set of a server's document, its outbox included; what is in the
outbox is told afterwards, then taken out. Whoever comes too late raises NotYet: the record
that it handles comes again and meets the newer document.

Transient
└── NotYet            another manager was faster
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from agents.platform.catalog import Catalog, Document
from agents.platform.clock import wall_clock
from agents.platform.retry import Transient
from agents.rdp.server_manager.ports import NoFreePort, PortBook, PortOutOfRange, PortTaken
from agents.rdp.server_manager.record import Outgoing, ServerRecord, read_record
from agents.rdp.server_manager.servers import (
    CommandProblem,
    configured,
    created,
    followed,
    ordered,
    overdue,
    without_port,
)
from agents.rdp.server_manager.settings import ServerManagerSettings
from schemas.canonical import Strict
from schemas.envelope import Event
from schemas.errors import FormatError
from schemas.rdp_commands import ServerCommand
from schemas.rdp_config import DesiredServer, XrdpConfigEvent
from schemas.rdp_ports import PortChanged, PortEvent
from schemas.rdp_processes import ProcessChanged
from schemas.rdp_servers import (
    ServerChanged,
    ServerCommandDone,
    ServerCommandRefused,
    ServerEvent,
)

log = structlog.get_logger(__name__)

SERVERS, NAMES = "rdp_server_records", "rdp_name_claims"
SECOND = 1_000_000
CLAIM_SETTLES = 60 * SECOND  # after which a claim that no server knows of is a leftover
FORGET_AFTER = 7 * 86_400 * SECOND  # a deleted server's document
ANSWERS: dict[str, type[Strict]] = {
    "changed": ServerChanged, "done": ServerCommandDone, "refused": ServerCommandRefused,
}  # fmt: skip
Send = Callable[[str, Event], Awaitable[None]]
"""Sends an event to a topic, by its name in the contract; None is sent by `bury`."""
Bury = Callable[[str, str], Awaitable[None]]
"""Sends a tombstone: topic, key."""


class NotYet(Transient):
    """Another manager changed the server first."""


class UnknownServer(CommandProblem):
    """There is no such server."""


class ServerExists(CommandProblem):
    """A server has this id already."""


class NameTaken(CommandProblem):
    """Another server has this name."""


class TooManyServers(CommandProblem):
    """There are as many servers as the settings allow."""


class StaleCommand(CommandProblem):
    """A command is too old: what it asked for is no longer what is wanted."""


@dataclass
class ServerManager:
    """All servers. host: where servers are created unless a command says where."""

    catalog: Catalog
    section: ServerManagerSettings
    host: str
    source: str
    send: Send
    bury: Bury
    clock: Callable[[], int] = field(default=wall_clock)
    ports: PortBook = field(init=False)
    states: dict[str, str] = field(default_factory=dict)
    """The state of each server, as it was last seen here."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.ports = PortBook(
            self.catalog, self.section.first_port, self.section.last_port,
            round(self.section.reserve_for * SECOND), self._tell_port,
        )  # fmt: skip

    # -- records in ------------------------------------------------------------------------

    async def handle_command(self, command: ServerCommand, age: float) -> None:
        """Do what a command asks for; age in seconds. Raises Transient."""
        async with self._lock:
            try:
                await self._obey(command, age)
            except CommandProblem as error:
                log.warning("command refused", command=command.id, action=command.action,
                            error=error)  # fmt: skip
                await self._refuse(command, error)

    async def handle_process(self, change: ProcessChanged) -> None:
        """Take in what the xrdp room says. Raises Transient."""
        async with self._lock:
            document = await self._load(change.server)
            if document is None:
                return  # an event of a server that was forgotten
            record = read_record(document)
            after = followed(record, change, self.section.port_tries, self.clock())
            await self._keep(document, record, after)

    async def look_after(self) -> None:
        """Late answers, unfinished changes, reservations, and claims that nobody knows of."""
        async with self._lock:
            now = self.clock()
            for document in await self.catalog.find(SERVERS):
                try:
                    record = read_record(document)
                except FormatError as error:
                    log.error("a server's document cannot be read", error=error)
                    continue  # the others are looked after all the same
                self.states[record.server] = record.state
                await self._look_at(document, record, now)
            await self.ports.tidy(now)
            await self._free_unknown(now)

    async def _look_at(self, document: Document, record: ServerRecord, now: int) -> None:
        if record.state == "deleted" and not record.outbox and now - record.changed > FORGET_AFTER:
            await self.catalog.delete(SERVERS, record.server)
            self.states.pop(record.server, None)
            return
        after = overdue(record, round(self.section.answer_within * SECOND), now)
        if after is not record or record.outbox or record.needs_port:
            try:
                await self._keep(document, record, after)
            except NotYet as error:
                log.info("looked at again later", server=record.server, error=str(error))

    async def _free_unknown(self, now: int) -> None:
        """Give back what was claimed for a server by a manager that did not get further."""
        for claim in await self.ports.allocated():
            if now - claim["since"] <= CLAIM_SETTLES:
                continue
            document = await self.catalog.get(SERVERS, claim["server"])
            if document is None or document["port"] != claim["port"]:
                await self.ports.release(
                    claim["server"], claim["host"], claim["port"], "no server has it", now
                )
        for name in await self.catalog.find(NAMES):
            if now - name["since"] > CLAIM_SETTLES:
                document = await self.catalog.get(SERVERS, name["server"])
                if document is None or document["state"] == "deleted":
                    await self.catalog.delete(NAMES, name["_id"])

    # -- commands --------------------------------------------------------------------------

    async def _obey(self, command: ServerCommand, age: float) -> None:
        now = self.clock()
        if command.server is None:
            await self._obey_port(command, age, now)
            return
        document = await self._load(command.server)
        record = read_record(document) if document else None
        known = record is not None and (
            record.answer_of(command.id) is not None
            or any(one.command == command.id for one in record.waiting)
        )
        if not known:
            self._check_age(command, age)
        if command.action == "create" and not known:
            if record is not None:
                raise ServerExists(f"a server has the id {command.server} already")
            await self._create(command, now)
            return
        if document is None or record is None:
            raise UnknownServer(
                f"there is no server {command.server}", hint="`lucid rdp list` shows all"
            )
        await self._keep(document, record, ordered(record, command, now))

    def _check_age(self, command: ServerCommand, age: float) -> None:
        if age > self.section.stale_after:
            raise StaleCommand(
                f"command {command.id} ({command.action}) is {age:.0f} s old",
                hint="Send it again if it is still wanted",
            )

    async def _create(self, command: ServerCommand, now: int) -> None:
        if command.port is not None and not (
            self.section.first_port <= command.port <= self.section.last_port
        ):
            raise PortOutOfRange(
                f"port {command.port} is not between {self.section.first_port} and "
                f"{self.section.last_port}",
                hint="Leave the port away to get the next free one",
            )
        there = await self.catalog.find(SERVERS, {"state": {"$ne": "deleted"}})
        if len(there) >= self.section.servers:
            raise TooManyServers(
                f"there are {len(there)} servers already",
                hint="Delete one, or set LUCID_SERVER_MANAGER_SERVERS",
            )
        await self._claim_name(command, now)
        record = created(command, self.host, now)
        document = _document(record, 1)
        if not await self.catalog.put_version(SERVERS, document):
            raise NotYet(f"server {record.name} was created by another manager", retry_after=0)
        await self._go_on(document, record)

    async def _claim_name(self, command: ServerCommand, now: int) -> None:
        name, server = command.name, command.server
        assert name is not None
        claim: Document = {"_id": name, "server": server, "since": now}
        if await self.catalog.insert(NAMES, claim):
            return
        owner = await self.catalog.get(NAMES, name)
        if owner is not None and owner["server"] == server:
            return
        raise NameTaken(
            f"another server is called {name}",
            hint="Take another name, or delete that server first",
        )

    async def _obey_port(self, command: ServerCommand, age: float, now: int) -> None:
        self._check_age(command, age)
        assert command.port is not None
        host = command.host or self.host
        change = self.ports.block if command.action == "block_port" else self.ports.unblock
        await change(host, command.port, command.reason, now, command.id)
        done = ServerCommandDone(action=command.action, server=None, state=None, port=command.port)
        await self._send_server(done, command.key, command.id)

    async def _refuse(self, command: ServerCommand, error: CommandProblem) -> None:
        refused = ServerCommandRefused(
            action=command.action, server=command.server, port=command.port,
            code=error.code, reason=str(error)[:500],
        )  # fmt: skip
        await self._send_server(refused, command.key, command.id)

    # -- documents and outboxes --------------------------------------------------------------

    async def _load(self, server: str) -> Document | None:
        """The document of a server, with nothing left untold."""
        document = await self.catalog.get(SERVERS, server)
        if document is not None and document["outbox"]:
            document = await self._go_on(document, read_record(document))
        return document

    async def _keep(self, document: Document, before: ServerRecord, after: ServerRecord) -> None:
        """Write a changed record, then finish what follows from it."""
        if after is not before:
            document = await self._write(after, document["version"] + 1)
        await self._go_on(document, after)

    async def _go_on(self, document: Document, record: ServerRecord) -> Document:
        """Tell what is in the outbox, and get a port for a server that needs one."""
        while record.outbox or record.needs_port:
            if record.outbox:
                for one in record.outbox:
                    await self._tell(record, one)
                record = record.model_copy(update={"outbox": []})
            else:
                record = await self._configure(record)
            document = await self._write(record, document["version"] + 1)
        return document

    async def _configure(self, record: ServerRecord) -> ServerRecord:
        now = self.clock()
        try:
            port = await self.ports.claim(
                record.server, record.host, now, wanted=record.fixed_port, tried=record.tried,
                correlation=record.waiting[-1].command if record.waiting else "",
            )  # fmt: skip
        except (NoFreePort, PortTaken, PortOutOfRange) as error:
            log.warning("no port for a server", server=record.server, error=str(error))
            return without_port(record, error, now)
        return configured(record, port, now)

    async def _write(self, record: ServerRecord, version: int) -> Document:
        document = _document(record, version)
        if not await self.catalog.put_version(SERVERS, document):
            raise NotYet(f"server {record.name} was changed by another manager", retry_after=0)
        self.states[record.server] = record.state
        return document

    async def _tell(self, record: ServerRecord, one: Outgoing) -> None:
        """Carry out one entry of an outbox; may be done again."""
        if one.kind == "release":
            await self.ports.release(
                record.server, record.host, one.data["port"], one.data["reason"], one.time
            )
        elif one.kind == "forget":
            claim = await self.catalog.get(NAMES, record.name)
            if claim is not None and claim["server"] == record.server:
                await self.catalog.delete(NAMES, record.name)
        elif one.kind == "tombstone":
            await self.bury("xrdp.config.events", record.server)
        elif one.kind == "config":
            await self.send("xrdp.config.events", XrdpConfigEvent(
                DesiredServer.model_validate(one.data), self.source, record.server,
                correlation=one.correlation, **_envelope(one),
            ))  # fmt: skip
        else:
            data = ANSWERS[one.kind].model_validate(one.data)
            await self.send("rdp.server.events", ServerEvent(
                data, self.source, record.server, correlation=one.correlation, **_envelope(one),
            ))  # fmt: skip

    async def _send_server(self, data: Strict, subject: str, correlation: str) -> None:
        event = ServerEvent(data, self.source, subject, correlation=correlation)
        await self.send("rdp.server.events", event)

    async def _tell_port(self, change: PortChanged, correlation: str) -> None:
        event = PortEvent(change, self.source, str(change.port), correlation=correlation)
        await self.send("rdp.port.events", event)


def _envelope(one: Outgoing) -> dict[str, Any]:
    seconds, micros = divmod(one.time, SECOND)
    return {
        "id": one.id, "time": datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros),
    }  # fmt: skip


def _document(record: ServerRecord, version: int) -> Document:
    return {"_id": record.server, "version": version, **record.model_dump(mode="json")}
