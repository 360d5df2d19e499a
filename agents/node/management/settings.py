"""Settings of node management: LUCID_NODE_MANAGEMENT_… and table [node_management]."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section
from schemas.node_base import SECOND
from schemas.node_health import Rules
from schemas.node_pools import Scaling


class NodeManagementSettings(Section):
    """When a node is stale or offline, and when a pool should grow or shrink."""

    section: ClassVar[str] = "node_management"
    model_config = SettingsConfigDict(
        env_prefix="LUCID_NODE_MANAGEMENT_", extra="forbid", frozen=True
    )

    port: int = Field(8095, ge=0, le=65535, description="Health and metrics; 0 picks a free one")
    tick_every: float = Field(
        15.0, gt=0, le=60, description="Seconds between ticks, by which silence is counted"
    )
    interval: float = Field(
        60.0, gt=0, le=3600, description="Seconds between heartbeats, as nodes send them"
    )
    stale_after: float = Field(
        300.0, gt=0, le=86_400, description="Seconds without a heartbeat, then a node is stale"
    )
    misses: int = Field(
        5, ge=1, le=100, description="Intervals that a stale node may miss, then it is offline"
    )
    scale_up: float = Field(
        0.8, ge=0.5, le=0.95, description="Load of a pool from which it should grow"
    )
    scale_down: float = Field(
        0.3, ge=0.1, le=0.5, description="Load of a pool up to which it could shrink"
    )
    cooldown: float = Field(
        300.0, ge=0, le=86_400, description="Seconds from one hint for a pool to the next"
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.scale_down >= self.scale_up:
            raise ValueError("scale_down must be under scale_up")
        return self

    def rules(self) -> Rules:
        return Rules(round(self.interval * SECOND), round(self.stale_after * SECOND), self.misses)

    def scaling(self) -> Scaling:
        return Scaling(round(self.scale_up * 1000), round(self.scale_down * 1000),
                       round(self.cooldown * SECOND))  # fmt: skip
