"""Where a writer of `audit.events` stands in its chain: a file that survives any crash.

    slot = take_slot(folder, "api")             locked, until `release`
    slot.load(source, user)                     the chain goes on, or begins anew and says why
    slot.keep(events)                           on disk as pending: now they may be sent
    slot.settle()                               the broker holds all that was pending

HOME/audit/TOPIC/NAME.json is the state (docs/formats/audit.md), NAME.lock its lock. Commands
share one slot and hold it for a moment each; a service keeps its own.

LucidError
├── AuditBusy         another process has held the chain for too long
└── AuditFailed       the disk does not take or give the state
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from agents.platform.blobs import sync_folder, write_synced
from agents.platform.points import point
from agents.platform.retry import Transient
from schemas.audit import AuditEvent, ChainStarted, KafkaRecord, put_in_chain
from schemas.audit_chain import (
    NOTHING,
    Place,
    chain_started,
    entry_hash,
    new_chain,
    read_attributes,
)
from schemas.audit_trail import Known
from schemas.canonical import Count, Hex32, Strict, decode_any
from schemas.envelope import InvalidEvent
from schemas.errors import FormatError, LucidError

MOST_PENDING = 20_000
MOST_SLOTS = 64
STATE, LOCK, DAMAGED = ".json", ".lock", ".damaged-"


class AuditBusy(Transient):
    """Other processes of this installation write to the chain."""


class AuditFailed(LucidError):
    """What is done cannot be put down, so it is not done."""

    exit_status = 74  # EX_IOERR of sysexits.h


class KeptRecord(Strict):
    """A Kafka record of texts."""

    key: str
    headers: list[tuple[str, str]]
    value: str

    def to_kafka(self) -> KafkaRecord:
        return self.key.encode(), [(n, v.encode()) for n, v in self.headers], self.value.encode()


class ChainState(Strict):
    """The file; its members are explained in docs/formats/audit.md."""

    version: Literal[1] = 1
    chain: str
    entries: Count = 0
    head: Hex32 = NOTHING.hex()
    written: Count = 0
    pending: list[KeptRecord] = Field(default_factory=list)

    def hashes(self) -> list[bytes]:
        """Of the pending entries; raises InvalidEvent if they do not follow."""
        place, found = Place(self.chain, self.entries, bytes.fromhex(self.head)), []
        for record in self.pending:
            _, headers, value = record.to_kafka()
            attributes = read_attributes(headers)
            if Place.read(attributes) != place:
                raise InvalidEvent(f"a pending entry is not number {place.number} of its chain")
            found.append(entry_hash(attributes, value))
            place = Place(self.chain, place.number + 1, found[-1])
        return found

    def end(self) -> Place:
        """Where the next entry stands."""
        hashes = self.hashes()
        last = hashes[-1] if hashes else bytes.fromhex(self.head)
        return Place(self.chain, self.entries + len(hashes), last)


class Slot:
    """One chain's file and lock. `state` is there after `load`."""

    def __init__(self, folder: Path, name: str, service: str) -> None:
        self.folder, self.name, self.service = folder, name, service
        self.state: ChainState | None = None
        self._lock: int | None = None
        self._end = Place("", 0)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}{STATE}"

    @property
    def loaded(self) -> ChainState:
        """The state since the last change; call `load` first."""
        assert self.state is not None
        return self.state

    def try_lock(self) -> bool:
        """Take the lock unless another process has it; raises AuditFailed."""
        with _on_disk(self.path):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
        self._lock = lock
        return True

    def release(self) -> None:
        """Let the next one in; the state may be another one after this."""
        lock, self._lock, self.state = self._lock, None, None
        if lock is not None:
            os.close(lock)

    def load(self, source: str, user: str) -> None:
        """Read the state, or begin a chain with an entry of that source and user."""
        former = self._former()
        reason: Literal["first", "lost", "damaged"] = "lost" if former else "first"
        with _on_disk(self.path):
            try:
                self.state = read_state(self.path)
                self._end = self.state.end()
                return
            except FileNotFoundError:
                pass
            except FormatError:
                reason = "damaged"
                aside = f"{self.name}{DAMAGED}{secrets.token_hex(8)}"
                os.replace(self.path, self.folder / aside)
        chain = new_chain(self.service)
        self.state = ChainState(chain=chain)
        self._end = Place(chain, 0)
        kind: Literal["user", "service"] = "user" if self.service == "cli" else "service"
        start = ChainStarted(reason=reason, former=former)
        try:
            self.keep([AuditEvent(start, source, chain, user=user, user_type=kind)])
        except BaseException:
            self.state = None  # without its entry 0 there is no chain
            raise

    def keep(self, events: Sequence[AuditEvent]) -> list[AuditEvent]:
        """Put entries behind the chain, on disk, as pending; the events with their places.

        Raises AuditFailed, and AuditBusy when too many wait already.
        """
        state, place = self.loaded, self._end
        if len(state.pending) + len(events) > MOST_PENDING:
            raise AuditBusy(
                f"{len(state.pending)} audit entries wait for the broker in {self.path}",
                hint="Look at the broker; they are sent with the next entry",
            )
        records, placed = [], []
        for event, (record, hashed) in zip(events, put_in_chain(events, place), strict=True):
            key, headers, value = record
            records.append(KeptRecord(
                key=key.decode(), headers=[(name, text.decode()) for name, text in headers],
                value=value.decode(),
            ))  # fmt: skip
            placed.append(replace(event, place=place))
            place = Place(place.chain, place.number + 1, hashed)
        pending = [*state.pending, *records]
        written = max(state.written, *(event.micros for event in events))
        self._write(state.model_copy(update={"pending": pending, "written": written}))
        self._end = place
        point("audit.kept")
        return placed

    def settle(self) -> None:
        """The broker holds all that was pending; raises AuditFailed."""
        point("audit.sent")
        end = self._end
        update = {"entries": end.number, "head": end.previous.hex(), "pending": []}
        self._write(self.loaded.model_copy(update=update))

    @property
    def _lock_path(self) -> Path:
        return self.folder / f"{self.name}{LOCK}"

    def _former(self) -> str | None:
        """The chain that the lock names: the one whose state should be here."""
        assert self._lock is not None
        text = os.pread(self._lock, 200, 0).decode("ascii", "replace").strip()
        try:
            chain_started(text)
        except InvalidEvent:
            return None
        return text

    def _write(self, state: ChainState) -> None:
        temporary = self.folder / f".{self.name}.new"
        with _on_disk(self.path):
            temporary.unlink(missing_ok=True)
            write_synced(temporary, state.model_dump_json().encode())
            os.replace(temporary, self.path)
            sync_folder(self.folder)
            if self._former() != state.chain:
                assert self._lock is not None
                os.ftruncate(self._lock, 0)
                os.pwrite(self._lock, f"{state.chain}\n".encode(), 0)
                os.fsync(self._lock)
        self.state = state


def take_slot(folder: Path, service: str) -> Slot:
    """A slot of a service that no other process has; raises AuditBusy, AuditFailed."""
    for number in range(1, MOST_SLOTS + 1):
        slot = Slot(folder, service if number == 1 else f"{service}-{number}", service)
        if slot.try_lock():
            return slot
    raise AuditBusy(f"{MOST_SLOTS} processes write audit entries as {service} in {folder}")


def read_state(path: Path) -> ChainState:
    """A state as it is now, locked by others or not; raises OSError and FormatError."""
    state = decode_any(ChainState, path.read_bytes())
    chain_started(state.chain)
    return state


def read_states(folder: Path) -> list[ChainState]:
    """All states of a folder that can be read."""
    found = []
    for path in sorted(folder.glob(f"*{STATE}")):
        with _on_disk(path), contextlib.suppress(FileNotFoundError, FormatError):
            found.append(read_state(path))
    return found


def known_of(before: ChainState | None, after: ChainState) -> Known:
    """What an installation knows of a chain that it goes on writing while it is checked.

    before, after: the state from before and after the topic was read.
    """
    newest = [bytes.fromhex(after.head)] if after.entries else []
    perhaps = dict(enumerate([*newest, *after.hashes()], after.entries - len(newest)))
    hashes = {}
    if before is not None and before.chain == after.chain and before.entries:
        hashes = {before.entries - 1: bytes.fromhex(before.head)}
    return Known(
        after.chain, "this installation", hashes, perhaps, most=after.end().number,
        written=after.written,
    )  # fmt: skip


@contextlib.contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    """Raise what the disk says as AuditFailed."""
    try:
        yield
    except OSError as error:
        raise AuditFailed(
            f"the state of the audit chain does not work, {path}: {error.strerror or error}",
            hint="Nothing is done that cannot be put down; look at the folder's disk and owner",
        ) from error
