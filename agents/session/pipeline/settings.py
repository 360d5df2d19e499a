"""Settings of the pipeline: LUCID_PIPELINE_… and table [pipeline]."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section


class PipelineSettings(Section):
    """When a silent session is abandoned, and when one is counted that is not all there."""

    section: ClassVar[str] = "pipeline"
    model_config = SettingsConfigDict(env_prefix="LUCID_PIPELINE_", extra="forbid", frozen=True)

    port: int = Field(8083, ge=0, le=65535, description="Health and metrics; 0 picks a free one")
    abandon_after: float = Field(
        600.0, ge=1, le=86_400, description="Seconds without a sign of a recorder, then abandon"
    )
    settle_after: float = Field(
        3600.0, ge=1, le=30 * 86_400,
        description="Seconds without news of an ended session, then it is counted as it is",
    )  # fmt: skip
    watch_every: float = Field(
        5.0, gt=0, le=3600, description="Seconds between looks at silent sessions"
    )
