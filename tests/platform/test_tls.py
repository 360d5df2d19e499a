"""TLS and SASL with real servers: what is trusted works everywhere, what is not says why."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agents.platform.broker import BrokerHandshakeFailed, BrokerProbe
from agents.platform.catalog import Catalog, CatalogHandshakeFailed
from agents.platform.contract import apply_contract, load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.dataplane import Runner
from agents.platform.deadletters import DeadLetters
from agents.platform.gaps import missed_before
from agents.platform.letter_limit import LetterLimit
from agents.platform.limiting import Limiter
from agents.platform.metrics import Metrics
from agents.platform.partition import PartitionWorker
from agents.platform.producer import Producer
from agents.platform.reader import open_reader
from agents.platform.redis_client import RedisClient, RedisHandshakeFailed, RedisUnreachable
from agents.platform.retry import CatalogUnreachable
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.platform.tls import (
    kafka_options,
)
from agents.platform.topic_reader import read_topic
from tests.platform.certificates import Pki
from tests.platform.tls_servers import (
    PASSWORD,
    USER,
    TlsFerretDB,
    TlsKafka,
    TlsRedis,
    started,
)

pytestmark = pytest.mark.stack
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@dataclass(frozen=True)
class Ports:
    kafka: dict[str, int]
    mongo: int
    mongo_plain: int
    redis: int


@pytest.fixture(scope="module")
def ports(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:
        kafka, end = started(TlsKafka(pki.right, pki.here, pki.elsewhere), folder)
        stack.callback(end)
        mongo, end = started(TlsFerretDB(pki.here), folder)
        stack.callback(end)
        redis, end = started(TlsRedis(pki.right, pki.here), folder)
        stack.callback(end)
        names = dict(zip(("PLAIN", "CONTROLLER", *TlsKafka.NAMES), kafka, strict=True))
        yield Ports(names, mongo[1], mongo[0], redis[1])


Make = Callable[..., Settings]


@pytest.fixture
def make(pki: Pki, ports: Ports, tmp_path: Path) -> Make:
    """Settings that reach the servers over TLS, unless told otherwise."""

    def settings(listener: str = "TLS", **changes: Any) -> Settings:
        return Settings.load(**{
            "home": tmp_path, "kafka": f"127.0.0.1:{ports.kafka[listener]}",
            "mongo": f"mongodb://127.0.0.1:{ports.mongo}/?tls=true",
            "redis": f"rediss://127.0.0.1:{ports.redis}/0", "tls_ca": pki.right.cert,
            "kafka_security": "SSL", "topic_prefix": f"tls{uuid4().hex[:8]}.", **changes,
        })  # fmt: skip

    return settings


# Kafka ------------------------------------------------------------------------------------------


async def use_everything(settings: Settings) -> None:
    """Admin, producer, the consumers, and Faust: each over the settings' connection."""
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    topic = contract.topic("audit.events").full_name
    async with BrokerProbe(settings) as probe:
        await probe.require([topic])
    async with Producer(settings, contract.limits) as producer:
        await producer.send(topic, b"hello", key=b"k")
        assert [record.value async for record in read_topic(settings, topic)] == [b"hello"]
        async with open_reader(settings, contract, "audit.events", 1 << 20) as reader:
            assert [record.value async for record in reader.records({0: 0})] == [b"hello"]
        assert await missed_before(settings, (topic, 0), 0, 1) == (0, 0)
        assert await heard_by_faust(settings, producer, topic) == b"hello"


async def heard_by_faust(settings: Settings, producer: Producer, topic: str) -> bytes:
    letters = DeadLetters(
        producer, topic=f"{settings.topic_prefix}dead.letters", service="t", limit=LetterLimit(9)
    )
    control = ControlPlane(settings, "t", letters=letters, metrics=Metrics("t", version="0"))
    stop, heard = StopSignal(), []

    async def handle(value: bytes, record: Record) -> None:
        heard.append(value)
        stop.set()

    control.consume(topic, lambda record: record.value or b"", handle)
    async with asyncio.timeout(40):
        await control.run(stop)
    return heard[0]


async def test_everything_works_over_tls(make: Make) -> None:
    await use_everything(make())


async def test_the_data_plane_works_over_tls(make: Make) -> None:
    settings = make()
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    taken = asyncio.get_running_loop().create_future()

    def make_worker(partition: Any, committed: int | None, fail: Any) -> PartitionWorker:
        taken.set_result(partition)
        raise asyncio.CancelledError

    topic = contract.topic("audit.events").full_name
    runner = Runner(kafka=kafka_options(settings), group=topic, topics=[topic],
                    make_worker=make_worker, busy_limit=1 << 20, fetch_bytes=1 << 20)  # fmt: skip
    running = asyncio.create_task(runner.run(StopSignal()))
    try:
        async with asyncio.timeout(30):
            assert (await taken).topic == topic
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_client_certificate_is_shown(make: Make, pki: Pki) -> None:
    await use_everything(make("MUTUAL", tls_cert=pki.client.cert, tls_key=pki.client.key))
    await BrokerProbe(make("MUTUAL", tls_cert=pki.client.both)).check()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
async def test_a_user_logs_in(make: Make, pki: Pki, mechanism: str) -> None:
    settings = make("LOGIN", kafka_security="SASL_SSL", kafka_sasl=mechanism, kafka_user=USER,
                    kafka_password_file=pki.password(PASSWORD + "\n"))  # fmt: skip
    assert PASSWORD not in repr(settings)
    if mechanism == "PLAIN":
        await BrokerProbe(settings).check()
    else:
        await use_everything(settings)


async def refusals(settings: Settings) -> list[BrokerHandshakeFailed]:
    """What probe, producer, admin and reader say."""
    found = []
    contract = load_contract(settings)

    async def read() -> None:
        async for _ in read_topic(settings, "t"):
            pass

    for what in (BrokerProbe(settings).check, Producer(settings, contract.limits).start,
                 lambda: apply_contract(settings, contract), read):  # fmt: skip
        with pytest.raises(BrokerHandshakeFailed) as caught:
            await what()
        found.append(caught.value)
    return found


async def test_a_broker_of_another_authority_is_refused(make: Make, pki: Pki) -> None:
    for settings in (make(tls_ca=pki.wrong.cert), make(tls_ca=None)):
        for error in await refusals(settings):
            assert "not trusted" in str(error)
            assert "LUCID_TLS_CA" in error.hint


async def test_a_broker_of_another_name_is_refused(make: Make) -> None:
    for error in await refusals(make("ELSEWHERE")):
        assert "IP address" in str(error)
        assert "LUCID_KAFKA" in error.hint


async def test_a_broker_without_tls_is_refused(make: Make) -> None:
    for error in await refusals(make("PLAIN")):
        assert "LUCID_KAFKA_SECURITY" in error.hint


async def test_a_client_without_certificate_or_with_a_strangers_is_told(
    make: Make, pki: Pki
) -> None:
    for settings in (make("MUTUAL"), make("MUTUAL", tls_cert=pki.stranger.both)):
        for error in await refusals(settings):
            assert "our" in error.what
            assert "LUCID_TLS_CERT" in error.hint


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
async def test_a_wrong_password_is_told_without_it(make: Make, pki: Pki, mechanism: str) -> None:
    settings = make("LOGIN", kafka_security="SASL_SSL", kafka_sasl=mechanism, kafka_user=USER,
                    kafka_password_file=pki.password("hunter2"))  # fmt: skip
    for error in await refusals(settings):
        assert USER in str(error)
        assert "hunter2" not in str(error)
        assert "LUCID_KAFKA_PASSWORD_FILE" in error.hint


def test_every_kafka_client_is_made_with_these_options() -> None:
    """A client made otherwise would go round TLS and SASL."""
    makers = {"AIOKafkaConsumer", "AIOKafkaProducer", "AIOKafkaAdminClient", "AIOKafkaClient"}
    found = 0
    for path in (ROOT / "agents").rglob("*.py"):
        if "stack" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in makers:
                spread = [ast.unparse(word.value) for word in node.keywords if word.arg is None]
                assert spread, f"{path}:{node.lineno}"
                assert spread[0].startswith("kafka_options(") or spread[0].startswith("self._")
                assert not any(word.arg == "bootstrap_servers" for word in node.keywords)
                found += 1
    assert found >= 10


def test_whoever_has_these_options_uses_aiokafka_as_it_is_changed() -> None:
    script = """if True:
        from aiokafka import conn
        from aiokafka.consumer import fetcher
        from aiokafka.protocol.types import Schema
        from agents.platform.settings import Settings
        from agents.platform.tls import kafka_options
        from agents.platform.aiokafka_changes import change_aiokafka
        places = lambda: (conn.AIOKafkaProtocol, conn.io, fetcher.MemoryRecords, Schema.encode)
        before = places()
        kafka_options(Settings(kafka="localhost:1"))
        after = places()
        assert not any(map(lambda one, other: one is other, before, after))
        change_aiokafka()
        assert after[::2] == places()[::2], "again is without effect"
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# The catalog and Redis ------------------------------------------------------------------------


async def test_the_catalog_works_over_tls(make: Make, pki: Pki) -> None:
    for settings in (make(), make(tls_cert=pki.client.both)):
        async with Catalog(settings) as catalog:
            await catalog.ping()
            assert await catalog.insert("things", {"_id": uuid4().hex})


async def test_a_catalog_that_is_not_trusted_is_refused(
    make: Make, pki: Pki, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.platform.catalog.ANSWER_MS", 500)
    async with Catalog(make(tls_ca=pki.wrong.cert)) as catalog:
        with pytest.raises(CatalogHandshakeFailed, match="LUCID_TLS_CA") as caught:
            await catalog.ping()
        assert isinstance(caught.value, CatalogUnreachable)
    plain = f"mongodb://127.0.0.1:{ports.mongo}/"
    async with Catalog(make(mongo=plain)) as catalog:
        with pytest.raises(CatalogUnreachable):
            await catalog.ping()


async def test_a_catalog_of_another_name_is_refused(
    make: Make, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.platform.catalog.ANSWER_MS", 500)
    ports, end = started(TlsFerretDB(pki.elsewhere), tmp_path / "servers")
    try:
        async with Catalog(make(mongo=f"mongodb://127.0.0.1:{ports[1]}/?tls=true")) as catalog:
            with pytest.raises(CatalogHandshakeFailed, match="LUCID_MONGO"):
                await catalog.ping()
    finally:
        end()


async def test_redis_works_over_tls(make: Make, pki: Pki) -> None:
    for more in ({}, {"tls_cert": pki.client.cert, "tls_key": pki.client.key},
                 {"tls_cert": pki.client.both}):  # fmt: skip
        async with RedisClient(make(**more), seconds=5) as client:
            await client.ping()
            limiter = Limiter(client)
            assert (await limiter.hit("ada", uuid4().hex, 9)).remaining == 8
            await limiter.healthy()


async def test_a_redis_that_is_not_trusted_is_refused(
    make: Make, pki: Pki, tmp_path: Path, ports: Ports
) -> None:
    async with RedisClient(make(tls_ca=pki.wrong.cert), seconds=5) as client:
        with pytest.raises(RedisHandshakeFailed, match="LUCID_TLS_CA"):
            await client.ping()
    found, end = started(TlsRedis(pki.right, pki.elsewhere, "yes"), tmp_path / "servers")
    try:
        url = f"rediss://127.0.0.1:{found[1]}/0"
        async with RedisClient(make(redis=url), seconds=5) as client:
            with pytest.raises(RedisHandshakeFailed, match="LUCID_REDIS"):
                await client.ping()
        plain = f"rediss://127.0.0.1:{found[0]}/0"
        async with RedisClient(make(redis=plain), seconds=0.5) as client:
            with pytest.raises(RedisUnreachable):
                await client.ping()
    finally:
        end()
