"""The server manager and the xrdp room as processes of their own, asked by `lucid rdp`."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.platform import command_topic
from agents.platform.answers import Answers
from agents.platform.audit import AuditFailed, acting_user
from agents.platform.contract import load_contract
from agents.platform.ports import free_port, is_free
from agents.platform.process_table import is_alive, marked
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.rdp.server_manager import commands
from agents.rdp.xrdp.rendering import MARK
from schemas.audit import RdpServerOrdered
from schemas.canonical import encode
from schemas.errors import LucidError
from schemas.rdp_commands import ServerCommand
from schemas.rdp_config import ServerConfig
from schemas.rdp_processes import ProcessRef
from schemas.rdp_servers import ServerCommandDone, ServerCommandRefused, ServerEvent
from schemas.sessions import new_session_id
from tests.audited import FullDisk, orders, sent
from tests.conftest import Stack
from tests.e2e.conftest import Installation, install
from tests.rdp.people import can_run, open_folder
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(not can_run(), reason="needs root, xrdp and xfreerdp")
MANAGER, ROOM = "rdp-server-manager", "xrdp"


@pytest.fixture(scope="module")
def lucid(stack: Stack) -> Iterator[Installation]:
    """Both services, on ports of their own, in a folder that users can enter."""
    first = free_port()
    with open_folder() as folder:
        (folder / "home").mkdir(mode=0o755)
        found = install(
            folder / "home", stack, LUCID_SERVER_MANAGER_PORT="0", LUCID_XRDP_PORT="0",
            LUCID_SERVER_MANAGER_FIRST_PORT=str(first), LUCID_MIN_FREE="1MiB",
            LUCID_SERVER_MANAGER_LAST_PORT=str(first + 40), LUCID_XRDP_SESMAN_OFFSET="4000",
            LUCID_XRDP_CHECK_EVERY="1", LUCID_XRDP_RESTART_FIRST="0.1",
        )  # fmt: skip
        try:
            for service in (MANAGER, ROOM):
                found.start(service)
            yield found
            servers = listed(found).values()
            for one in servers:
                rdp(found, "delete", one["server"], "--json")
            assert not any(mine(found).values()), "processes are left"
            assert list((found.home / "xrdp").iterdir()) == []
            # Other ports of the range may be another program's.
            assert [one["port"] for one in servers if not is_free(one["port"])] == []
        finally:
            statuses = {name: found.stop(name) for name in list(found.running)}
            for processes in mine(found).values():
                for left in processes:
                    subprocess.run(["kill", "-KILL", str(left.pid)], check=False)
            assert set(statuses.values()) <= {0}, statuses


def rdp(lucid: Installation, *arguments: str, status: int = 0) -> Any:
    """`lucid rdp …` in this process: its JSON if asked for, else all that it printed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in lucid.env.items():
            patch.setenv(name, value)
        done = CliRunner().invoke(commands.app, list(arguments))
    if isinstance(done.exception, LucidError):
        assert done.exception.exit_status == status, done.exception
        return str(done.exception)
    assert done.exit_code == status, (done.output, done.exception)
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def listed(lucid: Installation) -> dict[str, dict[str, Any]]:
    """All servers by name."""
    return {one["name"]: one for one in rdp(lucid, "list", "--json")["servers"]}


def mine(lucid: Installation) -> dict[str, list[ProcessRef]]:
    """The processes of this installation's servers."""
    known = {entry.name for entry in (lucid.home / "xrdp").glob("*")}
    return {server: found for server, found in marked(MARK).items() if server in known}


def mains(lucid: Installation, server: str) -> list[ProcessRef]:
    """xrdp and its session manager as the state file has them."""
    pids = json.loads((lucid.home / "xrdp" / server / "state.json").read_text())["pids"]
    return [ProcessRef(**pids[name]) for name in ("xrdp", "sesman")]


def settings_of(lucid: Installation) -> Settings:
    return Settings.load(
        home=lucid.home, kafka=lucid.env["LUCID_KAFKA"], mongo=lucid.env["LUCID_MONGO"],
        topic_prefix=lucid.env["LUCID_TOPIC_PREFIX"], database=lucid.env["LUCID_DATABASE"],
    )  # fmt: skip


def order(action: Any, server: str, **fields: Any) -> ServerCommand:
    return ServerCommand(id=str(new_session_id()), action=action, server=server, **fields)


async def ask(lucid: Installation, *commands: ServerCommand, garbage: bytes = b"") -> list[Any]:
    """Send commands one behind the other; their answers."""
    settings = settings_of(lucid)
    contract = load_contract(settings)
    topic = contract.topic("rdp.server.commands").full_name
    types = (ServerCommandDone, ServerCommandRefused)
    async with (
        Producer(settings, contract.limits) as producer,
        Answers(settings, contract, "rdp.server.events", ServerEvent) as answers,
    ):
        if garbage:
            await producer.send(topic, garbage, key=b"x")
        for command in commands:
            await producer.send(topic, encode(command), key=command.key.encode())
        found = []
        for command in dict.fromkeys(one.id for one in commands):
            async with Answers(settings, contract, "rdp.server.events", ServerEvent):
                found.append((await answers.wait(command, 60, types=types)).data)
        return found


def test_a_server_from_creation_to_deletion_by_command(lucid: Installation) -> None:
    made = rdp(lucid, "create", "support", "--owner", "ada", "--clipboard", "--json")
    assert made["state"] == "running"
    server, port = made["server"], made["port"]
    assert not is_free(port)
    shown = rdp(lucid, "show", "support", "--json")
    assert (shown["state"], shown["owner"], shown["port"]) == ("running", "ada", port)
    assert shown["config"]["devices"] == {
        "clipboard": True, "drive": False, "printer": False, "audio": False,
    }  # fmt: skip
    text = rdp(lucid, "list")
    assert "support" in text
    assert server in text
    assert "clipboard" in rdp(lucid, "show", server)
    assert rdp(lucid, "stop", "support", "--json")["state"] == "stopped"
    assert is_free(port)
    assert not mine(lucid).get(server)
    done = rdp(lucid, "start", "support")
    assert done == f"support is running, port {port}\n"
    before = mains(lucid, server)
    rdp(lucid, "restart", "support", "--json")
    assert not any(is_alive(one) for one in before)
    assert all(is_alive(one) for one in mains(lucid, server))
    assert "NameTaken" in rdp(lucid, "create", "support", status=1)
    assert rdp(lucid, "delete", "support", "--json")["state"] == "deleted"
    assert is_free(port)
    assert not mine(lucid).get(server)
    assert not (lucid.home / "xrdp" / server).exists()
    ports = {one["port"]: one for one in rdp(lucid, "ports", "--json")["ports"]}
    assert ports[port]["state"] == "reserved"
    assert str(port) in rdp(lucid, "ports")
    assert "lucid rdp list" in rdp(lucid, "show", "support", status=66)
    assert "lucid rdp list" in rdp(lucid, "stop", str(new_session_id()), status=1)
    assert rdp(lucid, "block-port", str(port + 9)) == f"port {port + 9} is blocked\n"
    assert rdp(lucid, "unblock-port", str(port + 9), "--json")["port"] == port + 9
    entries = asyncio.run(orders(settings_of(lucid)))
    # Each command that was sent, also the ones that were refused, by whom and about what.
    written = [encode(one.data.command) for one in entries
               if isinstance(one.data, RdpServerOrdered)]  # fmt: skip
    assert written == asyncio.run(sent(settings_of(lucid), "rdp.server.commands"))
    assert {one.user for one in entries} == {acting_user()}
    assert {server, f"port/{port + 9}"} <= {one.subject for one in entries}
    first = entries[0].data
    assert isinstance(first, RdpServerOrdered)
    assert (first.command.action, first.command.owner) == ("create", "ada")
    assert first.command.config is not None
    assert first.command.config.devices.clipboard


def test_no_command_is_sent_that_is_not_audited(
    lucid: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_topic, "Audit", FullDisk)
    before = asyncio.run(sent(settings_of(lucid), "rdp.server.commands"))
    assert "the disk is full" in rdp(lucid, "create", "unseen", status=AuditFailed.exit_status)
    assert asyncio.run(sent(settings_of(lucid), "rdp.server.commands")) == before


async def test_commands_twice_in_another_order_and_nonsense(lucid: Installation) -> None:
    server = str(new_session_id())
    create = order("create", server, name="orders", config=ServerConfig())
    stop, start = order("stop", server), order("start", server)
    early = order("start", server)
    answers = await ask(
        lucid, early, create, create, stop, create, start, stop, garbage=b"{nonsense"
    )  # fmt: skip
    by_action = dict(zip(("early", "create", "stop", "start"), answers, strict=True))
    assert by_action["early"].code == "UnknownServer"
    # Whatever was superseded is said to be; the server is what the last new command said.
    assert by_action["start"].state == "running"
    shown = (await asyncio.to_thread(listed, lucid))["orders"]
    assert (shown["state"], shown["server"]) == ("running", server)
    assert len(mine(lucid)[server]) == 2
    settings = settings_of(lucid)
    letters = load_contract(settings).topic("dead.letters").full_name
    found = [record async for record in read_topic(settings, letters)]
    assert any(b"nonsense" in (record.value or b"") for record in found)
    (deleted,) = await ask(lucid, order("delete", server))
    assert deleted.state == "deleted"


def test_services_that_are_killed_find_their_servers_again(lucid: Installation) -> None:
    made = rdp(lucid, "create", "lasting", "--json")
    server = made["server"]
    before = mains(lucid, server)
    lucid.stop(ROOM, signal.SIGKILL)
    lucid.stop(MANAGER, signal.SIGKILL)
    assert all(is_alive(one) for one in before)
    sent = rdp(lucid, "create", "later", "--wait", "0", "--json")
    subprocess.run(["kill", "-KILL", str(before[0].pid)], check=True)
    lucid.start(MANAGER)
    lucid.start(ROOM)
    wait_for(lambda: listed(lucid).get("later", {}).get("state") == "running", "later", 60)
    assert sent["server"] == listed(lucid)["later"]["server"]
    # xrdp was killed meanwhile and is there again; its session manager was taken over.
    wait_for(lambda: all(is_alive(one) for one in mains(lucid, server)), "restarted xrdp")
    xrdp, sesman = mains(lucid, server)
    assert xrdp != before[0]
    assert sesman == before[1]
    wait_for(lambda: listed(lucid)["lasting"]["state"] == "running", "running server")
    # A room that is stopped ends no desktop; servers are deleted also while it is away.
    assert lucid.stop(ROOM) == 0
    assert is_alive(xrdp)
    rdp(lucid, "delete", "lasting", "--wait", "0", "--json")
    wait_for(lambda: listed(lucid)["lasting"]["state"] == "stopping", "stopping server")
    lucid.start(ROOM)
    wait_for(lambda: "lasting" not in listed(lucid), "deleted server")
    assert not is_alive(xrdp)
    assert not (lucid.home / "xrdp" / server).exists()


async def test_a_standby_takes_over(lucid: Installation) -> None:
    second = lucid.start(MANAGER, "standby")
    lucid.stop(MANAGER, signal.SIGKILL)
    server = str(new_session_id())
    (made,) = await ask(lucid, order("create", server, name="second", config=ServerConfig()))
    assert (made.state, second) == ("running", "standby")
    await asyncio.to_thread(lucid.start, MANAGER)
    (done,) = await ask(lucid, order("delete", server))
    assert done.state == "deleted"


def test_a_folder_of_a_server_holds_no_secret_that_others_read(lucid: Installation) -> None:
    for path in (lucid.home / "xrdp").rglob("*"):
        public = "public" in path.parts
        mode = path.stat().st_mode & 0o777
        # What a user's channel server reads tells of ports and devices, and of nothing else.
        if path.is_file() and not public and path.name != "sesman.ini":
            assert mode & 0o077 == 0, path
        assert mode & 0o022 == 0, path
