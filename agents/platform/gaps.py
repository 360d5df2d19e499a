"""Is a gap between two offsets empty on the broker?

Transaction markers, compaction and retention leave gaps that mean nothing, or that cannot
be helped; a driver that loses records leaves one that must not be committed over.
"""

from __future__ import annotations

import asyncio

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.platform.broker import unreachable
from agents.platform.settings import Settings

log = structlog.get_logger(__name__)

READ_SECONDS = 5.0


async def missed_before(
    settings: Settings, place: tuple[str, int], first: int, offset: int
) -> int | None:
    """The first record on the broker in [first, offset), None if there is none.

    place: topic and partition. Logs records that expired before they were read. Raises
    BrokerUnreachable when the broker does not say.
    """
    partition = TopicPartition(*place)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_servers(), client_id="lucid-gaps", group_id=None,
        enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=100,
    )  # fmt: skip
    try:
        async with asyncio.timeout(READ_SECONDS):
            await consumer.start()
            consumer.assign([partition])
            begin = (await consumer.beginning_offsets([partition]))[partition]
            if begin > first:
                log.error("records expired before they were read", topic=partition.topic,
                          partition=partition.partition, first=first, last=begin - 1)  # fmt: skip
            consumer.seek(partition, max(begin, first))
            if begin >= offset:
                return None
            found = int((await consumer.getone(partition)).offset)
    except (KafkaError, TimeoutError) as error:
        raise unreachable(settings, error or "no answer") from error
    finally:
        await consumer.stop()
    return found if found < offset else None
