"""A session's records on local disk, until the broker holds them.

    SPOOL/<session id>/head             what is needed to go on: one block of canonical JSON
    SPOOL/<session id>/state            what has changed since: canonical JSON
    SPOOL/<session id>/00000000.log     segments: blocks of one record each, oldest first
    SPOOL/<session id>.ended/           records of a session that others had ended

    spool = Spool.create(folder, head, signer)       or Spool.open(place, signer)
    spool.append(Spooled(record, …))    next in the log, in the system's cache
    spool.sync()                        on disk; only what is on disk is read back
    spool.read(seq, at_most=1_000_000)  records from `seq` on
    spool.release(seq)                  the broker holds everything before `seq`
    spool.remove()                      the session is over

A spool that was cut or damaged opens with what is whole; what stands behind is kept in
files called `damaged-…`. A segment is deleted once all of it is released and a later record
is on disk, so the newest record is always there to go on from. Methods block and may be
called from several threads; one recorder at a time has a spool open (flock). Errors are
those of spool_folder.py.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import structlog

from agents.platform.blobs import sync_folder, write_synced
from agents.session.recorder.sources.capture import Capture
from agents.session.recorder.spool_blocks import HEAD_SEGMENT, MAX_BLOCK, Blocks, Spooled
from agents.session.recorder.spool_folder import (
    ENDED,
    HEAD,
    SpoolBusy,
    SpoolFailed,
    SpoolUnreadable,
    lock,
    on_disk,
    session_of,
)
from schemas.canonical import Count, Hex32, Strict, decode, encode
from schemas.controls import Open
from schemas.errors import FormatError
from schemas.frames import FrameRecord
from schemas.notes import Signer

log = structlog.get_logger(__name__)

STATE = "state"
SEGMENT_BYTES = 4 * 1024**2


class SpoolHead(Strict):
    """What a recorder needs to go on with a session.

    chain_key: the session's subkey of the record chain; it opens nothing. started: event
    time of the `open` record. capture: what to capture again; None if that cannot be.
    """

    version: Literal[1] = 1
    opened: Open
    partition: Count
    started: Count
    chain_key: Hex32
    capture: Capture | None


class SpoolState(Strict):
    """offset: of the `open` record, None until the broker holds it. paused: on request."""

    version: Literal[1] = 1
    offset: Count | None = None
    paused: bool = False


@dataclass(slots=True)
class _Segment:
    """A segment file: its first record, how many there are, and their bytes."""

    number: int
    first_seq: int
    blocks: int = 0
    size: int = 0

    @property
    def next_seq(self) -> int:
        return self.first_seq + self.blocks


class Spool:
    """The records of one session that the broker may not hold yet.

    first_seq: everything before it was released. next_seq: follows the newest record.
    synced_seq: records before it are on disk. damaged: something was cut off when it was
    opened. last: the newest record, None while there is none.
    """

    def __init__(self, place: Path, signer: Signer) -> None:
        self.place, self.session = place, session_of(place)
        self.first_seq = self.next_seq = self.synced_seq = 0
        self.damaged = False
        self.last: Spooled | None = None
        self.state = SpoolState()
        self._lock = lock(place)
        self._blocks = Blocks(self.session, signer)
        self._segments: deque[_Segment] = deque()
        self._descriptor = -1
        self._guard = threading.Lock()
        self._reading = (-1, 0, 0)  # segment, byte and seq behind the last read

    # -- opening -----------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, head: SpoolHead, signer: Signer) -> Self:
        """A new spool in `folder`, named by the session; raises SpoolBusy, SpoolFailed."""
        place = folder / head.opened.session
        with on_disk(place):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            spool = cls(place, signer)
            try:
                write_synced(place / HEAD, spool._blocks.seal(encode(head), HEAD_SEGMENT, 0))
            except FileExistsError:
                spool.close()
                raise SpoolBusy(
                    f"there is a spool of session {spool.session} already",
                    hint="`lucid record --resume` goes on with it",
                ) from None
            sync_folder(place)
            sync_folder(folder)
        return spool

    @classmethod
    def open(cls, place: Path, signer: Signer) -> tuple[Self, SpoolHead]:
        """A spool that a recorder left; raises SpoolBusy, SpoolFailed, SpoolUnreadable."""
        with on_disk(place):
            spool = cls(place, signer)
            try:
                head = spool._read_head()
                spool._recover()
            except BaseException:
                spool.close()
                raise
        return spool, head

    def _read_head(self) -> SpoolHead:
        try:
            ((plaintext, _),) = self._blocks.walk((self.place / HEAD).read_bytes(), HEAD_SEGMENT)
            head = decode(SpoolHead, plaintext)
            with contextlib.suppress(FileNotFoundError):
                self.state = decode(SpoolState, (self.place / STATE).read_bytes())
        except (FileNotFoundError, ValueError, FormatError) as error:
            raise SpoolUnreadable(
                f"the spool of session {self.session} has no head that this recorder can read",
                hint=f"It was cut off at its beginning, or keys/recorder.key is not the one that "
                f"wrote it; its files are in {self.place}",
            ) from error
        return head

    def _recover(self) -> None:
        """Take up the records that are whole; put aside what stands behind them."""
        whole = True
        for path in sorted(self.place.glob("[0-9]*.log")):
            number = int(path.stem)
            follows = not self._segments or number == self._segments[-1].number + 1
            if whole and follows:
                whole = self._load(path, number)
            else:
                whole, self.damaged = False, True
                path.rename(self._aside(path))
        if self._segments:
            self.first_seq = self._segments[0].first_seq
        self.synced_seq = self.next_seq

    def _load(self, path: Path, number: int) -> bool:
        """Take up a segment; whether it was whole."""
        data = path.read_bytes()
        segment = _Segment(number, self.next_seq)
        for plaintext, end in self._blocks.walk(data, number):
            found = self._blocks.decode(plaintext)
            if found is None or (self.last is not None and found.record.seq != self.next_seq):
                break
            if self.last is None:
                segment.first_seq = found.record.seq
            segment.blocks, segment.size = segment.blocks + 1, end
            self.last, self.next_seq = found, found.record.seq + 1
        if not data:
            path.unlink()  # made by a recorder that was killed before its first record
            return False
        self._segments.append(segment)
        if segment.size == len(data):
            return True
        self.damaged = True
        log.warning("spool was cut", session=str(self.session), file=path.name,
                    whole=segment.size, bytes=len(data), next_seq=self.next_seq)  # fmt: skip
        write_synced(self._aside(path), data[segment.size :])
        os.truncate(path, segment.size)
        return False

    def _aside(self, path: Path) -> Path:
        return self.place / f"damaged-{path.stem}-{secrets.token_hex(4)}"

    # -- writing -----------------------------------------------------------------------------

    def append(self, spooled: Spooled) -> None:
        """Write the next record, wholly or not at all; raises SpoolFull or SpoolFailed."""
        record = spooled.record
        with self._guard, on_disk(self.place):
            if self.last is not None and record.seq != self.next_seq:
                raise ValueError(f"record {record.seq} does not follow {self.next_seq - 1}")
            segment = self._room(record.seq)
            plaintext = self._blocks.encode(spooled)
            block = self._blocks.seal(plaintext, segment.number, segment.blocks)
            rest = memoryview(block)
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                os.ftruncate(self._descriptor, segment.size)
                raise
            segment.blocks, segment.size = segment.blocks + 1, segment.size + len(block)
            self.last, self.next_seq = spooled, record.seq + 1

    def _room(self, seq: int) -> _Segment:
        """The segment to write to; a full one is on disk before the next begins."""
        if self._descriptor >= 0:
            if self._segments[-1].size < SEGMENT_BYTES:
                return self._segments[-1]
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        number = self._segments[-1].number + 1 if self._segments else 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path(number), flags, 0o600)
        self._segments.append(_Segment(number, seq))
        sync_folder(self.place)
        return self._segments[-1]

    def sync(self) -> None:
        """Put everything that was appended on disk; raises SpoolFailed."""
        with self._guard:
            upto = self.next_seq
            descriptor = os.dup(self._descriptor) if self._descriptor >= 0 else -1
        if descriptor >= 0:
            with on_disk(self.place):
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        with self._guard:
            self.synced_seq = max(self.synced_seq, upto)

    def note(self, *, offset: int | None = None, paused: bool | None = None) -> None:
        """Change the state; returns once it is on disk."""
        changes = {"offset": offset, "paused": paused}
        update = {name: value for name, value in changes.items() if value is not None}
        self.state = self.state.model_copy(update=update)
        fresh = self.place / f"{STATE}.{secrets.token_hex(4)}"
        with on_disk(self.place):
            write_synced(fresh, encode(self.state))
            fresh.replace(self.place / STATE)
            sync_folder(self.place)

    # -- reading -----------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        with self._guard:
            return sum(segment.size for segment in self._segments)

    @property
    def waiting(self) -> int:
        """Records that were not released."""
        return self.next_seq - self.first_seq

    def read(self, seq: int, at_most: int) -> list[FrameRecord]:
        """Synced records from `seq` on, one or as many as `at_most` bytes of blocks hold.

        Reading on is cheap, reading from elsewhere looks through a segment. Raises
        SpoolFailed, also when a block is damaged.
        """
        with self._guard:
            found = next(
                (one for one in self._segments if one.first_seq <= seq < one.next_seq), None
            )
            if found is None or seq >= self.synced_seq:
                return []
            until = min(found.next_seq, self.synced_seq)
            number, first_seq, size = found.number, found.first_seq, found.size
        segment, start, at = self._reading
        amount = at_most + MAX_BLOCK
        if (segment, at) != (number, seq):
            start, at, amount = 0, first_seq, size
        with on_disk(self.place), self._path(number).open("rb") as file:
            file.seek(start)
            data = file.read(min(amount, size - start))
        begin = 0
        while at < seq:
            begin, at = self._blocks.end_of(data, begin) or len(data), at + 1
        records: list[FrameRecord] = []
        taken = begin
        for plaintext, end in self._blocks.walk(data, number, at - first_seq, begin):
            spooled = self._blocks.decode(plaintext)
            if at >= until or (records and end - begin > at_most) or spooled is None:
                break
            records.append(spooled.record)
            taken, at = end, at + 1
        if not records:
            raise SpoolFailed(
                f"record {seq} of session {self.session} in {self._path(number)} is damaged",
                hint="The disk changed it after it was written; look at the disk",
            )
        self._reading = (number, start + taken, at)
        return records

    # -- letting go --------------------------------------------------------------------------

    def release(self, seq: int) -> None:
        """Let go of all records before `seq`, and of segments that hold no others."""
        with self._guard, on_disk(self.place):
            self.first_seq = max(self.first_seq, min(seq, self.next_seq))
            while len(self._segments) > 1:
                behind = self._segments[1].first_seq
                if behind > self.first_seq or behind >= self.synced_seq:
                    return
                self._path(self._segments.popleft().number).unlink(missing_ok=True)

    def jump(self, seq: int) -> None:
        """Go on at `seq`, which is ahead of all that is here: the broker holds it already."""
        with self._guard, on_disk(self.place):
            for segment in self._segments:
                self._path(segment.number).unlink(missing_ok=True)
            sync_folder(self.place)
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._segments.clear()
            self._descriptor, self.last = -1, None
            self.first_seq = self.next_seq = self.synced_seq = seq

    def close(self) -> None:
        """Leave the spool to whoever opens it next."""
        with self._guard:
            for descriptor in (self._descriptor, self._lock):
                if descriptor >= 0:
                    os.close(descriptor)
            self._descriptor = self._lock = -1

    def remove(self) -> None:
        """Delete the spool, its head last; what was put aside as damaged stays."""
        with on_disk(self.place):
            for path in [*self.place.glob("[0-9]*.log"), *self.place.glob(f"{STATE}*")]:
                path.unlink(missing_ok=True)
            (self.place / HEAD).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.place.rmdir()
        self.close()

    def set_aside(self) -> Path:
        """Keep the records of a session that cannot be gone on with; where they are."""
        kept = self.place.with_name(self.place.name + ENDED)
        with on_disk(self.place):
            self.place.rename(kept)
            sync_folder(kept.parent)
        self.close()
        return kept

    def _path(self, number: int) -> Path:
        return self.place / f"{number:08d}.log"
