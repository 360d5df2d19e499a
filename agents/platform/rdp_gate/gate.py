"""The gate: what a desktop session runs instead of the user's programs, until it may run them.

    python3 -I gate.py --server ID --socket PATH [--open] [--away SECONDS] [COMMAND …]

xrdp's session manager starts it as the user, once the X server is up. It tells the controller
of the session, waits for the permission (that is, for the recording), shows the notice, runs
COMMAND, and stays: its connection to the controller lives as long as the session. Standard
library only, for it runs with the system's Python and nothing of Lucid beside it.

Each message is one line of JSON. To the controller:

    {"version": 1, "server", "display", "xauthority", "user", "pid", "session"}   first
    {"idle": ms or null}        every few seconds; null: the X server does not say
    {"notice": "accepted" | "declined" | "unshown"}
    {"suspended": true | false}
    {"ended": status, "code": one of CODES, "reason": text}

From the controller:

    {"go": true, "session": id, "notice": text, "report": seconds, "require": bool,
     "away": seconds}           an adopted session gets it, too
    {"go": false, "reason": text}
    {"alive": true}             every few seconds
    {"suspend": true | false}   all programs of the session stop, or go on
    {"end": reason}             all programs of the session are ended
    {"bye": true}               the recording is closed; the X server may go

Without a sign of the controller for `away` seconds the session is ended, or goes on if
recording is not required. Exit status: that of COMMAND, 1 without a permission, 2 after `end`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pwd
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Isolated mode leaves the script's own folder out.
sys.path.insert(0, str(Path(__file__).resolve().parent))

if TYPE_CHECKING:
    from agents.platform.rdp_gate.gate_line import Line, descendants, started, tell
    from agents.platform.rdp_gate.x_client import XGone, XServer
else:
    from gate_line import Line, descendants, started, tell
    from x_client import XGone, XServer

AGAIN_SECONDS = 1.0  # between tries to reach the controller
TERM_SECONDS = 5.0  # from SIGTERM to SIGKILL
BYE_SECONDS = 8.0  # for the recording to be closed before the X server goes
X_SECONDS = 2.0  # for an X server to answer when the user's programs ended
REFUSAL_SECONDS = 10  # for which a refusal is shown
XMESSAGE = "/usr/bin/xmessage"
CODES = ("logged_off", "told", "refused", "notice", "away", "x_gone", "signal", "no_program")
AGREED, LEFT = 100, 101  # exit statuses of xmessage; its own failures are below
MARK = "LUCID_RDP_GATE"
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


class Gate:
    """One session. state: asking, notice, refused, running, ending."""

    def __init__(self, options: argparse.Namespace, xserver: XServer) -> None:
        self.options, self.x = options, xserver
        self.line = Line(options.socket)
        self.require, self.away, self.report = not options.open, options.away, 10.0
        self.state, self.code, self.reason, self.status = "asking", "", "", 1
        self.session: str | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.note: subprocess.Popen[bytes] | None = None
        self.heard = time.monotonic()
        self.next_try = self.next_report = self.kill_at = 0.0
        self.killed = self.x_gone = False

    def hello(self) -> dict[str, Any]:
        return {
            "version": 1, "server": self.options.server, "display": ":" + self.x.number,
            "xauthority": self.options.xauthority, "user": pwd.getpwuid(os.getuid()).pw_name,
            "pid": os.getpid(), "session": self.session,
        }  # fmt: skip

    def run(self) -> int:
        """Until the session has ended; the exit status."""
        woken, wake = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: self.end("signal", "the gate got a signal"))
        while self.state != "over":
            now = time.monotonic()
            self.keep_line(now)
            self.look_at_time(now)
            with selectors.DefaultSelector() as selector:
                selector.register(woken, selectors.EVENT_READ)
                for one in (self.line.sock, None if self.x_gone else self.x.sock):
                    if one is not None:
                        selector.register(one, selectors.EVENT_READ)
                ready = {key.fileobj for key, _ in selector.select(0.25)}
            if woken in ready:
                woken.recv(4096)
            self.reap()
            if self.line.sock in ready:
                for message in self.line.read():
                    self.take(message)
            if self.x.sock in ready and not self.x_gone:
                self.read_x()
        return self.leave()

    # -- the controller ------------------------------------------------------------------------

    def keep_line(self, now: float) -> None:
        """Reach the controller again; without it for too long, do what the policy says."""
        if self.line.sock is None and now >= self.next_try:
            self.next_try = now + AGAIN_SECONDS
            if self.line.connect(self.hello()) and self.state == "ended":
                self.report_end()
        if now - self.heard < self.away or self.state not in ("asking", "notice", "running"):
            return
        if self.require and self.state == "asking":
            self.refuse("nobody answers who could record it")
        elif self.require:
            self.end("away", "the controller is away")
        elif self.state == "asking":
            self.start()

    def take(self, message: dict[str, Any]) -> None:
        """One message of the controller."""
        self.heard = time.monotonic()
        if message.get("go") is True:
            self.session = message.get("session")
            self.report = float(message.get("report", self.report))
            self.require = bool(message.get("require", self.require))
            self.away = float(message.get("away", self.away))
            if self.state == "asking":
                self.show_notice(message.get("notice") or "")
        elif message.get("go") is False:
            why = str(message.get("reason", "the session is refused"))
            self.refuse(why) if self.state == "asking" else self.end("told", why)
        elif "suspend" in message:
            self.suspend(bool(message["suspend"]))
        elif "end" in message:
            self.end("told", str(message["end"]))
        elif message.get("bye") is True and self.state == "ended":
            self.state = "over"

    def look_at_time(self, now: float) -> None:
        if now >= self.next_report and not self.x_gone:
            self.next_report = now + self.report
            try:
                if not self.x.ask_idle():
                    self.line.send({"idle": None})
            except XGone as error:
                self.lose_x(error)
        if self.kill_at and now >= self.kill_at:
            if self.state == "ended":
                self.state = "over"
            elif not self.killed:
                self.killed = True
                tell(descendants(os.getpid()), signal.SIGKILL)
                self.kill_at = now + TERM_SECONDS
            else:
                self.report_end()  # what is left is another user's, and has no desktop

    # -- the X server ----------------------------------------------------------------------------

    def read_x(self) -> None:
        try:
            idle = self.x.idle()
        except XGone as error:
            self.lose_x(error)
            return
        if idle is not None:
            self.line.send({"idle": idle})

    def make_sure_of_x(self) -> None:
        if not self.x_gone:
            try:
                self.x.round_trip(X_SECONDS)
            except XGone as error:
                self.lose_x(error)

    def lose_x(self, error: XGone) -> None:
        self.x_gone = True
        self.end("x_gone", str(error))

    # -- the session's programs ------------------------------------------------------------------

    def show_notice(self, text: str) -> None:
        if not text:
            self.start()
            return
        self.state = "notice"
        buttons = f"I agree:{AGREED},Leave:{LEFT}"
        self.note = self.message(text, "-buttons", buttons, "-title", "Recording")
        if self.note is None:
            self.answer_notice(None)

    def message(self, text: str, *more: str) -> subprocess.Popen[bytes] | None:
        command = [XMESSAGE, "-center", "-name", "lucid-gate", *more, "-file", "-"]
        try:
            shown = subprocess.Popen(command, stdin=subprocess.PIPE)
            assert shown.stdin is not None
            shown.stdin.write(text.encode())
            shown.stdin.close()
        except OSError:
            return None
        return shown

    def answer_notice(self, status: int | None) -> None:
        known = {AGREED: "accepted", LEFT: "declined"}
        answer = known.get(-1 if status is None else status, "unshown")
        self.line.send({"notice": answer})
        if answer == "accepted":
            self.start()
        else:
            self.end("notice", f"the notice was {answer}")

    def start(self) -> None:
        self.state = "running"
        # By this mark what is left of a session is found when its gate was killed.
        env = {**os.environ, MARK: f"{os.getpid()}.{started()}"}
        try:
            self.child = subprocess.Popen(self.options.command, start_new_session=True, env=env)
        except OSError as error:
            self.end("no_program", f"the session's program does not start: {error}")

    def suspend(self, wanted: bool) -> None:
        number = signal.SIGSTOP if wanted else signal.SIGCONT
        stopped: set[int] = set()
        # A process that forks while the others are being stopped is found by the next look.
        while (found := set(descendants(os.getpid()))) - stopped:
            tell(found - stopped, number)
            stopped |= found
        self.line.send({"suspended": wanted})

    def reap(self) -> None:
        """Take the ended children, adopted ones included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == 0:
                break
            code = os.waitstatus_to_exitcode(status)
            if self.note is not None and pid == self.note.pid:
                self.note.returncode, self.note = code, None
                if self.state == "notice":
                    self.answer_notice(code)
                elif self.state == "refused":
                    self.end("refused", self.reason)
            elif self.child is not None and pid == self.child.pid:
                self.child.returncode, self.child = code, None
                # When the X server ends, its clients do, too, and may be seen first.
                self.make_sure_of_x()
                if self.state == "running":
                    self.status = code if code >= 0 else 128 - code
                    self.end("logged_off", "the user's programs ended")
        if self.state == "ending" and not descendants(os.getpid()):
            self.report_end()

    def report_end(self) -> None:
        told = {"ended": self.status, "code": self.code, "reason": self.reason}
        heard = self.line.send(told)
        # Who closes the recording may be away: the X server stays for as long as a session would.
        stays = heard or (self.code in ("logged_off", "told") and not self.x_gone)
        self.state = "ended" if stays else "over"
        self.kill_at = time.monotonic() + (BYE_SECONDS if heard else self.away)

    def refuse(self, reason: str) -> None:
        """Show why there is no desktop, for a while."""
        self.state, self.reason = "refused", reason
        self.note = self.message(
            f"This desktop cannot be used: {reason}", "-timeout", str(REFUSAL_SECONDS),
            "-title", "Refused",
        )  # fmt: skip
        if self.note is None:
            self.end("refused", reason)

    def end(self, code: str, reason: str) -> None:
        """End every process of the session."""
        if self.state in ("ending", "ended", "over"):
            return
        if code not in ("refused", "logged_off"):
            self.status = 2
        self.state, self.code, self.reason = "ending", code, reason
        below = descendants(os.getpid())
        tell(below, signal.SIGTERM)
        tell(below, signal.SIGCONT)
        self.kill_at = time.monotonic() + TERM_SECONDS

    def leave(self) -> int:
        tell(descendants(os.getpid()), signal.SIGKILL)
        self.line.close()
        return self.status


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gate")
    parser.add_argument("--server", required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--open", action="store_true", help="go on without a controller")
    parser.add_argument("--away", type=float, default=60.0)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    home = os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    options.xauthority = os.environ.get("XAUTHORITY") or os.path.join(home, ".Xauthority")
    libc = ctypes.CDLL(None, use_errno=True)
    # Daemons of the session stay below the gate; the user's other programs cannot trace it.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    try:
        xserver = XServer(os.environ.get("DISPLAY", ""), options.xauthority)
    except XGone as error:
        print(f"gate: {error}", file=sys.stderr)
        return 1
    return Gate(options, xserver).run()


if __name__ == "__main__":
    sys.exit(main())
