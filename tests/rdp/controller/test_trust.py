"""Who is at the other end of the socket: real processes, in trees as sesman makes them."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agents.platform.process_table import process_ref
from agents.rdp.controller.errors import (
    ForeignUser,
    GateRefused,
    Nonsense,
    NoSuchDisplay,
    NotOfTheServer,
    UnknownServer,
)
from agents.rdp.controller.gates import MAX_LINE, GateLine, GateSocket
from agents.rdp.controller.servers import Servers
from agents.rdp.controller.store import Store
from agents.rdp.controller.trust import Hello, Peer, check, read_hello
from schemas.rdp_processes import ProcessChanged, ServerPids
from tests.rdp.controller.scene import HOST, SERVER
from tests.rdp.controller.test_sessions import hello
from tests.waiting import until

# What a gate does, as far as it matters here.
GATE = """\
import subprocess, sys, time
print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
time.sleep(600)
"""


@dataclass
class Tree:
    """The processes of a made-up server."""

    sesman: int
    session: int
    xorg: int
    gate: int
    program: int


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    # A session manager, its session process, and that one's X server and gate.
    source = (
        "import os, subprocess, sys, time\n"
        "if os.fork() == 0:\n"
        "    x = subprocess.Popen([sys.executable, ':120'], stdin=subprocess.PIPE)\n"
        "    gate = subprocess.Popen([sys.executable, '-c', sys.argv[1]])\n"
        "    print(os.getpid(), x.pid, gate.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    (tmp_path / ":120").write_text("import time; time.sleep(600)\n")
    top = subprocess.Popen(
        [sys.executable, "-c", source, GATE], stdout=subprocess.PIPE, cwd=tmp_path,
        start_new_session=True,
    )  # fmt: skip
    assert top.stdout is not None
    # The gate's line may come before that of the session process.
    lines = sorted((top.stdout.readline().split() for _ in range(2)), key=len)
    program, (session, xorg, gate) = int(lines[0][0]), (int(one) for one in lines[1])
    yield Tree(top.pid, session, xorg, gate, program)
    os.killpg(top.pid, 9)
    top.wait()
    top.stdout.close()


def change(tree: Tree, seq: int = 1, **fields: Any) -> ProcessChanged:
    return ProcessChanged.model_validate(
        {"server": SERVER, "host": HOST, "seq": seq, "version": 1, "restarts": 0,
         "state": "running", "port": 13389, "attempt": 1,
         "pids": ServerPids(sesman=process_ref(tree.sesman), xrdp=process_ref(tree.sesman)),
         **fields}
    )  # fmt: skip


@pytest.fixture
def servers(tmp_path: Path, tree: Tree) -> Iterator[Servers]:
    store = Store(tmp_path / "sessions")
    store.open()
    found = Servers(store, HOST)
    assert found.heard(change(tree))
    yield found
    store.close()


def said(tree: Tree, pid: int = 0, **fields: Any) -> Hello:
    user = pwd.getpwuid(os.getuid()).pw_name
    return Hello(**hello(pid or tree.gate, **{"user": user, **fields}))


def test_a_true_gate_is_believed(tree: Tree, servers: Servers) -> None:
    claim = check(said(tree), Peer(tree.gate, os.getuid()), servers)
    assert (claim.leader, claim.xorg) == (process_ref(tree.gate), process_ref(tree.xorg))
    assert (claim.sesman, claim.uid) == (process_ref(tree.sesman), os.getuid())


def test_what_is_not_so_is_refused(tree: Tree, servers: Servers) -> None:
    me, other = os.getuid(), "01a20c5b-ffff-7557-ac1e-5c3397094c1d"
    cases: list[tuple[type[GateRefused], Hello, Peer]] = [
        # Another user, a user that does not exist, another process.
        (ForeignUser, said(tree, user="nobody"), Peer(tree.gate, me)),
        (ForeignUser, said(tree), Peer(tree.gate, 4_000_000)),
        (ForeignUser, said(tree), Peer(tree.program, me)),
        (UnknownServer, said(tree, server=other), Peer(tree.gate, me)),
        # A program of the user's in the session, and one that is in none.
        (NotOfTheServer, said(tree, tree.program), Peer(tree.program, me)),
        (NotOfTheServer, said(tree, os.getpid()), Peer(os.getpid(), me)),
        (NoSuchDisplay, said(tree, display=":121"), Peer(tree.gate, me)),
    ]
    for kind, word, peer in cases:
        with pytest.raises(kind):
            check(word, peer, servers)


def test_only_news_of_this_hosts_servers_counts(tree: Tree, servers: Servers) -> None:
    assert not servers.heard(change(tree))
    assert not servers.heard(change(tree, 9, host="other"))
    assert [one.server for one in servers.running()] == [SERVER]
    assert not servers.going_down(SERVER)
    assert servers.heard(change(tree, 2, state="stopping"))
    assert servers.going_down(SERVER)
    assert not servers.heard(change(tree, 1))
    again = Servers(servers._store, HOST)
    assert again.get(SERVER) == servers.get(SERVER)


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"null", b'{"version":1}', b"\xff", b"[" * 60_000,
     b'{"version":1,"server":"x","display":":1","xauthority":"/a","user":"u","pid":1,"session":null}'],
)  # fmt: skip
def test_a_first_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(Nonsense):
        read_hello(line)


async def test_the_socket_knows_its_peers_and_lets_go_of_those_that_read_nothing(
    tmp_path: Path,
) -> None:
    seen: list[Any] = []

    async def serve(line: GateLine) -> None:
        seen.append(line.peer)
        try:
            while (message := await line.message()) is not None:
                seen.append(message)
                if "flood" in message:
                    for _ in range(100):
                        line.send({"text": "x" * 60_000})
        except Nonsense as error:
            line.send({"go": False})
            seen.append(error)

    path = tmp_path / "folder" / "c.sock"
    async with GateSocket(path, serve) as listening:
        assert path.stat().st_mode & 0o777 == 0o666

        async def talk(data: bytes) -> bytes:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(data)
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            return answer

        assert await talk(b'{"a": 1}\n') == b""
        assert seen == [Peer(os.getpid(), os.getuid()), {"a": 1}]
        for bad in (b"nonsense\n", b"[]\n", b"x" * (MAX_LINE + 10) + b"\n"):
            assert await talk(bad) == b'{"go": false}\n'
            assert isinstance(seen[-1], Nonsense)
        _, writer = await asyncio.open_unix_connection(path, limit=1024)
        writer.write(b'{"flood": 1}\n')
        await until(lambda: listening.count == 0)
        writer.close()
        # Another controller may take a socket that was left over.
        async with GateSocket(path, serve):
            pass
    assert not path.exists()
