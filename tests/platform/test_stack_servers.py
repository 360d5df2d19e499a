"""The three real servers."""

from __future__ import annotations

import socket
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError

from agents.platform import stack as stack_api
from agents.platform.settings import Settings
from agents.platform.stack import processes
from agents.platform.stack.state import StackFolder
from tests.conftest import Stack, own_settings

LARGE = 17 * 1024**2


async def make_topic(kafka: str) -> str:
    topic = f"t{uuid.uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        limits = {"max.message.bytes": str(LARGE + 4096)}
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=limits)])
    finally:
        await admin.close()
    return topic


async def send(kafka: str, topic: str, value: bytes, *, seconds: float = 20) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka,
        enable_idempotence=True,
        max_request_size=LARGE + 4096,
        request_timeout_ms=int(seconds * 1000),
    )
    await producer.start()
    try:
        await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def receive(kafka: str, topic: str) -> bytes:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=kafka, group_id=topic, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        record = await consumer.getone()
        await consumer.commit()
        return bytes(record.value)
    finally:
        await consumer.stop()


async def test_the_largest_record_passes_through_the_broker_and_a_group_commits_it(
    stack: Stack,
) -> None:
    topic = await make_topic(stack.kafka)
    value = bytes(range(256)) * (LARGE // 256)
    await send(stack.kafka, topic, value)
    assert await receive(stack.kafka, topic) == value


async def test_the_broker_makes_no_topic_on_its_own(stack: Stack) -> None:
    with pytest.raises(KafkaError):
        await send(stack.kafka, f"absent{uuid.uuid4().hex}", b"x", seconds=1)


def test_the_catalog_keeps_documents_and_refuses_a_second_of_one_id(stack: Stack) -> None:
    with MongoClient(stack.mongo) as client:
        found = client[f"t{uuid.uuid4().hex}"].things
        found.insert_one({"_id": "a", "n": 1})
        assert found.find_one({"_id": "a"}) == {"_id": "a", "n": 1}
        with pytest.raises(DuplicateKeyError):
            found.insert_one({"_id": "a", "n": 2})


def test_settings_of_the_same_home_find_all_servers(stack: Stack) -> None:
    found = own_settings(stack.home)
    assert found.kafka_servers() == stack.kafka
    assert found.mongo_url() == stack.mongo
    assert found.redis_url() == stack.redis


def test_servers_listen_on_the_loopback_address_only(stack: Stack) -> None:
    for record in StackFolder(stack.settings.stack_dir).read().servers.values():
        assert record.process is not None
        process = processes.find(record.process)
        assert process is not None
        listening = [c for c in process.net_connections("tcp") if c.status == "LISTEN"]
        assert {c.laddr.port for c in listening} == set(record.ports)
        assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


def kill(settings: Settings, name: str) -> None:
    process = StackFolder(settings.stack_dir).read().servers[name].process
    assert process is not None
    processes.stop(process, seconds=0)


async def test_data_outlives_a_stop_a_kill_and_a_change_of_ports(
    stack: Stack, tmp_path: Path
) -> None:
    settings = own_settings(tmp_path)
    try:
        first = stack_api.up(settings)
        assert not {first.kafka, first.mongo, first.redis} & {
            stack.kafka, stack.mongo, stack.redis,
        }  # fmt: skip
        topic = await make_topic(first.kafka)
        await send(first.kafka, topic, b"one")
        with MongoClient(first.mongo) as client:
            client.db.things.insert_one({"_id": 1})
        kill(settings, "kafka")
        again = stack_api.up(settings)
        assert again.started == ("kafka",)
        assert again.kafka == first.kafka
        assert await receive(again.kafka, topic) == b"one"
        assert sorted(stack_api.down(settings)) == ["kafka", "mongo", "redis"]
        log = (settings.stack_dir / "logs" / "kafka.log").read_text()
        assert "shut down completed" in log
        with ExitStack() as taken:
            for record in StackFolder(settings.stack_dir).read().servers.values():
                for port in record.ports:
                    taken.enter_context(socket.create_server(("127.0.0.1", port)))
            moved = stack_api.up(settings)
        assert len({moved.kafka, first.kafka, moved.mongo, first.mongo}) == 4
        await send(moved.kafka, topic, b"two")
        assert await receive(moved.kafka, topic) == b"two"
        with MongoClient(moved.mongo) as client:
            assert client.db.things.count_documents({}) == 1
    finally:
        stack_api.down(settings)
