"""Records the screen content of `lucid load` anew: `python -m bench.record_content`.

Each kind is what the recorder's own X11 source captures of real programs on an X server of its
own, cut to MOST bytes. A file is the plaintext of a chunk (docs/formats/chunk.md), zstd: event
times and `screen/1` payloads as they were recorded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import zstandard

from agents.session.recorder.sources.base import Control, Stopped
from agents.session.recorder.sources.x11 import X11Source
from demo.desktop import end
from schemas.frames import FrameRecord, Kind, encode_entries
from schemas.sessions import new_session_id

OUT = Path(__file__).parent / "data"
MOST = 900_000  # bytes of a file
SIZE = "1280x720"
LEVEL = 19
SCROLL = (
    "find /usr/lib /usr/share -name '*.*' | while read -r line; do echo $line; sleep 0.01; done"
)
LETTER = (
    "Dear Ms Lovelace,\n\nplease find the minutes of last week below. The board has agreed to "
    "the budget for the second quarter, and asks for a list of open risks.\n\n"
)
Script = Callable[[dict[str, str], Callable[..., None]], None]


def office(env: dict[str, str], start: Callable[..., None]) -> None:
    """Somebody writes a letter, looks at a second window, moves windows about."""
    start("xclock", "-geometry", "160x160+1080+30", "-update", "1")
    start("xterm", "-geometry", "80x30+40+40", "-fg", "black", "-bg", "white", "-e", "cat")
    start("xterm", "-geometry", "70x16+560+380", "-e", "top", "-d", "2")
    time.sleep(2)
    for number in range(3):
        move = ["mousemove", "200", "200", "click", "1", "type", "--delay", "60", LETTER]
        subprocess.run(["xdotool", *move], env=env, check=True)
        for step in range(12):
            place = [str(500 + step * 12), str(300 + number * 20 + step * 6)]
            find = ["search", "--name", "top", "windowmove", *place]
            subprocess.run(["xdotool", *find], env=env, check=False)
            time.sleep(0.1)


def text(env: dict[str, str], start: Callable[..., None]) -> None:
    """A terminal in which lines run by."""
    start("xterm", "-geometry", "120x45+40+40", "-e", "sh", "-c", SCROLL)
    time.sleep(15)


def video(env: dict[str, str], start: Callable[..., None]) -> None:
    """A player's window: a film that ffmpeg makes, a flight into the Mandelbrot set."""
    film = "mandelbrot=size=320x180:rate=12:start_scale=0.6:end_scale=0.01"
    start("ffmpeg", "-v", "error", "-re", "-f", "lavfi", "-i", film, "-pix_fmt", "yuv420p",
          "-f", "sdl", "film")  # fmt: skip
    time.sleep(8)


SCRIPTS: dict[str, Script] = {"office": office, "text": text, "video": video}


def main() -> int:
    """Record those that are named, all by default."""
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or SCRIPTS:
        taken = _capture(SCRIPTS[name])
        data, kept = _fitting(taken)
        (OUT / f"{name}.entries.zst").write_bytes(data)
        print(f"{name}: {kept} of {len(taken)} updates, {sum(len(one) for _, one in taken[:kept])} "
              f"bytes of payloads, {len(data)} bytes")  # fmt: skip
    return 0


def _capture(script: Script) -> list[tuple[int, bytes]]:
    taken: list[tuple[int, bytes]] = []
    with _display() as (env, start):
        source, control = X11Source(env["DISPLAY"], keyframe_every=600.0), Control()
        source.open()

        def work() -> None:
            try:
                source.run(lambda payload, at: taken.append((at, payload)), control)
            except Stopped:
                return

        thread = threading.Thread(target=work)
        thread.start()
        try:
            script(env, start)
        finally:
            control.stop()
            thread.join()
            source.close()
    return taken


@contextmanager
def _display() -> Iterator[tuple[dict[str, str], Callable[..., None]]]:
    with ExitStack() as stack:
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", "1", "-screen", "0", f"{SIZE}x24", "-nolisten", "tcp",
             "-noreset"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(end, server)
        assert server.stdout is not None
        env = {**os.environ, "DISPLAY": f":{int(server.stdout.readline())}"}

        def start(*command: str) -> None:
            stack.callback(end, subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL))

        start("openbox")
        subprocess.run(["xsetroot", "-solid", "#39506b"], env=env, check=False)
        yield env, start


def _fitting(taken: list[tuple[int, bytes]]) -> tuple[bytes, int]:
    """As many updates from the first on as fit, packed, and how many these are."""
    kept = len(taken)
    while True:
        data = _packed(taken[:kept])
        if len(data) <= MOST:
            return data, kept
        kept = min(kept - 1, kept * MOST // len(data))


def _packed(taken: list[tuple[int, bytes]]) -> bytes:
    session, first = new_session_id(0, bytes(10)), taken[0][0]
    entries = encode_entries(
        FrameRecord(session, Kind.FRAMES, seq, at - first, b"", payload)
        for seq, (at, payload) in enumerate(taken)
    )
    return zstandard.ZstdCompressor(level=LEVEL).compress(entries)


if __name__ == "__main__":
    sys.exit(main())
