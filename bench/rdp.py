"""20 RDP servers created, and 10 real clients' desktops recorded at once at 5 looks a second.

All services that a recorded desktop needs run, with servers of their own. Each desktop's
terminal changes ten times a second, so that every look finds something new: a look that did
not happen is a frame that is not there.
Needs root, xrdp and xfreerdp.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from agents.platform import stack as servers
from agents.platform.answers import Answers
from agents.platform.contract import load_contract
from agents.platform.process_table import marked
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.rdp.controller.commands import read_listing
from schemas.canonical import encode
from schemas.frames import Kind, from_kafka
from schemas.rdp_commands import ServerCommand
from schemas.rdp_config import ServerConfig
from schemas.rdp_servers import ServerCommandDone, ServerCommandRefused, ServerEvent
from schemas.sessions import new_session_id
from tests.conftest import Stack, own_settings
from tests.e2e.conftest import Installation, install, xvfb
from tests.rdp.people import account, can_run, client
from tests.waiting import wait_for

SERVERS, SESSIONS, LOOKS, WINDOW = 20, 10, 5, 30.0
SERVICES = (
    "processor", "storage", "pipeline", "recorder", "xrdp", "rdp-server-manager", "rdp-controller",
)  # fmt: skip
DESKTOP = """\
#!/bin/sh
exec xterm -geometry 80x24+40+40 -e sh -c 'while :; do date +%N; sleep 0.1; done'
"""
SETTINGS = {
    "LUCID_RECORDER_FPS": str(LOOKS), "LUCID_SERVER_MANAGER_FIRST_PORT": "13600",
    "LUCID_SERVER_MANAGER_LAST_PORT": "13660", "LUCID_XRDP_FIRST_DISPLAY": "5000",
    **{f"LUCID_{name}_PORT": "0" for name in ("XRDP", "SERVER_MANAGER", "CONTROLLER")},
}  # fmt: skip
PATIENCE = 120.0


def run() -> dict[str, float]:
    """Seconds to create a server; frames that are there of those that 5 looks a second make.

    Nothing where there can be no desktops.
    """
    if not can_run():
        return {}
    with ExitStack() as ends:
        lucid = ends.enter_context(_installation())
        users = [ends.enter_context(account(DESKTOP)) for _ in range(SESSIONS)]
        screen, _ = ends.enter_context(xvfb("1600x1200"))
        ends.callback(lambda: [lucid.stop(name) for name in list(lucid.running)])
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(partial(lucid.start, within=PATIENCE), SERVICES))
        settings = _settings(lucid)
        made, took = asyncio.run(_create(settings))
        # The first one waits until the manager, just started, has its partition.
        figures = {
            "create_first_s": took[0], "create_median_s": statistics.median(took),
            "create_worst_s": max(took[1:]),
        }  # fmt: skip
        began = time.monotonic()
        with ExitStack() as clients:
            for user, (_, port) in zip(users, made, strict=False):
                clients.enter_context(client(port, user, screen))
            wait_for(lambda: len(_active(settings)) == SESSIONS, "active desktops", PATIENCE)
            figures["logon_all_s"] = time.monotonic() - began
            figures |= _watch(lucid, made)
            window = (time.time() - WINDOW, time.time())
            sessions = _active(settings)
            asyncio.run(_delete(settings, [server for server, _ in made]))
        figures |= asyncio.run(_frames(settings, sessions, window))
        for recording in sessions:
            wait_for(lambda one=recording: lucid.state(one) == "completed", "recording", PATIENCE)
        verdicts = [lucid.lucid("verify", one, check=False).returncode for one in sessions]
        figures["verified"] = float(verdicts.count(0))
        figures["load"] = os.getloadavg()[1]
    return figures


@contextmanager
def _installation() -> Iterator[Installation]:
    """An installation of its own in a folder that users can enter."""
    folder = Path(tempfile.mkdtemp(prefix="lucid-bench-", dir="/tmp"))
    folder.chmod(0o755)
    settings = own_settings(folder / "stack")
    try:
        up = servers.up(settings)
        stack = Stack(folder / "stack", settings, up.kafka, up.mongo, up.redis)
        yield install(folder / "home", stack, **SETTINGS)
    finally:
        servers.down(settings)
        shutil.rmtree(folder, ignore_errors=True)


def _settings(lucid: Installation) -> Settings:
    env = lucid.env
    return Settings.load(
        home=lucid.home, kafka=env["LUCID_KAFKA"], mongo=env["LUCID_MONGO"],
        topic_prefix=env["LUCID_TOPIC_PREFIX"], database=env["LUCID_DATABASE"],
    )  # fmt: skip


async def _order(settings: Settings, commands: list[ServerCommand]) -> list[tuple[Any, float]]:
    """Send commands, each once the one before it is answered; answers, and seconds of each."""
    contract, found = load_contract(settings), []
    topic = contract.topic("rdp.server.commands").full_name
    async with (
        Producer(settings, contract.limits) as producer,
        Answers(settings, contract, "rdp.server.events", ServerEvent) as answers,
    ):
        for command in commands:
            began = time.monotonic()
            await producer.send(topic, encode(command), key=command.key.encode())
            types = (ServerCommandDone, ServerCommandRefused)
            event = await answers.wait(command.id, PATIENCE, types=types)
            if isinstance(event.data, ServerCommandRefused):
                raise RuntimeError(f"{command.action} refused: {event.data.reason}")
            found.append((event.data, time.monotonic() - began))
    return found


async def _create(settings: Settings) -> tuple[list[tuple[str, int]], list[float]]:
    """Servers with their ports, and the seconds from each command to its answer."""
    commands = [
        ServerCommand(id=str(new_session_id()), action="create", server=str(new_session_id()),
                      name=f"desk-{number}", config=ServerConfig())
        for number in range(SERVERS)
    ]  # fmt: skip
    found = await _order(settings, commands)
    return [(str(one.server), int(one.port)) for one, _ in found], [took for _, took in found]


async def _delete(settings: Settings, made: list[str]) -> None:
    await _order(settings, [
        ServerCommand(id=str(new_session_id()), action="delete", server=one) for one in made
    ])  # fmt: skip


def _active(settings: Settings) -> list[str]:
    """The recordings of all desktops that a user is in."""
    stories = asyncio.run(read_listing(settings)).stories.values()
    return [one.session.recording for one in stories
            if one.session.state == "active" and one.session.recording]  # fmt: skip


def _watch(lucid: Installation, made: list[tuple[str, int]]) -> dict[str, float]:
    """Let everybody work for a while; processors used by services and by desktops."""
    known = {server for server, _ in made}
    desktops = [ref.pid for server, refs in marked("LUCID_RDP_SERVER").items()
                if server in known for ref in refs]  # fmt: skip
    groups = {name: [process.pid] for name, process in lucid.running.items()}
    groups["desktops"] = desktops
    before = {name: _seconds(pids) for name, pids in groups.items()}
    time.sleep(WINDOW)
    used = {name: (_seconds(pids) - before[name]) / WINDOW for name, pids in groups.items()}
    return {f"cores_{name.replace('-', '_')}": max(0.0, share) for name, share in used.items()}


def _seconds(pids: list[int]) -> float:
    """Processor seconds of processes so far; of one that is gone none."""
    total = 0.0
    for pid in pids:
        try:
            total += sum(psutil.Process(pid).cpu_times()[:2])
        except psutil.Error:
            continue
    return total


async def _frames(
    settings: Settings, recordings: list[str], window: tuple[float, float]
) -> dict[str, float]:
    """What was captured in the window, and records of the whole that are not there."""
    topic = load_contract(settings).topic("session.frames").full_name
    numbers: dict[str, set[int]] = defaultdict(set)
    times: dict[str, list[float]] = defaultdict(list)
    async for raw in read_topic(settings, topic):
        record = from_kafka(raw.key, tuple(raw.headers), raw.value)
        name = str(record.session)
        if record.seq >= 0:
            numbers[name].add(record.seq)
        moment = record.time / 1e6
        if record.kind is Kind.FRAMES and window[0] <= moment <= window[1]:
            times[name].append(moment)
    rates = [len(times[one]) / WINDOW for one in recordings]
    gaps = [after - before for one in recordings for before, after in pairwise(sorted(times[one]))]
    return {
        "desktops": float(len(recordings)), "frames_a_s_least": min(rates),
        "frames_a_s_median": statistics.median(rates),
        "frames_of_all": sum(rates) / (LOOKS * len(recordings)), "gap_worst_s": max(gaps),
        "records_lost": float(sum(max(numbers[one]) + 1 - len(numbers[one]) for one in recordings)),
    }  # fmt: skip
