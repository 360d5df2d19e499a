"""A record whose header's name is no UTF-8 is read like any other, and refused by its parser."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from agents.platform.aiokafka_changes import change_aiokafka
from agents.platform.deadletters import DeadLetters, arrived
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from schemas.deadletters import from_kafka
from schemas.frames import InvalidFrameRecord
from tests.conftest import Stack
from tests.platform.topics import create_topic

GZIP = 1


async def send_raw(
    producer: Producer, topic: str, names: Sequence[bytes], compression: int = 0
) -> None:
    """One batch of a record for each header name of two bytes, as no honest client writes it."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 10**6)
    for number, _ in enumerate(names):
        builder.append(number, 1_700_000_000_000, b"k", b"v%d" % number, [("~~", b"1")])
    raw = bytes(builder.build())
    for name in names:
        raw = raw.replace(b"~~", name, 1)
    if compression:
        attributes = struct.pack(">h", compression)
        body = gzip.compress(raw[61:])
        raw = raw[:21] + attributes + raw[23:61] + body
        raw = raw[:8] + struct.pack(">i", len(raw) - 12) + raw[12:]
    raw = raw[:17] + struct.pack(">I", calc_crc32c(raw[21:])) + raw[21:]
    client = producer.kafka.client
    leader = client.cluster.leader_for_partition(TopicPartition(topic, 0))
    answer: Any = await client.send(
        leader,
        ProduceRequest(
            required_acks=-1, timeout=5000, topics=[(topic, [(0, raw)])], transactional_id=None
        ),
    )
    assert answer.topics[0][1][0][1] == 0, answer


@pytest.mark.parametrize("compression", [0, GZIP])
async def test_a_header_name_that_is_no_text_stops_nobody(
    stack: Stack, tmp_path: Path, compression: int
) -> None:
    settings = Settings.load(home=tmp_path, kafka=stack.kafka)
    topic, letters_topic = f"names-{uuid4().hex[:8]}", f"letters-{uuid4().hex[:8]}"
    for name in (topic, letters_topic):
        await create_topic(settings, name, 1)
    async with Producer(settings, {topic: 10**6, letters_topic: 10**6}) as producer:
        await producer.send(topic, b"before", partition=0)
        await send_raw(producer, topic, [b"ok", b"\xff\xfe", b"no", b"\xc3\xa4"], compression)
        await producer.send(topic, b"after", partition=0, headers=[("ä", b"2")])
        found = [record async for record in read_topic(settings, topic)]
        letters = DeadLetters(producer, topic=letters_topic, service="t")
        await letters.refuse(arrived(found[2]), InvalidFrameRecord("unknown header"))
    assert [record.value for record in found] == [b"before", b"v0", b"v1", b"v2", b"v3", b"after"]
    assert [record.offset for record in found] == list(range(6))
    names = [[name for name, _ in record.headers] for record in found]
    assert names == [[], ["ok"], ["\\xff\\xfe"], ["no"], ["ä"], ["ä"]]
    (raw,) = [record async for record in read_topic(settings, letters_topic)]
    letter = from_kafka(raw.key, raw.headers, raw.value)
    assert (letter.value, letter.headers) == (b"v1", (("\\xff\\xfe", b"1"),))


def test_the_checksum_of_each_batch_is_checked() -> None:
    """As aiokafka does itself: one flipped bit, anywhere behind the checksum, is seen."""
    change_aiokafka()
    batches = []
    for number in range(3):
        builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 10**6)
        builder.append(0, 1_700_000_000_000, b"k", bytes(1000 * number), [("n", b"1")])
        batches.append(bytes(builder.build()))
    for broken in (-1, 0, 1, 2):
        for place in (21, 40, 61, -1):
            data = [bytearray(batch) for batch in batches]
            if broken >= 0:
                data[broken][place] ^= 4
            records = fetcher.MemoryRecords(b"".join(data))
            right = []
            while records.has_next():
                batch = records.next_batch()
                assert batch.validate_crc() == batch._batch.validate_crc()
                right.append(batch.validate_crc())
            assert right == [number != broken for number in range(3)]
