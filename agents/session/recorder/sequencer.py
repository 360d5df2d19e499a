"""Numbering, chaining and signing a session's records. Pure: the same calls, the same records."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from schemas.canonical import Strict, encode
from schemas.controls import Close, Keepalive, Open
from schemas.frames import FrameRecord, Kind, chain_next, chain_start
from schemas.notes import Commitment, Signer


class Position(NamedTuple):
    """After a record: the next sequence number, its time in microseconds, the chain."""

    next_seq: int
    time: int
    chain: bytes


class Sequencer:
    """Makes the records of one session, in order.

    position: after the last record; its time never decreases, whatever the source's clock
    does. chain_key: 32 bytes, the session's subkey of the record chain.
    """

    def __init__(self, session: UUID, chain_key: bytes, signer: Signer) -> None:
        self.session = session
        self.position = Position(0, 0, chain_start(session))
        self._chain_key = chain_key
        self._signer = signer

    @property
    def next_seq(self) -> int:
        return self.position.next_seq

    @property
    def time(self) -> int:
        return self.position.time

    def follow(self, record: FrameRecord) -> None:
        """Go on behind a record that this session's recorder made before."""
        chain = chain_next(record.chain, self._chain_key, record)
        self.position = Position(record.seq + 1, record.time, chain)

    def make(self, kind: Kind, payload: bytes, time: int) -> FrameRecord:
        """The next record."""
        seq, before, chain = self.position
        record = FrameRecord(self.session, kind, seq, max(before, time), chain, payload)
        self.follow(record)
        return record

    def control(self, kind: Kind, payload: Strict, time: int) -> FrameRecord:
        """The next record, with a control payload."""
        return self.make(kind, encode(payload), time)

    def open(self, opened: Open, time: int) -> FrameRecord:
        return self.control(Kind.OPEN, opened, time)

    def keepalive(self, time: int) -> FrameRecord:
        """Commits to every record before it."""
        return self.control(Kind.KEEPALIVE, Keepalive(note=self._note("")), time)

    def close(self, reason: str, time: int) -> FrameRecord:
        """The last record; commits to every record before it and to the reason."""
        return self.control(Kind.CLOSE, Close(reason=reason, note=self._note(reason)), time)

    def _note(self, closed: str) -> str:
        commitment = Commitment(self.session, self.next_seq, self.position.chain, closed)
        return self._signer.sign(commitment.to_text())
