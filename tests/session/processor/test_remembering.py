"""Sessions that have ended: remembered for a while, taken up without a key, then forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyrage
import pytest
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry

from agents.platform.retry import Deadline
from agents.session.processor import worker as module
from agents.session.processor.holding import HoldingBudget
from agents.session.processor.metrics import ProcessorMetrics
from agents.session.processor.worker import CannotTakeUp, FramesWorker, Shared
from schemas.chunks import Chunk
from schemas.errors import LucidError
from schemas.frames import FrameRecord, to_kafka
from schemas.manifests import Manifest
from schemas.progress import SessionProgress
from tests.session.processor.test_sealing import PROCESSOR, make_log


class Memory:
    """Results of a worker, in memory."""

    def __init__(self) -> None:
        self.progress: dict[str, SessionProgress] = {}
        self.forgotten: list[str] = []
        self.refused: list[str] = []

    async def read_progress(self, _: int) -> list[SessionProgress]:
        return list(self.progress.values())

    async def publish_chunk(self, _: SessionProgress, chunk: Chunk) -> None: ...
    async def publish_manifest(self, _: SessionProgress, manifest: Manifest) -> None: ...
    async def tell(self, data: object, subject: str) -> None: ...

    async def publish_progress(self, progress: SessionProgress) -> None:
        self.progress[progress.opened.session] = progress

    async def forget(self, progress: SessionProgress) -> None:
        self.forgotten.append(progress.opened.session)

    async def refuse(self, _: object, error: LucidError) -> None:
        self.refused.append(error.code)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def make_worker(
    results: Memory, pool: ThreadPoolExecutor, folder: Path, identity: str = PROCESSOR.secret
) -> FramesWorker:
    holding = HoldingBudget(10**8, folder)
    metrics = ProcessorMetrics(CollectorRegistry(), holding)
    shared = Shared(results, [identity], pool, holding, metrics)  # type: ignore[arg-type]

    def fail(error: BaseException) -> None:
        raise error

    return FramesWorker(TopicPartition("session.frames", 0), shared, fail)


def raws(records: Sequence[FrameRecord], first: int = 0) -> list[Any]:
    found = []
    for offset, record in enumerate(records, first):
        key, headers, value = to_kafka(record)
        found.append(SimpleNamespace(offset=offset, key=key, headers=headers, value=value))
    return found


async def test_only_what_ended_long_ago_and_is_committed_is_forgotten(
    pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, worker = Memory(), None
    first, second, third = make_log(seed=1), make_log(seed=2), make_log(seed=3)
    log = [*first, *second, *third[:-1]]
    worker = make_worker(results, pool, tmp_path)
    await worker.take(raws(log))
    await worker.drain(Deadline(20))
    await worker.committed(len(log))
    await worker.drain(Deadline(20))
    assert results.forgotten == [], "they ended a moment ago"
    monkeypatch.setattr(module, "REMEMBER_SECONDS", -1.0)
    await worker.committed(len(first) + 1)
    await worker.drain(Deadline(20))
    assert results.forgotten == [str(first[0].session)], "the second one's end is not committed"
    await worker.committed(len(log))
    await worker.committed(len(log))
    await worker.drain(Deadline(20))
    assert results.forgotten == [str(one[0].session) for one in (first, second)]
    await worker.close()


async def test_a_session_that_has_ended_is_taken_up_without_its_key(
    pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, log = Memory(), make_log(seed=4)
    worker = make_worker(results, pool, tmp_path)
    await worker.take(raws(log))
    await worker.drain(Deadline(20))
    await worker.close()
    other = make_worker(results, pool, tmp_path, str(pyrage.x25519.Identity.generate()))
    await other.start()
    await other.take(raws(log, len(log)))
    await other.drain(Deadline(20))
    assert results.refused == [], "they are duplicates, and no strangers"
    monkeypatch.setattr(module, "REMEMBER_SECONDS", -1.0)
    await other.committed(2 * len(log))
    await other.drain(Deadline(20))
    assert results.forgotten == [str(log[0].session)]
    await other.close()


async def test_a_session_that_runs_is_not_taken_up_without_its_key(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    results, log = Memory(), make_log(60, seed=5)
    worker = make_worker(results, pool, tmp_path)
    await worker.take(raws(log[:40]))
    await worker.drain(Deadline(20))
    await worker.close()
    assert results.progress, "nothing was sealed"
    other = make_worker(results, pool, tmp_path, str(pyrage.x25519.Identity.generate()))
    with pytest.raises(CannotTakeUp, match=str(log[0].session)):
        await other.start()
    await other.close()
