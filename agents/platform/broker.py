"""Is a Kafka broker there, and does it still answer?

await wait_for_broker(settings, seconds=20)     raises BrokerUnreachable
async with BrokerProbe(settings) as probe:
    await probe.check()                                    raises BrokerUnreachable
async with administering(settings) as client:              raises BrokerUnreachable

BrokerUnreachable              (agents/platform/retry.py)
└── BrokerHandshakeFailed      one is there, and TLS or SASL fails
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from agents.platform.retry import Backoff, BrokerUnreachable, Deadline, retry
from agents.platform.settings import Settings
from agents.platform.tls import handshake_advice, kafka_options
from schemas.errors import ContractError

ANSWER_SECONDS = 2.0
ADMIN_SECONDS = 15.0  # to connect, and for each request


class TopicMissing(ContractError):
    """A topic that this process works on is not there."""


def unreachable(settings: Settings, error: object) -> BrokerUnreachable:
    """The error of a broker that does not answer, with what to do."""
    said = "" if isinstance(error, TimeoutError) else str(error)
    return BrokerUnreachable(
        f"no Kafka broker answers at {settings.kafka_servers()} ({said or 'no answer'})",
        hint="Start one with `lucid stack up`, or set LUCID_KAFKA to yours",
    )


class BrokerHandshakeFailed(BrokerUnreachable):
    """A broker is there, but one side does not trust the other."""


async def explain(settings: Settings, error: object) -> BrokerUnreachable:
    """The error of a broker that does not answer; aiokafka logs, and drops, a failed handshake.

    So that one is tried once more, with the first server of the settings.
    """
    options = kafka_options(settings)
    host, port, _ = collect_hosts(options.pop("bootstrap_servers"), randomize=False)[0]
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            connection = await create_conn(host, port, client_id="lucid-explain", **options)
            await connection.close()
    except (KafkaError, OSError) as found:
        return _handshake_error(settings, f"{host}:{port}", found) or unreachable(settings, error)
    except TimeoutError:
        pass
    return unreachable(settings, error)


_SASL_ERRORS = (
    AuthenticationFailedError, IllegalSaslStateError, SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)  # fmt: skip


def _handshake_error(
    settings: Settings, place: str, error: Exception
) -> BrokerHandshakeFailed | None:
    cause = error.__cause__ or error.__context__
    advice = handshake_advice(f"{error} {cause}", "LUCID_KAFKA")
    if advice is None and isinstance(error, ConnectionResetError):
        advice = "it hangs up on us", "Does that listener speak what LUCID_KAFKA_SECURITY says?"
    if advice is None and isinstance(error, _SASL_ERRORS):
        advice = (
            f"it refuses user {settings.kafka_user!r} ({error})",
            "Look at LUCID_KAFKA_USER, LUCID_KAFKA_PASSWORD_FILE and LUCID_KAFKA_SASL",
        )
    if advice is None:
        return None
    return BrokerHandshakeFailed(f"the Kafka broker at {place}: {advice[0]}", hint=advice[1])


@asynccontextmanager
async def administering(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client that changes topics, users and rights; raises BrokerUnreachable."""
    client = AIOKafkaAdminClient(
        **kafka_options(settings), request_timeout_ms=int(ADMIN_SECONDS * 1000)
    )
    try:
        async with asyncio.timeout(ADMIN_SECONDS):
            await client.start()
    except (KafkaError, TimeoutError) as error:
        await client.close()
        raise await explain(settings, error) from error
    try:
        yield client
    except KafkaError as error:
        raise unreachable(settings, error) from error
    finally:
        await client.close()


class BrokerProbe:
    """Asks a broker for its metadata, over one connection of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: AIOKafkaClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; a later check opens another."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def check(self) -> None:
        """Raise BrokerUnreachable unless a broker answers within 2 s."""
        await self._topics(ANSWER_SECONDS)

    async def require(self, topics: Iterable[str]) -> None:
        """Raise TopicMissing unless each topic is there, BrokerUnreachable without an answer.

        Faust ignores a topic that does not exist when it starts, for ever. Nothing can go on
        without the answer, so a broker that is busy gets more time than for a check.
        """
        missing = sorted(set(topics) - await self._topics(ADMIN_SECONDS))
        if missing:
            raise TopicMissing(
                f"the broker has no topic {', '.join(missing)}", hint="Run `lucid topics apply`"
            )

    async def _topics(self, seconds: float) -> set[str]:
        try:
            async with asyncio.timeout(seconds):
                return await self._ask()
        except (KafkaError, TimeoutError, OSError) as error:
            await self.close()
            raise await explain(self._settings, error) from error

    async def _ask(self) -> set[str]:
        if self._client is None:
            self._client = AIOKafkaClient(
                **kafka_options(self._settings),
                client_id="lucid-health",
                request_timeout_ms=int(ADMIN_SECONDS * 1000),
            )
            await self._client.bootstrap()
        metadata = await self._client.fetch_all_metadata()
        return set(metadata.topics())


async def wait_for_broker(settings: Settings, *, seconds: float = 20.0) -> None:
    """Return once a broker answers; raises BrokerUnreachable when none does in time."""
    async with BrokerProbe(settings) as probe:
        await retry(probe.check, backoff=Backoff(0.1, 2.0), deadline=Deadline(seconds))
