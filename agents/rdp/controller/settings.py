"""Settings of the RDP controller: LUCID_CONTROLLER_… and table [controller]."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section


class ControllerSettings(Section):
    """When a session is idle, stale, or without its recording. Seconds, all of them."""

    section: ClassVar[str] = "controller"
    model_config = SettingsConfigDict(env_prefix="LUCID_CONTROLLER_", extra="forbid", frozen=True)

    port: int = Field(8092, ge=0, le=65535, description="Health and metrics; 0 picks a free one")
    notice: str = Field(
        "",
        max_length=4000,
        description="Notice that a user has to agree to at logon; none if empty",
    )
    project: str = Field("", max_length=1000, description="What recordings of desktops belong to")
    state: Path | None = Field(
        None, description="Folder of the sessions that run; HOME/rdp/sessions if not set"
    )
    start_within: float = Field(
        20.0, ge=0.5, le=600, description="Seconds for a recorder to begin, then it cannot"
    )
    silent_after: float = Field(
        30.0, ge=1, le=3600, description="Seconds without a heartbeat, then a recording is lost"
    )
    retry_after: float = Field(
        30.0, ge=0.5, le=3600,
        description="Seconds between tries to record a desktop that goes on unrecorded",
    )  # fmt: skip
    idle_after: float = Field(
        1800.0, ge=1, le=86_400, description="Seconds without input, then a session is idle"
    )
    stale_after: float = Field(
        3600.0, ge=1, le=30 * 86_400,
        description="Seconds without a client, or of a client without input, then it is ended",
    )  # fmt: skip
    report_every: float = Field(
        10.0, ge=0.2, le=60, description="Seconds between a session's reports of its last input"
    )
    gate_within: float = Field(
        15.0, ge=1, le=600, description="Seconds for a session to come back, then it is ended"
    )
    away_after: float = Field(
        60.0, ge=2, le=3600, description="Seconds a session waits for a controller that is away"
    )
    end_within: float = Field(
        20.0, ge=1, le=600, description="Seconds for a session to end, then it is killed"
    )
    watch_every: float = Field(
        1.0, ge=0.05, le=60, description="Seconds between looks at sessions and connections"
    )
