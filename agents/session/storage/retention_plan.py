"""What is known of sessions, as far as retention asks: the plan's candidates.

Manifests are read of sessions alone that may be due, entries by their natural ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.platform.blobs import ERASED_CONTENT, ERASED_METADATA, MANIFEST, Blobs
from agents.platform.catalog import Catalog, Document
from agents.session.storage.retention_erasing import ERASURES, Eraser
from agents.session.storage.scrub import is_session
from schemas.erasure import Erasure, Stage, read_erasure
from schemas.errors import FormatError
from schemas.manifests import Manifest, read_manifest
from schemas.retention import DAY, SETTLED, STAGES, Candidate, Policies, due_at

FILES: Mapping[str, Stage] = {ERASED_CONTENT: "content", ERASED_METADATA: "metadata"}


@dataclass(frozen=True, slots=True)
class Known:
    """A session's candidate, and the partition of its records if anybody knows it."""

    candidate: Candidate
    partition: int | None


@dataclass(frozen=True, slots=True)
class Gathering:
    """Reads what a plan needs. eraser: asked for what still holds something of a session."""

    blobs: Blobs
    catalog: Catalog
    policies: Policies
    now: int
    eraser: Eraser | None
    only: str | None = None

    async def known(self) -> dict[str, Known]:
        """Every session that may be in a plan, by id."""
        erasures = await self._erasures()
        states = await self._states()
        erased = await asyncio.to_thread(self._records, self._names(states))
        open_findings = await self._findings()
        found = {}
        for session in sorted({*states, *erased}):
            state, records = states.get(session, {}), erased.get(session, {})
            if not records and not self._may_be_due(session, state):
                continue
            manifest = await self._manifest(session)
            found[session] = Known(
                await self._candidate(
                    session, state, manifest, records, erasures, open_findings.get(session, [])
                ),
                _partition(state, erasures.get(f"{session}:content")),
            )
        return found

    def _names(self, states: Mapping[str, Document]) -> Sequence[str]:
        if self.only is not None:
            return [self.only]
        return [name for name in {*states, *self.blobs.sessions()} if is_session(name)]

    async def _states(self) -> dict[str, Document]:
        if self.only is not None:
            one = await self.catalog.get("sessions", self.only)
            return {self.only: one} if one else {}
        return {str(one["_id"]): one for one in await self.catalog.find("sessions")}

    async def _erasures(self) -> dict[str, Document]:
        query = None if self.only is None else {"session": self.only}
        return {str(one["_id"]): one for one in await self.catalog.find(ERASURES, query)}

    async def _findings(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for one in await self.catalog.find("findings", {"resolved_at": None}):
            found.setdefault(str(one["session"]), []).append(f"{one['verdict']}: {one['name']}")
        return found

    def _records(self, names: Sequence[str]) -> dict[str, dict[Stage, Erasure]]:
        """The erasure records on disk. One that cannot be read is none: nothing goes on."""
        found: dict[str, dict[Stage, Erasure]] = {}
        for session in names:
            for name, stage in FILES.items():
                note = self.blobs.find(session, name)
                if note is None:
                    continue
                try:
                    found.setdefault(session, {})[stage] = read_erasure(note)
                except FormatError:
                    continue
        return found

    def _may_be_due(self, session: str, state: Document) -> bool:
        """Without its manifest: it ended at most a day before it was settled."""
        settled = state.get("settled_at")
        if state.get("state") not in SETTLED or settled is None:
            return False
        project = str((state.get("opened") or {}).get("project", ""))
        due = [due_at(settled - DAY, self.policies.rule(stage, session, project).keep)
               for stage in STAGES]  # fmt: skip
        return any(one is not None and one <= self.now for one in due)

    async def _manifest(self, session: str) -> Manifest | None:
        data = await asyncio.to_thread(self.blobs.find, session, MANIFEST)
        try:
            return read_manifest(data) if data is not None else None
        except FormatError:
            return None

    async def _candidate(
        self, session: str, state: Document, manifest: Manifest | None,
        records: Mapping[Stage, Erasure], erasures: Mapping[str, Document], findings: list[str],
    ) -> Candidate:  # fmt: skip
        documents = [one for stage in records if (one := erasures.get(f"{session}:{stage}"))]
        finished = frozenset(one["stage"] for one in documents if one["state"] == "erased")
        first = records.get("content")
        # A catalog that was lost knows nothing of it; the record does.
        settled = state.get("settled_at") or (first.ended if first else None)
        return Candidate(
            session=session,
            project=_project(state, manifest),
            state=str(state.get("state") or ("completed" if first else "unknown")),
            settled_at=settled,
            last_time=manifest.tally.last_time if manifest else state.get("ended_at"),
            size=0 if "content" in records else int(state.get("stored_bytes") or 0),
            erased=frozenset(records),
            finished=finished,
            damage=_damage(state, findings),
            waiting={
                stage: await self._waiting(erasures.get(f"{session}:{stage}")) for stage in records
            },
        )

    async def _waiting(self, document: Document | None) -> list[str]:
        if document is None or document["state"] != "shredded" or self.eraser is None:
            return []
        return await self.eraser.waiting(document)


def _project(state: Mapping[str, Any], manifest: Manifest | None) -> str | None:
    """The manifest's, else what the recorder said at its start; None: nobody knows."""
    if manifest is not None:
        return manifest.project
    opened = state.get("opened")
    return str(opened.get("project", "")) if opened else None


def _partition(state: Mapping[str, Any], document: Document | None) -> int | None:
    found = (state.get("opened") or {}).get("partition")
    if found is None and document is not None:
        found = document["partition"]
    return found if isinstance(found, int) else None


def _damage(state: Mapping[str, Any], findings: list[str]) -> list[str]:
    """Why people should look at a session before anything of it goes."""
    damaged = [str(name) for name in state.get("damaged") or []]
    found = [*findings] or [f"{name} is damaged" for name in damaged]
    if conflicts := state.get("conflicts"):
        found.append(f"{conflicts} chunks or manifests differ from the first ones")
    return found[:5]
