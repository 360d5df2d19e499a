"""`lucid run api`: views of the events into the catalog, and the query API on 8087."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from agents.platform.audit import Audit, audit_producer
from agents.platform.blobs import Blobs
from agents.platform.catalog import Catalog
from agents.platform.contract import Contract, load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import open_letters
from agents.platform.limiting import Limiter
from agents.platform.live import LiveStates
from agents.platform.producer import Producer
from agents.platform.projections import Projection
from agents.platform.projector import Projector
from agents.platform.redis_client import RedisClient
from agents.platform.revocation import open_revocations
from agents.platform.service import Listening, Part, Service, run_service, spare_collector
from agents.platform.settings import Settings
from agents.platform.tokens import TokenVerifier
from agents.session.api import node_views
from agents.session.api.app import make_app, serving
from agents.session.api.audit_view import AUDIT
from agents.session.api.context import Api
from agents.session.api.follower import Follower
from agents.session.api.index import SessionIndex
from agents.session.api.metrics import ApiMetrics
from agents.session.api.rdp_views import RDP_VIEWS
from agents.session.api.reading import Reading
from agents.session.api.receipts_view import RECEIPTS
from agents.session.api.server import listening
from agents.session.api.settings import ApiSettings
from agents.session.api.streams import Slots
from agents.session.api.verifying import Verifications
from agents.session.api.views import CHUNK_PAGES, SESSION_EVENTS, STATISTICS
from schemas.errors import LucidError

NAME = "api"
GATHER_AUDIT = 0.25
"""Seconds for which audit entries gather, one at least for each request: a page of the view, with
256 entries, is read and written for each batch."""


def main() -> int:
    """Run the service; returns its exit status."""
    room = Room()
    return run_service(NAME, Settings.load(), ApiSettings.load(), room.build, front=room.front)


class Room:
    """The application that listens from the first moment, and what is put behind it."""

    def __init__(self) -> None:
        self._app: FastAPI | None = None

    def front(self, service: Service) -> AbstractAsyncContextManager[Listening]:
        """Answers 503 until `build` is done, and health always."""
        self._app = make_app(service.health, ApiMetrics(service.metrics.registry))
        return listening(service, serving(self._app))

    @asynccontextmanager
    async def build(self, service: Service) -> AsyncIterator[Sequence[Part]]:
        """Put everything behind the routes."""
        assert self._app is not None
        async with parts(service) as (api, running):
            self._app.state.api = api
            spare_collector()
            yield running


@asynccontextmanager
async def parts(service: Service) -> AsyncIterator[tuple[Api, Sequence[Part]]]:
    """What is behind the routes, and what runs beside them."""
    settings, section = service.settings, service.section
    assert isinstance(section, ApiSettings)
    contract = load_contract(settings)
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        catalog = await enter(Catalog(settings))
        producer = await enter(Producer(settings, contract.limits, metrics=service.metrics))
        await service.wait_until(catalog.prepare)
        redis = await enter(RedisClient(settings))
        revocations = await enter(open_revocations(settings, contract, redis))
        # Requests of its own size: entries go together, and wait for no others.
        entries = await enter(audit_producer(settings, contract, metrics=service.metrics))
        audit = await enter(Audit(entries, contract, host=settings.host, service=NAME))
        index = SessionIndex()
        resources.callback(index.close)
        follower = Follower(settings, contract, catalog, index)
        verifications = Verifications(settings, section.verifications)
        resources.push_async_callback(verifications.close)
        api = Api(
            settings=settings, section=section, contract=contract, catalog=catalog,
            blobs=Blobs(settings.blobs_dir), index=index, follower=follower,
            reading=Reading(catalog), tokens=TokenVerifier(settings), revocations=revocations,
            limiter=Limiter(redis), audit=audit, live=LiveStates(redis),
            streams=Slots(section.streams), verifications=verifications, stop=service.stop,
        )  # fmt: skip
        running: list[Part] = [follower, audit]
        if section.views:
            control = _views(service, contract, catalog, producer)
            service.health.add("control", control.healthy)
            running.insert(0, control)
        _add_checks(service, api)
        yield api, running


def _views(
    service: Service, contract: Contract, catalog: Catalog, producer: Producer
) -> ControlPlane:
    """The writers of the views. What is no session event is the pipeline's dead letter."""
    letters = open_letters(service, producer, contract)
    control = ControlPlane(service.settings, NAME, letters=letters, metrics=service.metrics)
    sessions = Projector(catalog, [CHUNK_PAGES, STATISTICS, SESSION_EVENTS])

    async def take_session_events(records: Sequence[Record]) -> dict[int, LucidError]:
        await sessions.take(records)
        return {}

    control.consume_many(contract.topic("session.events").full_name, take_session_events)
    views: dict[str, list[Projection]] = defaultdict(list)
    for view in (AUDIT, RECEIPTS, *RDP_VIEWS):
        views[view.topic].append(view)
    for topic, more in node_views.BY_TOPIC.items():
        views[topic] += more
    for topic, some in views.items():
        gather = GATHER_AUDIT if topic == AUDIT.topic else 0.0
        taken = Projector(catalog, some).take
        control.consume_many(contract.topic(topic).full_name, taken, gather=gather)
    return control


def _add_checks(service: Service, api: Api) -> None:
    health = service.health
    health.add("catalog", api.catalog.ping, timeout=6.0)
    health.add("sessions", api.follower.healthy)
    health.add("tokens", api.tokens.healthy)
    health.add("revocations", api.revocations.healthy, timeout=5.0)
    health.add("revocation-list", api.revocations.reachable, advisory=True)
    health.add("limits", api.limiter.healthy, advisory=True)
    health.add("live-state", api.live.healthy, advisory=True)
