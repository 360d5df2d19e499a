"""Settings of the server manager: LUCID_SERVER_MANAGER_… and table [server_manager]."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section


class ServerManagerSettings(Section):
    """How many RDP servers there may be, on which ports, and how long things may take."""

    section: ClassVar[str] = "server_manager"
    model_config = SettingsConfigDict(
        env_prefix="LUCID_SERVER_MANAGER_", extra="forbid", frozen=True
    )

    port: int = Field(8090, ge=0, le=65535, description="Health and metrics; 0 picks a free one")
    servers: int = Field(50, ge=1, le=1000, description="RDP servers at most, deleted ones aside")
    first_port: int = Field(13389, ge=1024, le=65535, description="Lowest port of a server")
    last_port: int = Field(14389, ge=1024, le=65535, description="Highest port of a server")
    reserve_for: float = Field(
        3600.0, ge=0, le=30 * 86_400, description="Seconds that a port rests once it is given back"
    )
    port_tries: int = Field(
        10, ge=1, le=1000, description="Occupied ports in a row, then the server has failed"
    )
    answer_within: float = Field(
        60.0, ge=1, le=3600, description="Seconds for the xrdp room to do what a command asks for"
    )
    stale_after: float = Field(
        300.0, ge=1, le=86_400, description="Seconds after which a command is no longer carried out"
    )
    look_every: float = Field(
        5.0, gt=0, le=3600, description="Seconds between looks at reservations and late answers"
    )

    @field_validator("last_port")
    @classmethod
    def _in_order(cls, value: int, info: ValidationInfo) -> int:
        first = info.data.get("first_port")
        if first is not None and value < first:
            raise ValueError(f"must not be below LUCID_SERVER_MANAGER_FIRST_PORT, {first}")
        return value
