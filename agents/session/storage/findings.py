"""Findings of scrubs in the catalog: an event when a file goes wrong, one when it is mended.

    findings  {_id: "<session>:<name>", session, name, index, verdict, expected, found,
               found_at, resolved_at, version}          times in microseconds; null: still open

The event is sent before the document is written: after a crash between the two it is sent
again, which its readers take as a no-op.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from agents.platform.catalog import Catalog, Document
from agents.platform.clock import wall_clock
from agents.platform.eventbus import EventBus
from agents.session.storage.damage import Finding
from agents.session.storage.metrics import ScrubMetrics
from schemas.events import ScrubFinding, ScrubResolved

log = structlog.get_logger(__name__)

FINDINGS = "findings"


def finding_of(document: Document) -> Finding:
    """The finding that a document of the catalog tells of."""
    names = ("session", "name", "verdict", "expected", "found")
    return Finding(**{name: document[name] for name in names})


@dataclass(slots=True)
class Ledger:
    """Keeps findings. events: None sends none, metrics: None counts none."""

    catalog: Catalog
    events: EventBus | None = None
    metrics: ScrubMetrics | None = None
    count: int = field(default=0, init=False)

    async def open_findings(self, session: str | None = None) -> list[Finding]:
        """Those that are open, of one session or of all, in order."""
        query: Document = {"resolved_at": None}
        if session is not None:
            query["session"] = session
        else:
            self.count = 0
        found = [finding_of(one) for one in await self.catalog.find(FINDINGS, query)]
        if session is None:
            self._shown(len(found))
        return found

    def _shown(self, change: int) -> None:
        self.count += change
        if self.metrics is not None:
            self.metrics.open.set(self.count)

    async def note(self, session: str, name: str, finding: Finding | None) -> bool:
        """Take down what a look at a file has found; whether that is news."""
        key = f"{session}:{name}"
        before = await self.catalog.get(FINDINGS, key)
        is_open = before is not None and before["resolved_at"] is None
        if finding is None:
            return before is not None and is_open and await self._resolve(before)
        if before is not None and is_open and finding_of(before) == finding:
            return False
        if session and self.events is not None:
            await self.events.emit(
                ScrubFinding(
                    session=session, name=name[:1000], index=finding.index,
                    verdict=finding.verdict, expected=finding.expected, found=finding.found,
                ),
                session,
            )  # fmt: skip
        document: Document = {
            "_id": key, "session": session, "name": name, "index": finding.index,
            "verdict": finding.verdict, "expected": finding.expected, "found": finding.found,
            "found_at": wall_clock(), "resolved_at": None,
            "version": 1 if before is None else before["version"] + 1,
        }  # fmt: skip
        await self.catalog.put_version(FINDINGS, document)
        log.error("scrub finding", session=session, file=name, verdict=finding.verdict,
                  expected=finding.expected, found=finding.found, hint=finding.advice)  # fmt: skip
        if self.metrics is not None:
            self.metrics.findings.labels(finding.verdict).inc()
        self._shown(0 if is_open else 1)
        return True

    async def _resolve(self, before: Document) -> bool:
        finding = finding_of(before)
        if finding.session and self.events is not None:
            await self.events.emit(
                ScrubResolved(
                    session=finding.session, name=finding.name[:1000], index=finding.index,
                    verdict=finding.verdict,
                ),
                finding.session,
            )  # fmt: skip
        changes = {"resolved_at": wall_clock(), "version": before["version"] + 1}
        await self.catalog.put_version(FINDINGS, {**before, **changes})
        log.info("scrub finding resolved", session=finding.session, file=finding.name,
                 verdict=finding.verdict)  # fmt: skip
        self._shown(-1)
        return True
