"""Which RDP service is killed when, and what users do while it is away: by the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

SERVICES = (
    "rdp-server-manager", "xrdp", "rdp-controller", "rdp-monitor", "node-management",
)  # fmt: skip
Act = Literal["nothing", "create", "delete", "come-and-go", "log-out", "kill-xrdp"]
ACTS: dict[str, tuple[Act, ...]] = {
    "rdp-server-manager": ("create", "delete", "kill-xrdp", "nothing"),
    "xrdp": ("kill-xrdp", "create", "delete", "come-and-go", "nothing"),
    "rdp-controller": ("come-and-go", "log-out", "nothing"),
    "rdp-monitor": ("come-and-go", "log-out", "create", "nothing"),
    "node-management": ("come-and-go", "nothing"),
}
"""What is worth doing while a service is away."""
LONGEST = 6.0  # seconds; a session waits longer for its controller


@dataclass(frozen=True, slots=True)
class Step:
    """A service is killed, somebody acts, it is started again after `away` seconds.

    both: another service is killed with it, empty for none. user: whose turn it is.
    """

    service: str
    act: Act
    user: int
    away: float = 0.0
    both: str = ""


SHORT = (
    Step("rdp-server-manager", "create", 0), Step("xrdp", "kill-xrdp", 0),
    Step("rdp-controller", "log-out", 1), Step("rdp-monitor", "come-and-go", 0),
    Step("node-management", "nothing", 0),
)  # fmt: skip
"""Each of the five once, for every run of the tests."""


def make_plan(seed: int, users: int = 2) -> Iterator[Step]:
    """Steps without an end. All five services come before one comes again."""
    noise = random.Random(f"rdp faults {seed}")
    while True:
        deck = list(SERVICES)
        noise.shuffle(deck)
        for service in deck:
            both = noise.choice(SERVICES) if noise.random() < 0.3 else ""
            yield Step(
                service, noise.choice(ACTS[service]), noise.randrange(users),
                round(noise.uniform(0, LONGEST), 2), "" if both == service else both,
            )  # fmt: skip
