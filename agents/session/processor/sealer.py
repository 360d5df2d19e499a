"""From cut to chunk, progress and manifest. Pure: the same records give the same bytes.

Everything here follows from a session's progress and the records of one cut; nothing looks
at a clock, a broker or a setting.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.canonical import decode
from schemas.chunks import ZSTD_VERSION, Chunk, Compressor, Position, seal
from schemas.controls import MAX_OPEN, Abandon, Close, Gap, Open
from schemas.datakey import DataKey, NoIdentity, derive, unwrap
from schemas.errors import FormatError
from schemas.frames import FrameRecord, InvalidFrameRecord, Kind, chain_start, read_missing
from schemas.manifests import (
    MAX_INTERRUPTIONS,
    MAX_RANGES,
    Interruption,
    Manifest,
    Missing,
    Tally,
)
from schemas.manifests import Compressor as CompressorInfo
from schemas.progress import SessionProgress


def open_session(record: FrameRecord, partition: int, offset: int) -> SessionProgress:
    """The progress of a session of which nothing is sealed, from its `open` record.

    Raises FormatError when the payload is not what the format page says.
    """
    if len(record.payload) > MAX_OPEN:
        raise InvalidFrameRecord(
            f"the open record of session {record.session} has {len(record.payload)} bytes, "
            f"at most {MAX_OPEN}"
        )
    opened = decode(Open, record.payload)
    if opened.session_id != record.session or record.seq != 0:
        raise InvalidFrameRecord(
            f"the open record of session {record.session} is not its first, or names another"
        )
    return SessionProgress(
        opened=opened,
        partition=partition,
        offset=offset,
        next_seq=0,
        next_index=0,
        chain=chain_start(record.session).hex(),
        frontier=[],
        tally=Tally(first_time=record.time, last_time=record.time, counts={}),
    )


def session_key(opened: Open, identities: Sequence[str]) -> DataKey:
    """The session's subkeys; raises NoIdentity, InvalidIdentity or WrongKey."""
    try:
        return derive(unwrap(opened.wrapped_key, identities), opened.session_id)
    except NoIdentity as error:
        raise NoIdentity(
            f"no identity given opens session {opened.session}; its key is wrapped for "
            + ", ".join(opened.recipients),
            hint=error.hint,
        ) from error


def seal_cut(
    progress: SessionProgress,
    records: Sequence[FrameRecord],
    last_offset: int,
    key: DataKey,
    compressor: Compressor,
    *,
    last: bool,
) -> tuple[Chunk, SessionProgress]:
    """Seal one cut: the chunk, and the progress after it (not yet ended)."""
    start = Position(progress.next_index, progress.next_seq, bytes.fromhex(progress.chain))
    chunk = seal(records, start, key, compressor, last=last)
    tree = progress.tree()
    tree.append(chunk.leaf)
    after = progress.model_copy(
        update={
            "offset": last_offset,
            "next_seq": chunk.header.next_seq,
            "next_index": progress.next_index + 1,
            "chain": chunk.header.chain_after.hex(),
            "frontier": [node.hex() for node in tree.hashes],
            "tally": tally_after(progress.tally, records, chunk),
        }
    )
    return chunk, after


def tally_after(tally: Tally, records: Sequence[FrameRecord], chunk: Chunk) -> Tally:
    """The tally with the records of one more chunk."""
    counts = dict(tally.counts)
    ranges, interruptions = list(tally.missing_ranges), list(tally.interruptions)
    runs = gaps = 0
    for record in records:
        if record.kind is Kind.MISSING:
            runs += 1
            if len(ranges) < MAX_RANGES:
                ranges.append(Missing(first_seq=record.seq, count=read_missing(record)[0]))
            continue
        counts[record.kind.label] = counts.get(record.kind.label, 0) + 1
        if record.kind is Kind.GAP:
            gaps += 1
            if len(interruptions) < MAX_INTERRUPTIONS:
                interruptions.append(_interruption(record))
    return tally.model_copy(
        update={
            "last_time": records[-1].time,
            "counts": counts,
            "missing": tally.missing + chunk.header.missing,
            "missing_ranges": ranges,
            "missing_runs": tally.missing_runs + runs,
            "interruptions": interruptions,
            "interruptions_total": tally.interruptions_total + gaps,
            "raw_bytes": tally.raw_bytes + chunk.header.raw_size,
            "sealed_bytes": tally.sealed_bytes + len(chunk.data),
        }
    )


def _interruption(record: FrameRecord) -> Interruption:
    try:
        gap = decode(Gap, record.payload)
    except FormatError:
        return Interruption(
            seq=record.seq, from_time=record.time, to_time=record.time, reason="unreadable gap"
        )
    return Interruption(
        seq=record.seq, from_time=gap.from_time, to_time=gap.to_time, reason=gap.reason
    )


def make_manifest(progress: SessionProgress, final: FrameRecord, key: DataKey) -> Manifest:
    """The manifest of a session whose last chunk, ending in `final`, is in `progress`."""
    opened = progress.opened
    reason, note = _ending(final)
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
        wrapped_key_hash=opened.wrapped_key_hash,
        key_commitment=key.commitment.hex(),
        sealing=opened.sealing,
        compressor=CompressorInfo(version=ZSTD_VERSION),
        tally=progress.tally,
        next_seq=progress.next_seq,
        chunks=progress.next_index,
        chain=progress.chain,
        root=progress.tree().root().hex(),
    )


def _ending(final: FrameRecord) -> tuple[str, str | None]:
    """Reason and closing note; what cannot be read ends the session all the same."""
    try:
        if final.kind is Kind.ABANDON:
            return decode(Abandon, final.payload).reason, None
        close = decode(Close, final.payload)
        return close.reason, close.note
    except FormatError as error:
        return f"unreadable {final.kind.label}: {error.code}", None
