"""What the API's routes work with; made by agent.py once broker and catalog are there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

from agents.platform.audit import Audit
from agents.platform.blobs import Blobs
from agents.platform.catalog import Catalog
from agents.platform.contract import Contract
from agents.platform.limiting import Limiter
from agents.platform.live import LiveStates
from agents.platform.revocation import Revocations
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.platform.tokens import TokenVerifier
from agents.session.api.follower import Follower
from agents.session.api.index import Row, SessionIndex
from agents.session.api.problems import ApiProblem, Code
from agents.session.api.settings import ApiSettings
from schemas.access import Claims, sees

if TYPE_CHECKING:
    from agents.session.api.reading import Reading
    from agents.session.api.streams import Slots
    from agents.session.api.verifying import Verifications


@dataclass(slots=True)
class Newest:
    """The number of a page of the audit view that is not there yet, as far as was looked."""

    newest: int = 0


@dataclass(frozen=True)
class Api:
    """Everything behind the routes."""

    settings: Settings
    section: ApiSettings
    contract: Contract
    catalog: Catalog
    blobs: Blobs
    index: SessionIndex
    follower: Follower
    reading: Reading
    tokens: TokenVerifier
    revocations: Revocations
    limiter: Limiter
    audit: Audit
    live: LiveStates
    streams: Slots
    verifications: Verifications
    stop: StopSignal
    audit_pages: Newest = field(default_factory=lambda: Newest())

    def sees(self, claims: Claims, row: Row) -> bool:
        """Whether a session is in the scope of the claims."""
        return sees(claims, row.owner, row.project)


def api_of(request: Request) -> Api:
    """The API's parts; raises ApiProblem while they start."""
    found: Api | None = getattr(request.app.state, "api", None)
    if found is None or not found.follower.loaded:
        raise ApiProblem(Code.UNAVAILABLE, "the service is starting", headers={"Retry-After": "2"})
    return found
