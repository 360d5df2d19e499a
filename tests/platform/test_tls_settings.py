"""TLS settings: wrong files are named, nothing is asked for, no check can be turned off."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization

from agents.platform.catalog import Catalog
from agents.platform.settings import Settings, SettingsError
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
from tests.platform.certificates import Pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


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
    s = serialization
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


@asynccontextmanager
async def serving(options: dict[str, Any]) -> AsyncIterator[int]:
    """uvicorn with these options; its port."""
    config = uvicorn.Config(echo, port=0, lifespan="off", log_level="critical", **options)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


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


@pytest.mark.parametrize(
    "url",
    ["mongodb://u:s3cret@", "mongodb://u:s3c@ret@h/", "mongodb://u:s3cret@h:99999/", "mongodb://"],
)
async def test_a_catalog_url_that_is_none_is_told_without_its_password(url: str) -> None:
    settings = Settings.load(mongo=url)
    with pytest.raises(SettingsError, match="LUCID_MONGO is not a MongoDB URL") as caught:
        Catalog(settings)
    assert "s3c" not in str(caught.value)
