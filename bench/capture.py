"""X11 capture of a 1080p desktop at 10 frames a second, beside ffmpeg's x264 of the same screen."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psutil
import zstandard

from agents.session.recorder.sources.base import Control, Stopped
from agents.session.recorder.sources.x11 import X11Source

SECONDS = 15.0
SCROLL = "i=0; while :; do i=$((i+1)); echo line $i of a terminal that scrolls; sleep 0.02; done"


def run() -> dict[str, float]:
    """CPU share (of one core) and megabytes a minute of both, at the same time."""
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "1920x1080x24", "-nolisten", "tcp", "-noreset"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert server.stdout is not None
    display = f":{int(server.stdout.readline())}"
    started = [server]
    try:
        for place in ("+40+40", "+900+300"):
            started.append(subprocess.Popen(
                ["xterm", "-display", display, "-geometry", f"120x50{place}", "-e", "sh", "-c",
                 SCROLL], stderr=subprocess.DEVNULL,
            ))  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            film = Path(folder) / "film.mp4"
            ffmpeg = subprocess.Popen(
                ["ffmpeg", "-v", "error", "-f", "x11grab", "-framerate", "10", "-video_size",
                 "1920x1080", "-i", display, "-t", str(SECONDS), "-c:v", "libx264", "-preset",
                 "ultrafast", "-crf", "18", str(film)],
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            started.append(ffmpeg)
            watched = psutil.Process(ffmpeg.pid)
            found = _capture(display, watched)
            ffmpeg.wait(30)
            found["ffmpeg_mb_min"] = film.stat().st_size / 1e6 * 60 / SECONDS
        return found
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(10)
        server.stdout.close()


def _capture(display: str, ffmpeg: psutil.Process) -> dict[str, float]:
    source, control = X11Source(display), Control()
    source.open()
    taken: list[bytes] = []

    def work() -> None:
        try:
            source.run(lambda payload, _: taken.append(payload), control)
        except Stopped:
            return

    thread = threading.Thread(target=work)
    before, wall = time.process_time(), time.monotonic()
    thread.start()
    control.stopped.wait(SECONDS - 1.5)
    times = ffmpeg.cpu_times()
    elapsed = time.monotonic() - wall
    control.stop()
    thread.join()
    source.close()
    spent = time.process_time() - before
    raw = sum(map(len, taken))
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=23)
    )
    stored = len(packer.compress(b"".join(taken)))
    return {
        "lucid_cpu": spent / elapsed,
        "ffmpeg_cpu": (times.user + times.system) / elapsed,
        "lucid_raw_mb_min": raw / 1e6 * 60 / elapsed,
        "lucid_stored_mb_min": stored / 1e6 * 60 / elapsed,
        "updates_s": len(taken) / elapsed,
    }
