"""The gate on a real X server, with a controller that says what a test wants it to say."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.platform.process_table import children_of, process_ref
from agents.platform.rdp_gate import DESKTOP, SOURCES, install, unreachable
from agents.platform.rdp_gate.x_client import XGone, XServer, cookie
from tests.e2e.conftest import xvfb
from tests.platform.rdp_gate_scene import GO, Scene
from tests.waiting import wait_for

pytestmark = pytest.mark.display


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with xvfb() as (display, server), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "c.sock"))
        listener.listen(8)
        found = Scene(display, server, tmp_path, listener)
        try:
            yield found
        finally:
            for gate in found.gates:
                left = children_of([gate.pid])
                for one in left:
                    with contextlib.suppress(OSError):
                        os.kill(one.pid, signal.SIGKILL)
                gate.kill()
                gate.wait()


def test_nothing_runs_before_the_controller_says_so(scene: Scene) -> None:
    mark = scene.folder / "began"
    gate = scene.gate("sh", "-c", f"touch {mark}; exit 7")
    talk = scene.talk()
    hello = talk.hear("version")
    assert hello == {
        "version": 1, "server": "srv", "display": scene.display, "user": "root",
        "xauthority": f"{scene.folder}/.Xauthority", "pid": gate.pid, "session": None,
    }  # fmt: skip
    assert isinstance(talk.hear("idle")["idle"], int)
    assert not mark.exists()
    talk.say(GO)
    ended = talk.hear("ended")
    assert ended == {"ended": 7, "code": "logged_off", "reason": "the user's programs ended"}
    assert mark.exists()
    # It waits for the recording to be closed, and only then lets the X server go.
    with pytest.raises(subprocess.TimeoutExpired):
        gate.wait(0.5)
    talk.say({"bye": True})
    assert gate.wait(5) == 7


def test_a_refusal_is_shown_and_nothing_ever_runs(scene: Scene) -> None:
    mark = scene.folder / "began"
    gate = scene.gate("touch", str(mark))
    talk = scene.talk()
    talk.say({"go": False, "reason": "nobody records"})
    wait_for(lambda: "Refused" in scene.windows())
    talk.say({"end": "enough"})
    assert talk.hear("ended")["code"] == "told"
    talk.say({"bye": True})
    assert gate.wait(5) == 2
    assert not mark.exists()


@pytest.mark.parametrize(("key", "answer"), [("I agree", "accepted"), ("Leave", "declined")])
def test_the_notice_is_answered_before_anything_runs(scene: Scene, key: str, answer: str) -> None:
    mark = scene.folder / "began"
    gate = scene.gate("sh", "-c", f"touch {mark}; exec sleep 60")
    talk = scene.talk()
    talk.say({**GO, "notice": "-Everything is recorded.\nReally."})
    wait_for(lambda: "Recording" in scene.windows())
    assert not mark.exists()
    press(scene, first=key == "I agree")
    assert talk.hear("notice") == {"notice": answer}
    if answer == "accepted":
        wait_for(mark.exists)
        talk.say({"end": "enough"})
    assert talk.hear("ended")["code"] == ("told" if answer == "accepted" else "notice")
    talk.say({"bye": True})
    assert gate.wait(5) == 2
    assert mark.exists() == (answer == "accepted")


def press(scene: Scene, *, first: bool) -> None:
    """Click the first or the second button of the notice."""
    env = {"DISPLAY": scene.display, "PATH": os.environ["PATH"]}

    def xdotool(*words: str) -> str:
        return subprocess.run(
            ["xdotool", *words], env=env, capture_output=True, text=True, check=True
        ).stdout

    window = xdotool("search", "--name", "^Recording$").split()[-1]
    lines = xdotool("getwindowgeometry", "--shell", window).split()
    place = {name: int(value) for name, _, value in (line.partition("=") for line in lines)}
    x = place["X"] + (25 if first else 85)
    xdotool("mousemove", str(x), str(place["Y"] + place["HEIGHT"] - 14), "click", "1")


def test_a_notice_that_nothing_can_show_keeps_the_desktop_closed(
    scene: Scene, tmp_path: Path
) -> None:
    start = install(tmp_path / "public", server="srv", socket=tmp_path / "c.sock")
    path = start.with_name("gate.py")
    path.write_text(path.read_text().replace("/usr/bin/xmessage", "/nonexistent"))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DISPLAY": scene.display}
    scene.gates.append(subprocess.Popen([start], env=env))
    talk = scene.talk()
    talk.say({**GO, "notice": "text"})
    assert talk.hear("notice") == {"notice": "unshown"}
    assert talk.hear("ended")["code"] == "notice"


def test_daemons_of_the_session_end_with_it_even_those_that_ignore_it(scene: Scene) -> None:
    # setsid and a parent that exits: the usual way to get out of somebody's sight.
    gate = scene.gate("sh", "-c", "trap '' TERM; setsid sh -c 'sleep 300 & exit' ; sleep 300")
    talk = scene.talk()
    talk.say(GO)
    below = wait_for(lambda: len(found := children_of([gate.pid])) >= 3 and found)
    began = time.monotonic()
    talk.say({"end": "the test is over"})
    assert talk.hear("ended", 15) == {"ended": 2, "code": "told", "reason": "the test is over"}
    assert time.monotonic() - began < 12
    assert all(process_ref(one.pid) != one for one in below)


def test_suspended_programs_stand_still_and_go_on(scene: Scene) -> None:
    gate = scene.gate("sh", "-c", "setsid sleep 300 & sleep 300 & wait")
    talk = scene.talk()
    talk.say(GO)
    wait_for(lambda: len(children_of([gate.pid])) == 3)

    def states() -> set[str]:
        pids = [one.pid for one in children_of([gate.pid])]
        return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}

    talk.say({"suspend": True})
    assert talk.hear("suspended") == {"suspended": True}
    wait_for(lambda: states() == {"T"})
    talk.say({"suspend": False})
    assert talk.hear("suspended") == {"suspended": False}
    wait_for(lambda: states() == {"S"})
    talk.say({"suspend": True}, {"end": "over"})
    assert talk.hear("ended")["code"] == "told"


def test_a_gate_comes_back_with_its_session_to_a_controller_that_is_started_again(
    scene: Scene,
) -> None:
    scene.gate("sleep", "300")
    talk = scene.talk()
    talk.say(GO)
    talk.hear("idle")
    talk.sock.close()
    again = scene.talk()
    assert again.hear("version")["session"] == "s-1"
    again.sock.sendall(b"this is no JSON\n")
    assert scene.talk().hear("version")["session"] == "s-1"


def test_whoever_logs_out_while_the_controller_is_away_waits_for_the_end_of_the_recording(
    scene: Scene,
) -> None:
    """The X server that is being recorded would go with the gate."""
    gate = scene.gate("sleep", "300")
    talk = scene.talk()
    talk.say(GO)
    (child,) = wait_for(lambda: children_of([gate.pid]))
    place = scene.folder / "c.sock"
    place.rename(scene.folder / "away")
    talk.sock.close()
    os.kill(child.pid, signal.SIGTERM)
    wait_for(lambda: not children_of([gate.pid]))
    with pytest.raises(subprocess.TimeoutExpired):
        gate.wait(1.5)
    (scene.folder / "away").rename(place)
    again = scene.talk()
    assert again.hear("version")["session"] == "s-1"
    ended = again.hear("ended")
    assert (ended["code"], ended["reason"]) == ("logged_off", "the user's programs ended")
    again.say(GO, {"bye": True})
    assert gate.wait(10) == ended["ended"]


@pytest.mark.parametrize("how", ["logged off", "x gone"])
def test_who_has_logged_out_does_not_wait_for_ever(scene: Scene, how: str) -> None:
    gate = scene.gate("sleep", "300")
    talk = scene.talk()
    talk.say({**GO, "away": 1.0 if how == "logged off" else 600.0})
    (child,) = wait_for(lambda: children_of([gate.pid]))
    (scene.folder / "c.sock").unlink()
    talk.sock.close()
    os.kill(child.pid if how == "logged off" else scene.server.pid, signal.SIGTERM)
    gate.wait(15)


@pytest.mark.parametrize("asked", [False, True])
def test_without_a_controller_a_session_ends_where_recording_is_required(
    scene: Scene, asked: bool
) -> None:
    gate = scene.gate("sleep", "300", away=1.0)
    if asked:
        talk = scene.talk()
        talk.say({**GO, "away": 1.0})
        wait_for(lambda: children_of([gate.pid]))
        talk.sock.close()
    scene.listener.close()
    if not asked:
        wait_for(lambda: "Refused" in scene.windows())
        gate.terminate()
    assert gate.wait(15) == 2


def test_without_a_controller_a_session_begins_where_recording_is_not_required(
    scene: Scene,
) -> None:
    mark = scene.folder / "began"
    gate = scene.gate("touch", str(mark), away=0.5, require=False)
    scene.listener.close()
    assert gate.wait(10) == 0
    assert mark.exists()


def test_the_end_of_the_x_server_is_the_end_of_the_session(scene: Scene) -> None:
    gate = scene.gate("sleep", "300")
    talk = scene.talk()
    talk.say(GO)
    wait_for(lambda: children_of([gate.pid]))
    scene.server.kill()
    ended = talk.hear("ended")
    assert (ended["code"], ended["reason"]) == ("x_gone", f"display {scene.display} is gone")


@pytest.mark.parametrize(
    ("does", "code", "reason"),
    [
        ("kill -KILL {x}", "x_gone", "display {display} is gone"),
        ("kill -STOP {x}; (sleep 0.3; kill -KILL {x}) &", "x_gone", "display {display} is gone"),
        ("kill -STOP {x}", "logged_off", "the user's programs ended"),
    ],
    ids=["gone", "going", "standing"],
)
def test_programs_that_end_first_do_not_hide_the_end_of_the_x_server(
    scene: Scene, does: str, code: str, reason: str
) -> None:
    """A server that answers no more may be gone, or may only stand still."""
    scene.gate("sh", "-c", does.format(x=scene.server.pid) + "\nexit 0")
    talk = scene.talk()
    talk.say(GO)
    found = talk.hear("ended")
    scene.server.send_signal(signal.SIGCONT)
    assert (found["code"], found["reason"]) == (code, reason.format(display=scene.display))


def test_a_program_that_does_not_start_is_said_to(scene: Scene) -> None:
    scene.gate("/nonexistent/program")
    talk = scene.talk()
    talk.say(GO)
    assert talk.hear("ended")["code"] == "no_program"


def test_a_signal_ends_the_session_in_order(scene: Scene) -> None:
    gate = scene.gate("sleep", "300")
    talk = scene.talk()
    talk.say(GO)
    wait_for(lambda: children_of([gate.pid]))
    gate.terminate()
    assert talk.hear("ended")["code"] == "signal"
    talk.say({"bye": True})
    assert gate.wait(5) == 2


def test_a_display_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    start = install(tmp_path / "public", server="srv", socket=tmp_path / "c.sock")
    done = subprocess.run(
        [start], env={"DISPLAY": ":63999", "HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert done.returncode == 1
    assert "display :63999 does not answer" in done.stderr
    with pytest.raises(XGone):
        XServer(":63999", str(tmp_path / "none"))


def test_the_idle_time_is_the_x_servers(scene: Scene) -> None:
    server = XServer(scene.display, str(scene.folder / "none"))
    assert server.ask_idle()
    first = server.idle()
    assert first is not None
    env = {"DISPLAY": scene.display, "PATH": os.environ["PATH"]}
    wait_for(lambda: (server.ask_idle() and (server.idle() or 0)) > 400)
    subprocess.run(["xdotool", "mousemove", "11", "12"], env=env, check=True)
    wait_for(lambda: server.ask_idle() and (found := server.idle()) is not None and found < 300)
    server.sock.close()


def test_a_cookie_is_that_of_the_display(tmp_path: Path) -> None:
    file = tmp_path / "auth"

    def entry(number: bytes, name: bytes, data: bytes) -> bytes:
        fields = (b"host", number, name, data)
        return b"\x01\x00" + b"".join(len(one).to_bytes(2, "big") + one for one in fields)

    file.write_bytes(
        entry(b"7", b"MIT-MAGIC-COOKIE-1", b"seven") + entry(b"8", b"XDM", b"other")
        + entry(b"8", b"MIT-MAGIC-COOKIE-1", b"eight")
    )  # fmt: skip
    assert cookie(str(file), "8") == b"eight"
    assert cookie(str(file), "9") == b""
    assert cookie(str(tmp_path / "none"), "8") == b""
    file.write_bytes(b"\x01")
    assert cookie(str(file), "8") == b""


def test_the_copy_is_a_users_to_run_and_nobodys_to_write(tmp_path: Path) -> None:
    start = install(tmp_path / "public", server="srv", socket=tmp_path / "c.sock")
    modes = {path.name: path.stat().st_mode & 0o777 for path in start.parent.iterdir()}
    code = dict.fromkeys(SOURCES, 0o644)
    assert modes == {**code, DESKTOP: 0o755, "startwm.sh": 0o755}
    assert "--open" not in start.read_text()
    install(tmp_path / "public", server="srv", socket=tmp_path, require_recording=False)
    assert "--open" in start.read_text()
    (tmp_path / "public").chmod(0o700)
    blocked = unreachable(start)
    assert blocked is not None
    assert blocked.stat().st_mode & 0o001 == 0
