"""An X server, a controller's side of the socket and a gate between them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import agents.platform.rdp_gate as gate_package

GO = {"go": True, "session": "s-1", "notice": "", "report": 0.2, "require": True, "away": 30}


@dataclass
class Talk:
    """One connection of a gate."""

    sock: socket.socket
    heard: list[dict[str, Any]] = field(default_factory=list)
    rest: bytes = b""

    def say(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, key: str, seconds: float = 10.0) -> dict[str, Any]:
        """The next message that has `key`."""
        self.sock.settimeout(seconds)
        while True:
            *lines, self.rest = self.rest.split(b"\n")
            self.heard += [json.loads(line) for line in lines]
            while self.heard:
                message = self.heard.pop(0)
                if key in message:
                    return message
            data = self.sock.recv(65536)
            assert data, f"the gate left before it said {key}"
            self.rest += data


@dataclass
class Scene:
    """A display, a controller's socket, and gates that are started on them."""

    display: str
    server: subprocess.Popen[bytes]
    folder: Path
    listener: socket.socket
    gates: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def gate(self, *command: str, away: float = 30.0, require: bool = True) -> Any:
        """The gate as it stands in the source; how a copy of it runs has tests of its own."""
        words = [
            sys.executable, "-I", gate_package.__path__[0] + "/gate.py", "--server", "srv",
            "--socket", str(self.folder / "c.sock"), "--away", str(away),
            *([] if require else ["--open"]), "--", *command,
        ]  # fmt: skip
        env = {name: text for name, text in os.environ.items() if name[:3] in ("PAT", "COV")}
        env |= {"HOME": str(self.folder), "DISPLAY": f"{self.display}.0"}
        self.gates.append(subprocess.Popen(words, env=env))
        return self.gates[-1]

    def talk(self) -> Talk:
        self.listener.settimeout(10)
        return Talk(self.listener.accept()[0])

    def windows(self) -> str:
        """What is on the screen, by xwininfo."""
        found = subprocess.run(
            ["xwininfo", "-root", "-tree"], capture_output=True, text=True, check=False,
            env={"DISPLAY": self.display, "PATH": os.environ["PATH"]},
        )  # fmt: skip
        return found.stdout
