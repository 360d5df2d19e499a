"""Settings of the recorder: LUCID_RECORDER_… and table [recorder]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ByteSize, Field, field_validator
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section
from agents.session.recorder.sources.patterns import PROGRAMS, TITLES
from schemas.activity import Policy
from schemas.chunks import MAX_RAW, Sealing


class RecorderSettings(Section):
    """How sessions are captured and cut."""

    section: ClassVar[str] = "recorder"
    model_config = SettingsConfigDict(env_prefix="LUCID_RECORDER_", extra="forbid", frozen=True)

    port: int = Field(8084, ge=0, le=65535, description="Health and metrics; 0 picks a free one")
    fps: float = Field(10.0, gt=0, le=60, description="Looks at a display in a second, at most")
    keyframe_every: float = Field(
        10.0, ge=1, le=600, description="Seconds from one whole picture to the next"
    )
    keepalive_every: float = Field(
        5.0, ge=0.1, le=5, description="Seconds between signed commitments, at most"
    )
    unacknowledged: ByteSize = Field(
        ByteSize(8 * 1024**2), gt=0, description="Bytes of a session on their way to the broker"
    )
    spool: Path | None = Field(
        None, description="Folder of records that wait for the broker; HOME/spool if not set"
    )
    spool_limit: ByteSize = Field(
        ByteSize(1024**3), ge=8 * 1024**2, description="Bytes of a session that may wait on disk"
    )
    spool_full: Literal["block", "stop"] = Field(
        "block", description="A full spool: capture nothing meanwhile, or stop the session"
    )
    sync_every: float = Field(
        0.05, ge=0.001, le=10, description="Seconds between syncs of a spool to disk, at least"
    )
    stale_after: float = Field(
        60.0, ge=1, le=86_400, description="Seconds after which a command is no longer carried out"
    )
    activity: Policy = Field(
        Policy(),
        description="What is recorded beside the pictures: windows, clipboard, files, keys",
    )
    activity_most: Policy = Field(
        Policy(), description="What a start command may ask for at most, JSON"
    )
    keys_every: float = Field(
        5.0, ge=1, le=600, description="Seconds that an entry with a count of keys stands for"
    )
    protected_programs: tuple[str, ...] = Field(
        PROGRAMS, description="Programs whose windows' keys are never recorded, JSON of patterns"
    )
    protected_titles: tuple[str, ...] = Field(
        TITLES, description="Titles of windows whose keys are never recorded, JSON of patterns"
    )
    cut_bytes: int = Field(8 * 1024**2, ge=1024, le=MAX_RAW, description="Plaintext of a chunk")
    cut_seconds: float = Field(10.0, ge=1, le=600, description="Event time of a chunk")
    level: int = Field(3, ge=1, le=19, description="zstd level")

    @field_validator("protected_programs", "protected_titles")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return patterns

    def sealing(self) -> Sealing:
        """What the processor is told in the `open` record."""
        return Sealing(
            cut_bytes=self.cut_bytes, cut_us=round(self.cut_seconds * 1_000_000), level=self.level
        )
