"""Audit events: who did what, when, and to which session or record.

audit = Audit(producer, contract, host=settings.host)
await audit.record(LetterDiscarded(…), subject)      returns when the broker holds it
"""

from __future__ import annotations

import os
import pwd

from agents.platform.contract import Contract
from agents.platform.producer import Producer
from agents.platform.retry import Backoff, Deadline, retry
from schemas.audit import AuditEvent
from schemas.canonical import Strict

SECONDS = 30.0  # that a broker gets to take an event


def acting_user() -> str:
    """The user of this process by its real id; the environment may say anything."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


class Audit:
    """Writes to `audit.events` what the user of this process does."""

    def __init__(
        self, producer: Producer, contract: Contract, *, host: str, service: str = "cli"
    ) -> None:
        self._producer = producer
        self._topic = contract.topic("audit.events").full_name
        self._source = f"lucid/{service}/{host}"

    async def record(self, data: Strict, subject: str) -> AuditEvent:
        """Write an event about `subject`, a session id or what else was acted on.

        Returns once all in-sync replicas hold it. Trouble that passes is waited out for
        30 s; raises what Producer.send raises.
        """
        event = AuditEvent(data, self._source, subject, user=acting_user())
        key, headers, value = event.to_kafka()
        await retry(
            lambda: self._producer.send(self._topic, value, key=key, headers=[*headers]),
            backoff=Backoff(most=5.0),
            deadline=Deadline(SECONDS),
        )
        return event
