"""Real process trees to be measured: a root that has children, which work when they are told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agents.rdp.monitor.processes import Ref, read_stat

DEADLINE = 20.0
PROGRAM = r"""
import os, signal, socket, sys, time
kept = []
children = []
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
def child(count):
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            while True:
                time.sleep(60)
        children.append(pid)
print("ready", flush=True)
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "burn":
        burn(float(rest))
    elif word == "hold":
        kept.append(os.urandom(1) * int(rest))
    elif word == "fork":
        child(int(rest))
    elif word == "reaped":
        pid = os.fork()
        if pid == 0:
            burn(float(rest))
            os._exit(0)
        os.waitpid(pid, 0)
    elif word == "zombie":
        pid = os.fork()
        if pid == 0:
            burn(float(rest))
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    elif word == "wait":
        os.wait()
    elif word == "kill":
        pid = children.pop()
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    elif word == "orphan":
        # Both the middle one and the orphan are there before the middle one may go.
        there, go = os.pipe()
        if os.fork() == 0:
            os.close(go)
            pid = os.fork()
            if pid == 0:
                time.sleep(600)
            sys.stdout.write(f"orphan {pid}\n"); sys.stdout.flush()
            os.read(there, 1)
            os._exit(0)
        os.close(there)
        kept.append(go)
        continue
    elif word == "let":
        os.write(kept.pop(), b"x")
        os.wait()
    elif word == "send":
        port, size = rest.split()
        link = socket.create_connection(("127.0.0.1", int(port)))
        link.sendall(b"x" * int(size))
        kept.append(link)
    elif word == "daemon":
        # Named once the one that started it has ended, so that it descends from nobody here.
        told, tell = os.pipe()
        if os.fork() == 0:
            os.setsid()
            pid = os.fork()
            if pid == 0:
                os.execvpe("sleep", ["sleep", "600"], {**os.environ, "DISPLAY": rest})
            os.write(tell, str(pid).encode())
            os._exit(0)
        os.wait()
        print("daemon", os.read(told, 16).decode(), flush=True)
        continue
    print("done", flush=True)
for pid in children:
    os.kill(pid, signal.SIGKILL)
"""


@dataclass
class Tree:
    """A root process and what it was told to do."""

    process: subprocess.Popen[str]

    @property
    def ref(self) -> Ref:
        found = read_stat(self.process.pid)
        assert found is not None
        return found.ref

    def tell(self, text: str, answer: str = "done") -> str:
        """Have it do something, and wait until that is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline().strip()
        assert line.startswith(answer), line
        return line


@contextmanager
def a_tree(children: int = 0) -> Iterator[Tree]:
    """A tree in a session of its own; all of it is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        found = Tree(process)
        if children:
            found.tell(f"fork {children}")
        yield found
    finally:
        end_group(process.pid)
        process.wait(DEADLINE)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def end_group(pid: int) -> None:
    """Kill a process group of ours, if there is one left."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
