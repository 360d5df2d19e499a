"""Recorders of made-up frames, several at a time, each ending after some seconds."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.platform.points import LOG_VARIABLE, VARIABLE

LONGEST = 16.0  # seconds of one session
RESTART_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Spec:
    """What one recorder records: `frames` payloads of `size` bytes, `rate` a second."""

    seed: int
    frames: int
    size: int
    rate: float

    def payload_hashes(self) -> Iterator[bytes]:
        """SHA-256 of each payload, as the synthetic source makes them from the seed."""
        noise = random.Random(self.seed)
        still = noise.randbytes(self.size // 2)
        for _ in range(self.frames):
            yield hashlib.sha256(still + noise.randbytes(self.size - len(still))).digest()


def make_spec(seed: int, number: int) -> Spec:
    """The `number`-th recorder of a run: 2 to 16 s, at most 250 kB/s."""
    noise = random.Random(f"recorder {seed} {number}")
    rate = noise.uniform(4, 25)
    size = noise.randint(2_000, int(250_000 / rate))
    seconds = noise.uniform(2, LONGEST)
    return Spec(seed * 1_000_000 + number, max(1, round(seconds * rate)), size, round(rate, 2))


@dataclass
class Recorder:
    """One `lucid record`, and those that went on with its session after it was killed.

    spool: its own folder. result: the last JSON output, if there was one. resume_at, start_at:
    monotonic times at which a stopped one continues, an ended one is started again.
    """

    spec: Spec
    spool: Path
    process: subprocess.Popen[bytes] | None = None
    resume_at: float | None = None
    start_at: float | None = None
    away: float = RESTART_SECONDS
    armed: str = ""
    status: int | None = None
    result: dict[str, Any] | None = None
    said: str = ""

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def has_spool(self) -> bool:
        """Whether there is something to go on with."""
        return any(self.spool.glob("*/head"))


@dataclass
class Recorders:
    """All recorders of a run; `tick` keeps `at_once` of them going until `stop`.

    What ends and leaves a spool is gone on with, as a supervisor would.
    """

    env: dict[str, str]
    home: Path
    seed: int
    at_once: int
    points_log: Path
    running: list[Recorder] = field(default_factory=list)
    ended: list[Recorder] = field(default_factory=list)
    started: int = 0
    resumes: int = 0
    kills: int = 0
    stops: int = 0
    more: bool = True

    def tick(self) -> None:
        now = time.monotonic()
        for recorder in list(self.running):
            if recorder.resume_at is not None and now >= recorder.resume_at:
                recorder.resume_at = None
                if recorder.process is not None:
                    recorder.process.send_signal(signal.SIGCONT)
            if recorder.process is not None and recorder.process.poll() is not None:
                self._reap(recorder, now)
            if recorder.start_at is not None and now >= recorder.start_at:
                self.resumes += 1
                self._spawn(recorder, ["record", "--resume", "--json"])
        if self.more and len(self.running) < self.at_once:
            self._begin()

    @property
    def record(self) -> bool:
        """Whether as many as there should be have begun their session, now or before."""
        return len(self.ended) + sum(one.has_spool for one in self.running) >= self.at_once

    def _begin(self) -> None:
        spec = make_spec(self.seed, self.started)
        self.started += 1
        recorder = Recorder(spec, self._file(spec, ".spool"))
        self.running.append(recorder)
        arguments = ["record", "--json", "--synthetic", spec.frames, "--size", spec.size,
                     "--rate", spec.rate, "--seed", spec.seed, "--owner", "faults"]  # fmt: skip
        self._spawn(recorder, [str(one) for one in arguments])

    def _spawn(self, recorder: Recorder, arguments: list[str]) -> None:
        env = {**self.env, "LUCID_RECORDER_SPOOL": str(recorder.spool)}
        if recorder.armed:
            env |= {VARIABLE: recorder.armed, LOG_VARIABLE: str(self.points_log)}
        recorder.start_at, recorder.armed, recorder.away = None, "", RESTART_SECONDS
        out, told = self._file(recorder.spec, ".json"), self._file(recorder.spec, ".log")
        with out.open("wb") as stdout, told.open("ab") as stderr:
            recorder.process = subprocess.Popen(
                [sys.executable, "-m", "agents.cli", *arguments],
                env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )  # fmt: skip

    def _file(self, spec: Spec, suffix: str) -> Path:
        stem = self.home / "recorders" / str(spec.seed)
        stem.parent.mkdir(exist_ok=True)
        return stem.with_suffix(suffix)

    def _reap(self, recorder: Recorder, now: float) -> None:
        assert recorder.process is not None
        recorder.status, recorder.process = recorder.process.returncode, None
        recorder.resume_at = None
        recorder.said = self._file(recorder.spec, ".log").read_text()[-2000:]
        self.kills += recorder.status == -signal.SIGKILL
        text = self._file(recorder.spec, ".json").read_text()
        found = json.loads(text) if text else {"sessions": []}
        sessions = found.get("sessions", [found])
        recorder.result = sessions[0] if sessions else recorder.result
        if recorder.has_spool:
            recorder.start_at = now + recorder.away
            return
        self.running.remove(recorder)
        self.ended.append(recorder)

    def kill_one(self, number: int, away: float, armed: str) -> None:
        """SIGKILL to one of those that run; it comes back armed after `away` seconds."""
        recorder = self._choose(number)
        if recorder is not None and recorder.process is not None:
            recorder.away, recorder.armed = away, armed
            recorder.process.send_signal(signal.SIGKILL)

    def stop_one(self, number: int, seconds: float) -> None:
        """SIGSTOP to one of those that run, SIGCONT after some seconds."""
        recorder = self._choose(number)
        if recorder is not None and recorder.process is not None and recorder.resume_at is None:
            recorder.process.send_signal(signal.SIGSTOP)
            recorder.resume_at = time.monotonic() + seconds
            self.stops += 1

    def _choose(self, number: int) -> Recorder | None:
        running = [one for one in self.running if one.runs]
        return running[number % len(running)] if running else None

    def stop(self) -> None:
        """Begin no more, and arm none that comes back."""
        self.more = False
        for recorder in self.running:
            recorder.armed = ""

    def close(self) -> None:
        """Kill what still runs."""
        for recorder in self.running:
            if recorder.process is not None:
                recorder.process.kill()
                recorder.process.wait()
