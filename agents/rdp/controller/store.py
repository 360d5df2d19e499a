"""What a controller knows of its host's sessions, as files: a new one goes on from there.

    STATE/<session id>.json     a session, its start command, and the events not sent yet
    STATE/connections.json      the connections that were there at the last look
    STATE/servers.json          the servers' processes, as last heard

They outlive the process, not the machine: after a boot every session is gone, and a file says
so by the id of the boot that it was written in. A file is whole or absent under its name;
what cannot be read is put aside, never trusted.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import BaseModel, Field

from agents.rdp.controller.errors import ControllerBusy
from schemas.canonical import Strict, decode, encode
from schemas.errors import FormatError
from schemas.rdp_processes import ProcessChanged, ProcessRef
from schemas.rdp_sessions import Connection, RdpSession, RdpState, Why

log = structlog.get_logger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
Model = TypeVar("Model", bound=BaseModel)


class Unsent(Strict):
    """An event that the broker has not confirmed yet, as its Kafka record."""

    key: str
    headers: list[tuple[str, str]] = Field(strict=False)
    value: str


class End(Strict):
    """How and why a session ends, from when that is known."""

    state: RdpState
    reason: Why


class Kept(Strict):
    """A session as it is kept.

    start: id of the command that starts its recording, while that is under way. sesman: the
    session manager that it belongs to. alone_since: seconds since boot from which no client
    shows it, null while one does.
    """

    boot: str
    session: RdpSession
    xauthority: str
    sesman: ProcessRef
    start: str | None = None
    end: End | None = None
    unsent: list[Unsent] = Field(default_factory=list)
    alone_since: float | None = None


class KeptConnections(Strict):
    boot: str
    connections: list[Connection]


class KeptServers(Strict):
    boot: str
    servers: list[ProcessChanged]


def this_boot() -> str:
    """The id of the running kernel's boot."""
    return BOOT_ID.read_text().strip()


class Store:
    """The folder of one host's sessions; one controller at a time has it."""

    def __init__(self, folder: Path, boot: str = "") -> None:
        self.folder, self.boot = folder, boot or this_boot()
        self._lock: int | None = None

    def open(self) -> None:
        """Take the folder; raises ControllerBusy."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise ControllerBusy(
                f"another controller has the sessions in {self.folder}",
                hint="A host has one RDP controller; end that one, or set LUCID_CONTROLLER_STATE",
            ) from error
        self._recover()

    def close(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sessions(self) -> list[Kept]:
        """All sessions that are kept."""
        names = list(self.folder.glob("*-*.json"))
        return [kept for path in sorted(names) if (kept := self._read(path, Kept)) is not None]

    def put(self, kept: Kept) -> None:
        self._write(f"{kept.session.session}.json", kept)

    def remove(self, session: str) -> None:
        (self.folder / f"{session}.json").unlink(missing_ok=True)

    def connections(self) -> list[Connection]:
        found = self._read(self.folder / "connections.json", KeptConnections)
        return found.connections if found is not None and found.boot == self.boot else []

    def put_connections(self, connections: Iterable[Connection]) -> None:
        kept = KeptConnections(boot=self.boot, connections=list(connections))
        self._write("connections.json", kept)

    def servers(self) -> list[ProcessChanged]:
        found = self._read(self.folder / "servers.json", KeptServers)
        return found.servers if found is not None and found.boot == self.boot else []

    def put_servers(self, servers: Iterable[ProcessChanged]) -> None:
        self._write("servers.json", KeptServers(boot=self.boot, servers=list(servers)))

    def _read(self, path: Path, model: type[Model]) -> Model | None:
        try:
            return decode(model, path.read_bytes())
        except FileNotFoundError:
            return None
        except (FormatError, OSError) as error:
            aside = path.with_suffix(".unreadable")
            log.error("a file cannot be read, put aside", file=str(aside), error=str(error))
            path.rename(aside)
            return None

    def _write(self, name: str, model: BaseModel) -> None:
        draft = self.folder / f".{name}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(model))
        # Renamed over a file, a draft would first be forced to disk (ext4's auto_da_alloc):
        # 3 ms for each change of each session, for a file that no boot outlives. Who is killed
        # in between leaves the whole draft, which `_recover` finds.
        (self.folder / name).unlink(missing_ok=True)
        draft.rename(self.folder / name)

    def _recover(self) -> None:
        """Take up the drafts whose files were gone already when their writer was killed."""
        for draft in self.folder.glob(".*.json"):
            file = self.folder / draft.name[1:]
            if file.exists():
                draft.unlink()
            else:
                draft.rename(file)
