"""Clients' connections: seen in the kernel's tables, told of once, cut when they have to be."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.platform.process_table import process_ref
from agents.rdp.controller import connections as module
from agents.rdp.controller.connections import CannotSee, Connections, Look, Seen, address_of
from agents.rdp.controller.listing import Listing
from agents.rdp.controller.sock_diag import socket_inodes, unix_peers
from schemas.rdp_processes import ProcessChanged, ProcessRef, ServerPids
from schemas.rdp_session_events import RdpConnectionChanged
from tests.rdp.controller.scene import HOST, SERVER, Room
from tests.waiting import until


class Script:
    """Looks that find what a test says."""

    def __init__(self) -> None:
        self.found: list[Seen] = []
        self.blind = False

    def at(self, servers: Any) -> list[Seen]:
        if self.blind:
            raise CannotSee("no")
        return list(self.found)


def watched(room: Room) -> tuple[Connections, Script]:
    script = Script()
    looking: Any = script
    return Connections(room.tools, room.sessions, HOST, look=looking), script


def seen(process: ProcessRef, display: str = "") -> Seen:
    return Seen(SERVER, process, "192.0.2.7:5000", display)


async def test_a_client_connects_logs_on_and_leaves(room: Room) -> None:
    connections, script = watched(room)
    desktop, _ = await room.begun()
    child = room.process()
    script.found = [seen(child)]
    for _ in range(3):
        await connections.look()
    assert desktop.kept.alone_since is not None
    script.found = [seen(child, ":120")]
    for _ in range(3):
        await connections.look()
    assert (desktop.clients, desktop.kept.alone_since) == (1, None)
    script.found = []
    await connections.look()
    assert desktop.clients == 0
    await room.flush()
    told = room.broker.told(RdpConnectionChanged)
    assert [(one.state, one.seq) for one in told] == [
        ("connecting", 0), ("connected", 1), ("disconnected", 2),
    ]  # fmt: skip
    assert told[0].address == "192.0.2.7:5000"
    assert {one.session for one in told[1:]} == {desktop.session.session}
    listing = Listing()
    for event in [*reversed(room.broker.events), *room.broker.events]:
        listing.take(event)
    story = listing.stories[desktop.session.session]
    assert story.session == room.broker.changes(desktop.session.session)[-1]
    assert [one.state for one in story.connections.values()] == ["disconnected"]
    assert len(story.events) == len({one.id for one in room.broker.events}) - 1


async def test_one_that_never_logs_on_ends_in_error(room: Room) -> None:
    connections, script = watched(room)
    script.found = [seen(room.process())]
    await connections.look()
    script.found = []
    await connections.look()
    await room.flush()
    told = room.broker.told(RdpConnectionChanged)
    assert [(one.state, one.session) for one in told] == [("connecting", None), ("error", None)]


async def test_a_display_that_no_gate_has_asked_for_stays_connecting(room: Room) -> None:
    connections, script = watched(room)
    script.found = [seen(room.process(), ":120")]
    await connections.look()
    assert [one.state for one in connections.connections] == ["connecting"]
    await room.begun()
    await connections.look()
    assert [one.state for one in connections.connections] == ["connected"]


@pytest.mark.parametrize("why", ["suspended", "stale"])
async def test_a_connection_that_may_not_be_is_cut(room: Room, why: str) -> None:
    connections, script = watched(room)
    desktop, line = await room.begun()
    child = room.process()
    script.found = [seen(child, ":120")]
    await connections.look()
    assert process_ref(child.pid) == child
    if why == "suspended":
        work = asyncio.create_task(desktop.suspend(True, "lunch"))
        await until(lambda: line.has("suspend"))
        desktop.take({"suspended": True})
        await work
    else:
        desktop.take({"idle": 600_001})
    await connections.look()
    assert process_ref(child.pid) is None
    assert connections.connections == []
    await room.flush()
    last = room.broker.told(RdpConnectionChanged)[-1]
    assert last.state == "disconnected"
    assert ("suspended" if why == "suspended" else "no input for 600 s") in last.reason


async def test_a_new_controller_knows_the_connections_of_the_old_one(room: Room) -> None:
    connections, script = watched(room)
    child = room.process()
    script.found = [seen(child)]
    await connections.look()
    (before,) = connections.connections
    await room.killed()
    again, script = watched(room)
    assert again.connections == [before]
    script.found = [seen(child)]
    await again.look()
    assert again.connections == [before]


async def test_nothing_is_decided_while_nothing_is_seen(room: Room) -> None:
    connections, script = watched(room)
    desktop, _ = await room.begun()
    script.blind = True
    with pytest.raises(CannotSee):
        await connections.look()
    assert desktop.kept.alone_since is None
    stop: Any = asyncio.Event()
    room.section = room.section.model_copy(update={"watch_every": 0.05})
    object.__setattr__(room.tools, "section", room.section)
    running = asyncio.create_task(connections.run(stop))
    await until(lambda: connections._trouble is not None)
    with pytest.raises(CannotSee):
        await connections.healthy()
    script.blind = False
    await until(lambda: connections._trouble is None)
    await connections.healthy()
    stop.set()
    await running


def test_the_kernel_says_what_a_child_of_xrdp_shows(tmp_path: Path) -> None:
    """A child with a client's connection and one to a display's socket, as xrdp's are."""
    path = tmp_path / "xrdp_display_77"
    display, listener = socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))
    display.bind(str(path))
    display.listen()
    port = listener.getsockname()[1]
    source = (
        "import socket, sys, time\n"
        "listener = socket.socket(fileno=int(sys.argv[1])); client, _ = listener.accept()\n"
        "print('connected', flush=True); sys.stdin.readline()\n"
        "x = socket.socket(socket.AF_UNIX); x.connect(sys.argv[2])\n"
        "print('shown', flush=True); time.sleep(600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", source, str(listener.fileno()), str(path)],
        pass_fds=[listener.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    client = socket.create_connection(("127.0.0.1", port))
    me = process_ref(os.getpid())
    server = ProcessChanged(
        server=SERVER, host=HOST, seq=1, version=1, restarts=0, state="running", port=port,
        pids=ServerPids(xrdp=me, sesman=me), attempt=1,
    )  # fmt: skip
    look = Look()

    def of_child() -> Seen:
        return next(one for one in look.at([server]) if one.process.pid == child.pid)

    try:
        child.stdout.readline()
        address = f"127.0.0.1:{client.getsockname()[1]}"
        assert (of_child().address, of_child().display) == (address, "")
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        shown, _ = display.accept()
        assert (of_child().address, of_child().display) == (address, ":77")
        shown.close()
    finally:
        child.kill()
        child.communicate()
        for one in (client, display, listener):
            one.close()
    assert look.at([]) == []
    assert address_of(child.pid, port) == ""
    assert socket_inodes(child.pid) == set()
    assert module.children_of(child.pid) == []


def test_a_pair_of_sockets_without_a_name_has_no_peer_in_the_table() -> None:
    one, other = socket.socketpair()
    inodes = {int(os.readlink(f"/proc/self/fd/{end.fileno()}")[8:-1]) for end in (one, other)}
    assert not inodes & set(unix_peers())
    one.close()
    other.close()


def test_where_the_kernel_does_not_tell_that_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[int, str]:
        raise PermissionError("no")

    monkeypatch.setattr(module, "unix_peers", refuse)
    monkeypatch.setattr(module, "children_of", lambda pid: [process_ref(os.getpid())])
    me = process_ref(os.getpid())
    server = ProcessChanged(
        server=SERVER, host=HOST, seq=1, version=1, restarts=0, state="running", port=1,
        pids=ServerPids(xrdp=me, sesman=me), attempt=1,
    )  # fmt: skip
    with pytest.raises(CannotSee, match="root"):
        Look().at([server])
