"""Whole sessions made in memory with the schemas alone: records, chunks, documents, keys.

The numbers of the manifest are counted here on their own, not by the processor's code.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

import pyrage
from pydantic import BaseModel

from schemas.canonical import encode
from schemas.chunks import ZSTD_VERSION, Chunk, Compressor, Position, Sealing, seal
from schemas.controls import Abandon, Close, Gap, Keepalive, Open
from schemas.datakey import DataKey, derive, wrap
from schemas.frames import (
    OUTSIDE_SEQUENCE,
    FrameRecord,
    Kind,
    chain_next,
    chain_start,
    missing_record,
    read_missing,
)
from schemas.manifests import Compressor as CompressorInfo
from schemas.manifests import (
    Interruption,
    Manifest,
    Missing,
    Tally,
    checkpoint_of,
    wrapped_key_text,
)
from schemas.merkle import root
from schemas.notes import Commitment, Signer
from schemas.sessions import new_session_id

START = 1_700_000_000_000_000
STEP = 100_000
RECORDER = Signer("recorder.example/desk", b"\x01" * 32)
PROCESSOR = Signer("processor.example/one", b"\x02" * 32)
STORAGE = Signer("store.example/storage", b"\x03" * 32)
DAY = 86_400_000_000


@dataclass(frozen=True)
class Identity:
    """An age key pair."""

    secret: str
    recipient: str

    @classmethod
    def new(cls) -> Identity:
        made = pyrage.x25519.Identity.generate()
        return cls(str(made), str(made.to_public()))


@dataclass(frozen=True)
class MadeSession:
    """A session and everything that made it.

    records: as the recorder wrote them; sealed: as they stand in the chunks, cut by chunk.
    """

    session: UUID
    records: list[FrameRecord]
    sealed: list[list[FrameRecord]]
    chunks: list[Chunk]
    manifest: Manifest
    manifest_bytes: bytes
    checkpoint: str
    wrapped: bytes
    data_key: bytes
    key: DataKey
    recorder: Signer
    processor: Signer
    processor_identity: Identity
    auditor_identity: Identity

    @property
    def leaves(self) -> list[bytes]:
        return [chunk.leaf for chunk in self.chunks]


class Recording:
    """Writes a session's records one after the other, chained, as a recorder does."""

    def __init__(self, session: UUID, key: DataKey, signer: Signer = RECORDER) -> None:
        self.session, self.key, self.signer = session, key, signer
        self.records: list[FrameRecord] = []
        self.chain = chain_start(session)
        self.time = START

    def add(self, kind: Kind, payload: bytes | BaseModel) -> FrameRecord:
        """One more record, STEP microseconds after the one before."""
        data = payload if isinstance(payload, bytes) else encode(payload)
        inside = kind not in OUTSIDE_SEQUENCE
        seq = len(self.records)
        record = FrameRecord(
            self.session, kind, seq, self.time, self.chain if inside else b"", data
        )
        self.records.append(record)
        self.time += STEP
        if inside:
            self.chain = chain_next(self.chain, self.key.chain, record)
        return record

    def note(self, closed: str = "") -> str:
        """A signed commitment to all records so far."""
        commitment = Commitment(self.session, len(self.records), self.chain, closed)
        return self.signer.sign(commitment.to_text())


def make_session(
    *,
    frames: int = 20,
    per_chunk: int = 6,
    keepalive_every: int = 5,
    end: Literal["close", "abandon"] = "close",
    gap_at: int | None = None,
    drop: Collection[int] = (),
    payload_size: int = 200,
    seed: int = 0,
    codec: str = "bytes/1",
    payloads: Sequence[bytes] | None = None,
    signer: Signer = RECORDER,
    processor: Signer = PROCESSOR,
) -> MadeSession:
    """A whole session: `open`, frames with keepalives among them, `close` or `abandon`.

    drop: sequence numbers lost on the way (not 0, not the last). gap_at: the frame before
    which the recorder saw nothing. payloads: the frames' own, instead of seeded noise.
    """
    noise = random.Random(seed)
    session = new_session_id(START + seed, noise.randbytes(10))
    data_key = noise.randbytes(32)
    processor_identity, auditor_identity = Identity.new(), Identity.new()
    recipients = [processor_identity.recipient, auditor_identity.recipient]
    wrapped = wrap(data_key, recipients)
    opened = Open(
        session=str(session),
        recorder=str(signer.verifier),
        key=wrapped_key_text(wrapped),
        recipients=recipients,
        codec=codec,
        source={"kind": "synthetic", "seed": seed},
        host="desk",
        owner="ada",
        project="lovelace",
        sealing=Sealing(),
    )
    key = derive(data_key, session)
    if payloads is None:
        payloads = [noise.randbytes(payload_size) for _ in range(frames)]
    records = _record(
        Recording(session, key, signer), opened, payloads, keepalive_every, gap_at, end
    )
    return assemble(
        records, opened, data_key, per_chunk, drop, (processor_identity, auditor_identity),
        (signer, processor),
    )  # fmt: skip


def _record(
    recording: Recording,
    opened: Open,
    payloads: Sequence[bytes],
    keepalive_every: int,
    gap_at: int | None,
    end: str,
) -> list[FrameRecord]:
    recording.add(Kind.OPEN, opened)
    for number, payload in enumerate(payloads, start=1):
        if gap_at == number:
            was = recording.time
            recording.time += 3_000_000
            gap = Gap(reason="the display was away", from_time=was, to_time=recording.time)
            recording.add(Kind.GAP, gap)
        recording.add(Kind.FRAMES, payload)
        if number % keepalive_every == 0:
            recording.add(Kind.KEEPALIVE, Keepalive(note=recording.note()))
    if end == "close":
        reason = "the recording was stopped"
        recording.add(Kind.CLOSE, Close(reason=reason, note=recording.note(reason)))
    else:
        abandon = Abandon(reason="nothing heard for 60 s", by="pipeline", last_seen=recording.time)
        recording.add(Kind.ABANDON, abandon)
    return recording.records


def assemble(
    records: list[FrameRecord],
    opened: Open,
    data_key: bytes,
    per_chunk: int = 6,
    drop: Collection[int] = (),
    identities: tuple[Identity, Identity] | None = None,
    signers: tuple[Signer, Signer] = (RECORDER, PROCESSOR),
) -> MadeSession:
    """Cut, seal and document any records, also such as no honest recorder writes."""
    key = derive(data_key, opened.session_id)
    sealed = _cut(records, per_chunk, drop)
    chunks = seal_all(sealed, key, opened.sealing)
    manifest = _manifest(sealed, chunks, opened, key)
    identities = identities or (Identity.new(), Identity.new())
    return MadeSession(
        session=opened.session_id,
        records=records,
        sealed=sealed,
        chunks=chunks,
        manifest=manifest,
        manifest_bytes=encode(manifest),
        checkpoint=signers[1].sign(checkpoint_of(manifest).to_text()),
        wrapped=opened.wrapped_key,
        data_key=data_key,
        key=key,
        recorder=signers[0],
        processor=signers[1],
        processor_identity=identities[0],
        auditor_identity=identities[1],
    )


def _cut(
    records: Sequence[FrameRecord], per_chunk: int, drop: Collection[int]
) -> list[list[FrameRecord]]:
    entries: list[FrameRecord] = []
    expected = 0
    for record in records:
        if record.seq in drop:
            continue
        if record.seq > expected:
            entries.append(missing_record(record, expected))
        entries.append(record)
        expected = record.seq + 1
    return [entries[at : at + per_chunk] for at in range(0, len(entries), per_chunk)]


def seal_all(
    sealed: Sequence[Sequence[FrameRecord]], key: DataKey, sealing: Sealing
) -> list[Chunk]:
    """The chunks of a session whose records are already cut."""
    compressor = Compressor(sealing.level, sealing.window_log)
    position = Position(0, 0, chain_start(sealed[0][0].session))
    chunks = []
    for records in sealed:
        last = records is sealed[-1]
        chunk = seal(records, position, key, compressor, last=last)
        chunks.append(chunk)
        position = Position(position.index + 1, chunk.header.next_seq, chunk.header.chain_after)
    return chunks


def _manifest(
    sealed: Sequence[Sequence[FrameRecord]], chunks: Sequence[Chunk], opened: Open, key: DataKey
) -> Manifest:
    entries = [record for records in sealed for record in records]
    final = entries[-1]
    if final.kind is Kind.CLOSE:
        close = Close.model_validate_json(final.payload)
        reason, note = close.reason, close.note
    elif final.kind is Kind.ABANDON:
        reason, note = Abandon.model_validate_json(final.payload).reason, None
    else:
        reason, note = "no end", None
    return Manifest(
        session=opened.session,
        ended_by="abandon" if final.kind is Kind.ABANDON else "close",
        reason=reason,
        host=opened.host,
        owner=opened.owner,
        project=opened.project,
        codec=opened.codec,
        source=opened.source,
        recorder=opened.recorder,
        closing_note=note,
        recipients=opened.recipients,
        wrapped_key_hash=hashlib.sha256(opened.wrapped_key).hexdigest(),
        key_commitment=key.commitment.hex(),
        sealing=opened.sealing,
        compressor=CompressorInfo(version=ZSTD_VERSION),
        tally=_tally(entries, chunks),
        next_seq=chunks[-1].header.next_seq,
        chunks=len(chunks),
        chain=chunks[-1].header.chain_after.hex(),
        root=root([chunk.leaf for chunk in chunks]).hex(),
    )


def _tally(entries: Sequence[FrameRecord], chunks: Sequence[Chunk]) -> Tally:
    lost = [record for record in entries if record.kind is Kind.MISSING]
    ranges = [Missing(first_seq=entry.seq, count=read_missing(entry)[0]) for entry in lost]
    gaps = [record for record in entries if record.kind is Kind.GAP]
    interruptions = []
    for record in gaps:
        gap = Gap.model_validate_json(record.payload)
        interruptions.append(
            Interruption(
                seq=record.seq, from_time=gap.from_time, to_time=gap.to_time, reason=gap.reason
            )
        )
    counts = Counter(record.kind.label for record in entries if record.kind is not Kind.MISSING)
    return Tally(
        first_time=entries[0].time,
        last_time=entries[-1].time,
        counts=dict(counts),
        missing=sum(run.count for run in ranges),
        missing_ranges=ranges,
        missing_runs=len(ranges),
        interruptions=interruptions,
        interruptions_total=len(interruptions),
        raw_bytes=sum(record.size for record in entries),
        sealed_bytes=sum(len(chunk.data) for chunk in chunks),
    )


def with_manifest(made: MadeSession, **changes: object) -> MadeSession:
    """The session with another manifest, signed by its processor all the same."""
    manifest = made.manifest.model_copy(update=changes)
    return replace(
        made,
        manifest=manifest,
        manifest_bytes=encode(manifest),
        checkpoint=made.processor.sign(checkpoint_of(manifest).to_text()),
    )
