"""Retention: how long what is kept, what a hold forbids, and what is due. Pure.

    policies = Policies(default=Periods(…), projects={…}, sessions={…})
    plan = make_plan(candidates, policies, holds, now)

The content of a session (ciphertexts and keys) goes by the policy `chunks`, its metadata
(manifest, headers, catalog) by `sessions`, never before the content. The session's own
policy comes before its project's, and that before the default, each period by itself. A hold
forbids everything, whatever the policy says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from schemas.canonical import Count, Strict
from schemas.controls import Reason, Text
from schemas.erasure import Scope, Stage
from schemas.events import SessionId

DAY = 86_400_000_000
"""Microseconds."""
FOREVER: Literal["forever"] = "forever"
MAX_DAYS = 365
SETTLED = frozenset({"completed", "incomplete"})
EVERYTHING = "everything"

# Periods ----------------------------------------------------------------------------------------


def _days(value: Any) -> Any:
    """`30d`, as settings have it, is 30."""
    if isinstance(value, str) and value != FOREVER:
        number = value.removesuffix("d")
        if number == value or not number.isascii() or not number.isdecimal():
            raise ValueError(f"must be 1d to {MAX_DAYS}d, or forever")
        return int(number)
    return value


Keep: TypeAlias = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=MAX_DAYS)] | Literal["forever"],
    BeforeValidator(_days),
]
"""Days, or forever."""


def days_text(keep: int | str) -> str:
    """A period as settings have it."""
    return f"{keep}d" if isinstance(keep, int) else keep


class Periods(BaseModel):
    """How long content (`chunks`) and metadata (`sessions`) are kept; None: as the next scope."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sessions: Keep | None = None
    chunks: Keep | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """The period that decides, and whose it is."""

    keep: int | Literal["forever"]
    scope: Scope


class Policies(BaseModel):
    """All periods. audit: of the entries of the catalog's view of audit events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sessions: Keep = 90
    chunks: Keep = 30
    audit: Keep = 365
    projects: Mapping[str, Periods] = {}
    by_session: Mapping[SessionId, Periods] = {}

    def rule(self, stage: Stage, session: str, project: str) -> Rule:
        """What decides a stage of a session."""
        content = self._chosen("chunks", session, project)
        if stage == "content":
            return content
        metadata = self._chosen("sessions", session, project)
        return content if _longer(content.keep, metadata.keep) else metadata

    def _chosen(self, name: Literal["sessions", "chunks"], session: str, project: str) -> Rule:
        own, shared = self.by_session.get(session), self.projects.get(project)
        if own is not None and (keep := getattr(own, name)) is not None:
            return Rule(keep, "session")
        if shared is not None and (keep := getattr(shared, name)) is not None:
            return Rule(keep, "project")
        return Rule(getattr(self, name), "default")


def _longer(one: int | str, other: int | str) -> bool:
    if other == FOREVER:
        return False
    return one == FOREVER or int(one) > int(other)


def due_at(ended: int, keep: int | str) -> int | None:
    """The first moment, in microseconds, at which something may go; None: never."""
    return None if isinstance(keep, str) else ended + keep * DAY


def session_end(settled_at: int, last_time: int | None) -> int:
    """When a session ended, in microseconds: the recorder's time if the catalog's bears it out.

    A recorder's clock may be wrong. It counts if it is at most a day before the time at which
    the session was settled, and not behind it; otherwise that time counts.
    """
    if last_time is not None and settled_at - DAY <= last_time <= settled_at:
        return last_time
    return settled_at


def audit_cutoff(policies: Policies, now: int) -> int | None:
    """Audit entries of the catalog's view that are older (microseconds) may go; None: none."""
    return None if isinstance(policies.audit, str) else now - policies.audit * DAY


# Holds ------------------------------------------------------------------------------------------


class Hold(Strict):
    """A legal hold: on one session, on all of a project, or, with neither, on everything.

    A record of the compacted topic `session.holds`; its key is `id`. set_at: microseconds.
    Holds of two cases on one session are two: to release one leaves the other.
    """

    version: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^hold-[0-9a-f]{12}$")]
    session: SessionId | None = None
    project: Annotated[Text, Field(min_length=1, max_length=300)] | None = None
    reason: Reason
    set_by: Annotated[Text, Field(min_length=1)]
    set_at: Count

    @model_validator(mode="after")
    def _one_scope(self) -> Hold:
        if self.session is not None and self.project is not None:
            raise ValueError("a hold is on a session or on a project")
        return self

    @property
    def scope(self) -> str:
        """`session/ID`, `project/NAME` or `everything`."""
        if self.session is not None:
            return f"session/{self.session}"
        return EVERYTHING if self.project is None else f"project/{self.project}"

    def covers(self, session: str, project: str) -> bool:
        """Whether nothing of the session may be deleted."""
        if self.session is not None:
            return self.session == session
        return self.project is None or self.project == project


def holding(holds: Iterable[Hold], session: str, project: str) -> list[Hold]:
    """The holds that cover a session, by id."""
    found = [hold for hold in holds if hold.covers(session, project)]
    return sorted(found, key=lambda hold: hold.id)


# The plan ---------------------------------------------------------------------------------------

Action = Literal["erase", "held", "blocked", "wait", "finish"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of a session.

    project: None if nobody knows it any more, so that nothing decides. settled_at: wall time
    in microseconds, None while it is not settled. last_time: event time of its last record.
    erased: stages whose record is written; finished: stages of which nothing holds anything
    any more. damage: why it should not be touched. size: bytes of its content. waiting: what
    still holds something of a stage that is erased.
    """

    session: str
    project: str | None
    state: str
    settled_at: int | None
    last_time: int | None
    size: int = 0
    erased: frozenset[Stage] = frozenset()
    finished: frozenset[Stage] = frozenset()
    damage: Sequence[str] = ()
    waiting: Mapping[Stage, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """What is to be done with one stage of one session, and why.

    action: `erase`; `finish` an erasure that was begun; `wait` for the broker; `held` by a
    hold; `blocked` by damage, which somebody may overrule if `forceable`. due: microseconds.
    """

    session: str
    project: str
    stage: Stage
    action: Action
    ended: int
    due: int
    rule: Rule
    size: int
    why: str = ""
    held_by: Sequence[str] = ()
    forceable: bool = False

    def as_json(self) -> dict[str, Any]:
        """The row as `lucid retention plan --json` prints it."""
        return {
            "session": self.session, "project": self.project, "stage": self.stage,
            "action": self.action, "ended": self.ended, "due": self.due,
            "policy": self.rule.scope, "keep": days_text(self.rule.keep), "bytes": self.size,
            "why": self.why, "held_by": list(self.held_by),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of retention would do at `now`, in the order of sessions and stages."""

    now: int
    rows: Sequence[Row] = field(default_factory=tuple)
    audit_before: int | None = None

    def of(self, *actions: Action) -> list[Row]:
        return [row for row in self.rows if row.action in actions]


STAGES: tuple[Stage, ...] = ("content", "metadata")


def make_plan(
    candidates: Iterable[Candidate], policies: Policies, holds: Iterable[Hold], now: int
) -> Plan:
    """The same plan for the same arguments, whatever their order."""
    known = sorted(holds, key=lambda hold: hold.id)
    rows = [
        row
        for one in sorted(candidates, key=lambda one: one.session)
        for row in _rows(one, policies, known, now)
    ]
    return Plan(now, tuple(rows), audit_cutoff(policies, now))


def _rows(one: Candidate, policies: Policies, holds: Sequence[Hold], now: int) -> list[Row]:
    """A settled session's rows: what is due, and what was begun."""
    if one.state not in SETTLED or one.settled_at is None:
        return []
    ended = session_end(one.settled_at, one.last_time)
    rows = []
    for stage in STAGES:
        project = one.project or ""
        rule = policies.rule(stage, one.session, project)
        due = due_at(ended, rule.keep)
        begun = stage in one.erased
        if stage in one.finished or (not begun and (due is None or now < due)):
            continue
        row = Row(one.session, project, stage, "erase", ended, due or ended, rule,
                  one.size if stage == "content" else 0)  # fmt: skip
        rows.append(_judged(row, one, holding(holds, one.session, project), begun))
    return rows


def _judged(row: Row, one: Candidate, held: Sequence[Hold], begun: bool) -> Row:
    """What becomes of a row: a hold comes first, but for what is destroyed already."""

    if begun and one.waiting.get(row.stage):
        return replace(row, action="wait", why="; ".join(one.waiting[row.stage]))
    if begun:
        return replace(row, action="finish", why="its erasure was begun")
    if held:
        by = [hold.id for hold in held]
        return replace(row, action="held", why=held[0].reason, held_by=by)
    if one.project is None:
        return replace(row, action="blocked", why="nobody knows its project")
    if one.damage:
        return replace(row, action="blocked", why="; ".join(one.damage), forceable=True)
    moment = datetime.fromtimestamp(row.due / 1e6, UTC).strftime("%Y-%m-%d")
    return replace(row, why=f"due since {moment}")
