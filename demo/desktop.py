"""A desktop to look at: an X server of its own with programs that draw, scroll and move."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SIZE = "1280x800"
POEM = """\
i=0
while :; do
  i=$((i + 1))
  printf '\\033[3%dm%6d  every record is numbered, chained and signed\\033[0m\\n' $((i % 7 + 1)) $i
  sleep 0.05
done
"""
PROGRAMS = (
    ("xterm", "-geometry", "78x24+30+30", "-bg", "#101820", "-fg", "#d8dee9", "-T", "scrolling",
     "-e", "sh", "-c", POEM),
    ("xterm", "-geometry", "78x18+620+60", "-bg", "#1b2b34", "-fg", "#a3be8c", "-T", "processes",
     "-e", "top", "-d", "1"),
    ("xclock", "-geometry", "170x170+1080+600", "-update", "1"),
    ("xeyes", "-geometry", "220x140+60+560"),
)  # fmt: skip


@contextmanager
def desktop(folder: Path) -> Iterator[str]:
    """The display's name, such as `:3`, while its programs run."""
    with ExitStack() as stack, (folder / "desktop.log").open("wb") as log:

        def start(*command: str, env: dict[str, str] | None = None, **more: object) -> object:
            process = subprocess.Popen(command, stderr=log, env=env, **more)  # type: ignore[call-overload]
            stack.callback(end, process)
            return process

        server = start(
            "Xvfb", "-displayfd", "1", "-screen", "0", f"{SIZE}x24", "-nolisten", "tcp", "-noreset",
            stdout=subprocess.PIPE,
        )  # fmt: skip
        display = f":{int(server.stdout.readline())}"  # type: ignore[attr-defined]
        env = {**os.environ, "DISPLAY": display}
        if shutil.which("openbox"):
            start("openbox", env=env, stdout=log)
        if shutil.which("xsetroot"):
            subprocess.run(["xsetroot", "-solid", "#39506b"], env=env, check=False, stderr=log)
        for command in PROGRAMS:
            if shutil.which(command[0]):
                start(*command, env=env, stdout=log)
        yield display


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a program to end, and make it end after 5 s."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def move_about(display: str, seconds: float) -> None:
    """Move the pointer over the screen for a while, and type into the terminal."""
    env = {**os.environ, "DISPLAY": display}
    steps = max(1, round(seconds / 0.25))
    script = textwrap.dedent("""\
        x=200; y=200; n=0
        while [ $n -lt {steps} ]; do
          n=$((n + 1)); x=$(((x + 97) % 1180 + 40)); y=$(((y + 61) % 700 + 40))
          xdotool mousemove $x $y
          [ $((n % 16)) -eq 8 ] && xdotool key --delay 20 Down
          sleep 0.25
        done
        """).format(steps=steps)
    subprocess.run(["sh", "-c", script], env=env, check=False, timeout=seconds * 3 + 30)
