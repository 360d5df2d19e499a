"""Settings of the processor: LUCID_PROCESSOR_… and table [processor]."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from pydantic import ByteSize, Field
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section


class ProcessorSettings(Section):
    """Nothing here changes a byte of what is sealed; that stands in the `open` records."""

    section: ClassVar[str] = "processor"
    model_config = SettingsConfigDict(env_prefix="LUCID_PROCESSOR_", extra="forbid", frozen=True)

    port: int = Field(8085, ge=0, le=65535, description="Health and metrics; 0 picks a free one")
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, le=64,
        description="Threads that seal chunks",
    )  # fmt: skip
    hold_limit: ByteSize = Field(
        ByteSize(384 * 1024**2), description="Memory for open chunks; what is over it is spilled"
    )
    busy_limit: ByteSize = Field(
        ByteSize(128 * 1024**2), description="Bytes being sealed above which fetching pauses"
    )
    fetch_bytes: ByteSize = Field(
        ByteSize(4 * 1024**2), description="Bytes fetched from a partition at a time"
    )
    identity: Path | None = Field(
        None, description="The age identity that opens session keys; KEYS/processor.age if not set"
    )
