"""One session inside a processor: its open chunk, its progress, its key."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

from agents.session.processor.chunker import Chunker, Cut
from agents.session.processor.sealer import make_manifest, seal_cut, session_key
from schemas.chunks import Chunk, Compressor
from schemas.manifests import Manifest
from schemas.progress import SessionProgress

_local = threading.local()


def compressor_of_thread(level: int, window_log: int) -> Compressor:
    """This thread's context for the parameters: contexts are never shared between threads."""
    contexts: dict[tuple[int, int], Compressor] = _local.__dict__.setdefault("contexts", {})
    found = contexts.get((level, window_log))
    if found is None:
        found = contexts[level, window_log] = Compressor(level, window_log)
    return found


class Session:
    """A session that is being cut and sealed on one partition.

    `sealing` and `publishing` keep its chunks in order, while the next one is sealed as
    the one before is published (asyncio locks are first come, first served). told: sends
    the event that it was opened, if this member read its `open`. since: monotonic time of its
    end, or of being taken up.
    """

    def __init__(self, progress: SessionProgress, identities: Sequence[str]) -> None:
        self.progress = progress
        # One that has ended is only remembered; unwrapping thousands held up taking over.
        self.key = None if progress.ended else session_key(progress.opened, identities)
        tally = progress.tally
        self.chunker = Chunker(
            progress.opened.sealing, progress.next_seq, tally.missing_ranges, tally.missing_runs
        )
        self.chunker.ended = progress.ended
        self.told: asyncio.Task[None] | None = None
        self.since = time.monotonic()
        self.sealing = asyncio.Lock()
        self.publishing = asyncio.Lock()

    def seal(self, cut: Cut) -> tuple[Chunk, SessionProgress, Manifest | None]:
        """Seal one cut, in a worker thread; the manifest comes with the last."""
        assert self.key is not None, "a session that has ended is cut no more"
        records = cut.held.take()
        sealing = self.progress.opened.sealing
        chunk, self.progress = seal_cut(
            self.progress,
            records,
            cut.last_offset,
            self.key,
            compressor_of_thread(sealing.level, sealing.window_log),
            last=cut.last,
        )
        if not cut.last:
            return chunk, self.progress, None
        manifest = make_manifest(self.progress, records[-1], self.key)
        self.progress = self.progress.model_copy(update={"ended": True})
        self.since = time.monotonic()
        return chunk, self.progress, manifest
