"""What the xrdp room did and saw: CloudEvents of `xrdp.process.events`, key server id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from schemas.canonical import Count, Strict
from schemas.envelope import Event
from schemas.rdp_config import Host, Port, ServerId
from schemas.rdp_states import ProcessState

Code = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]*$")]
Why = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]


class ProcessRef(Strict):
    """A process that no other one can be taken for.

    started: when it began, in clock ticks since the machine was booted (field 22 of
    /proc/PID/stat): the kernel's own number, which no change of the clock moves.
    """

    pid: Annotated[int, Field(ge=1)]
    started: Count


class ServerPids(Strict):
    """The two processes of a server, each the leader of a session of its own."""

    xrdp: ProcessRef | None = None
    sesman: ProcessRef | None = None


class ProcessChanged(Strict):
    """A server's processes are in this state on this host.

    seq: higher than that of any event of the server before it. version, restarts: of the
    desired state that they follow. pids: those that run. attempt: of how many starts in a row
    this is one. code: the error's stable name, empty when all is well. folder: the server's
    runtime folder on that host.
    """

    server: ServerId
    host: Host
    seq: Count
    version: Count
    restarts: Count
    state: ProcessState
    port: Port
    pids: ServerPids
    attempt: Count
    code: Code = ""
    reason: Why = ""
    folder: Annotated[str, Field(max_length=1000)] = ""


PROCESS_TYPES: dict[str, type[Strict]] = {"lucid.xrdp.process.changed.v1": ProcessChanged}


@dataclass(frozen=True, slots=True)
class XrdpProcessEvent(Event):
    """An event of `xrdp.process.events`."""

    types: ClassVar[Mapping[str, type[Strict]]] = PROCESS_TYPES
    strays_to: ClassVar[str] = "another server"

    @property
    def change(self) -> ProcessChanged:
        assert isinstance(self.data, ProcessChanged)
        return self.data

    @classmethod
    def subject_of(cls, data: Strict) -> str:
        return str(dict(data)["server"])
