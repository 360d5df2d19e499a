"""Which server has which port: one document for each port that was ever used.

    rdp_port_claims   {_id: "<host>:<port>", version, host, port, state, server, until, since,
                       reason}

A port is claimed by inserting its document, or by replacing the one that says it is free, at
that document's version. The catalog lets one of two claims through, whoever makes them: also
a manager that was asleep while another took its place.

CommandProblem
├── NoFreePort        every port is allocated, reserved or blocked
├── PortTaken         the port that was asked for is
├── PortAllocated     a server has the port: it cannot be blocked
└── PortOutOfRange    the settings have no such port
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from agents.platform.catalog import Catalog, Document
from agents.rdp.server_manager.servers import CommandProblem
from schemas.rdp_ports import PortChanged, candidates
from schemas.rdp_states import PORT_STEPS, PortState, check_step

PORTS = "rdp_port_claims"
Told = Callable[[PortChanged, str], Awaitable[None]]


class NoFreePort(CommandProblem):
    """Every port is allocated, reserved or blocked."""


class PortTaken(CommandProblem):
    """The port that was asked for is allocated, reserved or blocked."""


class PortAllocated(CommandProblem):
    """A server has the port."""


class PortOutOfRange(CommandProblem):
    """The settings have no such port."""


@dataclass(frozen=True)
class PortBook:
    """The ports from `first` to `last`. reserve: microseconds that one rests. told: tells an
    event, with the command that it follows from."""

    catalog: Catalog
    first: int
    last: int
    reserve: int
    told: Told

    async def claim(
        self, server: str, host: str, now: int, *, wanted: int | None = None,
        tried: Collection[int] = (), correlation: str = "",
    ) -> int:  # fmt: skip
        """A port of a host for a server; the one that it has, if it has one already.

        Raises NoFreePort, PortTaken, PortOutOfRange.
        """
        if wanted is not None:
            self._check(wanted)
        known = {one["port"]: one for one in await self.catalog.find(PORTS, {"host": host})}
        for port, document in known.items():
            own = document["state"] == "allocated" and document["server"] == server
            if own and port not in tried and wanted in (None, port):
                await self._tell(document, correlation)
                return int(port)
        taken = {port: _until(document, server) for port, document in known.items()}
        first, last = (self.first, self.last) if wanted is None else (wanted, wanted)
        for port in candidates(first, last, taken, now):
            if port in tried:
                continue
            document = _document(host, port, known.get(port), "allocated", server, 0, now, "")
            if await self.catalog.put_version(PORTS, document):
                await self._tell(document, correlation)
                return port
        if wanted is not None:
            raise PortTaken(
                f"port {wanted} of {host} is {known[wanted]['state']}" if wanted in known
                else f"port {wanted} of {host} was taken just now",
                hint="Leave the port away to get the next free one",
            )  # fmt: skip
        raise NoFreePort(
            f"no port between {self.first} and {self.last} of {host} is free",
            hint="Delete servers, or wait until reservations are over",
        )

    async def release(
        self, server: str, host: str, port: int, reason: str, now: int, correlation: str = ""
    ) -> None:
        """Reserve a port for a while that a server had; no other server's, and not twice."""
        found = await self.catalog.get(PORTS, _key(host, port))
        if found is None or found["state"] != "allocated" or found["server"] != server:
            return
        document = _document(host, port, found, "reserved", server, now + self.reserve, now, reason)
        if await self.catalog.put_version(PORTS, document):
            await self._tell(document, correlation)

    async def block(self, host: str, port: int, reason: str, now: int, command: str) -> None:
        """Give a port to nobody; raises PortAllocated, PortOutOfRange."""
        self._check(port)
        found = await self.catalog.get(PORTS, _key(host, port))
        if found is not None and found["state"] == "allocated":
            raise PortAllocated(
                f"port {port} of {host} belongs to server {found['server']}",
                hint="Delete the server first",
            )
        await self._set(host, port, found, "blocked", reason, now, command)

    async def unblock(self, host: str, port: int, reason: str, now: int, command: str) -> None:
        """Let a blocked port be claimed again; another one stays as it is."""
        self._check(port)
        found = await self.catalog.get(PORTS, _key(host, port))
        if found is not None and found["state"] == "blocked":
            await self._set(host, port, found, "available", reason, now, command)

    async def tidy(self, now: int) -> None:
        """Reservations that are over end."""
        for found in await self.catalog.find(PORTS, {"state": "reserved"}):
            if found["until"] <= now:
                await self._set(
                    found["host"], found["port"], found, "available", "the reservation is over",
                    now, "",
                )  # fmt: skip

    async def allocated(self) -> list[Document]:
        """The documents of all ports that servers have."""
        return await self.catalog.find(PORTS, {"state": "allocated"})

    async def _set(
        self, host: str, port: int, found: Document | None, state: PortState, reason: str,
        now: int, correlation: str,
    ) -> None:  # fmt: skip
        server = found["server"] if found else None
        if found is not None and found["state"] == state:
            await self._tell(found, correlation)  # the command came twice
            return
        document = _document(host, port, found, state, server, 0, now, reason)
        if await self.catalog.put_version(PORTS, document):
            await self._tell(document, correlation)

    def _check(self, port: int) -> None:
        if not self.first <= port <= self.last:
            raise PortOutOfRange(
                f"port {port} is not between {self.first} and {self.last}",
                hint="LUCID_SERVER_MANAGER_FIRST_PORT and …_LAST_PORT say which there are",
            )

    async def _tell(self, document: Document, correlation: str) -> None:
        names = ("port", "host", "state", "server", "until", "reason")
        await self.told(PortChanged(**{name: document[name] for name in names}), correlation)


def _key(host: str, port: int) -> str:
    return f"{host}:{port}"


def _until(document: Document, server: str) -> int:
    """Until when a port is not to be had by a server; -1 for ever."""
    if document["state"] == "available":
        return 0
    if document["state"] == "reserved" and document["server"] == server:
        return 0  # it rests for others
    return int(document["until"]) if document["state"] == "reserved" else -1


def _document(
    host: str, port: int, before: Document | None, state: PortState, server: str | None,
    until: int, now: int, reason: str,
) -> Document:  # fmt: skip
    was: PortState = before["state"] if before else "available"
    check_step(PORT_STEPS, was, state, f"port {port} of {host}")
    return {
        "_id": _key(host, port), "version": before["version"] + 1 if before else 1, "host": host,
        "port": port, "state": state, "server": server, "until": until, "since": now,
        "reason": reason[:500],
    }  # fmt: skip
