"""`lucid token`: what is printed, what is audited, and what happens while servers are away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import Result
from typer.testing import CliRunner

from agents.platform.contract import apply_contract, load_contract
from agents.platform.producer import Producer
from agents.platform.redis_client import RedisClient
from agents.platform.retry import BrokerUnreachable
from agents.platform.revocation import TokenRevoked, open_revocations, revoked_lately
from agents.platform.settings import Settings
from agents.platform.token_commands import RevocationIncomplete, app
from agents.platform.token_keys import list_keys, rotate
from agents.platform.tokens import (
    IssueRefused,
    TokenForged,
    TokenMalformed,
    TokenVerifier,
    issue,
)
from agents.platform.topic_reader import read_topic
from schemas import audit
from schemas.access import Role
from tests.conftest import Stack
from tests.platform.redis_server import RedisServer, redis_server

Run = Callable[..., Result]
GIVEN = ("--subject", "ada", "--role", "auditor", "--role", "session_viewer", "--owner", "*",
         "--project", "north")  # fmt: skip


@dataclass
class House:
    """An installation of its own on the real broker, with a Redis that can be killed."""

    settings: Settings
    redis: RedisServer

    def audited(self) -> list[audit.AuditEvent]:
        topic = load_contract(self.settings).topic("audit.events").full_name

        async def read() -> list[audit.AuditEvent]:
            return [
                audit.AuditEvent.from_kafka(raw.key, raw.headers, raw.value)
                async for raw in read_topic(self.settings, topic)
            ]

        found = asyncio.run(read())
        return [event for event in found if not isinstance(event.data, audit.ChainStarted)]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture
def house(
    stack: Stack, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> House:
    redis.restart()
    values = {
        "home": str(tmp_path), "kafka": stack.kafka, "redis": redis.url,
        "topic_prefix": f"tk{uuid4().hex[:8]}.",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"LUCID_{name.upper()}", value)
    settings = Settings.load()
    asyncio.run(apply_contract(settings, load_contract(settings)))
    rotate(settings)
    return House(settings, redis)


def run(*arguments: str, **more: Any) -> Result:
    return CliRunner().invoke(app, list(arguments), **more)


# Keys: no server is needed ----------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("LUCID_HOME", str(tmp_path))
    return Settings.load()


def test_keys_are_rotated_listed_and_retired(alone: Settings) -> None:
    assert "No keys" in run("keys", "list").output
    first = json.loads(run("keys", "rotate", "--json").stdout)["kid"]
    second = run("keys", "rotate").stdout.split()[1]
    found = json.loads(run("keys", "list", "--json").stdout)["keys"]
    assert {key["kid"]: key["signs"] for key in found} == {first: False, second: True}
    table = run("keys", "list").stdout
    assert first in table
    assert "2 keys" in table
    assert run("keys", "retire", first).exit_code == 1
    assert first in run("keys", "retire", first, "--force").stdout
    assert json.loads(run("keys", "retire", second, "--force", "--json").stdout) == {
        "retired": second
    }
    assert list_keys(alone) == []


def test_no_private_key_is_printed(alone: Settings) -> None:
    kid = rotate(alone).kid
    secret = json.loads((alone.keys_dir / "tokens" / f"{kid}.jwk").read_text())["d"]
    for arguments in (["rotate"], ["list"], ["list", "--json"], ["rotate", "--json"]):
        assert secret not in run("keys", *arguments).output


def test_a_token_that_exists_is_not_written_over(alone: Settings, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("mine")
    done = run("issue", *GIVEN, "-o", str(tmp_path / "t"))
    assert isinstance(done.exception, IssueRefused)
    assert (tmp_path / "t").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [["revoke"], ["revoke", "x"], ["revoke", str(uuid4()), "--token-file", "t"],
     ["issue", "--subject", "a"], ["issue", *GIVEN, "--minutes", "0"]],
)  # fmt: skip
def test_wrong_usage_is_told_as_such(alone: Settings, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_31_minutes_are_too_long(alone: Settings) -> None:
    assert isinstance(run("issue", *GIVEN, "--minutes", "31").exception, IssueRefused)


# Issuing ----------------------------------------------------------------------------------------


def test_an_issued_token_is_on_standard_output_alone_and_audited(
    house: House, tmp_path: Path
) -> None:
    done = run("issue", *GIVEN, "--minutes", "5")
    token = done.stdout.strip()
    claims = TokenVerifier(house.settings).verify(token)
    assert claims.jti in done.stderr
    assert token not in done.stderr
    assert (claims.subject, claims.roles, claims.owners, claims.projects) == (
        "ada", (Role.AUDITOR, Role.SESSION_VIEWER), ("*",), ("north",),
    )  # fmt: skip
    assert claims.expires - claims.issued == 300
    [event] = house.audited()
    assert event.data == audit.TokenIssued(
        jti=claims.jti, subject="ada", roles=["auditor", "session_viewer"], expires=claims.expires
    )
    assert event.subject == claims.jti
    as_json = json.loads(run("issue", *GIVEN, "--json").stdout)
    assert TokenVerifier(house.settings).verify(as_json["token"]).jti == as_json["jti"]
    path = tmp_path / "token"
    done = run("issue", *GIVEN, "--json", "-o", str(path))
    assert path.read_text().strip() not in done.output
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(done.stdout)["file"] == str(path)
    assert "sees no session" in run("issue", "--subject", "a", "--role", "admin").stderr
    assert "Written to" in run("issue", *GIVEN, "-o", str(tmp_path / "other")).stdout


def test_a_token_can_be_given_out_as_the_line_that_a_request_has(
    house: House, tmp_path: Path
) -> None:
    path = tmp_path / "ada.header"
    done = run("issue", *GIVEN, "--header", "-o", str(path))
    line = path.read_text()
    name, _, token = line.strip().rpartition(" ")
    assert (name, line.count("\n"), path.stat().st_mode & 0o777) == (
        "Authorization: Bearer", 1, 0o600,
    )  # fmt: skip
    assert token not in done.output
    jti = TokenVerifier(house.settings).verify(token).jti
    assert json.loads(run("revoke", "--token-file", str(path), "--json").stdout)["jti"] == jti
    assert run("issue", *GIVEN, "--header").stdout.startswith("Authorization: Bearer ey")


def test_no_token_is_given_out_that_is_not_audited(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUCID_KAFKA", "127.0.0.1:9")
    done = run("issue", *GIVEN)
    assert isinstance(done.exception, BrokerUnreachable)
    assert done.stdout == ""


async def check_as_a_new_process(settings: Settings, jti: str) -> None:
    contract = load_contract(settings)
    async with (
        RedisClient(settings) as client,
        open_revocations(settings, contract, client) as revocations,
    ):
        with pytest.raises(TokenRevoked):
            await revocations.check(jti)
        await revocations.check(str(uuid4()))


# Revoking ---------------------------------------------------------------------------------------


def test_a_revoked_token_is_listed_audited_and_outlives_redis(house: House, tmp_path: Path) -> None:
    token = run("issue", *GIVEN).stdout.strip()
    jti = TokenVerifier(house.settings).verify(token).jti
    done = run("revoke", "--token-file", "-", "--reason", "lost", "--json", input=token + "\n")
    assert json.loads(done.stdout)["jti"] == jti
    assert [event.data for event in house.audited()][1:] == [
        audit.TokenRevoked(jti=jti, reason="lost")
    ]
    house.redis.restart()
    asyncio.run(check_as_a_new_process(house.settings, jti))
    found = json.loads(run("revoked", "--json").stdout)["revoked"]
    assert [(one["jti"], one["reason"]) for one in found] == [(jti, "lost")]
    other = str(uuid4())
    assert other in run("revoke", other).stdout
    table = run("revoked").stdout
    assert jti in table
    assert "2 revoked tokens" in table


def test_a_revocation_that_redis_misses_says_so(house: House) -> None:
    house.redis.kill()
    jti = str(uuid4())
    done = run("revoke", jti)
    assert isinstance(done.exception, RevocationIncomplete)
    assert "not in Redis" in str(done.exception)
    house.redis.start()
    found = json.loads(run("revoked", "--json").stdout)["revoked"]
    assert [one["jti"] for one in found] == [jti]


def test_a_revocation_without_a_broker_holds_and_says_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(run("revoked", "--json").stdout) == {"revoked": []}
    jti = str(uuid4())
    with monkeypatch.context() as patch:
        patch.setenv("LUCID_KAFKA", "127.0.0.1:9")
        done = run("revoke", jti)
    assert isinstance(done.exception, RevocationIncomplete)
    assert "not on audit.events" in str(done.exception)
    assert [one["jti"] for one in json.loads(run("revoked", "--json").stdout)["revoked"]] == [jti]


def test_a_revocation_that_nobody_takes_is_an_error(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.redis.kill()
    monkeypatch.setenv("LUCID_KAFKA", "127.0.0.1:9")
    assert isinstance(run("revoke", str(uuid4())).exception, BrokerUnreachable)
    assert run("revoked").exception is not None


def test_what_is_no_token_of_ours_is_not_revoked(alone: Settings, tmp_path: Path) -> None:
    rotate(alone)
    issued = issue(alone, subject="a", roles=[Role.ADMIN], owners=[], projects=[])
    for content, error in ((issued.token[:-4] + "AAAA", TokenForged), ("nonsense", TokenMalformed),
                           ("ä", TokenMalformed), ("a" * 10_000, Exception)):  # fmt: skip
        path = tmp_path / "t"
        path.write_text(content)
        assert isinstance(run("revoke", "--token-file", str(path)).exception, error)
    missing = run("revoke", "--token-file", str(tmp_path / "none"))
    assert isinstance(missing.exception, TokenMalformed)


def test_other_audit_events_do_not_disturb_the_past(house: House) -> None:
    run("issue", *GIVEN)
    jti = str(uuid4())
    run("revoke", jti)
    contract = load_contract(house.settings)
    good = audit.AuditEvent(audit.TokenRevoked(jti=jti, reason="x"), "lucid/cli/h", jti, user="u")
    key, headers, _ = good.to_kafka()

    async def add_nonsense() -> None:
        async with Producer(house.settings, contract.limits) as producer:
            topic = contract.topic("audit.events").full_name
            await producer.send(topic, b"nonsense", key=key, headers=[*headers])

    asyncio.run(add_nonsense())
    found = asyncio.run(revoked_lately(house.settings, contract))
    assert [entry.jti for entry in found] == [jti]
