"""What an RDP server is to be like, and the desired state of one: `xrdp.config.events`.

The key is the server id; the topic is compacted, so that its newest record of a server is
what that server shall be. A tombstone follows when nothing is left of it. Limits are those
of the issue and of MS-RDPBCGR for picture sizes and depths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from schemas.canonical import Count, Strict
from schemas.envelope import AnsweringEvent
from schemas.sessions import parse_session_id

ServerId = Annotated[str, AfterValidator(lambda text: str(parse_session_id(text)))]
"""A UUID of version 7, as a session's."""
ServerName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Host = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x20\x7f]+$")]
Owner = Annotated[str, Field(max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Security = Literal["low", "medium", "high", "maximum"]
LogLevel = Literal["error", "warning", "info", "debug"]
Desired = Literal["running", "stopped", "deleted"]

TLS_VERSIONS: Mapping[Security, tuple[str, ...]] = {
    "low": ("TLSv1", "TLSv1.1", "TLSv1.2"),
    "medium": ("TLSv1.2",),
    "high": ("TLSv1.2", "TLSv1.3"),
    "maximum": ("TLSv1.3",),
}
"""What a client may speak, by level of security, in the words of xrdp.ini."""


class Devices(Strict):
    """What passes between the client's machine and the desktop; nothing unless allowed."""

    clipboard: bool = False
    drive: bool = False
    printer: bool = False
    audio: bool = False


class Limits(Strict):
    """What a server's sessions may use together: processors, MiB of memory, GiB of disk."""

    cpu: Annotated[float, Field(ge=0.1, le=8, allow_inf_nan=False)] = 2.0
    memory_mb: Annotated[int, Field(ge=512, le=16384)] = 2048
    disk_gb: Annotated[int, Field(ge=1, le=100)] = 10


class ServerConfig(Strict):
    """A server's configuration. width, height: the largest desktop, in pixels."""

    width: Annotated[int, Field(ge=320, le=7680)] = 1920
    height: Annotated[int, Field(ge=240, le=4320)] = 1080
    colour_depth: Literal[16, 24, 32] = 24
    security: Security = "high"
    devices: Devices = Devices()
    limits: Limits = Limits()
    max_sessions: Annotated[int, Field(ge=1, le=20)] = 10
    log_level: LogLevel = "info"


class DesiredServer(Strict):
    """What the xrdp room of `host` shall make of a server.

    version: higher than that of any record before it. restarts: how often a restart was asked
    for; a higher number restarts the processes once.
    """

    server: ServerId
    name: ServerName
    host: Host
    version: Annotated[int, Field(ge=1)]
    desired: Desired
    restarts: Count
    port: Port
    config: ServerConfig


CONFIG_TYPES: dict[str, type[Strict]] = {"lucid.xrdp.config.desired.v1": DesiredServer}


@dataclass(frozen=True, slots=True)
class XrdpConfigEvent(AnsweringEvent):
    """An event of `xrdp.config.events`."""

    types: ClassVar[Mapping[str, type[Strict]]] = CONFIG_TYPES
    strays_to: ClassVar[str] = "another server"

    @property
    def wanted(self) -> DesiredServer:
        assert isinstance(self.data, DesiredServer)
        return self.data

    @classmethod
    def subject_of(cls, data: Strict) -> str:
        return str(dict(data)["server"])
