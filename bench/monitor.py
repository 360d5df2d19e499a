"""A round of the RDP monitor over 50 servers, against a bare pass of psutil over the same trees.

Each server is two real process trees, its xrdp and sesman, with a session each: eight
processes a server, with sockets of their own. The bare pass asks psutil for the parents,
times, memory and TCP connections of every process of the host and adds them up, nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psutil

from agents.rdp.monitor.disk import Disk
from agents.rdp.monitor.processes import Ref, make_table, read_stat, read_table, tree
from agents.rdp.monitor.sampler import Sampler
from agents.rdp.monitor.settings import MonitorSettings
from agents.rdp.monitor.targets import ServerTarget, SessionTarget
from schemas.rdp_metrics import GIB, MeasuredLimits, Watch, evaluate
from schemas.sessions import new_session_id

SERVERS, ROUNDS = 50, 5
LIMITS = MeasuredLimits(cpu=2.0, memory=2 * GIB, disk=10 * GIB)
# A server's process with `count` children below a child of its own, as sesman has a session's.
_TREE = r"""
import os, socket, sys, time
kept = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
kept.append(socket.create_connection(kept[0].getsockname()))
if os.fork() == 0:
    for _ in range(int(sys.argv[1])):
        if os.fork() == 0:
            break
    else:
        print("ready", flush=True)
while True:
    time.sleep(3600)
"""


def run() -> dict[str, float]:
    """Seconds of processor time for a round and for a bare pass; goal: a round below 0.5."""
    with ExitStack() as stack:
        targets = [_server(stack) for _ in range(SERVERS)]
        sampler = Sampler(host="bench", disk=Disk())
        rules = MonitorSettings(port=0).rules()
        watch: Watch = {}
        found: dict[str, float] = {}

        def once() -> None:
            nonlocal watch
            samples = sampler.sample(targets)
            watch, _ = evaluate(watch, samples, rules, clock=time.monotonic(), now=1)
            found["processes"] = sum(sample.usage.processes for sample in samples)

        once()
        round_seconds, bare_seconds = _seconds(once), _seconds(_bare)
        table_seconds = _seconds(lambda: read_table(0.0))
    if found["processes"] != SERVERS * 8:
        raise RuntimeError(f"the trees have {found['processes']} processes, not {SERVERS * 8}")
    return {
        "round_cpu_s": round_seconds, "bare_cpu_s": bare_seconds,
        "ratio": round_seconds / bare_seconds, "table_cpu_s": table_seconds, **found,
    }  # fmt: skip


def _seconds(call: Callable[[], object]) -> float:
    """Processor seconds of a call, the smallest of some."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return min(times)


def _bare() -> int:
    """What psutil says of every process, without any tree."""
    total = 0
    for one in psutil.process_iter():
        try:
            with one.oneshot():
                total += one.ppid() + one.num_threads()
                total += round(sum(one.cpu_times()) + one.create_time())
                total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total + len(psutil.net_connections("tcp"))


def _server(stack: ExitStack) -> ServerTarget:
    xrdp, sesman = stack.enter_context(_tree(0)), stack.enter_context(_tree(4))
    below = tree(make_table(read_table(0.0).by_pid.values(), 0.0), [sesman])
    desktop = tuple(ref for ref in sorted(below, key=lambda one: one.started))[2:4]
    session = SessionTarget(str(new_session_id()), desktop)
    return ServerTarget(str(new_session_id()), (xrdp, sesman), LIMITS, None, (session,))


@contextmanager
def _tree(count: int) -> Iterator[Ref]:
    with subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _TREE, str(count)],
        stdout=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            process.stdout.readline()
            found = read_stat(process.pid)
            assert found is not None
            yield found.ref
        finally:
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    print(json.dumps(run()))
