"""`node.registration`: requests answered with challenges, answers checked, deadlines kept."""

from __future__ import annotations

from dataclasses import dataclass

from agents.node.management.keeper import Keeper
from agents.node.management.outlet import Cause
from agents.platform.lanes import Record
from schemas.node_base import ClockTicked
from schemas.node_registration import (
    ChallengeAnswered,
    RegistrationEvent,
    RegistrationRequested,
)
from schemas.node_states import answered, expire, requested

TOPIC = "registration"


def parse(record: Record) -> RegistrationEvent:
    """An event of `node.registration`; raises FormatError."""
    return RegistrationEvent.from_kafka(record.key, record.headers, record.value)


@dataclass(frozen=True, slots=True)
class Registrations:
    """The handler of the topic. secret: makes challenges that nobody else can foresee."""

    keeper: Keeper
    secret: bytes

    async def handle(self, event: RegistrationEvent, record: Record) -> None:
        """One record. Raises Transient."""
        data, change = event.data, self.keeper.change
        cause = Cause.of(record, event.id)
        if isinstance(data, RegistrationRequested):
            request = data
            await change(data.node, TOPIC, cause, lambda state: requested(
                state, request, event.id, cause.at, self.secret
            ))  # fmt: skip
        elif isinstance(data, ChallengeAnswered):
            answer = data
            cause = Cause.of(record, data.registration)
            await change(data.node, TOPIC, cause, lambda state: answered(state, answer, cause.at))
        elif isinstance(data, ClockTicked):
            await self._tick(Cause.of(record))

    async def _tick(self, cause: Cause) -> None:
        for name, state in (await self.keeper.nodes()).items():
            if expire(state, cause.at).state != state:
                await self.keeper.change(name, TOPIC, cause, lambda one: expire(one, cause.at))
