"""Settings of retention: LUCID_RETENTION_… and table [retention].

[retention]
chunks = "30d"
project.lovelace = {chunks = "7d", sessions = "forever"}
session."019b76da-a800-7000-8000-00000000c105" = {chunks = "365d"}
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section
from schemas.errors import FormatError
from schemas.retention import Keep, Periods, Policies
from schemas.sessions import parse_session_id


def _session(text: str) -> str:
    try:
        return str(parse_session_id(text))
    except FormatError as error:
        raise ValueError(error.what) from error


class RetentionSettings(Section):
    """How long what is kept: 1d to 365d, or forever."""

    section: ClassVar[str] = "retention"
    model_config = SettingsConfigDict(env_prefix="LUCID_RETENTION_", extra="forbid", frozen=True)

    sessions: Keep = Field(90, description="Metadata of a session: manifest, headers, catalog")
    chunks: Keep = Field(30, description="Content of a session: ciphertexts and keys")
    audit: Keep = Field(365, description="Entries of the catalog's view of audit events")
    project: dict[str, Periods] = Field(
        {}, description="For each project its own `sessions` and `chunks`"
    )
    session: dict[Annotated[str, AfterValidator(_session)], Periods] = Field(
        {}, description="The same for single sessions"
    )

    @property
    def policies(self) -> Policies:
        return Policies(
            sessions=self.sessions, chunks=self.chunks, audit=self.audit,
            projects=self.project, by_session=self.session,
        )  # fmt: skip
