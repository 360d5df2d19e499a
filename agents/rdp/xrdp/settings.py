"""Settings of the xrdp room: LUCID_XRDP_… and table [xrdp]."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section


class XrdpSettings(Section):
    """How xrdp processes are run, watched and ended."""

    section: ClassVar[str] = "xrdp"
    model_config = SettingsConfigDict(env_prefix="LUCID_XRDP_", extra="forbid", frozen=True)

    port: int = Field(8091, ge=0, le=65535, description="Health and metrics; 0 picks a free one")
    folder: Path | None = Field(None, description="Runtime folders of servers; HOME/xrdp")
    listen: str = Field("127.0.0.1", description="Address that desktops are offered on")
    sesman_offset: int = Field(
        10_000, ge=1, le=50_000, description="From a server's port to that of its session manager"
    )
    first_display: int = Field(
        100, ge=10, le=10_000, description="Number of the first X display of a desktop"
    )
    isolation: Literal["mount", "none"] = Field(
        "mount", description="mount: a mount namespace for each server; none: one server at most"
    )
    check_every: float = Field(30.0, gt=0, le=3600, description="Seconds between looks at xrdp")
    check_timeout: float = Field(
        5.0, gt=0, le=60, description="Seconds that xrdp gets for the first exchange"
    )
    check_failures: int = Field(
        3, ge=1, le=100, description="Failed looks in a row, then xrdp is restarted"
    )
    start_within: float = Field(
        10.0, gt=0, le=120, description="Seconds from start to the first good look"
    )
    stop_within: float = Field(10.0, ge=0, le=120, description="Seconds from SIGTERM to SIGKILL")
    desktops_within: float = Field(
        20.0, ge=0, le=600, description="Seconds for desktops to end and recordings to be closed"
    )
    restarts: int = Field(
        5, ge=0, le=1000, description="Restarts in a row, then the server has failed"
    )
    restart_first: float = Field(
        1.0, gt=0, le=60, description="Seconds before the first restart; they double"
    )
    restart_most: float = Field(60.0, gt=0, le=3600, description="Seconds before a restart at most")
    steady_after: float = Field(
        60.0, ge=0, le=86_400, description="Seconds of running after which restarts count anew"
    )
    logon_within: float = Field(
        120.0, ge=1, le=86_400, description="Seconds that a client gets from connecting to logon"
    )
    certificate_days: int = Field(
        365, ge=2, le=3650, description="Days that a server's certificate is valid"
    )
