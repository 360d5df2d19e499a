"""Retention as a whole: what is due, and doing it. `lucid retention` is a thin shell around this.

async with open_house(settings, section, signer=…, clock=…) as house:
    plan = await house.plan()
    async for done in house.apply(plan): …
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from agents.platform.audit import Audit
from agents.platform.blobs import Blobs
from agents.platform.catalog import Catalog
from agents.platform.clock import wall_clock
from agents.platform.contract import ensure_contract
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.retry import Unreachable
from agents.platform.settings import Settings
from agents.session.storage.retention_broker import open_broker
from agents.session.storage.retention_erasing import Done, Eraser
from agents.session.storage.retention_holds import Register
from agents.session.storage.retention_plan import Gathering, Known
from schemas.errors import LucidError
from schemas.notes import Signer
from schemas.retention import Plan, Policies, Row, make_plan

NAME = "retention"
AUDIT_VIEW = "audit"
STALE_CLAIM = 600_000_000
"""Microseconds after which a claim that has left no record belongs to nobody any more."""


@dataclass
class House:
    """Everything that retention works with. now: a plan's and an erasure's time, microseconds."""

    blobs: Blobs
    catalog: Catalog
    register: Register
    eraser: Eraser
    events: EventBus
    audit: Audit
    policies: Policies
    clock: Callable[[], int]
    known: dict[str, Known] = field(default_factory=dict)

    async def plan(self, only: str | None = None) -> Plan:
        """What is due now; nothing is deleted. only: of this session alone."""
        holds = (await self.register.sync()).holds
        now = self.clock()
        gathering = Gathering(self.blobs, self.catalog, self.policies, now, self.eraser, only)
        self.known = await gathering.known()
        candidates = [one.candidate for one in self.known.values()]
        return make_plan(candidates, self.policies, holds, now)

    async def apply(self, plan: Plan, *, damaged: bool = False) -> AsyncIterator[Done]:
        """Carry a plan out, row by row; what fails for one session stops no other.

        damaged: also what damage blocks. Raises Unreachable.
        """
        await self._drop_stale_claims()
        for row in rows_to_do(plan, damaged=damaged):
            known = self.known[row.session]
            try:
                yield await self.eraser.carry_out(row, known.partition, damaged=damaged)
            except Unreachable:
                raise
            except LucidError as error:
                yield Done(row.session, row.stage, "failed", str(error))

    async def expire_audit(self, plan: Plan) -> int:
        """Take pages of the catalog's view of audit events of which every entry is too old.

        Returns how many. The topic keeps its own time, and the chain there stays whole.
        """
        if plan.audit_before is None:
            return 0
        place, removed = await self.catalog.where(AUDIT_VIEW), 0
        old = [
            str(page["_id"])
            async for page in self.catalog.scan(AUDIT_VIEW)
            if (times := [entry["time"] for entry in page.get("entries", [])])
            and max(times) < plan.audit_before
        ]
        for key in old:
            removed += await self.catalog.delete(place, key)
        return removed

    async def _drop_stale_claims(self) -> None:
        """Claims of a process that died before it wrote the record."""
        state = await self.register.state()
        for session, since in state.claims.items():
            if self.clock() - since > STALE_CLAIM and not self.blobs.erased(session):
                await self.register.free(session)


def rows_to_do(plan: Plan, *, damaged: bool) -> list[Row]:
    """The rows that `apply` carries out, in their order."""
    forced = [replace(row, action="erase") for row in plan.of("blocked") if row.forceable]
    chosen = [*plan.of("erase", "finish", "wait"), *(forced if damaged else [])]
    return sorted(chosen, key=lambda row: (row.session, row.stage))


@asynccontextmanager
async def open_house(
    settings: Settings, policies: Policies, *, signer: Signer | None = None,
    clock: Callable[[], int] = wall_clock,
) -> AsyncIterator[House]:  # fmt: skip
    """Connect to broker and catalog. Raises Unreachable, TopicDrift.

    signer: None for a house that only plans, and sets holds.
    """
    contract = await ensure_contract(settings)
    stop = asyncio.Event()
    stop.set()  # a command does not wait for a broker as long as a service does
    async with (
        Catalog(settings) as catalog,
        Producer(settings, contract.limits) as producer,
        open_broker(settings, contract, producer) as broker,
    ):
        blobs = Blobs(settings.blobs_dir)
        register = Register(settings, contract, catalog, producer, clock)
        events = EventBus(producer, contract, service=NAME, host=settings.host, stop=stop)
        audit = Audit(producer, contract, host=settings.host)
        eraser = Eraser(settings, blobs, catalog, register, broker, events, audit, signer, clock)
        yield House(blobs, catalog, register, eraser, events, audit, policies, clock)
