"""Running a verification: chunks are read and checked in a few threads, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from schemas.errors import LucidError
from schemas.verdicts import Report
from schemas.verify import SessionCheck
from schemas.verify_chunk import ChunkFacts, ChunkTask, check_chunk, unreadable
from schemas.verify_documents import Access
from schemas.verify_source import SessionSource

Step = Callable[[int, int], None]
"""Called with how many chunks are done, and of how many."""

MAX_WORKERS = 4  # each holds some 64 MiB with chunks of the largest size


def run_verification(
    source: SessionSource, access: Access, step: Step = lambda *_: None, workers: int | None = None
) -> Report:
    """Verify a session; the report never depends on the number of `workers`."""
    workers = workers or min(MAX_WORKERS, os.cpu_count() or 1)
    check = SessionCheck(source, access)
    pending: deque[Future[ChunkFacts]] = deque()
    done = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:

        def take() -> None:
            nonlocal done
            check.take(pending.popleft().result())
            done += 1
            step(done, check.total)

        try:
            for task in check.tasks():
                pending.append(pool.submit(_check, source, task))
                # At most one chunk waits for its turn while each thread works on another.
                if not check.parallel or len(pending) > workers:
                    take()
            while pending:
                take()
        finally:
            for future in pending:
                future.cancel()
    return check.finish()


def _check(source: SessionSource, task: ChunkTask) -> ChunkFacts:
    """One chunk; bytes that cannot be had are a verdict, so that the others are still checked."""
    try:
        return check_chunk(task, source.chunk(task.index))
    except OSError as error:
        return unreadable(task, f"cannot be read: {error.strerror or error}")
    except LucidError as error:
        return unreadable(task, f"cannot be read: {error.what}")
