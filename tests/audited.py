"""What `audit.events` says of commands, for the tests of several rooms."""

from __future__ import annotations

from agents.platform.audit import AuditFailed
from agents.platform.contract import load_contract
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from schemas.audit import AuditEvent, NodeOrdered, RdpServerOrdered, RdpSessionOrdered

Ordered = RdpServerOrdered | RdpSessionOrdered | NodeOrdered


class FullDisk:
    """An audit that cannot put anything down."""

    def __init__(self, *_: object, **__: object) -> None: ...

    async def record(self, *_: object) -> None:
        raise AuditFailed("the disk is full")


async def orders(settings: Settings) -> list[AuditEvent]:
    """The entries of commands that were sent, oldest first."""
    topic = load_contract(settings).topic("audit.events").full_name
    found = [
        AuditEvent.from_kafka(raw.key, tuple(raw.headers), raw.value)
        async for raw in read_topic(settings, topic)
    ]
    return [event for event in found if isinstance(event.data, Ordered)]


async def sent(settings: Settings, topic: str) -> list[bytes]:
    """The commands themselves, as they are in their topic."""
    name = load_contract(settings).topic(topic).full_name
    return [raw.value or b"" async for raw in read_topic(settings, name)]
