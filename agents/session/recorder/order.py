"""What a recording is asked for, where it goes, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.retry import Transient
from agents.platform.settings import Settings
from schemas.chunks import Sealing
from schemas.errors import LucidError
from schemas.notes import Signer


class EndedElsewhere(LucidError):
    """The pipeline gave the session up: what is captured now would be nobody's."""


class LeftInSpool(Transient):
    """Records of a session wait on disk for a broker that does not take them."""


@dataclass(frozen=True, slots=True)
class SpoolOrder:
    """How records wait on disk.

    limit: bytes of a session's frames that may wait; when_full: `block` captures nothing
    meanwhile, `stop` ends the session. sync_every: seconds between syncs, at most.
    unacknowledged: bytes that may be on their way to the broker.
    """

    folder: Path
    limit: int = 1024**3
    when_full: Literal["block", "stop"] = "block"
    sync_every: float = 0.05
    unacknowledged: int = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class Order:
    """What to record for whom. recipients: age recipients that can open the session."""

    signer: Signer
    recipients: Sequence[str]
    host: str
    spool: SpoolOrder
    owner: str = ""
    project: str = ""
    sealing: Sealing = field(default_factory=Sealing)
    keepalive_every: float = 5.0


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where a recorder's records and events go; `partitions` of topic `frames`."""

    settings: Settings
    producer: Producer
    events: EventBus
    frames: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a recording ended.

    waiting: records that are still in the spool. error: what source, disk or broker failed
    with.
    """

    reason: str
    records: int
    frames: int
    raw_bytes: int
    waiting: int = 0
    error: LucidError | None = None
