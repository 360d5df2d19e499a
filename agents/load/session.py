"""The records of one made-up session, numbered, chained and signed as a recorder's are. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from schemas.canonical import encode
from schemas.chunks import Sealing
from schemas.controls import Close, Keepalive, Open
from schemas.datakey import derive, new_data_key, wrap
from schemas.frames import FrameRecord, Kind, chain_next, chain_start
from schemas.manifests import wrapped_key_text
from schemas.notes import Commitment, Signer
from schemas.sessions import new_session_id

CODEC = "screen/1"
SEALING = Sealing(cut_bytes=8 * 1024**2, cut_us=10_000_000, level=3)
REASON = "end of the load"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who records all sessions of a load, and as what."""

    signer: Signer
    recipients: Sequence[str]
    host: str
    project: str
    owner: str
    content: str


class LoadSession:
    """One session, and what became of its records.

    intended: by sequence number, seconds of the loop's clock at which a record was due.
    acknowledged: how many the broker has confirmed. failed: those that it did not take.
    """

    def __init__(self, identity: Identity, partitions: int, time_us: int) -> None:
        self.id: UUID = new_session_id()
        self.name = str(self.id)
        self.partition = self.id.int % partitions
        self.intended = array("d")
        self.acknowledged = self.frame_bytes = self.next_seq = 0
        self.failed: list[int] = []
        self.closed = False
        data_key = new_data_key()
        self._signer = identity.signer
        self._chain_key = derive(data_key, self.id).chain
        self._chain = chain_start(self.id)
        self._time = time_us
        self.open_payload = Open(
            session=self.name, recorder=str(identity.signer.verifier),
            key=wrapped_key_text(wrap(data_key, identity.recipients)),
            recipients=list(identity.recipients), codec=CODEC,
            source={"type": "load", "content": identity.content}, host=identity.host,
            owner=identity.owner, project=identity.project, sealing=SEALING,
        )  # fmt: skip

    @property
    def sent(self) -> int:
        """Records that were handed to the producer, or that it refused."""
        return len(self.intended)

    def make(self, kind: Kind, payload: bytes, time_us: int, due: float) -> FrameRecord:
        """The next record; control records make their payloads themselves."""
        if kind is Kind.OPEN:
            payload = encode(self.open_payload)
        elif kind is Kind.KEEPALIVE:
            payload = encode(Keepalive(note=self._note("")))
        elif kind is Kind.CLOSE:
            payload = encode(Close(reason=REASON, note=self._note(REASON)))
            self.closed = True
        else:
            self.frame_bytes += len(payload)
        self._time = max(self._time, time_us)
        record = FrameRecord(self.id, kind, self.next_seq, self._time, self._chain, payload)
        self._chain = chain_next(self._chain, self._chain_key, record)
        self.next_seq += 1
        self.intended.append(due)
        return record

    def _note(self, closed: str) -> str:
        return self._signer.sign(Commitment(self.id, self.next_seq, self._chain, closed).to_text())
