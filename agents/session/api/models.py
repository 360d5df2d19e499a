"""What the API answers, for its OpenAPI document; times are microseconds since 1970."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.anchors import Anchor
from schemas.receipts import AnchorReceipt

State = Literal["recording", "paused", "processing", "completed", "incomplete"]
SESSION = "01a20c5b-f2fa-7557-ac1e-5c3397094c1d"
HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
ITEM: dict[str, Any] = {
    "session": SESSION, "state": "completed", "complete": True, "owner": "ada",
    "project": "payroll", "host": "desk7", "codec": "screen/1", "started": 1795000000000000,
    "ended": 1795000600000000, "seconds": 600.0, "records": 4120, "chunks": 61,
    "captured_bytes": 91000000, "stored_bytes": 8100000, "conflicts": 0, "damaged": 0,
    "erased": {},
}  # fmt: skip
CHUNK: dict[str, Any] = {
    "index": 2, "leaf": HASH, "size": 81234, "records": 40, "missing": 0, "last": False,
    "first_seq": 371, "next_seq": 411, "first_time": 1795000010000000,
    "last_time": 1795000020000000, "raw_size": 220000, "stored_at": 1795000020700000,
}  # fmt: skip


def example(value: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


class SessionItem(BaseModel):
    """A session as lists show it. complete: null until it is known."""

    model_config = example(ITEM)

    session: str
    state: State
    complete: bool | None
    owner: str
    project: str
    host: str
    codec: str
    started: int
    ended: int | None
    seconds: float
    records: int
    chunks: int
    captured_bytes: int = Field(description="What the recorder captured, before compression")
    stored_bytes: int = Field(description="Size of the sealed chunks")
    conflicts: int = Field(description="Chunks or manifests that differ from the first stored")
    damaged: int = Field(description="Stored files that a scrub found wrong")
    erased: dict[str, str] = Field(
        description="How far the erasure of `content` or `metadata` is; docs/formats/erasure.md"
    )


class SessionList(BaseModel):
    """A page of sessions. next: the cursor of the next page, null on the last."""

    model_config = example({"sessions": [ITEM], "next": "eyJ0Ijoi…"})

    sessions: list[SessionItem]
    next: str | None


class Loss(BaseModel):
    """Offsets that retention took before they were read."""

    topic: str
    partition: int
    first_offset: int
    next_offset: int
    next_seq: int | None


class SessionDetail(SessionItem):
    """A session with all that is known of it."""

    model_config = example({
        **ITEM, "source": {"display": ":0"}, "recorder": "desk7/recorder+ab12",
        "end_reason": "done", "abandoned": False, "shortcomings": [], "losses": [],
        "damaged_files": [], "root": HASH, "manifest_hash": HASH, "settled": 1795000603000000,
    })  # fmt: skip

    source: dict[str, str | int]
    recorder: str
    end_reason: str | None
    abandoned: bool
    shortcomings: list[str] = Field(description="A sentence for each way it is not complete")
    losses: list[Loss]
    damaged_files: list[str]
    root: str | None = Field(description="Merkle root over its chunks (RFC 6962), hex")
    manifest_hash: str | None
    settled: int | None = Field(description="When everything was counted")


class ChunkItem(BaseModel):
    """A stored chunk. What is null was recorded before events said it."""

    model_config = example(CHUNK)

    index: int
    leaf: str = Field(description="SHA-256(0x00 ‖ header ‖ ciphertext), hex")
    size: int = Field(description="Bytes of the file")
    records: int
    missing: int = Field(description="Sequence numbers that never arrived")
    last: bool
    first_seq: int | None = None
    next_seq: int | None = None
    first_time: int | None = None
    last_time: int | None = None
    raw_size: int | None = None
    stored_at: int


class ChunkList(BaseModel):
    """A page of chunks in the order of their index."""

    model_config = example({"chunks": [CHUNK], "next": None})

    chunks: list[ChunkItem]
    next: str | None


class Stage(BaseModel):
    """How far one stage of the pipeline is."""

    stage: Literal["recorded", "sealed", "stored", "settled"]
    state: Literal["waiting", "running", "done"]
    records: int | None
    chunks: int | None


class PipelineState(BaseModel):
    """A session's way through the pipeline."""

    model_config = example({
        "session": SESSION, "state": "processing", "next_seq": 412, "next_index": 3, "ahead": [],
        "last_index": None, "last_sign": 1795000600000000, "stages": [
            {"stage": "recorded", "state": "done", "records": 412, "chunks": None}],
    })  # fmt: skip

    session: str
    state: State
    next_seq: int = Field(description="Records by the recorder's own count")
    next_index: int = Field(description="Chunks 0 to next_index - 1 are stored")
    ahead: list[int] = Field(description="Chunks that are stored beyond that")
    last_index: int | None
    last_sign: int = Field(description="When something of the recorder was last seen")
    stages: list[Stage]


class Statistics(BaseModel):
    """What a session adds up to."""

    model_config = example({
        "session": SESSION, "chunks": 61, "records": 4120, "missing": 0, "raw_bytes": 91000000,
        "sealed_bytes": 8100000, "ratio": 11.23, "seconds": 600.0, "records_per_second": 6.87,
        "sealed_bytes_per_second": 13500.0, "slowest_chunk_seconds": 0.9, "pauses": 0,
        "conflicts": 0, "findings": 0, "losses": 0,
    })  # fmt: skip

    session: str
    chunks: int
    records: int
    missing: int
    raw_bytes: int
    sealed_bytes: int
    ratio: float | None = Field(description="raw_bytes to sealed_bytes; null while either is 0")
    seconds: float = Field(description="Event time from the first record to the last sealed one")
    records_per_second: float | None
    sealed_bytes_per_second: float | None
    slowest_chunk_seconds: float | None = Field(
        description="The longest that a chunk took from its last record to being stored"
    )
    pauses: int
    conflicts: int
    findings: int
    losses: int


class Total(BaseModel):
    """Sessions of one state."""

    state: State
    sessions: int
    records: int
    stored_bytes: int


class Totals(BaseModel):
    """All sessions that the reader may see, by state."""

    model_config = example(
        {
            "totals": [
                {"state": "completed", "sessions": 12, "records": 49000, "stored_bytes": 97000000}
            ]
        }
    )

    totals: list[Total]


class Consistency(BaseModel):
    """That the tree of `new_size` chunks extends that of the first `old_size` (RFC 9162, 2.1.4).

    signed: whether the new root is that of the session's checkpoint.
    """

    model_config = example(
        {
            "session": SESSION,
            "old_size": 3,
            "new_size": 7,
            "old_root": HASH,
            "new_root": HASH,
            "proof": [HASH],
            "signed": False,
        }
    )

    session: str
    old_size: int
    new_size: int
    old_root: str
    new_root: str
    proof: list[str]
    signed: bool


class VerificationRunning(BaseModel):
    """A verification that has not ended: how many chunks are checked, and of how many."""

    model_config = example({"session": SESSION, "done": 12, "total": 61})

    session: str
    done: int
    total: int


class Receipt(BaseModel):
    """What a client of a ledger claims. fits: it names the hash of the manifest here."""

    id: str
    time: int
    source: str
    fits: bool
    claim: AnchorReceipt


class Anchored(BaseModel):
    """A session's anchor, and the receipts of it (docs/formats/events.md)."""

    model_config = example({"anchor": {
        "version": 1, "session": SESSION, "manifest_hash": HASH, "started_at": 1795000000000000,
        "owner": "ada", "merkle_root": HASH, "chunk_count": 61}, "receipts": []})  # fmt: skip

    anchor: Anchor
    receipts: list[Receipt]


class EventItem(BaseModel):
    """An event as it stands on `session.events`; `data` by its type (docs/formats/events.md)."""

    id: str
    type: str
    time: int
    source: str
    partition: int
    offset: int
    data: dict[str, Any]


class EventList(BaseModel):
    """What happened to a session, without heartbeats and stored chunks.

    dropped: events between the first and the newest ones that the view does not hold.
    """

    model_config = example({"session": SESSION, "dropped": 0, "events": [{
        "id": "8b1f…", "type": "lucid.session.paused.v1", "time": 1795000000000000,
        "source": "lucid/recorder/desk7", "partition": 1, "offset": 12,
        "data": {"reason": "lunch"}}]})  # fmt: skip

    session: str
    events: list[EventItem]
    dropped: int


class AuditItem(BaseModel):
    """Who did what; `data` by its type (docs/formats/audit.md)."""

    offset: int
    id: str
    type: str
    time: int
    subject: str
    source: str
    user: str
    user_type: str
    address: str
    roles: list[str]
    data: dict[str, Any]


class AuditList(BaseModel):
    """A page of the audit trail, the newest first.

    next: where to go on, also when filters left none of the entries that were looked at.
    """

    model_config = example({"entries": [{
        "offset": 7, "id": "0f3e…", "type": "lucid.audit.resource_read.v1",
        "time": 1795000000000000, "subject": SESSION, "source": "lucid/api/desk7", "user": "ada",
        "user_type": "api", "address": "10.0.0.7", "roles": ["auditor"],
        "data": {"action": "chunks.data"}}], "next": None})  # fmt: skip

    entries: list[AuditItem]
    next: str | None
