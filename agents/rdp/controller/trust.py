"""Who asks for a desktop: what the kernel says of it, against what it says itself.

A gate is a child of a session process of a known server's sesman, and its user's; its display
is that of the X server beside it. Nothing else is believed: a user may run the gate's program
again, or speak its language from any other program.
"""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from agents.platform.process_table import (
    children_of,
    command_of,
    parent_of,
    process_ref,
)
from agents.rdp.controller.errors import (
    ForeignUser,
    Nonsense,
    NoSuchDisplay,
    NotOfTheServer,
    UnknownServer,
)
from agents.rdp.controller.servers import Servers
from schemas.canonical import Strict, decode_any
from schemas.controls import Text
from schemas.errors import FormatError
from schemas.events import SessionId
from schemas.rdp_config import ServerId
from schemas.rdp_processes import ProcessRef
from schemas.rdp_sessions import Display, User


class Hello(Strict):
    """The first line of a gate."""

    version: Literal[1]
    server: ServerId
    display: Display
    xauthority: Annotated[Text, Field(pattern=r"^/[^\x00-\x1f\x7f]*$")]
    user: User
    pid: Annotated[int, Field(ge=1)]
    session: SessionId | None


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a socket, by SO_PEERCRED (unix(7))."""

    pid: int
    uid: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A gate whose words are true."""

    hello: Hello
    uid: int
    leader: ProcessRef
    xorg: ProcessRef
    sesman: ProcessRef


def read_hello(line: bytes) -> Hello:
    """Raises Nonsense."""
    try:
        return decode_any(Hello, line)
    except FormatError as error:
        raise Nonsense(f"a gate's first line cannot be read: {error.what[:200]}") from error


def check(hello: Hello, peer: Peer, servers: Servers) -> Claim:
    """What a gate says, if it is so; raises GateRefused."""
    if hello.pid != peer.pid or hello.user != _name_of(peer.uid):
        raise ForeignUser(
            f"process {peer.pid} of user id {peer.uid} says that it is {hello.pid} of {hello.user}"
        )
    known = servers.get(hello.server)
    leader = process_ref(peer.pid)
    if known is None or known.pids.sesman is None or leader is None:
        raise UnknownServer(f"no server {hello.server} runs on this host")
    sesman, session_process = known.pids.sesman, parent_of(peer.pid)
    if process_ref(parent_of(session_process)) != sesman:
        raise NotOfTheServer(f"process {peer.pid} is no session of server {hello.server}")
    return Claim(hello, peer.uid, leader, _xorg(session_process, hello.display), sesman)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _xorg(session_process: int, display: str) -> ProcessRef:
    """The X server of a session process; raises NoSuchDisplay."""
    for child in children_of([session_process]):
        words = command_of(child)
        if parent_of(child.pid) == session_process and display in words[1:2]:
            return child
    raise NoSuchDisplay(f"the session of process {session_process} has no display {display}")
