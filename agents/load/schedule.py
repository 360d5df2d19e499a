"""When what is sent: decided before the run, and by nothing that happens in it.

An open loop: a record has its time from the plan alone, so that a broker that stalls delays no
record's intended time, and its latency counts from there. (A closed loop would wait with the
broker, and leave the stall out of its figures: "coordinated omission".)
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from schemas.frames import Kind

KEEPALIVE_SECONDS = 5.0  # the most that a recorder may be silent
WAVES = 10


class Arrival(StrEnum):
    """How sessions begin."""

    AT_ONCE = "at-once"
    EVEN = "even"
    RANDOM = "random"
    WAVES = "waves"


@dataclass(frozen=True, slots=True)
class Plan:
    """A load. rate: bytes a second of each session. duration: seconds of each session.

    ramp: seconds in which they begin.
    """

    sessions: int
    rate: float
    duration: float
    arrival: Arrival = Arrival.EVEN
    ramp: float = 0.0
    seed: int = 0

    @property
    def seconds(self) -> float:
        """From the first record's time to the last one's, at most."""
        return self.ramp + self.duration


class Step(NamedTuple):
    """One record: seconds from its session's begin, its kind, and which payload."""

    at: float
    kind: Kind
    payload: int


def arrivals(plan: Plan) -> list[float]:
    """Seconds at which the sessions begin, in order; the same seed gives the same.

    Random ones are a Poisson process that has this number of arrivals in the ramp.
    """
    count = plan.sessions
    if plan.arrival is Arrival.AT_ONCE:
        return [0.0] * count
    if plan.arrival is Arrival.EVEN:
        return [number * plan.ramp / count for number in range(count)]
    if plan.arrival is Arrival.WAVES:
        return [number * WAVES // count * plan.ramp / WAVES for number in range(count)]
    noise = random.Random(f"arrivals {plan.seed}")
    return sorted(noise.uniform(0.0, plan.ramp) for _ in range(count))


def steps(sizes: Sequence[int], *, rate: float, duration: float, phase: float) -> Iterator[Step]:
    """A session's records behind its `open`, `close` included.

    A payload's time is when a line of `rate` bytes a second has carried all before it, so the
    bytes up to any moment are the rate's to within one payload. The payloads go round. phase:
    seconds before the first, so that sessions do not beat in time.
    """
    at, number, alive = phase, 0, KEEPALIVE_SECONDS
    while at < duration:
        while alive <= at:
            yield Step(alive, Kind.KEEPALIVE, -1)
            alive += KEEPALIVE_SECONDS
        payload = number % len(sizes)
        yield Step(at, Kind.FRAMES, payload)
        at += sizes[payload] / rate
        number += 1
    while alive < duration:
        yield Step(alive, Kind.KEEPALIVE, -1)
        alive += KEEPALIVE_SECONDS
    yield Step(duration, Kind.CLOSE, -1)
