"""What became of RDP servers and of commands: CloudEvents of `rdp.server.events`.

The subject and key is the server id; of a command about a port, `port/N`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from schemas.canonical import Count, Strict
from schemas.envelope import AnsweringEvent
from schemas.rdp_commands import Action
from schemas.rdp_config import Host, Owner, Port, ServerConfig, ServerId, ServerName
from schemas.rdp_processes import Code, Why
from schemas.rdp_states import ServerState


class ServerChanged(Strict):
    """A server, whole, after a change.

    version: of its document, one higher with each change. port: null while it has none.
    code, reason: why it failed, or what it waits for. created: microseconds since 1970.
    """

    server: ServerId
    version: Annotated[int, Field(ge=1)]
    state: ServerState
    name: ServerName
    owner: Owner
    host: Host
    port: Port | None
    config: ServerConfig
    config_version: Count
    created: Count
    code: Code
    reason: Why


class ServerCommandDone(Strict):
    """A command is carried out; the event's correlation id is the command's id."""

    action: Action
    server: ServerId | None
    state: ServerState | None
    port: Port | None


class ServerCommandRefused(Strict):
    """A command is not carried out, or did not lead to what it asked for."""

    action: Action
    server: ServerId | None
    port: Port | None
    code: Code
    reason: Why


SERVER_TYPES: dict[str, type[Strict]] = {
    "lucid.rdp.server.changed.v1": ServerChanged,
    "lucid.rdp.command.done.v1": ServerCommandDone,
    "lucid.rdp.command.refused.v1": ServerCommandRefused,
}


def server_subject(data: Strict) -> str:
    """What an event is about: the server, else the port."""
    fields = dict(data)
    return str(fields["server"] or f"port/{fields['port']}")


@dataclass(frozen=True, slots=True)
class ServerEvent(AnsweringEvent):
    """An event of `rdp.server.events`."""

    types: ClassVar[Mapping[str, type[Strict]]] = SERVER_TYPES
    strays_to: ClassVar[str] = "another server"

    @classmethod
    def subject_of(cls, data: Strict) -> str:
        return server_subject(data)
