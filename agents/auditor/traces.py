"""What reading a session of this installation leaves in `audit.events`.

What hands out content fails closed: without a broker there is no bundle, no film, and no
list of what was done. A
verification says nothing of the content, and must be possible while a broker is away, so its
entry is kept on disk then, and the next command sends it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Literal

from agents.platform.audit import Audit, AuditFailed
from agents.platform.broker import BrokerProbe
from agents.platform.contract import Contract, load_contract
from agents.platform.output import quiet, say
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from schemas.audit import ResourceRead, SessionExported, SessionVerified
from schemas.errors import LucidError
from schemas.verdicts import Report

Form = Literal["bundle", "film", "sheet"]


def verified(settings: Settings, session: str, report: Report) -> None:
    """A session of this installation was verified; raises AuditFailed when nothing takes it."""
    findings = Counter(finding.verdict.value for finding in report.findings)
    act = SessionVerified(
        session=session, outcome=report.outcome.value, findings=dict(findings),
        unchecked=len(report.unchecked),
    )  # fmt: skip
    quiet()
    asyncio.run(_keep_and_send(settings, act, session))


async def _keep_and_send(settings: Settings, act: SessionVerified, session: str) -> None:
    contract = load_contract(settings)
    await Audit(None, contract, settings=settings).keep(act, session)
    try:
        await _ask(settings, contract)
        async with Producer(settings, contract.limits) as producer:
            await Audit(producer, contract).deliver()
    except AuditFailed:
        raise
    except LucidError as error:
        say(
            f"warning: that you verified it stands on this disk only until a later command can "
            f"send it to audit.events: {error}"
        )


class Export:
    """A session's content on its way to somebody: audited before a file has its name, or before
    anything is shown.

    Raises BrokerUnreachable and TopicMissing before anything is read.
    """

    def __init__(self, settings: Settings, session: str) -> None:
        self._settings, self._session = settings, session
        self._contract = load_contract(settings)
        asyncio.run(_ask(settings, self._contract))

    def shown(self, action: str, items: int, size: int) -> None:
        """So many items are about to be shown, of so many bytes."""
        act = ResourceRead(
            action=action, resource=f"sessions/{self._session}", session=self._session,
            request=None, bytes=size, items=items, outcome="ok",
        )  # fmt: skip
        quiet()
        asyncio.run(self._record(act))

    def written(self, form: Form, path: Path, size: int) -> None:
        """The whole content is in a temporary file; `path` is the name that it gets."""
        act = SessionExported(
            session=self._session, form=form, file_type=path.suffix.lstrip(".")[:100] or "none",
            size=size,
        )  # fmt: skip
        quiet()
        asyncio.run(self._record(act))

    async def _record(self, act: SessionExported | ResourceRead) -> None:
        async with Producer(self._settings, self._contract.limits) as producer:
            await Audit(producer, self._contract).record(act, self._session)


async def _ask(settings: Settings, contract: Contract) -> None:
    async with BrokerProbe(settings) as probe:
        await probe.require([contract.topic("audit.events").full_name])
