"""Real xrdp servers: ready, logged on to, broken in every way, and gone without a trace."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.platform.process_table import children_of, command_of, is_alive, marked
from agents.rdp.xrdp.launcher import Gate
from agents.rdp.xrdp.probe import NotAlive, connection_request
from agents.rdp.xrdp.rendering import MARK
from schemas.rdp_config import Security, ServerConfig
from schemas.rdp_processes import ProcessRef
from tests.rdp.people import account, can_run, client, open_folder
from tests.rdp.xrdp.yard import leftovers, running, two_ports
from tests.waiting import until

pytestmark = [
    pytest.mark.display,
    pytest.mark.skipif(not can_run(), reason="needs root, xrdp and xfreerdp"),
]
SESSION = '#!/bin/sh\necho "$LUCID_RDP_SERVER $DISPLAY" > "$HOME/began"\nexec xterm\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as found:
        yield found


def named(server: str) -> dict[str, ProcessRef]:
    """A server's processes by the names of their programs."""
    return {Path(f"/proc/{one.pid}/comm").read_text().strip(): one for one in marked(MARK)[server]}


async def test_a_user_logs_on_and_the_desktop_outlives_xrdp_and_its_session_manager(
    folder: Path,
) -> None:
    with account(SESSION) as user:
        async with running(folder) as yard:
            wanted = yard.want()
            first = await yard.reach(wanted, "running")
            with client(wanted.port, user) as program:
                began = user.home / "began"
                await until(lambda: began.exists() and began.read_text().strip(), "desktop")
                first_display = yard.launcher.layout(wanted).display
                server, display = began.read_text().split()
                assert server == wanted.server
                number = int(display.removeprefix(":").partition(".")[0])
                assert number in range(first_display, first_display + 20)
                programs = set(named(wanted.server))
                assert {"xrdp", "xrdp-sesman", "Xorg", "xterm"} <= programs
                desktop = [named(wanted.server)["xterm"]]
                for gone in ("xrdp", "sesman"):
                    before = yard.reports[-1].pids
                    victim = getattr(before, gone)
                    os.kill(victim.pid, signal.SIGKILL)
                    found = await until(
                        lambda victim=victim, gone=gone: (
                            getattr(yard.reports[-1].pids, gone) != victim
                            and yard.reports[-1].state == "running"
                            and yard.reports[-1]
                        ),
                        f"restarted {gone}",
                    )
                    # The other one was left alone, and so was the desktop.
                    other = "sesman" if gone == "xrdp" else "xrdp"
                    assert getattr(found.pids, other) == getattr(before, other)
                    assert all(is_alive(one) for one in desktop)
                    assert program.poll() is None
                assert yard.reports[-1].seq > first.seq
                deleted = yard.again(wanted, desired="deleted")
                await yard.gone(deleted)
                program.wait(20)
            assert leftovers(yard, wanted) == []
            assert yard.states(wanted)[-2:] == ["stopping", "stopped"]


async def test_a_desktop_begins_at_the_gate_and_not_before_it_is_let_in(folder: Path) -> None:
    with account(SESSION) as user:
        async with running(folder) as yard:
            yard.launcher.gate = Gate(folder / "nobody.sock", require_recording=True)
            wanted = yard.want()
            await yard.reach(wanted, "running")
            with client(wanted.port, user):

                def asks() -> bool:
                    return any("gate.py" in word for one in marked(MARK).get(wanted.server, [])
                               for word in command_of(one))  # fmt: skip

                await until(asks, "gate")
                assert "xterm" not in named(wanted.server)
                assert not (user.home / "began").exists()
                # The gate goes before the X server that it speaks to.
                deleted = yard.again(wanted, desired="deleted")
                await yard.gone(deleted)
            assert leftovers(yard, wanted) == []


async def test_an_account_that_cannot_log_on_gets_no_desktop_and_leaves_nothing(
    folder: Path,
) -> None:
    with account(SESSION) as user:
        async with running(folder, logon_within=2.0) as yard:
            wanted = yard.want()
            await yard.reach(wanted, "running")
            with client(wanted.port, user, password="wrong"):
                log = yard.launcher.layout(wanted).folder / "sesman.log"
                await until(
                    lambda: "AUTHFAIL" in log.read_text() or "failed" in log.read_text().lower(),
                    "refused logon",
                )
                assert not (user.home / "began").exists()
            xrdp = yard.reports[-1].pids.xrdp
            assert xrdp is not None
            await until(lambda: not children_of([xrdp.pid]), "end of the connection")
            assert yard.reports[-1].state == "running"


async def test_many_servers_side_by_side_stop_start_and_change(folder: Path) -> None:
    async with running(folder) as yard:
        servers = [yard.want(name=f"desk-{number}") for number in range(4)]
        first = [await yard.reach(one, "running") for one in servers]
        assert len({one.pids.xrdp for one in first if one.pids.xrdp}) == 4
        one, two, three, _ = servers
        one = yard.again(one, desired="stopped")
        stopped = await yard.reach(one, "stopped")
        assert (stopped.pids.xrdp, stopped.pids.sesman) == (None, None)
        assert not marked(MARK).get(one.server)
        one = yard.again(one, desired="running")
        await yard.reach(one, "running")
        two = yard.again(two, restarts=1)
        again = await yard.reach(two, "running")
        assert again.pids.xrdp not in (first[1].pids.xrdp, None)
        # A new version of the same settings restarts nothing; other settings do.
        three = yard.again(three)
        assert (await yard.reach(three, "running")).pids == first[2].pids
        three = yard.again(three, port=two_ports())
        moved = await yard.reach(three, "running", port=three.port)
        assert moved.pids != first[2].pids
        # Old news, of this host or about another one, changes nothing.
        yard.house.want(three.server, servers[2])
        await asyncio.sleep(0)
        assert yard.keeper(three).wanted == three
    for server in (one, two, three):
        assert leftovers(yard, server) == []


@pytest.mark.parametrize("which", [0, 1])
async def test_an_occupied_port_fails_the_server_and_says_so(folder: Path, which: int) -> None:
    async with running(folder) as yard:
        port = two_ports()
        with socket.create_server(("127.0.0.1", port + which)):
            wanted = yard.want(port=port)
            failed = await yard.reach(wanted, "failed")
            assert failed.code == "PortInUse"
            assert str(port + which) in failed.reason
            assert not marked(MARK).get(wanted.server)
        wanted = yard.again(wanted)
        await yard.reach(wanted, "running")


async def test_a_wrong_certificate_is_found_and_made_anew(folder: Path) -> None:
    async with running(folder) as yard:
        wanted = yard.want()
        before = await yard.reach(wanted, "running")
        layout = yard.launcher.layout(wanted)
        layout.certificate.write_text("not a certificate\n")
        after = await until(
            lambda: yard.reports[-1].state == "running" and yard.reports[-1].seq > before.seq
            and yard.reports[-1], "restart",
        )  # fmt: skip
        assert "restarting" in yard.states(wanted)
        assert [one.code for one in yard.reports if one.state == "restarting"] == ["NotAlive"]
        assert after.pids.sesman == before.pids.sesman
        await yard.launcher.look(wanted)


async def test_an_xrdp_that_hangs_is_killed_and_started_again(folder: Path) -> None:
    async with running(folder, check_timeout=0.5, stop_within=0.5) as yard:
        wanted = yard.want()
        before = await yard.reach(wanted, "running")
        assert before.pids.xrdp is not None
        os.kill(before.pids.xrdp.pid, signal.SIGSTOP)
        after = await until(
            lambda: yard.reports[-1].state == "running"
            and yard.reports[-1].pids.xrdp != before.pids.xrdp and yard.reports[-1], "restart",
        )  # fmt: skip
        assert after.pids.sesman == before.pids.sesman
        assert not is_alive(before.pids.xrdp)


async def test_clients_that_say_nothing_are_sent_away_and_a_burst_does_no_harm(
    folder: Path,
) -> None:
    async with running(folder, logon_within=1.0, check_timeout=5.0) as yard:
        wanted = yard.want()
        before = await yard.reach(wanted, "running")
        xrdp = before.pids.xrdp
        assert xrdp is not None

        async def silent(talk: bool) -> bool:
            """Whether xrdp took the connection; it closes it unasked."""
            try:
                async with asyncio.timeout(6):
                    reader, writer = await asyncio.open_connection("127.0.0.1", wanted.port)
                    if talk:
                        writer.write(connection_request())
                        await reader.read(19)
                    await reader.read()
                    writer.close()
            except (TimeoutError, ConnectionError):
                return False  # its queue of two is full, and the kernel tries ever more rarely
            return True

        taken = await asyncio.gather(*(silent(number % 2 == 0) for number in range(200)))
        assert sum(taken) > 20
        await until(lambda: not children_of([xrdp.pid]), "end of all connections", 60)
        await yard.launcher.look(wanted, 10.0)
        assert yard.reports[-1].state == "running"
        assert yard.reports[-1].pids == before.pids


@pytest.mark.parametrize(
    ("security", "taken"), [("medium", True), ("high", True), ("maximum", False)]
)
async def test_security_decides_which_tls_versions_are_spoken(
    folder: Path, security: Security, taken: bool
) -> None:
    async with running(folder) as yard:
        wanted = yard.want(config=ServerConfig(security=security))
        await yard.reach(wanted, "running")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        reader, writer = await asyncio.open_connection("127.0.0.1", wanted.port)
        writer.write(connection_request())
        await reader.readexactly(19)
        if taken:
            await writer.start_tls(context)
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        else:
            with pytest.raises((ssl.SSLError, OSError)):
                await writer.start_tls(context)
        writer.close()


async def test_a_program_that_ends_at_once_is_tried_again_and_then_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.rdp.xrdp.launcher.require_tool", lambda name: Path("/bin/false"))
    async with running(folder, restarts=2) as yard:
        wanted = yard.want()
        failed = await yard.reach(wanted, "failed")
        assert failed.code == "NotReady"
        assert "ended at once" in failed.reason
        assert "tried 3 times" in failed.reason
        assert yard.states(wanted).count("restarting") == 2
        monkeypatch.undo()
        # A failed server stays so, until something else is asked for.
        assert yard.keeper(wanted).life.attempt == 3
        await yard.reach(yard.again(wanted, restarts=1), "running")


async def test_a_folder_that_users_cannot_enter_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o700)
    async with running(tmp_path) as yard:
        failed = await yard.reach(yard.want(), "failed")
        assert failed.code == "FolderUnreachable"
        assert str(tmp_path) in failed.reason


async def test_without_its_rights_a_room_says_what_it_lacks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "agents.rdp.xrdp.launcher.BIND", 'echo "mount: permission denied" >&2; exit 1'
    )
    async with running(folder) as yard:
        failed = await yard.reach(yard.want(), "failed")
        assert failed.code == "NoNamespace"


async def test_a_house_that_was_left_is_taken_over_or_ended(folder: Path) -> None:
    from tests.rdp.xrdp.yard import FAST, Yard, XrdpSettings  # noqa: I001
    from agents.platform.service import StopSignal

    first = Yard(folder, XrdpSettings(**FAST))
    stop = StopSignal()
    working = asyncio.create_task(first.house.run(stop))
    await asyncio.sleep(0)
    kept, forgotten, moved = (first.want(name=name) for name in ("kept", "forgotten", "moved"))
    before = await first.reach(kept, "running")
    await first.reach(forgotten, "running")
    lost = (await first.reach(moved, "running")).pids
    stop.set()
    await working
    assert is_alive(before.pids.xrdp)
    # Somebody made a folder of another kind, and a state file was damaged.
    (folder / "notes").mkdir()
    (folder / moved.server / "state.json").write_text("{}")
    elsewhere = kept.model_copy(update={"server": forgotten.server, "host": "other"})
    async with running(
        folder, {one.server: one for one in (kept, elsewhere, moved)}
    ) as second:  # fmt: skip
        assert (await second.reach(kept, "running")).pids == before.pids
        assert second.reports[0].seq == before.seq
        await until(lambda: forgotten.server not in second.house.keepers, "ended server")
        assert leftovers(second, forgotten) == []
        # What nobody remembers is ended, for it holds the port, and started again.
        again = await second.reach(moved, "running")
        assert again.pids.xrdp is not None
        assert not is_alive(lost.xrdp)
        assert not is_alive(lost.sesman)
    assert (folder / "notes").exists()


async def test_ready_in_under_three_seconds(folder: Path) -> None:
    async with running(folder) as yard:
        began = time.monotonic()
        wanted = yard.want()
        await yard.reach(wanted, "running")
        assert time.monotonic() - began < 3.0
        with pytest.raises(NotAlive):
            await yard.launcher.look(wanted.model_copy(update={"port": two_ports()}))


async def test_a_deleted_server_that_left_nothing_is_told_of_all_the_same(folder: Path) -> None:
    async with running(folder) as yard:
        wanted = yard.want(desired="deleted", version=7)
        await yard.gone(wanted)
        (told,) = [one for one in yard.reports if one.state == "stopped"]
        assert (told.version, told.seq > 0) == (7, True)
        assert leftovers(yard, wanted) == []
