"""Settings of the API: LUCID_API_… and table [api]."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section


class ApiSettings(Section):
    """Where the API listens and how much it gives to whom."""

    section: ClassVar[str] = "api"
    model_config = SettingsConfigDict(env_prefix="LUCID_API_", extra="forbid", frozen=True)

    port: int = Field(
        8087, ge=0, le=65535, description="The API, health and metrics; 0 picks a free one"
    )
    views: bool = Field(
        True, description="Whether it writes the views, too; one process of an installation has to"
    )
    tls_cert: Path | None = Field(
        None, description="Certificate chain (PEM) to serve with; plain HTTP if not set"
    )
    tls_key: Path | None = Field(None, description="Its private key, a file of mode 0600")
    proxies: str = Field(
        "", description="Addresses of proxies, by commas, whose X-Forwarded-For is believed"
    )
    rate: int = Field(
        600, ge=1, le=1_000_000, description="Requests a minute of a subject for each route"
    )
    heavy_rate: int = Field(
        60, ge=1, le=1_000_000,
        description="The same for statistics, verifications and audit, which cost more",
    )  # fmt: skip
    streams: int = Field(64, ge=1, le=10_000, description="Live streams at a time")
    stream_queue: int = Field(
        1000, ge=10, le=100_000, description="Events that a slow reader of a stream may be behind"
    )
    heartbeat: float = Field(
        15.0, gt=0, le=300, description="Seconds between comments on a stream without events"
    )
    verifications: int = Field(
        1, ge=1, le=16, description="Verifications that run at a time; others wait"
    )
