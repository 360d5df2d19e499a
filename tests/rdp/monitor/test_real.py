"""A real xrdp server with a real client on it, measured."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from agents.platform.process_table import children_of, command_of, is_alive, marked
from agents.rdp.monitor.disk import Disk
from agents.rdp.monitor.known import refs, roots_of
from agents.rdp.monitor.processes import Ref, tree
from agents.rdp.monitor.processes import read_table as table
from agents.rdp.monitor.sampler import Sampler, folders_of
from agents.rdp.monitor.targets import ServerTarget, SessionTarget
from agents.rdp.xrdp.rendering import MARK
from schemas.rdp_metrics import MIB, MeasuredLimits
from schemas.rdp_processes import ProcessRef
from schemas.sessions import new_session_id
from tests.rdp.people import Account, account, can_run, client, open_folder
from tests.rdp.xrdp.yard import running
from tests.waiting import until

pytestmark = [
    pytest.mark.display,
    pytest.mark.skipif(not can_run(), reason="needs root, xrdp and xfreerdp"),
]
LIMITS = MeasuredLimits(cpu=2.0, memory=2048 * MIB, disk=10 * 1024 * MIB)
DESKTOP = """\
#!/bin/sh
head -c 3000000 /dev/urandom > "$HOME/file"
(setsid sh -c 'exec sleep 610' &)
exec xterm -e sh -c 'touch "$HOME/began"; while :; do date; done'
"""


def named(server: str) -> dict[str, ProcessRef]:
    return {
        Path(f"/proc/{one.pid}/comm").read_text().strip(): one
        for one in marked(MARK).get(server, [])
        if is_alive(one)
    }


async def test_a_desktop_and_its_client_are_measured() -> None:
    with open_folder() as folder, account(DESKTOP) as user:
        async with running(folder) as yard:
            wanted = yard.want()
            report = await yard.reach(wanted, "running")
            disk = Disk()
            sampler = Sampler(host="desk", disk=disk)
            alone = ServerTarget(wanted.server, roots_of(report), LIMITS, Path(report.folder))
            (empty,) = sampler.sample([alone])
            assert empty.usage.processes >= 2
            with client(wanted.port, user):
                target = await desktop_of(alone, user)
                disk.want(folders_of(target))
                disk.step(100_000, 0.0)
                # All that the client was sent since there was none.
                (busy,) = sampler.sample([target])
                (session,) = busy.sessions
                assert session.usage.processes >= 5
                assert busy.usage.processes >= session.usage.processes + 2
                assert 20 * MIB < session.usage.memory < busy.usage.memory < LIMITS.memory
                assert session.usage.connections == 1
                assert (session.usage.sent or 0) > 1000
                assert 0 < (session.usage.cpu or 0) <= (busy.usage.cpu or 0)
                assert (session.usage.disk or 0) > 3_000_000
                assert (busy.usage.disk or 0) > (session.usage.disk or 0)
                assert not busy.partial
                mine = {one.pid for one in marked(MARK)[wanted.server] if is_alive(one)}
                seen = {ref.pid for ref in sampler._members[wanted.server, None]}
                assert mine <= seen, "nothing that the server has started is left out"
                os.kill(report.pids.sesman.pid, signal.SIGKILL)  # type: ignore[union-attr]
                await until(lambda: not is_alive(report.pids.sesman), "its session manager's end")
                (orphaned,) = sampler.sample([target])
                assert orphaned.sessions[0].usage.processes >= 5
            yard.again(wanted, desired="deleted")
            await yard.gone(wanted)
            (gone,) = sampler.sample([target])
            assert gone.usage.processes == gone.usage.memory == 0
            assert gone.usage.connections == 0


async def desktop_of(server: ServerTarget, user: Account) -> ServerTarget:
    """The server with its session, once its desktop is there."""
    await until(lambda: (user.home / "began").exists(), "desktop")
    names = named(server.server)
    xrdp, sesman = server.roots
    display = next(word for word in command_of(names["Xorg"]) if word.startswith(":"))
    below = tree(table(0.0), [Ref(names["Xorg"].pid, names["Xorg"].started)])
    parent = next(iter(below.values())).parent
    first = [one for one in children_of([parent]) if one != names["Xorg"]]
    leader = next(one for one in first if table(0.0).by_pid[one.pid].parent == parent)
    clients = refs(*children_of([xrdp.pid]))
    session = SessionTarget(
        str(new_session_id()), refs(leader, names["Xorg"]), clients,
        user.home.stat().st_uid, display,
    )  # fmt: skip
    assert sesman != xrdp
    return ServerTarget(server.server, server.roots, LIMITS, server.folder, (session,))
