"""A producer outlives its broker, and a batch that failed under it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.producer.message_accumulator import MessageBatch

from agents.platform import stack as stack_api
from agents.platform.producer import ConnectionRenewed, Producer
from agents.platform.retry import Transient
from agents.platform.settings import Settings
from tests.conftest import Stack
from tests.platform.test_refusals import Topics
from tests.platform.topics import create_topic


async def test_a_broker_that_goes_away_and_comes_back_has_every_record_once(
    tmp_path: Path,
) -> None:
    settings = Settings.load(home=tmp_path, mongo="mongodb://nobody", redis="redis://nobody")
    try:
        await asyncio.to_thread(stack_api.up, settings)
        topics = Topics(settings)
        await create_topic(settings, topics.name, 1, {})
        async with Producer(settings, {topics.name: 1000}, timeout=2.0) as producer:
            await producer.send(topics.name, b"0", partition=0)
            await asyncio.to_thread(stack_api.down, settings)
            sending = [
                asyncio.create_task(producer.send(topics.name, b"%d" % number, partition=0))
                for number in range(1, 4)
            ]
            await asyncio.wait(sending, timeout=3.0)
            assert not any(task.done() for task in sending)
            await asyncio.to_thread(stack_api.up, settings)
            async with asyncio.timeout(30):
                await asyncio.gather(*sending)
                await producer.send(topics.name, b"4", partition=0)
        assert [one.value for one in await topics.read(5)] == [b"%d" % n for n in range(5)]
    finally:
        await asyncio.to_thread(stack_api.down, settings)


async def test_a_batch_that_was_refused_costs_its_connection_and_no_other_record(
    stack: Stack, tmp_path: Path
) -> None:
    topics = Topics(Settings.load(home=tmp_path, kafka=stack.kafka))
    await create_topic(topics.settings, topics.name, 1, {})
    async with asyncio.timeout(30), Producer(topics.settings, {topics.name: 1000}) as producer:
        await producer.send(topics.name, b"before", partition=0)
        epoch = await producer.epoch()
        # As after a batch that aiokafka gave up: its sequence numbers are ahead.
        manager = producer.kafka._txn_manager
        manager.increment_sequence_number(TopicPartition(topics.name, 0), 5)
        with pytest.raises(Transient, match="OutOfOrder"):
            await producer.send(topics.name, b"refused", partition=0)
        with pytest.raises(ConnectionRenewed):
            await producer.submit(topics.name, b"overtaking", partition=0, epoch=epoch)
        await producer.send(topics.name, b"after", partition=0)
        assert await producer.epoch() == epoch + 1
        with pytest.raises(ConnectionRenewed):
            await producer.submit(topics.name, b"overtaking", partition=0, epoch=epoch)
        sending = await producer.submit(
            topics.name, b"last", partition=0, epoch=await producer.epoch()
        )
        assert (await producer.acknowledged(sending)).offset == 2
        values = [one.value for one in await topics.read(3)]
    assert values == [b"before", b"after", b"last"]


async def test_many_who_wait_for_room_in_a_batch_do_not_wake_each_other(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = Topics(Settings.load(home=tmp_path, kafka=stack.kafka))
    await create_topic(topics.settings, topics.name, 1, {})
    waits = 0
    wait_drain = MessageBatch.wait_drain

    async def counted(batch: MessageBatch, timeout: float | None = None) -> None:
        nonlocal waits
        waits += 1
        await wait_drain(batch, timeout)

    monkeypatch.setattr(MessageBatch, "wait_drain", counted)
    values = [b"%d " % number + bytes(9_000) for number in range(60)]
    async with (
        asyncio.timeout(30),
        Producer(topics.settings, {topics.name: 20_000}, batch_bytes=10_000) as producer,
    ):
        sent = await asyncio.gather(
            *(producer.send(topics.name, value, partition=0) for value in values)
        )
    assert [one.offset for one in sent] == list(range(60))
    assert [one.value for one in await topics.read(60)] == values
    assert waits <= 2 * len(values)  # 1800 when each batch woke all of them


async def test_a_key_leads_to_the_partition_that_aiokafka_chooses(
    stack: Stack, tmp_path: Path
) -> None:
    topics = Topics(Settings.load(home=tmp_path, kafka=stack.kafka))
    await create_topic(topics.settings, topics.name, 12, {})
    keys = [b"key %d" % number for number in range(40)]
    async with asyncio.timeout(30), Producer(topics.settings, {topics.name: 1000}) as producer:
        ours = [(await producer.send(topics.name, b"", key=key)).partition for key in keys]
        theirs = [(await producer.kafka.send_and_wait(topics.name, b"", key=key)) for key in keys]
    assert ours == [one.partition for one in theirs]
    assert len(set(ours)) > 6
