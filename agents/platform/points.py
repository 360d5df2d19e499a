"""Named places in the code where a test may end, stop or hold the process.

    point("blobs.written")               anywhere
    await async_point("runner.before-commit")    in a coroutine: only this one is held

Off, which they are unless LUCID_TEST_POINTS is set, they cost one look at a global. The
variable names points and what happens there at which hit, separated by commas:

    processor.chunk-sent:kill        SIGKILL to this process, at the first hit
    storage.file-stored:stop:3       SIGSTOP to this process, at the third
    processor.before-progress:hold   whoever comes there waits for ever, the others go on
    runner.before-commit:note        nothing happens

LUCID_TEST_POINTS_LOG names a file to which each hit of any point appends a line, once points
are armed: process number, point, hit and what is done.

LucidError
└── InvalidPoint      LUCID_TEST_POINTS names no point, or nothing that can be done there
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from schemas.errors import LucidError

VARIABLE = "LUCID_TEST_POINTS"
LOG_VARIABLE = "LUCID_TEST_POINTS_LOG"

POINTS = {
    "recorder.appended": "a record is in the spool, perhaps not on disk yet",
    "recorder.synced": "records are on disk, the broker has not been sent them",
    "recorder.sent": "records are on their way to the broker",
    "recorder.acknowledged": "the broker holds a record, the spool has it still",
    "processor.chunk-sent": "the broker holds a chunk, nothing else says so",
    "processor.manifest-sent": "the broker holds the last chunk and the manifest",
    "processor.before-progress": "chunk and manifest are sent, progress is about to be",
    "processor.progress-sent": "the broker holds progress, no offset is finished",
    "runner.before-commit": "offsets are about to be committed, if any have moved",
    "runner.after-commit": "the broker holds a commit, the workers have not been told",
    "blobs.written": "a file is on disk under a temporary name",
    "blobs.linked": "a file has its name, its folder is not on disk yet",
    "storage.file-stored": "a chunk or manifest is a file, the catalog has no entry",
    "storage.entry-made": "the catalog has the entry, no event says so",
    "storage.event-sent": "the event is sent, the offset is not finished",
    "audit.kept": "an audit entry is on disk, the broker has not been sent it",
    "audit.sent": "the broker holds an audit entry, its writer does not know yet",
    "retention.claimed": "no hold forbids the erasure, nothing says yet that it has begun",
    "retention.recorded": "the erasure's record is on disk, nobody was told",
    "retention.told": "events say that deleting begins, nothing is deleted",
    "retention.key-destroyed": "the wrapped key is gone from the store, the chunks are there",
    "retention.file-removed": "a file is gone, others are not",
    "retention.files-gone": "nothing is left in the store, the progress has no tombstone",
    "retention.tombstone-sent": "the broker holds the tombstone, the catalog does not know",
    "retention.noted": "the catalog knows what the broker holds, no event says so",
    "retention.shredded": "the event is sent, the claim still stands",
}

Action = Literal["kill", "stop", "hold", "note"]


class InvalidPoint(LucidError):
    """A fault point is unknown, or what is to be done there is."""

    exit_status = 78  # EX_CONFIG of sysexits.h


class Armed(NamedTuple):
    """What happens at the `hit`-th time, counted from 1, that a point is passed."""

    action: Action
    hit: int


class Plan:
    """The armed points of this process, and how often each point was passed."""

    def __init__(self, armed: Mapping[str, Armed], log: Path | None = None) -> None:
        self._armed, self._log = armed, log
        self._hits: dict[str, int] = {}
        self._guard = threading.Lock()

    def passed(self, name: str) -> bool:
        """Count a hit and do what is armed; whether the caller is to be held."""
        with self._guard:
            hit = self._hits[name] = self._hits.get(name, 0) + 1
        found = self._armed.get(name)
        action = found.action if found is not None and found.hit == hit else "note"
        self._note(f"{os.getpid()} {name} {hit} {action}\n")
        if action in ("kill", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
        return action == "hold"

    def _note(self, line: str) -> None:
        if self._log is not None:
            descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)


_plan: Plan | None = None


def point(name: str) -> None:
    """Pass a point; holding it blocks this thread."""
    if _plan is not None and _plan.passed(name):
        threading.Event().wait()


async def async_point(name: str) -> None:
    """Pass a point; holding it blocks this coroutine alone."""
    if _plan is not None and _plan.passed(name):
        await asyncio.Event().wait()


def arm(environment: Mapping[str, str] = os.environ) -> None:
    """Take the plan from the environment; raises InvalidPoint."""
    global _plan
    text, log = environment.get(VARIABLE), environment.get(LOG_VARIABLE)
    _plan = Plan(read_plan(text), Path(log) if log else None) if text else None


def read_plan(text: str) -> dict[str, Armed]:
    """Read `name:action[:hit]`, separated by commas; raises InvalidPoint."""
    plan = {}
    for part in text.split(","):
        name, _, rest = part.strip().partition(":")
        action, _, hit = rest.partition(":")
        if name not in POINTS or action not in get_args(Action) or not _is_count(hit or "1"):
            raise InvalidPoint(
                f"{VARIABLE} has {part.strip()[:80]!r}",
                hint=f"It takes NAME:{'|'.join(get_args(Action))}[:HIT] with one of the names "
                f"{', '.join(POINTS)}",
            )
        plan[name] = Armed(cast(Action, action), int(hit or "1"))
    return plan


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 10**9
