"""Topics that a test makes for itself."""

from __future__ import annotations

from aiokafka import TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete

from agents.platform.broker import administering
from agents.platform.settings import Settings


async def create_topic(
    settings: Settings, name: str, partitions: int, configs: dict[str, str] | None = None
) -> None:
    """A topic on the broker of `settings`, with one replica."""
    async with administering(settings) as admin:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs or {})])


async def expire(settings: Settings, topic: str, partition: int, before: int) -> None:
    """Let the records before an offset go, as retention does."""
    async with administering(settings) as admin:
        await admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(before)})


async def committed(settings: Settings, group: str, topic: str) -> dict[int, int]:
    """What a group has committed of a topic, by partition."""
    async with administering(settings) as admin:
        found = await admin.list_consumer_group_offsets(group)
    return {place.partition: at.offset for place, at in found.items() if place.topic == topic}
