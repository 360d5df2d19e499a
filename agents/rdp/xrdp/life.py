"""A server's life on this host: what is known of it, and what is to be done next. Pure.

    next_step(life, wanted, seen, limits) -> Step

The keeper carries a step out and writes down what came of it, so that whoever is killed in
between finds the same step again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.canonical import Count, Strict
from schemas.rdp_config import DesiredServer, ServerId
from schemas.rdp_processes import Code, ProcessChanged, ServerPids, Why
from schemas.rdp_states import PROCESS_STEPS, ProcessState, check_step

Step = Literal["nothing", "report", "start", "restart", "stop", "remove"]
SECOND = 1_000_000


class Life(Strict):
    """What the room knows of a server, as its state file has it.

    applied: what its processes were last started with. boot: of which boot of the machine
    the pids are. attempt: starts in a row without a steady run. next_try: when the next one
    is due, since: since when it is in its state, microseconds since 1970.
    """

    version: Literal[1] = 1
    server: ServerId
    applied: DesiredServer | None = None
    heard: Count = 0
    boot: str = ""
    state: ProcessState = "stopped"
    seq: Count = 0
    attempt: Count = 0
    next_try: Count = 0
    since: Count = 0
    pids: ServerPids = ServerPids()
    code: Code = ""
    reason: Why = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of the processes just now. failures: bad looks at xrdp in a row."""

    xrdp: bool
    sesman: bool
    failures: int
    now: int


@dataclass(frozen=True, slots=True)
class LifeLimits:
    """restarts: in a row. steady: microseconds after which they count anew."""

    restarts: int
    failures: int
    steady: int


def next_step(
    life: Life, wanted: DesiredServer | None, seen: Seen, limits: LifeLimits
) -> Step:  # fmt: skip
    """What is to be done now. wanted: None when nothing is known of the server any more."""
    if wanted is None or wanted.desired == "deleted":
        return "remove"
    news = wanted.version > life.heard
    if wanted.desired == "stopped":
        if seen.xrdp or seen.sesman or life.state not in ("stopped", "failed"):
            return "stop"
        return "stop" if news else "nothing"
    if life.state == "stopping":
        return "stop"
    if life.state == "failed":
        return "start" if news else "nothing"
    if life.state in ("stopped", "starting"):
        return "start"
    if not same_processes(life.applied, wanted):
        return "start"
    if life.state == "restarting":
        return "start" if seen.now >= life.next_try else "nothing"
    if not (seen.xrdp and seen.sesman) or seen.failures >= limits.failures:
        return "restart"
    return "report" if news else "nothing"


def same_processes(applied: DesiredServer | None, wanted: DesiredServer) -> bool:
    """Whether processes that run with one may go on with the other."""
    if applied is None:
        return False
    return (applied.port, applied.config, applied.restarts) == (
        wanted.port, wanted.config, wanted.restarts,
    )  # fmt: skip


def moved(
    life: Life, state: ProcessState, now: int, *, code: str = "", reason: str = ""
) -> Life:  # fmt: skip
    """The life in its next state, with a sequence number of its own.

    Raises ForbiddenTransition.
    """
    check_step(PROCESS_STEPS, life.state, state, f"the processes of server {life.server}")
    return life.model_copy(
        update={
            "state": state,
            "seq": max(life.seq + 1, now),
            "since": life.since if state == life.state else now,
            "code": code,
            "reason": reason[:500],
        }
    )


def after_trouble(life: Life, now: int, limits: LifeLimits, pause: int, why: Trouble) -> Life:
    """Restarting, or failed when it was tried often enough. pause: microseconds."""
    steady = life.state == "running" and now - life.since >= limits.steady
    attempt = 1 if steady else life.attempt + 1
    if attempt > limits.restarts or why.final:
        reason = why.reason if why.final else f"{why.reason}; tried {attempt} times"
        life = moved(life, "failed", now, code=why.code, reason=reason)
        return life.model_copy(update={"attempt": attempt})
    life = moved(life, "restarting", now, code=why.code, reason=why.reason)
    return life.model_copy(update={"attempt": attempt, "next_try": now + pause})


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why processes do not run. final: another try would not help."""

    code: str
    reason: str
    final: bool = False


def backoff(attempt: int, first: int, most: int) -> int:
    """Microseconds before start number `attempt` in a row; they double."""
    return min(first << min(attempt, 30), most)


def change_of(life: Life, host: str, port: int, folder: str) -> ProcessChanged:
    """The event that tells of a life."""
    restarts = life.applied.restarts if life.applied else 0
    return ProcessChanged(
        server=life.server, host=host, seq=life.seq, version=life.heard, restarts=restarts,
        state=life.state, port=port, pids=life.pids, attempt=life.attempt, code=life.code,
        reason=life.reason, folder=folder,
    )  # fmt: skip
