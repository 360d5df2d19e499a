"""Records held until their chunk is cut, in memory or spilled to an unlinked file.

Memory must not decide a cut, and a paused partition would never reach one, so what does
not fit into memory goes to disk: encrypted under a key that lives in this process only.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import structlog
from nacl.secret import SecretBox

from agents.platform.retry import Transient
from schemas.frames import FrameRecord, decode_entries, encode_entries

log = structlog.get_logger(__name__)

RECORD_OVERHEAD = 500  # bytes of Python objects around a payload, measured with tracemalloc
SPILL_AGAIN = 1.0  # seconds between tries to spill to a disk that did not take it
_LENGTH_SIZE = 4


class CannotSpill(Transient):
    """Open chunks are over their memory, and the disk does not take them."""


def _unlinked(folder: Path) -> BinaryIO:
    return cast(BinaryIO, tempfile.TemporaryFile(dir=folder, buffering=0))


class SpillKey:
    """The key of this process's spill files."""

    def __init__(self) -> None:
        self._box = SecretBox(os.urandom(SecretBox.KEY_SIZE))

    def write(self, file: BinaryIO, plaintext: bytes) -> None:
        """Append one block, wholly or not at all. Raises OSError."""
        data = bytes(self._box.encrypt(plaintext))
        start = file.seek(0, os.SEEK_END)
        rest = memoryview(len(data).to_bytes(_LENGTH_SIZE, "big") + data)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(start)
            raise

    def read(self, file: BinaryIO) -> bytes:
        """All blocks in order."""
        file.seek(0)
        content = memoryview(file.read())
        parts = []
        while content:
            end = _LENGTH_SIZE + int.from_bytes(content[:_LENGTH_SIZE], "big")
            parts.append(self._box.decrypt(bytes(content[_LENGTH_SIZE:end])))
            content = content[end:]
        return b"".join(parts)


class Held:
    """The records of one open chunk, in order.

    memory: bytes held in memory; what is spilled does not count.
    """

    __slots__ = ("_file", "_key", "_records", "memory")

    def __init__(self) -> None:
        self._records: list[FrameRecord] = []
        self._file: BinaryIO | None = None
        self._key: SpillKey | None = None
        self.memory = 0

    def append(self, record: FrameRecord) -> None:
        """Hold one more record, in memory."""
        self._records.append(record)
        self.memory += len(record.payload) + RECORD_OVERHEAD

    def spill(self, folder: Path, key: SpillKey) -> None:
        """Move all but the newest record to the chunk's file.

        Raises OSError when the disk does not take it; then everything stays in memory.
        """
        if len(self._records) < 2:
            return
        *old, newest = self._records
        if self._file is None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file, self._key = _unlinked(folder), key
        key.write(self._file, encode_entries(old))
        self._records = [newest]
        self.memory = len(newest.payload) + RECORD_OVERHEAD

    def take(self) -> list[FrameRecord]:
        """All records, oldest first; the file is gone afterwards."""
        records = self._records
        if self._file is not None and self._key is not None:
            spilled = decode_entries(records[0].session, self._key.read(self._file))
            records = [*spilled, *records]
        self.discard()
        return records

    def discard(self) -> None:
        """Drop everything."""
        if self._file is not None:
            self._file.close()
        self._file, self._records, self.memory = None, [], 0


class Holder(Protocol):
    """Whoever has an open chunk."""

    held: Held


class HoldingBudget:
    """The bytes that all open chunks of a processor may take in memory.

    Above `limit` the largest are spilled until three quarters of it are left, while `room`
    says that there is disk to spill to.
    """

    def __init__(
        self, limit: int, folder: Path, room: Callable[[int], bool] = lambda _: True
    ) -> None:
        self._limit = limit
        self._folder = folder
        self._room = room
        self._refused = False
        self._again = float("-inf")
        self._key = SpillKey()
        self._holders: dict[Holder, int] = {}
        self._memory = 0
        self.spilled = 0

    def watch(self, holder: Holder) -> None:
        self._holders.setdefault(holder, 0)
        self.changed(holder)

    def forget(self, holder: Holder) -> None:
        self._memory -= self._holders.pop(holder, 0)

    def watches(self, holder: Holder) -> bool:
        return holder in self._holders

    def changed(self, holder: Holder) -> None:
        """Count a watched chunk anew; call it when its records have changed.

        Adding up all chunks for each batch of records made a record dearer with each session.
        """
        known = self._holders.get(holder)
        if known is not None:
            self._holders[holder] = now = holder.held.memory
            self._memory += now - known

    def memory(self) -> int:
        """Bytes held in memory by all open chunks."""
        return self._memory

    async def trim(self) -> None:
        """Spill as far as the limit asks; a full disk leaves the records in memory."""
        over = self._memory - self._limit
        if over > 0 and time.monotonic() < self._again:
            return
        self._refused = over > 0 and not self._room(over)
        if over <= 0 or self._refused:
            return
        for holder in sorted(self._holders, key=lambda one: one.held.memory, reverse=True):
            if self._memory <= self._limit * 3 // 4:
                return
            before = holder.held.memory
            try:
                await asyncio.to_thread(holder.held.spill, self._folder, self._key)
            except OSError as error:
                log.error("cannot spill held records", folder=str(self._folder), error=str(error))
                self._refused, self._again = True, time.monotonic() + SPILL_AGAIN
                return
            self.spilled += before - holder.held.memory
            self.changed(holder)

    async def gate(self, _: int) -> bool:
        """Whether more records may be taken: not while the disk refuses what is over the limit.

        Without it a full disk would fill memory instead. The newest record of each chunk
        stays in memory in any case: that alone never closes the gate.
        """
        await self.trim()
        return not self._refused

    async def check(self) -> None:
        """Raise CannotSpill while nothing more is taken."""
        if self._refused:
            raise CannotSpill(
                f"open chunks hold {self.memory()} bytes, over {self._limit}, and {self._folder} "
                "does not take them: no more records are taken",
                hint="Free some space there: it goes on by itself. "
                "Or raise LUCID_PROCESSOR_HOLD_LIMIT",
            )
