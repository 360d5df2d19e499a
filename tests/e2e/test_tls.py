"""All services over TLS, with a password for Kafka: nothing of Lucid goes round it."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis

from agents.platform.settings import Settings
from tests.conftest import Stack
from tests.e2e.conftest import Installation, install
from tests.platform.certificates import Authority
from tests.platform.tls_servers import PASSWORD, USER, TlsFerretDB, TlsKafka, TlsRedis, started
from tests.waiting import wait_for

pytestmark = pytest.mark.stack
SERVICES = ("processor", "storage", "pipeline")


@dataclass(frozen=True)
class House:
    lucid: Installation
    authority: Authority
    stranger: Authority
    redis: Redis


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = Authority(folder, "right"), Authority(folder, "wrong")
    here = authority.issue("here")
    elsewhere = authority.issue("elsewhere", ("elsewhere.example",))
    password = folder / "password"
    password.touch(0o600)
    password.write_text(PASSWORD + "\n")
    with ExitStack() as ends:
        kafka, end = started(TlsKafka(authority, here, elsewhere), folder / "servers")
        ends.callback(end)
        mongo, end = started(TlsFerretDB(here), folder / "servers")
        ends.callback(end)
        redis, end = started(TlsRedis(authority, here), folder / "servers")
        ends.callback(end)
        login = kafka[2 + TlsKafka.NAMES.index("LOGIN")]
        stack = Stack(
            folder, Settings.load(home=folder), f"127.0.0.1:{login}",
            f"mongodb://127.0.0.1:{mongo[1]}/?tls=true", f"rediss://127.0.0.1:{redis[1]}/0",
        )  # fmt: skip
        lucid = install(
            folder / "home", stack, LUCID_TLS_CA=str(authority.cert),
            LUCID_KAFKA_SECURITY="SASL_SSL", LUCID_KAFKA_USER=USER,
            LUCID_KAFKA_PASSWORD_FILE=str(password),
        )  # fmt: skip
        direct = Redis.from_url(
            stack.redis, ssl_ca_certs=str(authority.cert), decode_responses=True,
            ssl_min_version=ssl.TLSVersion.TLSv1_2,
        )  # fmt: skip
        try:
            for service in SERVICES:
                lucid.start(service)
            yield House(lucid, authority, stranger, direct)
        finally:
            direct.close()
            statuses = {name: lucid.stop(name) for name in list(lucid.running)}
            assert set(statuses.values()) <= {0}, statuses


def test_a_session_is_recorded_sealed_stored_and_verified_over_tls(house: House) -> None:
    session = str(house.lucid.lucid("record", "--json", "--synthetic", "40")["session"])
    assert house.lucid.settled(session) == "completed"
    assert house.lucid.lucid("verify", session, "--json")["session"] == session
    key = f"lucid:{house.lucid.env['LUCID_TOPIC_PREFIX']}live:{session}"

    def ended() -> bool:
        state = json.loads(str(house.redis.get(key) or "{}"))
        return bool(state.get("ended"))

    wait_for(ended, "end in the live state")


def test_tokens_are_issued_and_revoked_over_tls(house: House, tmp_path: Path) -> None:
    house.lucid.lucid("token", "keys", "rotate")
    file = tmp_path / "token"
    issued = house.lucid.lucid(
        "token", "issue", "--subject", "ada", "--role", "auditor", "-o", str(file), "--json"
    )
    house.lucid.lucid("token", "revoke", "--token-file", str(file))
    found = house.lucid.lucid("token", "revoked", "--json")["revoked"]
    assert [one["jti"] for one in found] == [issued["jti"]]
    assert PASSWORD not in json.dumps(house.lucid.lucid("stack", "status", "--json", check=False)
                                      .stdout.decode())  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "status", "what"),
    [
        ({"LUCID_TLS_CA": "wrong"}, 69, "LUCID_TLS_CA"),
        ({"LUCID_KAFKA_USER": "bob"}, 69, "LUCID_KAFKA_PASSWORD_FILE"),
        ({"LUCID_TLS_CA": "none"}, 78, "does not exist"),
        ({"LUCID_KAFKA_SECURITY": "PLAINTEXT"}, 69, "LUCID_KAFKA"),
    ],
)
def test_what_does_not_fit_ends_a_command_with_what_to_do(
    house: House, changes: dict[str, str], status: int, what: str
) -> None:
    files = {"wrong": str(house.stranger.cert), "none": f"/nowhere/{uuid4().hex}"}
    changed = {name: files.get(value, value) for name, value in changes.items()}
    other = Installation(house.lucid.home, {**house.lucid.env, **changed})
    done = other.lucid("topics", "check", check=False)
    assert done.returncode == status
    assert what in done.stderr.decode()
    assert PASSWORD not in done.stderr.decode()
