"""Is a gap between two offsets empty on the broker?

Transaction markers and compaction leave gaps that mean nothing; retention takes records
that nobody read; a driver that loses records leaves a gap that must not be committed over.
"""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.platform.broker import unreachable
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options

READ_SECONDS = 5.0


async def missed_before(
    settings: Settings, place: tuple[str, int], first: int, offset: int
) -> tuple[int, int | None]:
    """The first offset on the broker, and its first record in [first, offset), if it has one.

    place: topic and partition. Raises BrokerUnreachable when the broker does not say.
    """
    partition = TopicPartition(*place)
    consumer = AIOKafkaConsumer(
        **kafka_options(settings), client_id="lucid-gaps", group_id=None,
        enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=100,
    )  # fmt: skip
    try:
        async with asyncio.timeout(READ_SECONDS):
            await consumer.start()
            consumer.assign([partition])
            begin = int((await consumer.beginning_offsets([partition]))[partition])
            if begin >= offset:
                return begin, None
            consumer.seek(partition, max(begin, first))
            found = int((await consumer.getone(partition)).offset)
    except (KafkaError, TimeoutError) as error:
        raise unreachable(settings, error) from error
    finally:
        await consumer.stop()
    return begin, found if found < offset else None
