"""One run: everything is started, things go wrong by the schedule, all settles, all is judged."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pymongo import MongoClient

from agents.platform.catalog import ALIASES, PROJECTED
from tests.conftest import Stack, own_settings
from tests.e2e.conftest import Installation, install
from tests.faults import disk
from tests.faults.fleet import Fleet
from tests.faults.judge import FINAL, Left, Verdict, judge
from tests.faults.recorders import Recorders
from tests.faults.reference import seal_again
from tests.faults.report import Outcome
from tests.faults.schedule import PAUSE, Fault, make_schedule
from tests.faults.servers import Servers
from tests.faults.topics import count
from tests.waiting import wait_for

TICK = 0.05
VERIFIED = 3  # sessions that `lucid verify` looks at, too
SETTINGS = {
    "LUCID_RECORDER_CUT_BYTES": "262144", "LUCID_RECORDER_CUT_SECONDS": "2",
    "LUCID_RECORDER_KEEPALIVE_EVERY": "1", "LUCID_PIPELINE_ABANDON_AFTER": "60",
    "LUCID_PIPELINE_WATCH_EVERY": "2", "LUCID_MIN_FREE": "1MiB",
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """home: an empty folder for everything of the run. settle: seconds, a deadline."""

    seed: int
    seconds: float
    home: Path
    at_once: int = 4
    pause: float = PAUSE
    settle: float = 150.0

    @property
    def blobs(self) -> Path:
        return self.home / "lucid" / "blobs"


Tell = Callable[[str], None]


BEGIN_SECONDS = 60.0


@dataclass
class Run:
    """A run in progress. heals: monotonic times and what is undone then."""

    options: Options
    tell: Tell
    outcome: Outcome
    servers: Servers
    installation: Installation
    fleet: Fleet
    recorders: Recorders
    noise: random.Random
    heals: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    # -- while things go wrong ---------------------------------------------------------------

    def disturb(self, schedule: Sequence[Fault]) -> None:
        """Play the schedule to its end, once every recorder records: busy cores start slowly."""
        deadline = time.monotonic() + BEGIN_SECONDS
        while time.monotonic() < deadline and not self.recorders.record:
            self._tick()
        waiting = list(schedule)
        start, shown = time.monotonic(), 0.0
        while (now := time.monotonic() - start) < self.options.seconds:
            while waiting and waiting[0].at <= now:
                self._strike(waiting.pop(0))
            self._tick()
            if now - shown >= 1.0:
                shown = now
                self._show(f"{now:4.0f} of {self.options.seconds:.0f} s")

    def _tick(self) -> None:
        now = time.monotonic()
        for due in [heal for heal in self.heals if heal[0] <= now]:
            self.heals.remove(due)
            due[1]()
        self.servers.check()
        self.fleet.tick()
        self.recorders.tick()
        time.sleep(TICK)

    def _show(self, what: str) -> None:
        fleet = self.fleet
        self.tell(
            f"{what}: {self.outcome.faults.total()} faults, {fleet.kills.total()} kills, "
            f"{fleet.restarts} restarts, {len(self.recorders.ended)} sessions recorded, "
            f"{len(self.recorders.running)} running"
        )

    def _strike(self, fault: Fault) -> None:
        self.outcome.faults[fault.kind] += 1
        until = time.monotonic() + fault.seconds
        kind, target = fault.kind, fault.target
        if kind in ("kill", "point"):
            self.fleet.kill(target, arm=fault.detail, held=fault.seconds)
        elif kind in ("stop-short", "stop-long"):
            self.fleet.stop(target, fault.seconds)
        elif kind == "restart":
            self.fleet.restart(target)
        elif kind == "recorder-stop":
            self.recorders.stop_one(int(target), fault.seconds)
        elif kind == "recorder-kill":
            self.recorders.kill_one(int(target), fault.seconds, fault.detail)
        elif kind == "disk":
            disk.fill(self.options.blobs)
            self.heals.append((until, lambda: disk.free(self.options.blobs)))
        elif kind in ("delay", "stall", "cut"):
            self._network(fault, until)
        else:
            self.servers.outage(target, hard=kind.endswith("-kill"), until=until)

    def _network(self, fault: Fault, until: float) -> None:
        forwarder = self.servers.forwarder(fault.target)
        if fault.kind == "cut":
            share = float(fault.detail)
            self.outcome.connections_cut += forwarder.cut(share, self.noise)
            return
        if fault.kind == "delay":
            forwarder.delay = float(fault.detail)
        else:
            forwarder.stall()
        self.heals.append((until, forwarder.flow))

    # -- afterwards --------------------------------------------------------------------------

    def settle(self) -> None:
        """Undo all faults, then wait until every session has its end, or the deadline."""
        start = time.monotonic()
        self.recorders.stop()
        self.heals.clear()
        if disk.is_mounted(self.options.blobs):
            disk.free(self.options.blobs)
        self.fleet.settle()
        self.servers.settle()
        while self.recorders.running or self._unsettled():
            left = start + self.options.settle - time.monotonic()
            if left < 0:
                break
            for _ in range(20):
                self._tick()
            self._show(f"settling, {left:3.0f} s left")
        self.outcome.settled_seconds = time.monotonic() - start
        self.outcome.verdict.problems += [
            f"recorder {one.spec.seed} still runs" for one in self.recorders.running
        ]

    def _unsettled(self) -> bool:
        states = {key: one["state"] for key, one in self.documents("sessions").items()}
        for one in self.recorders.ended:
            if one.result is not None and one.result["records"]:
                states.setdefault(one.result["session"], "unknown")
        return any(state not in FINAL for state in states.values())

    def documents(self, collection: str) -> dict[str, dict[str, Any]]:
        """All documents of a collection of the catalog by `_id`, asked round the forwarder."""
        client: MongoClient[dict[str, Any]] = MongoClient(self.servers.direct("catalog"))
        try:
            database = client[self.installation.env["LUCID_DATABASE"]]
            if collection in PROJECTED:
                alias = database[ALIASES].find_one({"_id": collection})
                collection = alias["collection"] if alias else f"{collection}.0"
            return {one["_id"]: one for one in database[collection].find()}
        finally:
            client.close()

    def sweep(self) -> None:
        """Start the storages once more, which removes what crashes left; then end all services."""
        problems = self.outcome.verdict.problems
        for name in ("storage-1", "storage-2"):
            self.fleet.restart(name)
            member = self.fleet.members[name]
            old = member.process
            wait_for(lambda m=member, o=old: self._ready(m, o), f"{name} that is ready again", 60)
        problems += [f"{name} ended with status {status}"
                     for name, status in self.fleet.end().items() if status]  # fmt: skip
        problems += [f"left behind: {path}" for path in self.options.blobs.rglob(".tmp-*")]

    def _ready(self, member: Any, old: object) -> bool:
        self.fleet.tick()
        process = member.process
        if process is None or process is old:
            return False
        return self.installation.health(member.room, process) == 200

    def judge(self) -> None:
        """Seal the same log undisturbed, and compare."""
        direct = self.servers.direct
        logs, blobs = seal_again(
            self.installation, self.options.home / "undisturbed", direct("broker"),
            direct("catalog"),
        )  # fmt: skip
        self.tell(f"comparing {len(logs)} sessions")
        keys = self.installation.home / "keys"
        verdict = judge(
            Left(
                blobs=self.options.blobs, reference=blobs, logs=logs,
                recorders=self.recorders.ended, chunks=self.documents("chunks"),
                manifests=self.documents("manifests"), states=self.documents("sessions"),
                processor_key=(keys / "processor.vkey").read_text().strip(),
                identity=_secret((keys / "auditor.age").read_text()),
            )
        )  # fmt: skip
        verdict.problems[:0] = self.outcome.verdict.problems
        self.outcome.verdict = verdict
        self._look_aside(verdict)
        self._verify(sorted(logs), verdict)

    def _look_aside(self, verdict: Verdict) -> None:
        """Dead letters and conflicts: a run has none."""
        prefix = self.installation.env["LUCID_TOPIC_PREFIX"]
        letters = asyncio.run(count(self.servers.direct("broker"), f"{prefix}dead.letters"))
        if letters:
            verdict.problems.append(f"{letters} dead letters")
        verdict.problems += [f"conflict {key}" for key in self.documents("conflicts")]

    def _verify(self, sessions: Sequence[str], verdict: Verdict) -> None:
        """`lucid verify` agrees with the catalog about some of the sessions."""
        states = self.documents("sessions")
        for session in self.noise.sample(sessions, min(VERIFIED, len(sessions))):
            complete = states.get(session, {}).get("state") == "completed"
            status = self.installation.lucid("verify", session, check=False).returncode
            if status != (0 if complete else 1):
                verdict.problems.append(f"{session}: `lucid verify` ended with status {status}")

    def count_up(self) -> None:
        """What is known when all services have ended."""
        outcome, fleet = self.outcome, self.fleet
        recorders = self.recorders
        outcome.kills = fleet.kills + Counter(recorder=recorders.kills)
        outcome.exits, outcome.restarts = fleet.exits, fleet.restarts + recorders.resumes
        outcome.stops = fleet.stops + Counter(recorder=recorders.stops)
        outcome.points_passed, outcome.points_struck = fleet.points()
        outcome.without_result = Counter(
            f"status {one.status}" for one in recorders.ended if one.result is None
        )
        outcome.verdict.problems += [
            f"{what}: a bug, see its log" for what in fleet.exits if what.endswith("status 70")
        ]


def _secret(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("AGE-SECRET-KEY-"))


def execute(options: Options, tell: Tell) -> Outcome:
    """Do a whole run; what goes wrong in the harness itself is raised."""
    outcome = Outcome(options.seed, round(options.seconds / 60, 2), options.pause)
    without = [] if disk.is_mounted(options.blobs) else ["disk"]
    if without:
        outcome.left_out.append("disk full: no mounts here")
    with ExitStack() as ends:
        tell("starting Kafka and the catalog")
        servers = Servers(options.home / "stack")
        ends.callback(servers.close)
        servers.up()
        stack = Stack(options.home, own_settings(options.home), servers.proxied("broker"),
                      servers.proxied("catalog"), "redis://127.0.0.1:1/0")  # fmt: skip
        installation = install(options.home / "lucid", stack)
        installation.env.update(SETTINGS)
        fleet = Fleet(installation.env, installation.home)
        ends.callback(fleet.end)
        recorders = Recorders(
            installation.env, options.home, options.seed, options.at_once, fleet.points_log
        )
        ends.callback(recorders.close)
        noise = random.Random(f"run {options.seed}")
        run = Run(options, tell, outcome, servers, installation, fleet, recorders, noise)
        fleet.start()
        run.disturb(make_schedule(options.seed, options.seconds, without, options.pause))
        run.settle()
        run.sweep()
        run.count_up()
        tell("sealing the same log undisturbed")
        run.judge()
    outcome.verdict.problems += [f"process left: {one}" for one in _children()]
    return outcome


def _children() -> list[str]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            found.append(" ".join(child.cmdline()[:4]))
        except psutil.NoSuchProcess:
            continue
    return found


def keep(options: Options) -> None:
    """Copy the small disk's files to where they outlive this process."""
    subprocess.run(["cp", "-a", str(options.blobs), str(options.home / "kept-blobs")], check=False)
    print(f"kept {options.home}", file=sys.stderr)
