"""Made-up frames: the same seed gives the same bytes, for trying out, tests and benches."""

from __future__ import annotations

import random
import time

from agents.session.recorder.sources.base import CODEC_BYTES, Control, Emit, SourceInfo, now


class SyntheticSource:
    """`frames` payloads of `size` bytes; half of each repeats, as on a screen.

    rate: payloads a second, 0 as fast as the broker takes them.
    """

    def __init__(self, *, frames: int, size: int, rate: float = 0.0, seed: int = 0) -> None:
        self._frames, self._size, self._rate, self._seed = frames, size, rate, seed
        self._first = 0

    def open(self) -> SourceInfo:
        details = {"frames": self._frames, "size": self._size, "seed": self._seed}
        return SourceInfo("synthetic", CODEC_BYTES, details)

    def skip(self, frames: int, raw_bytes: int) -> None:
        """Begin with payload number `frames`."""
        self._first = frames

    def run(self, emit: Emit, control: Control) -> None:
        """Hand over all payloads at their rate."""
        noise = random.Random(self._seed)
        still = noise.randbytes(self._size // 2)
        start = time.monotonic()
        for number in range(self._frames):
            changing = noise.randbytes(self._size - len(still))
            if number < self._first:
                continue
            control.wait_while_paused()
            if self._rate:
                ahead = start + (number - self._first) / self._rate - time.monotonic()
                control.stopped.wait(max(0.0, ahead))
            control.check()
            emit(still + changing, now())

    def close(self) -> None:
        """There is nothing to give back."""
