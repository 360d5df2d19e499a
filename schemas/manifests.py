"""Manifests: what a session turned out to be, as canonical JSON.

The format is docs/formats/manifest.md. A manifest is a pure function of the session's
records; the checkpoint beside it signs its hash together with the root.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, field_validator

from schemas.canonical import Count, Hex32, Strict, decode, encode
from schemas.chunks import Sealing
from schemas.notes import Checkpoint
from schemas.sessions import parse_session_id

MAX_RANGES = 1000
MAX_INTERRUPTIONS = 200
"""How many are listed one by one; beyond that only counts go on, so that a manifest and a
progress record stay under 1 MiB whatever a session is like."""


class Missing(Strict):
    """A run of sequence numbers that never arrived."""

    first_seq: Count
    count: Annotated[int, Field(ge=1)]


class Interruption(Strict):
    """The recorder's own `gap`: event times in microseconds between which it saw nothing."""

    seq: Count
    from_time: int
    to_time: int
    reason: str


class Tally(Strict):
    """What has been counted over a session's records so far.

    counts: records of each kind by label, those of the recorder and `abandon`.
    missing: sequence numbers that never arrived; missing_ranges lists the first of these runs.
    raw_bytes: plaintext of all chunks; sealed_bytes: headers and ciphertexts.
    """

    first_time: Count
    last_time: Count
    counts: dict[str, Count]
    missing: Count = 0
    missing_ranges: list[Missing] = Field(default=[], max_length=MAX_RANGES)
    missing_runs: Count = 0
    interruptions: list[Interruption] = Field(default=[], max_length=MAX_INTERRUPTIONS)
    interruptions_total: Count = 0
    raw_bytes: Count = 0
    sealed_bytes: Count = 0


class Compressor(Strict):
    """What compressed the chunks; its version is 10000·major + 100·minor + patch."""

    name: Literal["zstd"] = "zstd"
    version: Count


class Manifest(Strict):
    """A finished session.

    closing_note: the recorder's last commitment; null when the session was abandoned or
    its `close` could not be read. chain: over the recorder's records, hex. root: RFC 6962.
    """

    version: Literal[1] = 1
    session: str
    ended_by: Literal["close", "abandon"]
    reason: str
    host: str
    owner: str
    project: str
    codec: str
    source: dict[str, str | int]
    recorder: str
    closing_note: str | None
    recipients: list[str]
    wrapped_key_hash: Hex32
    key_commitment: Hex32
    sealing: Sealing
    compressor: Compressor
    tally: Tally
    next_seq: Count
    chunks: Annotated[int, Field(ge=1)]
    chain: Hex32
    root: Hex32

    @field_validator("session")
    @classmethod
    def _session(cls, text: str) -> str:
        return str(parse_session_id(text))

    @property
    def session_id(self) -> UUID:
        return UUID(self.session)

    @property
    def complete(self) -> bool:
        """Closed by its recorder, with nothing missing and nothing unseen."""
        return (
            self.ended_by == "close"
            and self.tally.missing == 0
            and self.tally.interruptions_total == 0
        )

    def shortcomings(self) -> list[str]:
        """One sentence for each way in which the recording is not complete."""
        found = []
        if self.ended_by == "abandon":
            found.append(f"the recorder vanished: {self.reason}")
        for run in self.tally.missing_ranges:
            found.append(
                f"records {run.first_seq} to {run.first_seq + run.count - 1} never arrived"
            )
        unlisted = self.tally.missing_runs - len(self.tally.missing_ranges)
        if unlisted:
            found.append(f"{unlisted} more runs of records never arrived")
        for gap in self.tally.interruptions:
            seconds = (gap.to_time - gap.from_time) / 1e6
            found.append(
                f"nothing was captured for {seconds:.3f} s at record {gap.seq}: {gap.reason}"
            )
        unlisted = self.tally.interruptions_total - len(self.tally.interruptions)
        if unlisted:
            found.append(f"{unlisted} more interruptions")
        return found


def read_manifest(data: bytes) -> Manifest:
    """Read a manifest's canonical bytes; raises FormatError."""
    return decode(Manifest, data)


def manifest_hash(data: bytes) -> bytes:
    """SHA-256 of a manifest's bytes."""
    return hashlib.sha256(data).digest()


def checkpoint_of(manifest: Manifest, data: bytes | None = None) -> Checkpoint:
    """The checkpoint that a processor signs for this manifest. data: its bytes, if they are here.

    They are the ones that it was read from, and so need not be made again.
    """
    return Checkpoint(
        session=manifest.session_id,
        size=manifest.chunks,
        root=bytes.fromhex(manifest.root),
        manifest=manifest_hash(encode(manifest) if data is None else data),
    )


def wrapped_key_text(wrapped: bytes) -> str:
    """How a wrapped key stands in headers and documents: base64."""
    return base64.b64encode(wrapped).decode()
