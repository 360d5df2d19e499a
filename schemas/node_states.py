"""A node's state, and what its records make of it. Pure; the keeper stores what comes out.

Every function returns the state afterwards and the events that say so: `Step`. Times are
microseconds by the broker's clock (`at`: when it took the record), never the reader's own:
the same records make the same state, whenever they are read.

    registration   challenged ─▶ verified ─▶ approved ─▶ rejected
                        └────────────┴─▶ expired, rejected
    health         unknown ─▶ healthy ─▶ stale ─▶ offline, and back by a heartbeat alone

LucidError
└── NodeRefused       a record that is understood and not taken; the state stays as it is
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from schemas.canonical import Strict
from schemas.errors import LucidError
from schemas.node_base import SECOND, Amount, Micros, NodeId, NodeKind
from schemas.node_commands import NodeCommand
from schemas.node_events import (
    AlertChanged,
    Health,
    MaintenanceChanged,
    Registration,
    RegistrationChanged,
    RegistrationRefused,
    Window,
)
from schemas.node_heartbeats import Figures
from schemas.node_registration import (
    ANSWER_WITHIN,
    DECIDE_WITHIN,
    ChallengeAnswered,
    ChallengeIssued,
    Hardware,
    RegistrationRequested,
    check_answer,
)
from schemas.notes import InvalidSignature

CALM = 600 * SECOND
"""An alert of refused records is resolved after so long without another one."""
MAX_WINDOWS = 20
MAX_MAINTENANCE = 30 * 86_400 * SECOND
MAX_AHEAD = 366 * 86_400 * SECOND
Alert = Literal[
    "node_stale", "node_offline", "heartbeat_refused", "identity_claimed", "pool_degraded"
]
_CRITICAL = {"node_offline", "identity_claimed"}


class NodeRefused(LucidError):
    """A record about a node is not taken. `cause` is the stable name in the answer."""

    def __init__(self, cause: str, what: str, *, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.cause = cause


class Open(Strict):
    """The newest registration. challenge: hex, to be signed. shown: that the key signed it."""

    id: str
    key: str
    kind: NodeKind
    host: str
    hardware: Hardware
    max_sessions: int
    challenge: str
    answer_by: Micros
    decide_by: Micros
    shown: bool = False
    reason: str


class NodeState(Strict):
    """All that the manager knows of a node.

    positions: the offset of the last record of each topic that is in it. counter, signature,
    heard_key: of the newest good heartbeat; last_heard: when the broker took it. alerts: since
    when.
    """

    node: NodeId
    positions: dict[str, int] = Field(default_factory=dict)
    state: Registration | None = None
    registration: Open | None = None
    health: Health = "unknown"
    misses: Amount = 0
    last_heard: Micros | None = None
    counter: int = -1
    signature: str = ""
    heard_key: str = ""
    figures: Figures | None = None
    windows: list[Window] = Field(default_factory=list)
    in_maintenance: bool = False
    alerts: dict[Alert, Micros] = Field(default_factory=dict)
    refused_at: Micros | None = None

    @property
    def active(self) -> bool:
        """Whether a pool can count on it."""
        return self.state == "approved" and self.health == "healthy" and not self.in_maintenance

    def has(self, topic: str, offset: int) -> bool:
        return offset <= self.positions.get(topic, -1)

    def at(self, topic: str, offset: int) -> NodeState:
        return self.model_copy(update={"positions": {**self.positions, topic: offset}})


@dataclass(frozen=True, slots=True)
class Step:
    """A state and what has to be told of the way to it."""

    state: NodeState
    events: tuple[Strict, ...] = ()


def challenge_for(secret: bytes, node: str, registration: str) -> str:
    """The challenge of a registration: nobody without the secret knows it before it is issued."""
    text = f"lucid/node-challenge/1\n{node}\n{registration}\n"
    return hmac.digest(secret, text.encode(), "sha256").hex()


# Registration -------------------------------------------------------------------------------


def requested(
    state: NodeState, data: RegistrationRequested, registration: str, at: int, secret: bytes
) -> Step:
    """A request: a challenge, or, for an approved node's own key, the approval again."""
    known = state.registration
    held = state.state == "approved" or (
        state.state in ("challenged", "verified") and known is not None and at <= deadline(state)
    )
    if held and known is not None and known.key != data.key:
        refusal = RegistrationRefused(
            node=data.node, key=data.key, code="IdTaken",
            reason=f"the id {data.node} belongs to another key",
        )  # fmt: skip
        step = raised(state, "identity_claimed", at, f"another key asks for {data.node}")
        return Step(step.state, (refusal, *step.events))
    fresh = Open(
        id=registration, key=data.key, kind=data.kind, host=data.host, hardware=data.hardware,
        max_sessions=data.max_sessions, challenge=challenge_for(secret, data.node, registration),
        answer_by=at + ANSWER_WITHIN, decide_by=at + DECIDE_WITHIN, reason="requested",
    )  # fmt: skip
    if state.state == "approved" and known is not None:
        same = fresh.model_copy(update={"reason": known.reason})
        return _changed(state, "approved", same)
    issued = ChallengeIssued(
        node=data.node, registration=registration, challenge=fresh.challenge,
        answer_by=fresh.answer_by, decide_by=fresh.decide_by,
    )  # fmt: skip
    after = _changed(state, "challenged", fresh)
    return Step(after.state, (issued, *after.events))


def answered(state: NodeState, data: ChallengeAnswered, at: int) -> Step:
    """An answer: verified, or a refusal that leaves the registration open."""
    known = state.registration
    if known is not None and known.id == data.registration and state.state in (
        "verified", "approved",
    ):  # fmt: skip
        return Step(state)
    try:
        if known is None or state.state != "challenged":
            raise NodeRefused("NoChallenge", f"no challenge of node {data.node} is open")
        if (data.registration, data.challenge, data.key) != (known.id, known.challenge, known.key):
            raise NodeRefused("AnotherChallenge", "the answer is not to the challenge that is open")
        if at > known.answer_by:
            raise NodeRefused("TooLate", "the answer came after 120 s")
        check_answer(data)
    except (NodeRefused, InvalidSignature) as error:
        refusal = RegistrationRefused(
            node=data.node, key=data.key, code=getattr(error, "cause", error.code),
            reason=error.what[:500],
        )  # fmt: skip
        return Step(state, (refusal,))
    shown = {"shown": True, "reason": "the key was shown"}
    return _changed(state, "verified", known.model_copy(update=shown))


def approve(state: NodeState, command: NodeCommand, at: int) -> Step:
    """An operator's approval; raises NodeRefused."""
    known = state.registration
    if known is None or state.state in (None, "rejected", "challenged"):
        raise NodeRefused(
            "NotVerified", f"node {state.node} has not shown its key; it is {state.state}",
            hint="Start `lucid node register` or the node's agent",
        )  # fmt: skip
    if command.key is not None and command.key != known.key:
        raise NodeRefused("AnotherKey", f"node {state.node} has shown another key: {known.key}")
    if state.state == "approved":
        return Step(state)
    # One that came in time counts, also when the registration was seen to expire before.
    if at > known.decide_by or not known.shown:
        raise NodeRefused(
            "Expired", f"the registration of node {state.node} is over 300 s old",
            hint="Let the node register again",
        )  # fmt: skip
    return _changed(state, "approved", known.model_copy(update={"reason": command.reason}))


def reject(state: NodeState, command: NodeCommand) -> Step:
    """An operator's refusal, also of a node that was approved; raises NodeRefused."""
    known = state.registration
    if known is None:
        raise NodeRefused("NoSuchNode", f"there is no node {state.node}")
    if state.state == "rejected":
        return Step(state)
    calm = resolved(state, ("node_stale", "node_offline"), "the node was rejected")
    fresh = calm.state.model_copy(update={"health": "unknown", "misses": 0})
    out = _changed(fresh, "rejected", known.model_copy(update={"reason": command.reason}))
    return Step(out.state, (*out.events, *calm.events))


def deadline(state: NodeState) -> int:
    """Until when an open registration may stay as it is."""
    known = state.registration
    if known is None:
        return 0
    return known.answer_by if state.state == "challenged" else known.decide_by


def expire(state: NodeState, now: int) -> Step:
    """Ends a registration whose time is over."""
    known = state.registration
    if known is None or state.state not in ("challenged", "verified") or now <= deadline(state):
        return Step(state)
    reasons = {"challenged": "no answer within 120 s", "verified": "nobody decided within 300 s"}
    reason = reasons[state.state]
    return _changed(state, "expired", known.model_copy(update={"reason": reason}))


def _changed(state: NodeState, to: Registration, known: Open) -> Step:
    after = state.model_copy(update={"state": to, "registration": known})
    event = RegistrationChanged(
        node=state.node, state=to, registration=known.id, key=known.key, kind=known.kind,
        host=known.host, hardware=known.hardware, max_sessions=known.max_sessions,
        decide_by=known.decide_by, reason=known.reason,
    )  # fmt: skip
    return Step(after, (event,))


# Maintenance ----------------------------------------------------------------------------------


def plan(state: NodeState, command: NodeCommand, at: int) -> Step:
    """A window of maintenance; raises NodeRefused."""
    if any(one.id == command.id for one in state.windows):
        return Step(state)
    begins, ends = command.begins if command.begins is not None else at, command.ends or 0
    if state.state != "approved":
        raise NodeRefused("NotApproved", f"node {state.node} is not approved")
    if not at < ends or not begins < ends:
        raise NodeRefused("BadWindow", "the window ends before it begins, or is over already")
    if ends - begins > MAX_MAINTENANCE or begins > at + MAX_AHEAD:
        raise NodeRefused("BadWindow", "a window is at most 30 days, within the next 366")
    if len(state.windows) >= MAX_WINDOWS:
        raise NodeRefused("TooMany", f"node {state.node} has {MAX_WINDOWS} windows already")
    window = Window(id=command.id, begins=begins, ends=ends, reason=command.reason)
    windows = sorted([*state.windows, window], key=lambda one: (one.begins, one.id))
    return maintained(state.model_copy(update={"windows": windows}), at, told=True)


def end_maintenance(state: NodeState, at: int) -> Step:
    """Drops the windows that are open; those to come stay."""
    left = [one for one in state.windows if one.begins > at]
    if left == state.windows:
        return Step(state)
    return maintained(state.model_copy(update={"windows": left}), at, told=True)


def maintained(state: NodeState, now: int, *, told: bool = False) -> Step:
    """The node in or out of maintenance, as the clock says; windows that are over go."""
    windows = [one for one in state.windows if one.ends > now]
    inside = any(one.begins <= now for one in windows)
    if not told and inside == state.in_maintenance and len(windows) == len(state.windows):
        return Step(state)
    after = state.model_copy(update={"windows": windows, "in_maintenance": inside})
    return Step(after, (MaintenanceChanged(node=state.node, active=inside, windows=windows),))


# Alerts ---------------------------------------------------------------------------------------


def raised(state: NodeState, alert: Alert, at: int, reason: str) -> Step:
    """The same, with an alert; one that is raised already is not raised again."""
    update: dict[str, object] = {}
    if alert in ("heartbeat_refused", "identity_claimed"):
        update["refused_at"] = at
    if alert in state.alerts:
        return Step(state.model_copy(update=update))
    update["alerts"] = {**state.alerts, alert: at}
    event = AlertChanged(
        about=state.node, alert=alert, state="raised", reason=reason[:500],
        severity="critical" if alert in _CRITICAL else "warning",
    )  # fmt: skip
    return Step(state.model_copy(update=update), (event,))


def resolved(state: NodeState, alerts: tuple[Alert, ...], reason: str) -> Step:
    """The same without these alerts."""
    events = tuple(
        AlertChanged(about=state.node, alert=alert, state="resolved", reason=reason,
                     severity="critical" if alert in _CRITICAL else "warning")
        for alert in alerts if alert in state.alerts
    )  # fmt: skip
    if not events:
        return Step(state)
    left = {name: at for name, at in state.alerts.items() if name not in alerts}
    return Step(state.model_copy(update={"alerts": left}), events)


def calmed(state: NodeState, now: int) -> Step:
    """Resolves alerts of refused records once none came for a while."""
    if state.refused_at is None or abs(now - state.refused_at) < CALM:
        return Step(state)
    after = state.model_copy(update={"refused_at": None})
    return resolved(after, ("heartbeat_refused", "identity_claimed"), "none came for 600 s")
