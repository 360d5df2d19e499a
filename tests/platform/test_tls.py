"""TLS and SASL with real servers: what is trusted works everywhere, what is not says why."""

from __future__ import annotations

import ast
import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvicorn

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
    TlsSettingsError,
    client_context,
    handshake_advice,
    kafka_options,
    mongo_options,
    redis_options,
    server_context,
    server_tls,
)
from agents.platform.topic_reader import read_topic
from tests.platform.certificates import Authority, Pair
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


@dataclass(frozen=True)
class Pki:
    """Two authorities, of which the servers are of the first."""

    right: Authority
    wrong: Authority
    here: Pair
    elsewhere: Pair
    client: Pair
    stranger: Pair
    folder: Path

    def password(self, text: str) -> Path:
        path = self.folder / f"password-{uuid4().hex[:8]}"
        path.touch(0o600)
        path.write_text(text)
        return path


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    right, wrong = Authority(folder, "right"), Authority(folder, "wrong")
    return Pki(
        right, wrong, right.issue("here"), right.issue("elsewhere", ("elsewhere.example",)),
        right.issue("client"), wrong.issue("stranger"), folder,
    )  # fmt: skip


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
    running = asyncio.create_task(runner.run(asyncio.Event()))
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


# Settings ---------------------------------------------------------------------------------------


def settings_of(home: Path, **changes: Any) -> Settings:
    return Settings.load(**{
        "home": home, "kafka": "127.0.0.1:9", "kafka_security": "SSL",
        "mongo": "mongodb://127.0.0.1:9/?tls=true", "redis": "rediss://127.0.0.1:9/0", **changes,
    })  # fmt: skip


def test_wrong_files_are_named_with_their_variable(pki: Pki, tmp_path: Path) -> None:
    nonsense, open_to_all = tmp_path / "nonsense", tmp_path / "open"
    nonsense.touch(0o600)
    nonsense.write_text("no PEM")
    open_to_all.write_bytes(pki.client.both.read_bytes())
    open_to_all.chmod(0o644)
    cases: list[tuple[dict[str, Path], str]] = [
        ({"tls_ca": tmp_path / "none"}, "LUCID_TLS_CA names .* does not exist"),
        ({"tls_ca": nonsense}, "LUCID_TLS_CA: .* cannot be used"),
        ({"tls_ca": tmp_path}, "LUCID_TLS_CA"),
        ({"tls_cert": tmp_path / "none"}, "LUCID_TLS_CERT"),
        ({"tls_cert": tmp_path / "none", "tls_key": pki.client.key}, "LUCID_TLS_CERT names"),
        ({"tls_cert": pki.client.cert, "tls_key": tmp_path / "none"}, "LUCID_TLS_KEY"),
        ({"tls_cert": pki.client.cert, "tls_key": pki.here.key}, "not that of the certificate"),
        ({"tls_cert": nonsense}, "LUCID_TLS_CERT"),
        ({"tls_cert": open_to_all}, "chmod 600"),
        ({"tls_key": pki.client.key}, "LUCID_TLS_KEY is set without"),
    ]
    for changes, what in cases:
        for options in (kafka_options, mongo_options, redis_options):
            with pytest.raises(TlsSettingsError, match=what) as caught:
                options(settings_of(tmp_path, **changes))
            assert caught.value.exit_status == 78


def test_a_key_with_a_password_is_refused_and_not_asked_for(pki: Pki, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(pki.client.key.read_bytes(), None)
    path = tmp_path / "locked"
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"pw"))
    )
    with pytest.raises(TlsSettingsError, match="password"):
        client_context(settings_of(tmp_path, tls_cert=pki.client.cert, tls_key=path))


def test_sasl_needs_a_user_and_a_private_password(pki: Pki, tmp_path: Path) -> None:
    good = pki.password("pw")
    shown = pki.password("pw")
    shown.chmod(0o640)
    base: dict[str, Any] = {
        "kafka_security": "SASL_SSL", "kafka_user": "ada", "kafka_password_file": good,
    }  # fmt: skip
    assert kafka_options(settings_of(tmp_path, **base))["sasl_plain_password"] == "pw"
    for changes, what in (
        ({"kafka_user": None}, "LUCID_KAFKA_USER"),
        ({"kafka_password_file": None}, "LUCID_KAFKA_PASSWORD_FILE"),
        ({"kafka_password_file": tmp_path / "none"}, "LUCID_KAFKA_PASSWORD_FILE"),
        ({"kafka_password_file": shown}, "chmod 600"),
        ({"kafka_password_file": pki.password("")}, "not one line"),
        ({"kafka_password_file": pki.password("a\nb\n")}, "not one line"),
        ({"kafka_security": "SASL_PLAINTEXT", "kafka_sasl": "PLAIN"}, "in the clear"),
    ):
        with pytest.raises(TlsSettingsError, match=what):
            kafka_options(settings_of(tmp_path, **{**base, **changes}))
    scram = kafka_options(settings_of(tmp_path, **{**base, "kafka_security": "SASL_PLAINTEXT"}))
    assert "ssl_context" not in scram


def test_without_settings_nothing_changes(tmp_path: Path) -> None:
    plain = settings_of(tmp_path, kafka_security="PLAINTEXT", mongo="mongodb://127.0.0.1:9/",
                        redis="redis://127.0.0.1:9/0")  # fmt: skip
    assert kafka_options(plain) == {
        "bootstrap_servers": "127.0.0.1:9", "security_protocol": "PLAINTEXT",
    }  # fmt: skip
    assert mongo_options(plain) == {}
    assert redis_options(plain) == {}
    assert mongo_options(settings_of(tmp_path, mongo="mongodb://[::1:9/?tls=true")) == {}


def test_mongodb_srv_is_tls_unless_it_says_otherwise(pki: Pki, tmp_path: Path) -> None:
    for url, tls in (
        ("mongodb+srv://host/", True),
        ("mongodb+srv://host/?tls=false", False),
        ("mongodb://host/?SSL=True", True),
        ("mongodb://host/?tls=false", False),
    ):
        found = mongo_options(settings_of(tmp_path, mongo=url, tls_ca=pki.right.cert))
        assert (found == {"tlsCAFile": str(pki.right.cert)}) is tls


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("mongo", "mongodb://h/?tls=true&tlsInsecure=true"),
        ("mongo", "mongodb://h/?tlsAllowInvalidCertificates=true"),
        ("mongo", "mongodb://h/?tls=true&tlsallowinvalidhostnames=1"),
        ("redis", "rediss://h/0?ssl_cert_reqs=none"),
        ("redis", "rediss://h/0?ssl_check_hostname=False"),
    ],
)
def test_no_url_turns_a_check_off(tmp_path: Path, name: str, url: str) -> None:
    options = {"mongo": mongo_options, "redis": redis_options}[name]
    with pytest.raises(TlsSettingsError, match=f"LUCID_{name.upper()}"):
        options(settings_of(tmp_path, **{name: url}))


def test_the_catalogs_key_stands_in_the_certificates_file(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(TlsSettingsError, match="from one file"):
        mongo_options(settings_of(tmp_path, tls_cert=pki.client.cert, tls_key=pki.client.key))
    found = mongo_options(settings_of(tmp_path, tls_cert=pki.client.both))
    assert found == {"tlsCertificateKeyFile": str(pki.client.both)}


def test_what_says_nothing_of_a_handshake_gives_no_advice() -> None:
    assert handshake_advice("connection refused", "LUCID_KAFKA") is None
    expired = handshake_advice("certificate verify failed: certificate has expired", "X")
    assert expired is not None
    assert "expired" in expired[0]


# Our own server ---------------------------------------------------------------------------------


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def serving(options: dict[str, Any]) -> AbstractAsyncContextManager[int]:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def run() -> Any:
        server = uvicorn.Server(
            uvicorn.Config(echo, port=0, lifespan="off", log_level="critical", **options)
        )
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(server.serve())
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.01)
        try:
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True
            await task

    return run()


async def ask(port: int, context: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_our_own_server_speaks_tls_from_1_2_on(pki: Pki, tmp_path: Path) -> None:
    async with serving(server_tls(pki.here.cert, pki.here.key)) as port:
        context = client_context(settings_of(tmp_path, tls_ca=pki.right.cert))
        assert b"hello" in await ask(port, context)
        old = ssl.create_default_context(cafile=str(pki.right.cert))
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(port, old)


def test_a_certificate_of_our_own_is_checked_at_the_start(pki: Pki, tmp_path: Path) -> None:
    assert server_tls(None, None) == {}
    assert server_context(pki.here.both, None).minimum_version == ssl.TLSVersion.TLSv1_2
    with pytest.raises(TlsSettingsError, match="LUCID_API_TLS_KEY is set without"):
        server_tls(None, pki.here.key)
    with pytest.raises(TlsSettingsError, match="LUCID_API_TLS_CERT"):
        server_tls(tmp_path / "none", pki.here.key)
    with pytest.raises(TlsSettingsError, match="not that of the certificate"):
        server_tls(pki.here.cert, pki.client.key)
