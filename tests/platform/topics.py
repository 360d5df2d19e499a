"""Topics that a test makes for itself."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.platform.settings import Settings


async def create_topic(
    settings: Settings, name: str, partitions: int, configs: dict[str, str] | None = None
) -> None:
    """A topic on the broker of `settings`, with one replica."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_servers())
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs or {})])
    finally:
        await admin.close()
