"""`make demo`: a live desktop recorded through the running services, and checked.

Leaves its results in demo-out/ and nothing running; with --keep the stack and the services
stay up, and it says how to look around.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from demo.desktop import desktop, move_about  # noqa: E402

OUT = Path("demo-out")
SERVICES = ("processor", "storage", "pipeline", "recorder")
SECONDS = 20.0
console = Console(highlight=False)
Found = TypeVar("Found")


class DemoFailed(Exception):
    """A step did not come to its end."""


def wait_for(look: Callable[[], Found], what: str, seconds: float = 60.0) -> Found:
    """The first true answer of `look`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise DemoFailed(f"no {what} within {seconds:g} s; the logs are in {OUT}/logs")


class Demo:
    """The demo's own installation under demo-out/, on free ports."""

    def __init__(self) -> None:
        home = (OUT / "home").resolve()
        self.env = {name: text for name, text in os.environ.items() if name[:6] != "LUCID_"}
        self.env["LUCID_HOME"] = str(home)
        self.env |= {f"LUCID_{service.upper()}_PORT": "0" for service in SERVICES}
        self.home = home
        self.services: list[subprocess.Popen[bytes]] = []

    def lucid(self, *arguments: str) -> dict[str, Any]:
        """Run a command that prints JSON; raises DemoFailed with what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "agents.cli", *arguments],
            env=self.env, capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        if done.returncode:
            raise DemoFailed(f"lucid {' '.join(arguments)}: {done.stderr.strip()}")
        return json.loads(done.stdout) if "--json" in arguments else {}

    def start(self, service: str) -> None:
        """Start a service as a process of its own."""
        with (OUT / "logs" / f"{service}.log").open("wb") as log:
            self.services.append(
                subprocess.Popen(
                    [sys.executable, "-m", "agents.cli", "run", service],
                    env=self.env, stdout=log, stderr=log, cwd=ROOT,
                )
            )  # fmt: skip

    def ready(self) -> bool:
        """Whether every service says so in its log."""
        for process in self.services:
            if process.poll() is not None:
                raise DemoFailed(f"a service ended at once; the logs are in {OUT}/logs")
        logs = [(OUT / "logs" / f"{service}.log").read_text() for service in SERVICES]
        return all('"event": "ready"' in log for log in logs)

    def stop(self) -> None:
        """End the services, then the stack."""
        for process in self.services:
            process.send_signal(signal.SIGTERM)
        for process in self.services:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(12)
            process.kill()
        self.lucid("stack", "down")

    def newest(self, state: str) -> str:
        """The newest session if it is in `state`."""
        sessions = self.lucid("sessions", "list", "--limit", "1", "--json")["sessions"]
        return str(sessions[0]["session"]) if sessions and sessions[0]["state"] == state else ""

    def settled(self, session: str) -> dict[str, Any]:
        """What is known of a session once everything is counted."""
        shown = self.lucid("sessions", "show", session, "--json")
        return shown if shown["state"] in ("completed", "incomplete") else {}


def record(demo: Demo) -> tuple[str, float]:
    """Record a desktop by commands to the running recorder; session and time of its end."""
    with desktop(OUT / "logs") as display:
        demo.lucid("recorder", "start", display, "--owner", "demo", "--json")
        session = wait_for(lambda: demo.newest("recording"), "recording session")
        console.print(f"Recording display {display} as session {session}, {SECONDS:g} s")
        with console.status("Drawing, scrolling, moving the pointer"):
            move_about(display, SECONDS)
        demo.lucid("recorder", "stop", session, "--reason", "end of the demo", "--json")
        closed = time.monotonic()
    return session, closed


def look_back(demo: Demo, session: str, closed: float) -> dict[str, Any]:
    """Count, verify, export, bundle, and verify the bundle with no server."""
    with console.status("Waiting until everything is counted"):
        shown = wait_for(lambda: demo.settled(session), "complete session")
    seconds = time.monotonic() - closed
    report = demo.lucid("verify", session, "--json")
    film, sheet, bundle = (
        OUT / name for name in ("session.mp4", "contact-sheet.png", "session.lucid")
    )
    with console.status("Exporting"):
        demo.lucid("export", session, str(film.resolve()), "--json")
        demo.lucid("export", session, str(sheet.resolve()), "--json")
    demo.lucid("bundle", session, "-o", str(bundle.resolve()), "--json")
    offline = verify_offline(demo, bundle)
    return {
        "session": session,
        "state": shown["state"],
        "frames": shown["frames"],
        "chunks": shown["chunks"],
        "raw_bytes": shown["raw_bytes"],
        "stored_bytes": shown["stored_bytes"],
        "root": shown["root"],
        "seconds_recorded": shown["seconds"],
        "seconds_from_close_to_complete": round(seconds, 2),
        "verdicts": {"catalog": report["outcome"], "bundle_offline": offline["outcome"]},
        "findings": report["findings"] + offline["findings"],
        "files": {
            "film": str(film), "contact_sheet": str(sheet), "bundle": str(bundle),
            "chunks": os.path.relpath(shown["folder"]),
        },
    }  # fmt: skip


def verify_offline(demo: Demo, bundle: Path) -> dict[str, Any]:
    """Check the bundle as an auditor does: with keys, and without any server."""
    keys = demo.home / "keys"
    alone = Demo()
    alone.env["LUCID_HOME"] = str((OUT / "nowhere").resolve())
    return alone.lucid(
        "verify", str(bundle.resolve()), "--identity", str(keys / "auditor.age"),
        "--trust", str(keys / "trusted.txt"), "--json",
    )  # fmt: skip


def show(summary: dict[str, Any]) -> None:
    """The summary as a table."""
    table = Table(box=None, pad_edge=False, show_header=False)
    megabytes = f"{summary['raw_bytes'] / 1e6:.1f} MB, stored {summary['stored_bytes'] / 1e6:.1f}"
    rows = {
        "session": summary["session"],
        "state": summary["state"],
        "frames": f"{summary['frames']} in {summary['chunks']} chunks",
        "captured": f"{megabytes} MB",
        "root": summary["root"],
        "verified": ", ".join(f"{name} {found}" for name, found in summary["verdicts"].items()),
        "complete after": f"{summary['seconds_from_close_to_complete']} s",
        **summary["files"],
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)


def start_all(demo: Demo, services: Sequence[str], seconds: float) -> None:
    """Servers, keys, topics, and then the services until they are ready."""
    with console.status("Starting Kafka, the catalog and Redis (the first time builds them)"):
        demo.lucid("stack", "up")
        demo.lucid("keys", "init")
        demo.lucid("topics", "apply")
    with console.status("Starting the services"):
        for service in services:
            demo.start(service)
        wait_for(demo.ready, "ready services", seconds)


def run(demo: Demo) -> bool:
    """All steps; whether everything is as it should be."""
    start_all(demo, SERVICES, 40)
    console.print("Kafka, the catalog and four services are up")
    session, closed = record(demo)
    summary = look_back(demo, session, closed)
    (OUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    show(summary)
    verdicts = set(summary["verdicts"].values())
    return bool(summary["state"] == "completed" and verdicts == {"ok"})


def main() -> int:
    """Run the demo; exit status 1 when a step fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running")
    keep = parser.parse_args().keep
    os.chdir(ROOT)
    demo = Demo()
    if demo.home.exists():
        demo.lucid("stack", "down")  # of an earlier demo that was kept
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "logs").mkdir(parents=True)
    good = False
    try:
        good = run(demo)
    except DemoFailed as error:
        console.print(f"[red]The demo failed[/]: {error}")
    finally:
        if keep and good:
            console.print(
                f"Everything still runs. export LUCID_HOME={demo.home} and try "
                "`.venv/bin/lucid sessions list`.\n"
                f"End it: kill {' '.join(str(one.pid) for one in demo.services)}; "
                ".venv/bin/lucid stack down"
            )
        else:
            demo.stop()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
