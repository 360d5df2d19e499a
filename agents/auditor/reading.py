"""Reading a session's records: opened, checked chunk by chunk, in order.

ReadingError
├── NothingToRead     no chunk, or none that starts the session
├── ErasedContent     deleted by policy: nobody reads it again
├── NoKey             the wrapped key is missing, or no identity was given
└── DamagedSession    a chunk is missing, changed, or not the next one
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from agents.platform.verification import Step
from schemas.canonical import decode
from schemas.chunks import Chunk, ChunkHeader, read_chunk, unseal
from schemas.controls import Open
from schemas.datakey import DataKey, derive, unwrap
from schemas.errors import FormatError, LucidError
from schemas.frames import FrameRecord, Kind, chain_start
from schemas.manifests import read_manifest
from schemas.verify_source import SessionSource


class ReadingError(LucidError):
    """A session's content cannot be read."""


class NothingToRead(ReadingError):
    """No part of the session is stored yet."""

    exit_status = 66


class ErasedContent(ReadingError):
    """The session's content was erased."""

    exit_status = 66


class NoKey(ReadingError):
    """Nothing opens the session."""

    exit_status = 77


class DamagedSession(ReadingError):
    """A chunk is not what it should be."""

    exit_status = 65


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session that an identity has opened; count: chunks.

    leaves: of the chunks that were verified, in hexadecimal; no other bytes are read then.
    """

    source: SessionSource
    opened: Open
    key: DataKey
    count: int
    leaves: Mapping[int, str] | None = None


def open_session(
    source: SessionSource, identities: Sequence[str], leaves: Mapping[int, str] | None = None
) -> OpenedSession:
    """Open the session's key and read its `open` record; raises ReadingError or NoIdentity.

    leaves: those of OpenedSession.
    """
    if source.erasure() is not None:
        raise ErasedContent(
            "the session's content was erased", hint="`lucid verify` says by whom and when"
        )
    wrapped, first = source.wrapped_key(), source.chunk(0)
    if first is None:
        raise NothingToRead(
            "the session's first chunk is missing", hint="`lucid verify` says what is there"
        )
    if wrapped is None:
        raise NoKey("the session's wrapped key is missing", hint="Look for it in a bundle")
    if not identities:
        raise NoKey(
            "no identity was given", hint="--identity FILE names an age identity of a recipient"
        )
    with _told(0):
        chunk = _read(0, first, leaves)
        session = chunk.header.session
        if source.session not in (None, session):
            raise DamagedSession(f"the first chunk is of session {session}", hint=_HINT)
    key = derive(unwrap(wrapped, identities), session)
    with _told(0):
        opened = decode(Open, unseal(chunk, key)[0].payload)
    count = _count(source) if leaves is None else len(leaves)
    return OpenedSession(source, opened, key, count, leaves)


_HINT = "`lucid verify` says exactly what is wrong"


@contextmanager
def _told(index: int) -> Iterator[None]:
    """Turns a FormatError into DamagedSession with the chunk it is about."""
    try:
        yield
    except FormatError as error:
        what = error.what if f"chunk {index} " in error.what else f"chunk {index}: {error.what}"
        raise DamagedSession(what, hint=_HINT) from error


def _read(index: int, data: bytes, leaves: Mapping[int, str] | None) -> Chunk:
    """A chunk as stored, and as verified if it was; raises FormatError and DamagedSession."""
    chunk = read_chunk(data)
    if leaves is not None and chunk.leaf.hex() != leaves.get(index):
        raise DamagedSession(f"chunk {index} changed after it was verified", hint=_HINT)
    return chunk


def _count(source: SessionSource) -> int:
    """How many chunks there have to be; of an open session, how many there are."""
    data = source.manifest()
    if data is not None:
        return read_manifest(data).chunks
    return max(source.present()) + 1


def read_records(session: OpenedSession, step: Step = lambda *_: None) -> Iterator[FrameRecord]:
    """All records in order, one chunk in memory; raises DamagedSession at the first damage."""
    previous: ChunkHeader | None = None
    for index in range(session.count):
        data = session.source.chunk(index)
        if data is None:
            raise DamagedSession(f"chunk {index} is missing", hint=_HINT)
        with _told(index):
            chunk = _read(index, data, session.leaves)
            if not _follows(session, chunk.header, index, previous):
                raise DamagedSession(f"chunk {index} is not the one that belongs there", hint=_HINT)
            records = unseal(chunk, session.key)
        yield from records
        previous = chunk.header
        step(index + 1, session.count)


def _follows(
    session: OpenedSession, header: ChunkHeader, index: int, previous: ChunkHeader | None
) -> bool:
    start = chain_start(session.opened.session_id)
    seq, chain = (previous.next_seq, previous.chain_after) if previous else (0, start)
    return (header.session, header.index, header.first_seq, header.chain_before) == (
        session.opened.session_id, index, seq, chain,
    )  # fmt: skip


@dataclass(slots=True)
class Newest:
    """Event time in microseconds of the newest record read; 0 before any was."""

    time: int = 0


def frame_payloads(
    session: OpenedSession, step: Step = lambda *_: None, newest: Newest | None = None
) -> Iterator[tuple[int, bytes]]:
    """Event time in microseconds and payload of each `frames` record.

    newest: told of every record, of whatever kind.
    """
    newest = newest or Newest()
    for record in read_records(session, step):
        newest.time = record.time
        if record.kind is Kind.FRAMES:
            yield record.time, record.payload
