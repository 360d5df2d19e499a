"""Numbering, chaining and signing a session's records. Pure: the same calls, the same records."""

from __future__ import annotations

from uuid import UUID

from schemas.canonical import Strict, encode
from schemas.controls import Close, Keepalive, Open
from schemas.datakey import DataKey
from schemas.frames import FrameRecord, Kind, chain_next, chain_start
from schemas.notes import Commitment, Signer


class Sequencer:
    """Makes the records of one session, in order.

    next_seq, chain, time: after the last record; `time` in microseconds never decreases,
    whatever the source's clock does.
    """

    def __init__(self, session: UUID, key: DataKey, signer: Signer) -> None:
        self.session = session
        self.next_seq = 0
        self.time = 0
        self.chain = chain_start(session)
        self._key = key
        self._signer = signer

    def make(self, kind: Kind, payload: bytes, time: int) -> FrameRecord:
        """The next record."""
        self.time = max(self.time, time)
        record = FrameRecord(self.session, kind, self.next_seq, self.time, self.chain, payload)
        self.chain = chain_next(self.chain, self._key.chain, record)
        self.next_seq += 1
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
        commitment = Commitment(self.session, self.next_seq, self.chain, closed)
        return self._signer.sign(commitment.to_text())
