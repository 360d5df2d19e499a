"""uvicorn as the front of the service: it listens from the first moment to the last."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import uvicorn
from starlette.types import ASGIApp

from agents.platform.health import announced, port_taken
from agents.platform.service import Service
from agents.platform.tls import server_tls
from agents.session.api.protocol import BoundedProtocol
from agents.session.api.settings import ApiSettings

log = structlog.get_logger(__name__)

BACKLOG = 512
KEEP_ALIVE_SECONDS = 30
STOP_SECONDS = 5


class Server(uvicorn.Server):
    """Leaves signals to the service."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True)
class Front:
    """What listens."""

    port: int


@asynccontextmanager
async def listening(service: Service, app: ASGIApp) -> AsyncIterator[Front]:
    """Serve `app` on the service's address; raises PortTaken and TlsSettingsError."""
    section = service.section
    assert isinstance(section, ApiSettings)
    tls = server_tls(section.tls_cert, section.tls_key) if section.tls_cert else {}
    with _bound(service) as sock:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", server_header=False,
            date_header=True, backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS, http=BoundedProtocol, ws="none",
            proxy_headers=bool(section.proxies), forwarded_allow_ips=section.proxies or None,
            **tls,
        )  # fmt: skip
        server = Server(config)
        port = sock.getsockname()[1]
        task = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            with announced(service.run_folder, service.name, port):
                log.info("listening", bind=service.settings.bind, port=port, tls=bool(tls))
                yield Front(port)
        finally:
            server.should_exit = True
            await task


@contextlib.contextmanager
def _bound(service: Service) -> Iterator[socket.socket]:
    bind, port = service.settings.bind, service.section.port
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((bind, port))
            sock.listen(BACKLOG)
        except OSError as error:
            raise port_taken(service.name, bind, port, error) from error
        yield sock
    finally:
        sock.close()
