"""Settings of a node's agent: LUCID_NODE_AGENT_… and table [node_agent]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section, Settings
from schemas.node_base import NodeKind


class NodeAgentSettings(Section):
    """Who this node is, and how often it says so."""

    section: ClassVar[str] = "node_agent"
    model_config = SettingsConfigDict(env_prefix="LUCID_NODE_AGENT_", extra="forbid", frozen=True)

    port: int = Field(8096, ge=0, le=65535, description="Health and metrics; 0 picks a free one")
    id: str | None = Field(
        None, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="The node's id, a DNS label; made of LUCID_HOST if not set",
    )  # fmt: skip
    kind: NodeKind = Field("worker", description="worker, validator, storage or compute")
    max_sessions: int = Field(10, ge=0, le=100_000, description="Sessions that it would run")
    every: float = Field(60.0, gt=0, le=3600, description="Seconds between heartbeats")
    again_after: float = Field(
        30.0, gt=0, le=3600, description="Seconds from a registration that failed to the next"
    )
    sessions: Path | None = Field(
        None, description="Folder with a sub-folder for each running session; HOME/spool if not set"
    )
    work: Path | None = Field(
        None, description="Folder where programs put down their work; HOME/node/work if not set"
    )

    def node_id(self, settings: Settings) -> str:
        """The id in force."""
        if self.id is not None:
            return self.id
        return (
            re.sub(r"[^a-z0-9]+", "-", settings.host.lower()).strip("-")[:63].strip("-") or "node"
        )

    def work_folder(self, settings: Settings) -> Path:
        return self.work or settings.home / "node" / "work"

    def sessions_folder(self, settings: Settings) -> Path:
        return self.sessions or settings.home / "spool"
