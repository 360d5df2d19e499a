"""Settings of storage: LUCID_STORAGE_… and table [storage]."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ByteSize, Field
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section


class StorageSettings(Section):
    """How much storage does at once."""

    section: ClassVar[str] = "storage"
    model_config = SettingsConfigDict(env_prefix="LUCID_STORAGE_", extra="forbid", frozen=True)

    port: int = Field(8086, ge=0, le=65535, description="Health and metrics; 0 picks a free one")
    threads: int = Field(4, ge=1, le=64, description="Files that are written at a time")
    busy_limit: ByteSize = Field(
        ByteSize(128 * 1024**2), description="Bytes being stored above which fetching pauses"
    )
    fetch_bytes: ByteSize = Field(
        ByteSize(18 * 1024**2), description="Bytes fetched from a partition at a time"
    )
    scrub_rate: ByteSize = Field(
        ByteSize(8 * 1024**2),
        description="Bytes a second that the scrub reads of stored files; 0 turns it off",
    )
    scrub_pause: float = Field(
        3600.0, gt=0, le=31_536_000, description="Seconds from one round of the scrub to the next"
    )
    scrub_grace: float = Field(
        300.0, ge=0, le=86_400,
        description="Seconds that a new file may be without its entry in the catalog",
    )  # fmt: skip
