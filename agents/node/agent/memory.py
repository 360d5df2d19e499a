"""What a node's agent must not forget: its counter, and the work of the last hour.

    HOME/node/ID.json       {counter, slots, taken}, replaced as a whole, mode 0600
    HOME/node/work/*.json   put there by programs on the node, whole (write, then rename):
                            {"kind": "relay_bytes", "amount": 5000000, "time": microseconds}

A counter is the time in microseconds or, where the clock went back, one more than the last;
it is on disk before its heartbeat is sent. So none is used twice, and a node whose file is
lost goes on without being taken for a replay. A work file
is counted once: its name is on disk together with what it adds, and only then it is removed.

LucidError
└── MemoryUnreadable    the file is damaged, and work may be lost with it
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import structlog
from pydantic import Field

from schemas.canonical import Strict, decode_any, encode
from schemas.errors import FormatError, LucidError
from schemas.node_base import Amount, Micros
from schemas.node_heartbeats import LATE_SLOTS, SLOT, SlotWork

log = structlog.get_logger(__name__)
MAX_FILES = 10_000
MAX_FILE_BYTES = 4096
LIMITS = {"relay_bytes": 10**12, "storage_proofs": 10**6, "signatures": 10**6}


class MemoryUnreadable(LucidError):
    """The agent's file cannot be read."""

    exit_status = 74  # EX_IOERR of sysexits.h


class WorkDone(Strict):
    """Some work that a program did. time: when, in microseconds."""

    kind: Literal["relay_bytes", "storage_proofs", "signatures"]
    amount: Annotated[int, Field(ge=1)]
    time: Micros


class Remembered(Strict):
    """What stands in the file."""

    version: Literal[1] = 1
    counter: Amount = 0
    slots: list[SlotWork] = Field(default_factory=list)
    taken: list[str] = Field(default_factory=list)


class Memory:
    """The agent's memory; one process owns it."""

    def __init__(self, path: Path, work: Path) -> None:
        self._path, self._work = path, work
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._known = self._read()

    def _read(self) -> Remembered:
        try:
            return decode_any(Remembered, self._path.read_bytes())
        except FileNotFoundError:
            return Remembered()
        except (OSError, FormatError) as error:
            raise MemoryUnreadable(
                f"cannot read {self._path}: {error}",
                hint="Restore or remove it; the work of the last hour is then not told",
            ) from error

    @property
    def counter(self) -> int:
        return self._known.counter

    def next_beat(self, now: int) -> tuple[int, list[SlotWork]]:
        """The next counter, and the work of the last hour; on disk when this returns."""
        newest = now // SLOT
        slots = {one.slot: one for one in self._known.slots}
        files = self._files()
        names = []
        for file in files:
            if file.name in self._known.taken:
                continue
            done = _read_work(file)
            slot = None if done is None else done.time // SLOT
            if done is None or slot is None or not newest - LATE_SLOTS < slot <= newest:
                log.warning("work is not counted", file=str(file))
                self._set_aside(file)
                continue
            slots[slot] = _more(slots.get(slot), slot, done)
            names.append(file.name)
        # One slot less than the manager takes: the newest may be over when it comes.
        kept = sorted(slot for slot in slots if newest - LATE_SLOTS < slot <= newest)
        self._write(Remembered(
            counter=max(self._known.counter + 1, now), slots=[slots[one] for one in kept],
            taken=[*(one.name for one in files if one.name in self._known.taken), *names],
        ))  # fmt: skip
        self._remove(file for file in files if file.name in self._known.taken)
        self._known = self._known.model_copy(update={"taken": []})
        return self._known.counter, self._known.slots

    def _files(self) -> list[Path]:
        return sorted(self._work.glob("*.json"))[:MAX_FILES]

    def _write(self, known: Remembered) -> None:
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(known))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._known = known

    def _set_aside(self, file: Path) -> None:
        file.rename(file.with_suffix(".refused"))

    @staticmethod
    def _remove(files: Iterable[Path]) -> None:
        for file in files:
            file.unlink(missing_ok=True)


def _read_work(file: Path) -> WorkDone | None:
    try:
        with file.open("rb") as opened:
            return decode_any(WorkDone, opened.read(MAX_FILE_BYTES))
    except (OSError, FormatError):
        return None


def _more(before: SlotWork | None, slot: int, done: WorkDone) -> SlotWork:
    before = before or SlotWork(slot=slot, relay_bytes=0, storage_proofs=0, signatures=0)
    total = min(LIMITS[done.kind], getattr(before, done.kind) + done.amount)
    return before.model_copy(update={done.kind: total})
