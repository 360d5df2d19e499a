"""`make demo-rdp`: a real desktop server, a real client, and a recording that makes itself.

Starts the stack and all services, creates a server by command, connects an RDP client to it,
works there for a while, disconnects, ends the session, and checks what was recorded. Needs
root, for a desktop runs as an account of its own, which lives as long as the demo. Leaves its
results in demo-out/ and nothing running.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.run import ServiceName  # noqa: E402
from demo.demo import (  # noqa: E402
    OUT,
    Demo,
    DemoFailed,
    console,
    look_back,
    show,
    start_all,
    wait_for,
)
from demo.desktop import end  # noqa: E402

NOT_STARTED = {"node-agent"}  # a node's side: it runs where a node is
SERVICES = tuple(str(one) for one in ServiceName if one not in NOT_STARTED)
SECONDS = 20.0
SIZE = (1024, 768)
NOTICE = "This desktop is recorded, all of it."
DESKTOP = """\
#!/bin/sh
xsetroot -solid '#39506b'
xclock -geometry 170x170+830+570 -update 1 &
xeyes -geometry 220x140+590+600 &
xterm -geometry 60x12+560+40 -bg '#1b2b34' -fg '#a3be8c' -T processes -e top -d 1 &
exec xterm -geometry 84x40+20+40 -bg '#101820' -fg '#d8dee9' -T terminal
"""
LINES = (
    "cat /etc/os-release", "ls -l /", "date", "df -h /", "id", "uname -a",
    "for i in 1 2 3 4 5 6 7 8 9; do echo every record is numbered, chained and signed; done",
)  # fmt: skip


class RdpDemo(Demo):
    """The demo's own installation; what a desktop's user has to reach is in `open`."""

    def __init__(self, open_folder: Path) -> None:
        super().__init__()
        self.env |= {f"LUCID_{section(name)}_PORT": "0" for name in SERVICES}
        self.env["LUCID_XRDP_FOLDER"] = str(open_folder / "servers")
        self.env["LUCID_RDP_SOCKET"] = str(open_folder / "controller.sock")
        self.env["LUCID_CONTROLLER_NOTICE"] = NOTICE
        self.env["LUCID_CONTROLLER_REPORT_EVERY"] = "2"

    def ready(self) -> bool:
        """Whether every service says so in its log."""
        for name, process in zip(SERVICES, self.services, strict=True):
            if process.poll() is not None:
                raise DemoFailed(f"{name} ended at once; the logs are in {OUT}/logs")
        logs = [(OUT / "logs" / f"{name}.log").read_text() for name in SERVICES]
        return all('"event": "ready"' in log for log in logs)

    def desktop(self, state: str) -> dict[str, Any]:
        """The newest desktop session if it is in `state`."""
        found = self.lucid("rdp-sessions", "list", "--ended", "--json")["sessions"]
        return dict(found[0]) if found and found[0]["state"] == state else {}


def section(service: str) -> str:
    """The settings of a service: LUCID_<SECTION>_…"""
    return service.removeprefix("rdp-").upper().replace("-", "_")


@contextmanager
def account() -> Iterator[tuple[str, str]]:
    """A user and a password, made up for the time of the demo."""
    name, password = f"luciddemo{secrets.token_hex(3)}", secrets.token_urlsafe(12)
    subprocess.run(["useradd", "-m", "-s", "/bin/bash", name], check=True, capture_output=True)
    try:
        subprocess.run(["chpasswd"], input=f"{name}:{password}".encode(), check=True)
        script = Path("/home", name, ".xsession")
        script.write_text(DESKTOP)
        script.chmod(0o755)
        yield name, password
    finally:
        for _ in range(50):
            done = subprocess.run(["userdel", "-r", name], capture_output=True, check=False)
            if done.returncode in (0, 6):
                break
            for one in psutil.process_iter(["username"]):
                if one.info["username"] == name:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
            time.sleep(0.2)


@contextmanager
def screen() -> Iterator[str]:
    """The client's own display."""
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24", "-nolisten", "tcp"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        yield f":{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def client(display: str, port: int, user: str, password: str) -> Iterator[None]:
    """An RDP client that logs on; the password goes through its standard input."""
    with (OUT / "logs" / "client.log").open("wb") as log:
        program = subprocess.Popen(
            ["xfreerdp", f"/v:127.0.0.1:{port}", f"/u:{user}", "/from-stdin:force", "/cert:ignore",
             f"/size:{SIZE[0]}x{SIZE[1]}", "-decorations", "/log-level:ERROR"],
            stdin=subprocess.PIPE, stdout=log, stderr=log,
            env={**os.environ, "DISPLAY": display, "HOME": "/tmp"},
        )  # fmt: skip
    assert program.stdin is not None
    program.stdin.write(f"{password}\n".encode())
    program.stdin.close()
    try:
        yield
    finally:
        end(program)


def xdotool(display: str, *words: str) -> None:
    """A user's hands, at the client's display."""
    env = {**os.environ, "DISPLAY": display}
    subprocess.run(["xdotool", *words], env=env, check=False, capture_output=True)


def agree(demo: RdpDemo, display: str, session: str) -> None:
    """Look at the notice, and click on `I agree`, wherever that is."""

    def answered() -> bool:
        events = demo.lucid("rdp-sessions", "show", session, "--json")["events"]
        return any(one["what"] == "notice" for one in events)

    middle_x, middle_y = SIZE[0] // 2, SIZE[1] // 2
    width = 7 * len(NOTICE) + 20  # of the notice's window, about
    deadline = time.monotonic() + 40
    while not answered():
        if time.monotonic() > deadline:
            raise DemoFailed("nobody could agree to the notice")
        for y in range(middle_y, middle_y + 60, 8):
            xdotool(display, "mousemove", str(middle_x - width // 2 + 30), str(y), "click", "1")


def work(display: str, seconds: float) -> None:
    """Type into the terminal and move about for a while."""
    deadline, number = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        xdotool(display, "mousemove", "300", "300", "click", "1")
        xdotool(display, "type", "--delay", "30", LINES[number % len(LINES)])
        xdotool(display, "key", "Return")
        for step in range(6):
            xdotool(display, "mousemove", str(120 + 140 * step), str(160 + 90 * (step % 5)))
            time.sleep(0.15)
        number += 1


def record(demo: RdpDemo, port: int, user: str, password: str) -> tuple[dict[str, Any], float]:
    """Be a user for a while; the desktop session and the time of its end."""
    with screen() as display:
        with client(display, port, user, password):
            with console.status("Logging on"):
                session = wait_for(lambda: demo.desktop("active"), "desktop session", 90)
            console.print(f"Desktop session {session['session']} of {user} on {session['display']}")
            console.print(f"recorded by itself as {session['recording']}")
            agree(demo, display, session["session"])
            with console.status(f"Working there for {SECONDS:g} s"):
                work(display, SECONDS)
        with console.status("Disconnected"):
            wait_for(lambda: not demo.desktop("active")["clients"], "disconnected client")
            demo.lucid("rdp-sessions", "terminate", session["session"], "--reason",
                       "end of the demo", "--json")  # fmt: skip
    closed = time.monotonic()
    return demo.lucid("rdp-sessions", "show", session["session"], "--json"), closed


def run(demo: RdpDemo, user: str, password: str) -> bool:
    """All steps; whether everything is as it should be."""
    start_all(demo, SERVICES, 90)
    console.print(f"Kafka, the catalog and {len(SERVICES)} services are up: {', '.join(SERVICES)}")
    server = demo.lucid("rdp", "create", "demo", "--width", str(SIZE[0]), "--height", str(SIZE[1]),
                        "--json")  # fmt: skip
    console.print(f"Server demo is {server['state']} on port {server['port']}")
    try:
        desktop, closed = record(demo, server["port"], user, password)
        summary = look_back(demo, desktop["recordings"][0], closed)
    finally:
        with contextlib.suppress(DemoFailed):
            demo.lucid("rdp", "delete", "demo", "--json")
    summary["desktop"] = {name: desktop[name] for name in ("session", "user", "state", "reason")}
    summary["events"] = desktop["events"]
    (OUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    show(summary)
    for one in desktop["events"]:
        console.print(f"  {one['time'][11:23]} {one['what']}: {one['state']} {one['reason']}")
    verdicts = set(summary["verdicts"].values())
    good = desktop["state"] == "terminated" and summary["state"] == "completed"
    return bool(good and verdicts == {"ok"})


def main() -> int:
    """Run the demo; exit status 1 when a step fails."""
    os.chdir(ROOT)
    if os.geteuid() != 0:
        console.print("A desktop runs as an account of its own: run this as root")
        return 1
    good = False
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lucid-rdp-")))
        folder.chmod(0o755)
        demo = RdpDemo(folder)
        if demo.home.exists():
            demo.lucid("stack", "down")  # of an earlier demo that was kept
        shutil.rmtree(OUT, ignore_errors=True)
        (OUT / "logs").mkdir(parents=True)
        user, password = stack.enter_context(account())
        stack.callback(demo.stop)
        try:
            good = run(demo, user, password)
        except DemoFailed as error:
            console.print(f"[red]The demo failed[/]: {error}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
