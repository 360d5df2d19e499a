"""A processor that is killed: seconds until its partitions are read to their heads again.

Sessions are recorded on all partitions. Each has one sealed chunk and half of an open one,
and goes on at a slow rate while the processor is killed. Then, a few times each:

restarted    SIGKILL, and the same command is started at once
twice        the same, but what was started is killed while it joins the group, which is the
             worst moment: only when the group is complete does the broker begin to miss it
taken over   SIGKILL to one of two, and the other gets its partitions

`limit` is 10 s and what redoing one open chunk of each session takes: the first processor's
time for reading all of it and sealing one chunk of each, by bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from agents.platform.broker import administering
from agents.platform.contract import apply_contract, load_contract
from agents.platform.keys import init_keys
from agents.platform.settings import Settings
from agents.session.recorder.order import Order, Outlet
from agents.session.recorder.recording import Recording
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.base import Control, Emit
from agents.session.recorder.sources.synthetic import SyntheticSource
from agents.session.recorder.wiring import make_order, open_outlet
from bench.services import Running, by_partition, ends, on_own_stack, spawn

SESSIONS = 32
SIZE, CUT = 100_000, 8 * 2**20
BURST = 126  # frames that come at once: one chunk of 83, and half of the next
SLOW = 0.25  # frames a second after that: the second chunk is open all the time
ROUNDS = 2
ALLOWED = 10.0
SETTLED_SECONDS = 1.5  # longer than from one commit to the next
DEADLINE = 120.0

READ, COMMITTED = "lucid_read_position", "lucid_commit_position"


class Going(SyntheticSource):
    """`BURST` payloads at once, then a few until the recording is stopped."""

    def __init__(self, seed: int) -> None:
        super().__init__(frames=BURST, size=SIZE, seed=seed)
        self._more = SyntheticSource(frames=10**6, size=SIZE, rate=SLOW, seed=seed)

    def run(self, emit: Emit, control: Control) -> None:
        super().run(emit, control)
        self._more.run(emit, control)


@dataclass
class Back:
    """Seconds from a kill: until all partitions are assigned, and are read to their heads.

    again: records that were read again, with those that came meanwhile.
    """

    assigned: float
    head: float
    again: int


def run() -> dict[str, float]:
    """Seconds of the slowest recovery of each kind; goal: ratios to the limit of at most 1."""
    return on_own_stack(_measure)


async def _measure(settings: Settings) -> dict[str, float]:
    init_keys(settings)
    await apply_contract(settings, load_contract(settings))
    async with _recorded(settings) as recordings:
        redo, recoveries = await asyncio.to_thread(_kill, settings)
        await _close(settings, recordings)
    limit = ALLOWED + redo
    found: dict[str, float] = {"sessions": SESSIONS, "redo_seconds": redo, "limit_seconds": limit}
    for name, rounds in recoveries.items():
        worst = max(rounds, key=lambda one: one.head)
        found |= {
            f"{name}_seconds": worst.head, f"{name}_least_seconds": min(b.head for b in rounds),
            f"{name}_assigned_seconds": worst.assigned,
            f"{name}_again_mb": worst.again * SIZE / 1e6, f"{name}_ratio": worst.head / limit,
        }  # fmt: skip
    return found


# -- sessions --------------------------------------------------------------------------------------


@asynccontextmanager
async def _recorded(settings: Settings) -> AsyncIterator[dict[Recording, asyncio.Task[object]]]:
    """Sessions that are being recorded on all partitions, their bursts on the broker."""
    order = make_order(settings, RecorderSettings.load(cut_seconds=600, cut_bytes=CUT))
    async with open_outlet(settings, asyncio.Event()) as outlet:
        opened = await _open(order, outlet)
        running: dict[Recording, asyncio.Task[object]] = {
            recording: asyncio.create_task(recording.run()) for recording in opened
        }
        try:
            async with asyncio.timeout(DEADLINE):
                while any(recording.frames < BURST for recording in running):
                    await asyncio.sleep(0.1)
                while sum((await ends(settings, "session.frames")).values()) < len(opened) * BURST:
                    await asyncio.sleep(0.1)
            yield running
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)


async def _open(order: Order, outlet: Outlet) -> list[Recording]:
    """As many sessions as are wanted, and more until each partition has one."""
    found: list[Recording] = []
    while len(found) < SESSIONS or len({one.partition for one in found}) < outlet.partitions:
        recording = Recording(Going(len(found)), order, outlet)
        await recording.open()
        found.append(recording)
    return found


async def _close(settings: Settings, recordings: dict[Recording, asyncio.Task[object]]) -> None:
    """End all sessions: each has to get its manifest, or what was measured was no recovery."""
    for recording in recordings:
        recording.stop("measured")
    await asyncio.gather(*recordings.values())

    def sealed() -> bool:
        found = asyncio.run(ends(settings, "session.manifests"))
        return sum(found.values()) == len(recordings)

    with spawn(settings, "processor", label="last") as last:
        await asyncio.to_thread(last.wait, sealed, "manifests of all sessions", 0.5)


# -- kills -----------------------------------------------------------------------------------------


def _kill(settings: Settings) -> tuple[float, dict[str, list[Back]]]:
    """Seconds of redoing one open chunk of each session, and every recovery by its kind."""
    found: dict[str, list[Back]] = {"restarted": [], "twice": [], "taken_over": []}
    with ExitStack() as processes:
        start = partial(_start, settings, processes)
        running = start("processor-0")
        running.wait(partial(_has_some, running), "partitions")
        began = time.monotonic()
        running.wait(lambda: _at_head(settings, running), "head")
        running.wait(lambda: running.metric("lucid_chunks_processed_total") >= SESSIONS, "chunks")
        redo = (time.monotonic() - began) * CUT / (BURST * SIZE)
        for number in range(ROUNDS):
            for kind, backs in found.items():
                other = start(f"other-{number}") if kind == "taken_over" else None
                if other is not None:
                    other.wait(partial(_has_some, other), "partitions")
                committed = _settled(settings, *([running, other] if other else [running]))
                if kind == "twice":
                    running.process.kill()
                    running = start(f"joining-{number}")
                    running.wait(lambda: _group(settings) == "PreparingRebalance", "rebalance")
                heir = partial(_same, other) if other else partial(start, f"{kind}-{number}")
                back, running = _recover(settings, running, heir, committed)
                backs.append(back)
        running.process.kill()
    return redo, found


def _start(settings: Settings, processes: ExitStack, label: str) -> Running:
    return processes.enter_context(spawn(settings, "processor", label=label))


def _has_some(running: Running) -> bool:
    return running.said("assigned") > 0


def _group(settings: Settings) -> str:
    """The state of the processors' group, as the broker says."""

    async def look() -> str:
        async with administering(settings) as admin:
            (answer,) = await admin.describe_consumer_groups([f"{settings.topic_prefix}processor"])
        (_, _, state, *_), *_ = answer.groups
        return str(state)

    return asyncio.run(look())


def _same(running: Running) -> Running:
    return running


def _recover(
    settings: Settings, victim: Running, successor: Callable[[], Running],
    committed: dict[int, int],
) -> tuple[Back, Running]:  # fmt: skip
    """Kill one; until the other has read all partitions to their heads."""
    killed = time.monotonic()
    victim.process.kill()
    heir = successor()
    heir.wait(lambda: len(_positions(heir, READ)) == len(committed), "all partitions", 0.05)
    assigned = time.monotonic() - killed
    heir.wait(lambda: _at_head(settings, heir), "head")
    head = time.monotonic() - killed
    again = sum(at - committed[number] for number, at in _positions(heir, READ).items())
    return Back(assigned, head, again), heir


def _positions(running: Running, name: str) -> dict[int, int]:
    try:
        return by_partition(running.metrics(), name)
    except OSError:  # it does not listen yet
        return {}


def _at_head(settings: Settings, *members: Running) -> bool:
    """Whether they have read, between them, what is on all partitions now."""
    heads = asyncio.run(ends(settings, "session.frames"))
    read = {number: at for one in members for number, at in _positions(one, READ).items()}
    return all(read.get(number, -1) >= head for number, head in heads.items())


def _settled(settings: Settings, *members: Running) -> dict[int, int]:
    """What is committed once all is read, and a commit later still is."""
    deadline = time.monotonic() + DEADLINE
    known: dict[int, int] = {}
    while time.monotonic() < deadline:
        members[0].wait(lambda: _at_head(settings, *members), "head")
        found: dict[int, int] = {}
        for one in members:
            found |= _positions(one, COMMITTED)
        if found == known and len(found) == len(asyncio.run(ends(settings, "session.frames"))):
            return found
        known = found
        time.sleep(SETTLED_SECONDS)
    raise TimeoutError(f"commits do not settle within {DEADLINE:g} s")
