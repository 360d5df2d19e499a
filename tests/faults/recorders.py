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

LONGEST = 16.0  # seconds of one session


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
    """One `lucid record`. result: its JSON output once it has ended, if it gave one."""

    spec: Spec
    process: subprocess.Popen[bytes]
    resume_at: float | None = None
    status: int | None = None
    result: dict[str, Any] | None = None
    said: str = ""


@dataclass
class Recorders:
    """All recorders of a run; `tick` keeps `at_once` of them going until `stop`."""

    env: dict[str, str]
    home: Path
    seed: int
    at_once: int
    running: list[Recorder] = field(default_factory=list)
    ended: list[Recorder] = field(default_factory=list)
    started: int = 0
    stops: int = 0
    more: bool = True

    def tick(self) -> None:
        now = time.monotonic()
        for recorder in list(self.running):
            if recorder.resume_at is not None and now >= recorder.resume_at:
                recorder.resume_at = None
                recorder.process.send_signal(signal.SIGCONT)
            if recorder.process.poll() is not None:
                self._reap(recorder)
        if self.more and len(self.running) < self.at_once:
            self._spawn()

    def _spawn(self) -> None:
        spec = make_spec(self.seed, self.started)
        self.started += 1
        arguments = ["record", "--json", "--synthetic", spec.frames, "--size", spec.size,
                     "--rate", spec.rate, "--seed", spec.seed, "--owner", "faults"]  # fmt: skip
        out, told = self._files(spec)
        with out.open("wb") as stdout, told.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "agents.cli", *map(str, arguments)],
                env=self.env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )  # fmt: skip
        self.running.append(Recorder(spec, process))

    def _files(self, spec: Spec) -> tuple[Path, Path]:
        stem = self.home / "recorders" / str(spec.seed)
        stem.parent.mkdir(exist_ok=True)
        return stem.with_suffix(".json"), stem.with_suffix(".log")

    def _reap(self, recorder: Recorder) -> None:
        out, told = self._files(recorder.spec)
        recorder.status = recorder.process.returncode
        recorder.said = told.read_text()[-2000:]
        text = out.read_text()
        recorder.result = json.loads(text) if text else None
        self.running.remove(recorder)
        self.ended.append(recorder)

    def stop_one(self, number: int, seconds: float) -> None:
        """SIGSTOP to one of those that run, SIGCONT after some seconds."""
        if self.running:
            recorder = self.running[number % len(self.running)]
            if recorder.process.poll() is None and recorder.resume_at is None:
                recorder.process.send_signal(signal.SIGSTOP)
                recorder.resume_at = time.monotonic() + seconds
                self.stops += 1

    def stop(self) -> None:
        """Start no more."""
        self.more = False

    def close(self) -> None:
        """Kill what still runs."""
        for recorder in self.running:
            recorder.process.kill()
            recorder.process.wait()
