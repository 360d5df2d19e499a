"""Sessions as the catalog has them: listed and shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agents.platform.blobs import Blobs
from agents.platform.catalog import Catalog, Document
from agents.platform.settings import Settings
from agents.platform.stored_sessions import UnknownSession, text_of
from schemas.errors import FormatError
from schemas.manifests import Manifest, read_manifest
from schemas.sessions import made_at


@dataclass(frozen=True)
class SessionSummary:
    """A line of `lucid sessions list`; its fields are those of the JSON.

    started: event time in microseconds. seconds: from the first record to the newest known
    one. frames: null until the session is processed. stored_bytes: of the chunk files, as long
    as they are there. complete: null until it is known. erased: how far which erasure is.
    """

    session: str
    state: str
    started: int
    seconds: float
    frames: int | None
    records: int
    chunks: int
    stored_bytes: int
    complete: bool | None
    host: str
    owner: str
    codec: str
    erased: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SessionDetail:
    """What `lucid sessions show` says beyond the summary.

    expired: what the broker deleted before a service had read it and may have been of this one.
    """

    summary: SessionSummary
    project: str
    source: dict[str, Any]
    recorder: str
    recipients: list[str]
    ended_by: str | None
    reason: str | None
    raw_bytes: int
    missing: int | None
    interruptions: int | None
    conflicts: int
    damaged: list[str]
    expired: list[str]
    shortcomings: list[str]
    root: str | None
    folder: str


async def list_sessions(settings: Settings, limit: int) -> list[SessionSummary]:
    """The newest sessions first; raises CatalogUnreachable."""
    async with Catalog(settings) as catalog:
        states = await catalog.find("sessions", newest_first=True, limit=limit)
        entries = await asyncio.gather(
            *(catalog.get("manifests", str(state["_id"])) for state in states)
        )
    return [
        summarize(str(state["_id"]), state, _manifest(entry))
        for state, entry in zip(states, entries, strict=True)
    ]


async def show_session(settings: Settings, session: UUID) -> SessionDetail:
    """One session; raises UnknownSession and CatalogUnreachable."""
    key = str(session)
    async with Catalog(settings) as catalog:
        state, entry = await catalog.get("sessions", key), await catalog.get("manifests", key)
    if state is None and entry is None:
        raise UnknownSession(
            f"the catalog knows no session {key}", hint="`lucid sessions list` shows all sessions"
        )
    return detail(key, state or {}, _manifest(entry), str(Blobs(settings.blobs_dir).folder(key)))


def _manifest(entry: Document | None) -> Manifest | None:
    """The manifest of a catalog entry; one that cannot be read is for `verify` to judge."""
    text = text_of(entry, "manifest")
    try:
        return read_manifest(text) if text is not None else None
    except FormatError:
        return None


def summarize(session: str, state: Mapping[str, Any], manifest: Manifest | None) -> SessionSummary:
    """A session's line from its state and, once there is one, its manifest."""
    opened = state.get("opened") or {}
    tally = manifest.tally if manifest else None
    # The id itself says when it was made, in milliseconds (RFC 9562, UUIDs of version 7).
    started = tally.first_time if tally else opened.get("started") or made_at(UUID(session))
    until = tally.last_time if tally else state.get("ended_at") or state.get("last_sign") or 0
    phase = state.get("state", "unknown")
    settled = {"completed": True, "incomplete": False}.get(phase)
    return SessionSummary(
        session=session,
        state=phase,
        started=started,
        seconds=max(until - started, 0) / 1e6,
        frames=tally.counts.get("frames", 0) if tally else None,
        records=manifest.next_seq if manifest else state.get("next_seq", 0),
        chunks=manifest.chunks if manifest else state.get("next_index", 0),
        stored_bytes=_stored_bytes(state, tally.sealed_bytes if tally else 0),
        complete=settled,
        host=manifest.host if manifest else opened.get("host", ""),
        owner=manifest.owner if manifest else opened.get("owner", ""),
        codec=manifest.codec if manifest else opened.get("codec", ""),
        erased=dict(state.get("erasures") or {}),
    )


def _stored_bytes(state: Mapping[str, Any], sealed: int) -> int:
    """Of the chunk files; none once they are erased."""
    erased = (state.get("erasures") or {}).get("content") in ("shredded", "erased")
    return 0 if erased else int(state.get("stored_bytes") or sealed)


def _expired(loss: Mapping[str, Any]) -> str:
    """A loss of the pipeline's document in words; see Loss in agents/session/pipeline/states.py."""
    place = f"offsets {loss['first_offset']} to {loss['next_offset'] - 1}"
    since = loss.get("next_seq")
    whose = "perhaps records of this session" if since is None else f"its records from {since} on"
    return f"{place} of partition {loss['partition']} of {loss['topic']}: {whose}"


def detail(
    session: str, state: Mapping[str, Any], manifest: Manifest | None, folder: str
) -> SessionDetail:
    """Everything the catalog says of a session."""
    opened = state.get("opened") or {}
    tally = manifest.tally if manifest else None
    shortcomings = list(state.get("shortcomings") or [])
    return SessionDetail(
        summary=summarize(session, state, manifest),
        project=manifest.project if manifest else opened.get("project", ""),
        source=dict(manifest.source if manifest else opened.get("source", {})),
        recorder=manifest.recorder if manifest else opened.get("recorder", ""),
        recipients=manifest.recipients if manifest else [],
        ended_by=manifest.ended_by if manifest else None,
        reason=manifest.reason if manifest else state.get("end_reason"),
        raw_bytes=tally.raw_bytes if tally else state.get("raw_bytes", 0),
        missing=tally.missing if tally else None,
        interruptions=tally.interruptions_total if tally else None,
        conflicts=state.get("conflicts", 0),
        damaged=list(state.get("damaged") or []),
        expired=[_expired(loss) for loss in state.get("losses") or []],
        shortcomings=shortcomings or (manifest.shortcomings() if manifest else []),
        root=manifest.root if manifest else state.get("root"),
        folder=folder,
    )
