"""The manager on the real catalog: documents, claims, outboxes, and two managers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from agents.platform.catalog import Catalog
from agents.platform.retry import Transient
from agents.rdp.server_manager.keeper import (
    CLAIM_SETTLES,
    FORGET_AFTER,
    NAMES,
    SECOND,
    SERVERS,
    NotYet,
    ServerManager,
)
from agents.rdp.server_manager.ports import PORTS, NoFreePort, PortAllocated, PortBook
from agents.rdp.server_manager.settings import ServerManagerSettings
from schemas.envelope import Event
from schemas.rdp_commands import ServerAction, ServerCommand
from schemas.rdp_config import ServerConfig
from schemas.rdp_processes import ProcessChanged, ServerPids
from schemas.rdp_servers import ServerCommandDone, ServerCommandRefused
from schemas.rdp_states import ProcessState
from schemas.sessions import new_session_id
from tests.conftest import Stack

FIRST, LAST = 13389, 13392


@dataclass
class Office:
    """A manager, and everything that it sent."""

    catalog: Catalog
    sent: list[tuple[str, Event | str]] = field(default_factory=list)
    now: int = 1_000_000 * SECOND
    broken: int = 0
    """How many sends from now on find no broker, once this many came through."""
    manager: ServerManager = field(init=False)

    def __post_init__(self) -> None:
        self.manager = self.another()

    def another(self, **settings: Any) -> ServerManager:
        section = ServerManagerSettings(
            **{"first_port": FIRST, "last_port": LAST, "servers": 3, **settings}
        )
        return ServerManager(
            self.catalog, section, "desk", "lucid/test", self.send, self.bury, lambda: self.now
        )

    async def send(self, topic: str, event: Event) -> None:
        if self.broken:
            self.broken -= 1
            raise Transient("no broker")
        self.sent.append((topic, event))

    async def bury(self, topic: str, key: str) -> None:
        self.sent.append((topic, key))

    async def order(
        self, action: ServerAction, server: str, age: float = 0.0, **fields: Any
    ) -> ServerCommand:
        command = ServerCommand(id=str(new_session_id()), action=action, server=server, **fields)
        await self.manager.handle_command(command, age)
        return command

    async def create(self, name: str = "", **fields: Any) -> ServerCommand:
        name = name or f"desk-{uuid4().hex[:8]}"
        return await self.order(
            "create", str(new_session_id()), name=name, config=ServerConfig(), **fields
        )

    async def port(self, action: Any, port: int) -> ServerCommand:
        command = ServerCommand(id=str(new_session_id()), action=action, port=port)
        await self.manager.handle_command(command, 0.0)
        return command

    async def document(self, server: str | None) -> dict[str, Any]:
        found = await self.catalog.get(SERVERS, server or "")
        assert found is not None
        return found

    async def room(self, server: str | None, state: ProcessState, **fields: Any) -> None:
        """The xrdp room says something."""
        document = await self.document(server)
        self.now += 1
        await self.manager.handle_process(ProcessChanged(**{
            "server": server, "host": "desk", "seq": document["seq"] + 1,
            "version": document["config_version"], "restarts": 0, "state": state,
            "pids": ServerPids(), "attempt": 0, "port": document["port"] or 1, **fields,
        }))  # fmt: skip

    def answer(self, command: ServerCommand) -> Any:
        """The last answer to a command; None if there is none."""
        found = [
            event.data
            for _, event in self.sent
            if isinstance(event, Event)
            and getattr(event, "correlation", "") == command.id
            and isinstance(event.data, ServerCommandDone | ServerCommandRefused)
        ]
        return found[-1] if found else None

    def told(self, topic: str) -> list[Any]:
        return [
            event.data if isinstance(event, Event) else event
            for name, event in self.sent if name == topic
        ]  # fmt: skip


@pytest.fixture
async def office(stack: Stack) -> AsyncIterator[Office]:
    settings = stack.settings.model_copy(update={"database": f"t{uuid4().hex[:12]}"})
    async with Catalog(settings) as catalog:
        yield Office(catalog)
        for name in (SERVERS, NAMES, PORTS):
            await catalog.drop(name)


async def test_a_server_from_creation_to_deletion(office: Office) -> None:
    made = await office.create("support")
    assert office.answer(made) is None
    await office.room(made.server, "running")
    assert office.answer(made) == ServerCommandDone(
        action="create", server=made.server, state="running", port=FIRST
    )
    deleted = await office.order("delete", made.server or "")
    await office.room(made.server, "stopped")
    assert office.answer(deleted).state == "deleted"
    assert [one.state for one in office.told("rdp.server.events") if hasattr(one, "name")] == [
        "creating", "configuring", "starting", "running", "stopping", "deleted",
    ]  # fmt: skip
    ports = office.told("rdp.port.events")
    assert [(one.port, one.state) for one in ports] == [(FIRST, "allocated"), (FIRST, "reserved")]
    assert ports[1].until - office.now in range(3599 * SECOND, 3601 * SECOND)
    wishes = office.told("xrdp.config.events")
    assert [getattr(one, "desired", one) for one in wishes] == [
        "running", "deleted", made.server,
    ]  # fmt: skip
    assert await office.catalog.get(NAMES, "support") is None
    assert (await office.document(made.server))["outbox"] == []
    # A port rests; the name may be taken at once.
    again = await office.create("support")
    assert (await office.document(again.server))["port"] == FIRST + 1


async def test_names_are_unique_and_servers_are_counted(office: Office) -> None:
    first = await office.create("one")
    taken = await office.create("one")
    assert office.answer(taken).code == "NameTaken"
    await office.create("two")
    await office.create("three")
    assert office.answer(await office.create("four")).code == "TooManyServers"
    # The same command once more makes nothing, and the same id is nobody else's.
    await office.manager.handle_command(first, 10_000.0)
    assert await office.catalog.count(SERVERS) == 3
    other = await office.order(
        "create", first.server or "", name="five", config=ServerConfig()
    )  # fmt: skip
    assert office.answer(other).code == "ServerExists"


async def test_commands_for_nobody_or_from_yesterday_are_refused(office: Office) -> None:
    assert office.answer(await office.order("stop", str(new_session_id()))).code == "UnknownServer"
    made = await office.create()
    await office.room(made.server, "running")
    late = await office.order("stop", made.server or "", age=301.0)
    assert office.answer(late).code == "StaleCommand"
    assert (await office.document(made.server))["state"] == "running"
    out = await office.create(port=LAST + 1)
    assert office.answer(out).code == "PortOutOfRange"
    # What the room says of a server that nobody knows is nothing.
    await office.manager.handle_process(ProcessChanged(
        server=str(new_session_id()), host="desk", seq=1, version=1, restarts=0, state="running",
        port=1, pids=ServerPids(), attempt=0,
    ))  # fmt: skip


async def test_without_a_free_port_a_server_fails_until_there_is_one(office: Office) -> None:
    for port in range(FIRST, LAST + 1):
        assert office.answer(await office.port("block_port", port)).port == port
    made = await office.create()
    assert office.answer(made).code == "NoFreePort"
    assert (await office.document(made.server))["state"] == "failed"
    await office.port("unblock_port", FIRST + 2)
    started = await office.order("start", made.server or "")
    await office.room(made.server, "running")
    assert office.answer(started).port == FIRST + 2
    blocked = await office.port("block_port", FIRST + 2)
    assert office.answer(blocked).code == "PortAllocated"
    assert office.answer(await office.port("block_port", LAST + 1)).code == "PortOutOfRange"
    # Twice the same is the same, and what is not blocked stays as it is.
    await office.port("block_port", FIRST)
    await office.port("unblock_port", FIRST + 2)
    states = {one["port"]: one["state"] for one in await office.catalog.find(PORTS)}
    assert states == {
        FIRST: "blocked", FIRST + 1: "blocked", FIRST + 2: "allocated", FIRST + 3: "blocked",
    }  # fmt: skip


async def test_a_port_that_was_asked_for_and_is_taken(office: Office) -> None:
    await office.create(port=FIRST + 1)
    taken = await office.create(port=FIRST + 1)
    assert office.answer(taken).code == "PortTaken"
    made = await office.create(port=FIRST + 2)
    await office.room(made.server, "failed", code="PortInUse", reason="occupied")
    assert office.answer(made).code == "PortInUse"
    # It rests for others; the server that gave it back may try again.
    started = await office.order("start", made.server or "")
    await office.room(made.server, "running")
    assert office.answer(started).port == FIRST + 2


async def test_an_occupied_port_leads_to_the_next_one(office: Office) -> None:
    made = await office.create()
    await office.room(made.server, "failed", code="PortInUse", reason="taken")
    document = await office.document(made.server)
    assert (document["state"], document["port"]) == ("starting", FIRST + 1)
    ports = {one["port"]: one["state"] for one in await office.catalog.find(PORTS)}
    assert ports == {FIRST: "reserved", FIRST + 1: "allocated"}
    wish = office.told("xrdp.config.events")[-1]
    assert (wish.version, wish.port) == (2, FIRST + 1)


async def test_reservations_end_and_claims_that_nobody_knows_are_given_back(
    office: Office,
) -> None:
    made = await office.create()
    await office.order("delete", made.server or "")
    await office.room(made.server, "stopped")
    ports = office.manager.ports
    await ports.claim(str(new_session_id()), "desk", office.now)
    await office.catalog.insert(NAMES, {"_id": "lost", "server": "nobody", "since": office.now})
    await office.manager.look_after()
    assert {one["state"] for one in await office.catalog.find(PORTS)} == {"reserved", "allocated"}
    office.now += CLAIM_SETTLES + 1
    await office.manager.look_after()
    assert {one["state"] for one in await office.catalog.find(PORTS)} == {"reserved"}
    assert await office.catalog.get(NAMES, "lost") is None
    office.now += 3601 * SECOND
    await office.manager.look_after()
    assert {one["state"] for one in await office.catalog.find(PORTS)} == {"available"}
    assert office.told("rdp.port.events")[-1].state == "available"
    office.now += FORGET_AFTER
    await office.manager.look_after()
    assert await office.catalog.get(SERVERS, made.server or "") is None


async def test_what_a_broker_did_not_take_is_told_later_and_nothing_twice(office: Office) -> None:
    for broken in range(1, 8):
        office.broken, office.sent = 0, []
        made = ServerCommand(
            id=str(new_session_id()), action="create", server=str(new_session_id()),
            name=f"desk-{broken}", config=ServerConfig(),
        )  # fmt: skip
        office.manager = office.another(servers=50, last_port=13500)
        left = broken
        # A broker that is away for the n-th send, and the manager that is started anew.
        plain = office.send

        async def once(topic: str, event: Event, plain: Any = plain) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Transient("no broker")
            await plain(topic, event)

        office.manager.send = once
        try:
            await office.manager.handle_command(made, 0.0)
        except Transient:
            office.manager = office.another(servers=50, last_port=13500)
            await office.manager.handle_command(made, 0.0)
        office.manager.send = plain
        document = await office.document(made.server)
        assert (document["state"], document["outbox"]) == ("starting", [])
        wishes = {one.version for one in office.told("xrdp.config.events")}
        assert wishes == {1}
        changed = [one for one in office.told("rdp.server.events") if hasattr(one, "name")]
        assert {one.version: one.state for one in changed} == {
            1: "creating", 2: "configuring", 3: "starting",
        }  # fmt: skip
        held = [one for one in await office.catalog.find(PORTS) if one["server"] == made.server]
        assert len(held) == 1


async def test_late_answers_are_told_by_the_watch(office: Office) -> None:
    await office.catalog.insert(SERVERS, {"_id": "0", "version": 1, "state": "odd"})
    made = await office.create()
    office.now += 61 * SECOND
    await office.manager.look_after()
    assert office.answer(made).code == "NoAnswer"
    assert office.manager.states == {made.server: "starting"}
    await office.room(made.server, "running")
    assert (await office.document(made.server))["state"] == "running"


async def test_two_managers_never_give_a_port_twice(office: Office) -> None:
    managers = [office.another(servers=1000, last_port=13500) for _ in range(4)]
    commands = [
        ServerCommand(
            id=str(new_session_id()), action="create", server=str(new_session_id()),
            name=f"desk-{number}", config=ServerConfig(),
        )
        for number in range(24)
    ]  # fmt: skip

    async def obey(manager: ServerManager, command: ServerCommand) -> None:
        while True:
            try:
                return await manager.handle_command(command, 0.0)
            except NotYet:
                continue

    # Every command reaches two managers, at about the same time.
    await asyncio.gather(*(
        obey(managers[(number + twin) % 4], command)
        for number, command in enumerate(commands) for twin in (0, 1)
    ))  # fmt: skip
    documents = await office.catalog.find(SERVERS)
    assert len(documents) == len(commands)
    assert {one["state"] for one in documents} == {"starting"}
    assert len({one["port"] for one in documents}) == len(commands)
    # What the slower twin of a command claimed, too, is given back.
    office.now += CLAIM_SETTLES + 1
    await office.manager.look_after()
    owners = {one["port"]: one["server"] for one in await office.catalog.find(PORTS)
              if one["state"] == "allocated"}  # fmt: skip
    assert {one["port"]: one["server"] for one in documents} == owners


async def test_a_manager_that_slept_meets_the_newer_document(office: Office) -> None:
    made = await office.create()
    document = await office.document(made.server)
    await office.room(made.server, "running")
    from agents.rdp.server_manager.record import read_record
    from agents.rdp.server_manager.servers import overdue

    record = read_record(document)
    late = overdue(record, 0, office.now + 100)
    with pytest.raises(NotYet):
        await office.manager._keep(document, record, late)
    assert (await office.document(made.server))["state"] == "running"


async def test_a_port_book_of_two_ports(office: Office) -> None:
    async def told(change: Any, correlation: str) -> None:
        return None

    book = PortBook(office.catalog, 13400, 13401, 10, told)
    one, two, three = (str(new_session_id()) for _ in range(3))
    assert await book.claim(one, "desk", 0) == 13400
    assert await book.claim(one, "desk", 0) == 13400
    assert await book.claim(two, "desk", 0) == 13401
    assert await book.claim(three, "other", 0) == 13400
    with pytest.raises(NoFreePort):
        await book.claim(three, "desk", 0)
    await book.release(two, "desk", 13400, "not its own", 0)
    await book.release(one, "desk", 13400, "over", 0)
    await book.release(one, "desk", 13400, "over", 0)
    with pytest.raises(NoFreePort):
        await book.claim(three, "desk", 9)
    await book.block("desk", 13400, "taken elsewhere", 9, "")
    with pytest.raises(NoFreePort):
        await book.claim(three, "desk", 100)
    await book.unblock("desk", 13400, "free again", 100, "")
    assert await book.claim(three, "desk", 100) == 13400
    with pytest.raises(PortAllocated):
        await book.block("desk", 13400, "x", 100, "")
