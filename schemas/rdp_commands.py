"""Commands to the server manager: records of `rdp.server.commands`, canonical JSON.

The key is the server id; of a command that names a port, `port/N`. The answer is an event of
`rdp.server.events` with the command's id as correlation id. The server id is made by whoever
sends `create`, so that the same command twice makes one server.
"""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from schemas.canonical import InvalidModel, Strict, decode
from schemas.controls import Reason
from schemas.rdp_config import Host, Owner, Port, ServerConfig, ServerId, ServerName
from schemas.sessions import parse_session_id

ServerAction = Literal["create", "start", "stop", "restart", "maintain", "delete"]
PortAction = Literal["block_port", "unblock_port"]
Action = Literal[ServerAction, PortAction]


class ServerCommand(Strict):
    """Something that an RDP server, or a port, shall become.

    host: where a server is created; empty is the manager's own. port: the one to block, or
    the one that a created server must have; null takes the next free one.
    """

    version: Literal[1] = 1
    id: str
    action: Action
    server: ServerId | None = None
    name: ServerName | None = None
    owner: Owner = ""
    host: Host | Literal[""] = ""
    port: Port | None = None
    config: ServerConfig | None = None
    reason: Reason = "requested"

    @field_validator("id")
    @classmethod
    def _id(cls, text: str) -> str:
        return str(parse_session_id(text))

    @model_validator(mode="after")
    def _target(self) -> ServerCommand:
        of_port = self.action in ("block_port", "unblock_port")
        if of_port != (self.server is None) or (of_port and self.port is None):
            raise InvalidModel(f"command {self.action} names no {'port' if of_port else 'server'}")
        creates = self.action == "create"
        if creates != (self.config is not None) or creates != (self.name is not None):
            raise InvalidModel("command create, and no other, has a name and a configuration")
        if self.port is not None and not (creates or of_port):
            raise InvalidModel(f"command {self.action} has no port")
        return self

    @property
    def key(self) -> str:
        """The record's key."""
        return self.server or f"port/{self.port}"


def read_server_command(key: bytes | None, data: bytes) -> ServerCommand:
    """Read a command's canonical bytes; raises FormatError, also for another key than its own."""
    command = decode(ServerCommand, data)
    if key != command.key.encode():
        raise InvalidModel(f"command {command.id} is under another key than its server or port")
    return command
