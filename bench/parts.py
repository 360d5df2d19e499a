"""The parts of `make bench`: what each takes, its short version, and its goals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure is to be. least, most: inclusive; one of them is None."""

    figure: str
    least: float | None = None
    most: float | None = None

    def kept(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    @property
    def text(self) -> str:
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"


@dataclass(frozen=True, slots=True)
class Part:
    """One bench module. about: shown while it runs. limit: seconds after which it is given up.

    quick, full: constants of the module that the version sets; quick None: there is no short one.
    """

    name: str
    about: str
    limit: float = 600.0
    quick: Mapping[str, object] | None = None
    full: Mapping[str, object] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()

    def constants(self, *, quick: bool) -> Mapping[str, object]:
        return (self.quick or {}) if quick else self.full


PARTS = (
    Part(
        "sealing", "the sealing kernel and its bare primitives", quick={"ROUNDS": 4},
        goals=(Goal("screen_ratio", least=0.95), Goal("noise_ratio", least=0.95)),
    ),
    Part(
        "throughput", "frames to files, bare aiokafka, and replay",
        goals=(Goal("ratio", least=0.8), Goal("replay_ratio", least=0.9)),
    ),
    Part(
        "storage", "storing, and a loop that writes and syncs",
        goals=(Goal("service_ratio", least=0.9),),
    ),
    Part(
        "verify", "verification and SHA-256 of the same bytes", quick={"ROUNDS": 2},
        goals=(Goal("screen_leaves_ratio", least=0.8),),
    ),
    Part(
        "frameworks", "frames to files: Lucid, Faust alone, Quix Streams, FastStream", limit=900,
        quick={"ROUNDS": 1, "TOTAL": 60_000_000},
        goals=(Goal("ratio", least=1.5), Goal("bare_ratio", least=0.8)),
    ),
    Part(
        "growth", "cost of a frame as sessions and bytes grow", limit=900,
        quick={"COUNTS": (1, 10, 100), "TOTAL": 24_000_000, "SHARES": (), "ROUNDS": 1},
        goals=(Goal("sessions_ratio", most=1.3),),
    ),
    Part("memory", "memory of open sessions", goals=(Goal("highest_rss_mib", most=1024),)),
    Part("waiting", "memory while others stand still", full={"FRAMES": 168}),
    Part(
        "recovery", "killed processors", full={"ROUNDS": 1},
        goals=tuple(Goal(f"{kind}_ratio", most=1) for kind in ("restarted", "twice", "taken_over")),
    ),
    Part("reading", "the query API and a bare route"),
    Part("audit", "audit entries and a bare producer", goals=(Goal("notes_s", least=2000),)),
    Part("capture", "X11 capture and ffmpeg", quick={"SECONDS": 6.0}),
    Part("nodes", "many nodes"),
    Part("monitor", "many desktop servers watched"),
    Part("rdp", "desktops"),
)  # fmt: skip
BY_NAME = {part.name: part for part in PARTS}
