"""What goes wrong when: a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

from agents.platform.group_consumer import SESSION_MS
from agents.platform.points import POINTS

SERVICES = ("processor-1", "processor-2", "storage-1", "storage-2", "pipeline")
SESSION_TIMEOUT = SESSION_MS / 1000
"""Seconds after which the broker gives the partitions of a silent data-plane member away."""

KINDS = (
    "kill", "stop-short", "stop-long", "restart", "point", "broker-kill", "broker-stop",
    "catalog-kill", "catalog-stop", "delay", "stall", "cut", "disk", "recorder-stop",
    "recorder-kill",
)  # fmt: skip
_OUTAGES = {"broker-kill": "broker", "broker-stop": "broker", "catalog-kill": "catalog",
            "catalog-stop": "catalog", "disk": "disk"}  # fmt: skip
_SECONDS = {
    "stop-short": (0.5, 4.0), "stop-long": (SESSION_TIMEOUT + 2, SESSION_TIMEOUT + 8),
    "broker-kill": (0.0, 6.0), "broker-stop": (0.0, 6.0), "catalog-kill": (0.0, 8.0),
    "catalog-stop": (0.0, 8.0), "delay": (4.0, 10.0), "stall": (2.0, 12.0), "disk": (3.0, 10.0),
    "recorder-stop": (0.5, 4.0), "recorder-kill": (0.0, 6.0),
}  # fmt: skip
_WEIGHTS = {"kill": 3, "point": 5, "stop-long": 2, "cut": 2, "recorder-kill": 3}
PAUSE = 4.0
RECORDER_POINTS = sorted(name for name in POINTS if name.startswith("recorder."))
_ELSEWHERE = ("recorder.", "audit.", "retention.")  # struck by tests of their own
SERVICE_POINTS = sorted(name for name in POINTS if not name.startswith(_ELSEWHERE))
_RECOVERY = 8.0  # seconds that a server needs until it is back


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: `at` seconds after the start, for `seconds`.

    target: a service, a server, or a number that chooses one of the recorders there are.
    detail: an armed point, which a killed recorder's next start may have, too; seconds of
    delay; or the share of connections that is cut.
    """

    at: float
    kind: str
    target: str
    seconds: float = 0.0
    detail: str = ""


def make_schedule(
    seed: int, seconds: float, without: Collection[str] = (), pause: float = PAUSE
) -> list[Fault]:
    """The faults of a run, in order of time; `pause` seconds between two, on average.

    Kinds come from a deck that is shuffled and dealt to its end before it is made anew, so
    that a run of some minutes has all of them.
    """
    noise = random.Random(f"faults {seed}")
    faults: list[Fault] = []
    back: dict[str, float] = {}
    deck: list[str] = []
    at = 1.0
    while (at := at + noise.uniform(0.3, 2 * pause - 0.3)) < seconds - 1:
        deck = deck or _shuffled(noise, without)
        fault = _fault(noise, round(at, 2), deck.pop())
        outage = _OUTAGES.get(fault.kind)
        if outage is not None:
            if at < back.get(outage, 0.0):
                continue  # that one is still away
            back[outage] = at + fault.seconds + _RECOVERY
        faults.append(fault)
    return faults


def _shuffled(noise: random.Random, without: Collection[str]) -> list[str]:
    deck = [kind for kind in KINDS for _ in range(_WEIGHTS.get(kind, 1)) if kind not in without]
    noise.shuffle(deck)
    return deck


def _fault(noise: random.Random, at: float, kind: str) -> Fault:
    seconds = round(noise.uniform(*_SECONDS.get(kind, (0.0, 0.0))), 2)
    detail = ""
    if kind in ("broker-kill", "broker-stop"):
        target = "broker"
    elif kind in ("catalog-kill", "catalog-stop"):
        target = "catalog"
    elif kind in ("delay", "stall", "cut"):
        target = noise.choice(["broker", "broker", "catalog"])
        detail = {"delay": f"{noise.uniform(0.02, 0.25):.3f}",
                  "cut": f"{noise.choice([0.2, 0.5, 1.0])}"}.get(kind, "")  # fmt: skip
    elif kind == "disk":
        target = "disk"
    elif kind in ("recorder-stop", "recorder-kill"):
        target = str(noise.randrange(1000))
        if kind == "recorder-kill" and noise.random() < 0.6:
            detail = f"{noise.choice(RECORDER_POINTS)}:kill:{noise.randint(1, 8)}"
    elif kind == "point":
        detail, target = _armed(noise)
        seconds = round(noise.uniform(1.0, SESSION_TIMEOUT + 5), 2)
    else:
        target = noise.choice(SERVICES)
    return Fault(at, kind, target, seconds, detail)


def _armed(noise: random.Random) -> tuple[str, str]:
    """An armed point, and a service that passes it."""
    point = noise.choice(SERVICE_POINTS)
    room = point.partition(".")[0]
    if room == "runner":
        room = noise.choice(["processor", "storage"])
    service = {"blobs": "storage"}.get(room, room)
    action = noise.choice(["kill", "kill", "kill", "stop"])
    return f"{point}:{action}:{noise.randint(1, 3)}", f"{service}-{noise.randint(1, 2)}"
