"""Frames to files: Lucid against the same job in Faust alone, Quix Streams and FastStream.

Each round records new sessions, and all versions then take just these records from the one broker,
one after the other, each as processes of its own, beginning with another one each time. Rates run
from the first partition that a version is assigned to its last file on disk. After each, its files
are read again and compared with the topic, record by record: a version that has fewer, other or
more of them, or whose offsets were not committed, fails the bench.

Seconds of CPU count from the same moment; Lucid's are of both services, less those of a start that
finds nothing to do. They depend less on what else the machine does than rates do.

Lucid does more in the same time: chains and signatures are checked, chunks go over a topic, and the
catalog knows them. `bare` is aiokafka that sends the records to another topic (relay.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.platform.broker import administering
from agents.platform.contract import apply_contract, load_contract
from agents.platform.keys import init_keys
from agents.platform.settings import Settings
from bench.passthrough import TARGET, make_target, pass_through
from bench.plain.job import DONE_FILE, KEY_FILE, Done, Order, read_session
from bench.recorded import TOPIC, Recorded, both, cpu_seconds, prepared, record, wait_stored
from bench.services import Running, on_own_stack

ROUNDS = 3
SESSIONS, TOTAL, RATE = 8, 160_000_000, 10_000_000
CONTENT, NOISE, RECORD_BYTES = "text", 0.4, 100_000  # halves when compressed
DEADLINE = 240.0
OWN = Path("bench/out/plain/bin/python")
"""The environment of those whose requirements conflict with Lucid's; `make bench-plain`."""

PLAIN = {"faust": Path(sys.executable), "quix": OWN, "faststream": OWN}


Taken = tuple[float, float]  # seconds, seconds of CPU


@dataclass(frozen=True, slots=True)
class Tally:
    """A session's payloads in their order. digest: SHA-256 over all of them."""

    records: int
    bytes: int
    digest: str


def run() -> dict[str, list[float]]:
    """Megabytes a second of each by round; goals: 1.5 times the best plain one, 0.8 of bare."""
    if not OWN.exists():
        raise RuntimeError(f"{OWN} is missing: run `make bench-plain` first")
    return on_own_stack(_measure)


async def _measure(settings: Settings) -> dict[str, list[float]]:
    init_keys(settings)
    await apply_contract(settings, load_contract(settings))
    await make_target(settings)
    content = await asyncio.to_thread(
        prepared, CONTENT, TOTAL // SESSIONS, RECORD_BYTES, noise=NOISE
    )
    idle = await asyncio.to_thread(_idle, settings)
    versions: list[tuple[str, Callable[[Settings, Recorded], Taken]]] = [
        ("lucid", partial(_lucid, idle)), ("bare", _bare),
        *((name, _runner(name)) for name in PLAIN),
    ]  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name, _ in versions}
    spent: dict[str, list[float]] = {name: [] for name, _ in versions}
    for number in range(ROUNDS):
        recorded = await record(settings, content, sessions=SESSIONS, total=TOTAL, rate=RATE)
        turn = number % len(versions)
        for name, work in versions[turn:] + versions[:turn]:
            seconds, cpu = await asyncio.to_thread(work, settings, recorded)
            found[name].append(recorded.raw / seconds / 1e6)
            spent[name].append(cpu * 1e3 / (recorded.raw / 1e6))
    return figures(found) | {f"{name}_cpu_ms_mb": values for name, values in spent.items()}


def figures(found: dict[str, list[float]]) -> dict[str, list[float]]:
    """Rates, and ratios within each round. ratio: of Lucid to the best of the plain versions."""
    lucid = found["lucid"]
    best = [max(rates) for rates in zip(*(found[name] for name in PLAIN), strict=True)]
    against = {"ratio": best, "bare_ratio": found["bare"]} | {
        f"{name}_ratio": found[name] for name in PLAIN
    }
    return {f"{name}_mb_s": rates for name, rates in found.items()} | {
        name: [mine / other for mine, other in zip(lucid, others, strict=True)]
        for name, others in against.items()
    }


# -- versions: seconds of each ---------------------------------------------------------------------


def _frames_topic(settings: Settings) -> str:
    return load_contract(settings).topic(TOPIC).full_name


def _bare(settings: Settings, recorded: Recorded) -> Taken:
    return pass_through(
        settings.kafka_servers(), _frames_topic(settings), TARGET, recorded.start, recorded.end
    )


def _idle(settings: Settings) -> float:
    """Seconds of CPU of a start of both services that find nothing to do."""
    with both(settings) as services:
        return sum(map(cpu_seconds, services))


def _lucid(idle: float, settings: Settings, recorded: Recorded) -> Taken:
    """From the processor's first partition being assigned."""
    with both(settings) as (processor, storage):
        ended = wait_stored(settings, storage, recorded)
        cpu = cpu_seconds(processor) + cpu_seconds(storage) - idle
        return ended - _assigned_at(processor), cpu


def _assigned_at(processor: Running) -> float:
    for line in processor.log.read_text().splitlines():
        if line.startswith("{") and (said := json.loads(line))["event"] == "assigned":
            return datetime.fromisoformat(said["time"]).timestamp()
    raise RuntimeError("the processor says nothing of its partitions")


def _runner(name: str) -> Callable[[Settings, Recorded], Taken]:
    def work(settings: Settings, recorded: Recorded) -> Taken:
        return run_plain(name, settings, _frames_topic(settings), recorded)

    return work


def run_plain(name: str, settings: Settings, topic: str, recorded: Recorded) -> Taken:
    """Run a plain version until it has done these records; raises RuntimeError if it did not."""
    home, servers = settings.home, settings.kafka_servers()
    expected = asyncio.run(on_topic(servers, topic, recorded))
    home.mkdir(parents=True, exist_ok=True)
    folder, log = home / f"plain-{name}-{secrets.token_hex(4)}", home / f"plain-{name}.log"
    folder.mkdir(mode=0o700)
    key = secrets.token_bytes(32)
    with os.fdopen(os.open(folder / KEY_FILE, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(key)
    order = Order(servers, topic, f"plain-{name}", str(folder), recorded.records)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(PLAIN[name]), "-m", f"bench.plain.{name}_plain", order.to_text()],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        done = _told(process, folder / DONE_FILE, log)
        asyncio.run(_committed(settings, topic, order.group, recorded))
        check_files(folder, key, expected)
        return done.ended - done.begun, done.cpu
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _told(process: subprocess.Popen[bytes], path: Path, log: Path) -> Done:
    """What the version says when it has done all; raises RuntimeError if it ends or hangs."""
    deadline = time.monotonic() + DEADLINE
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not do all: {log.read_text()[-2000:]}")
        time.sleep(0.05)
    return Done(**json.loads(path.read_text()))


# -- what has to be there --------------------------------------------------------------------------


async def on_topic(servers: str, topic: str, recorded: Recorded) -> dict[str, Tally]:
    """Each session's records as the topic has them."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="none",
        max_partition_fetch_bytes=8 * 1024**2,
    )  # fmt: skip
    count: dict[str, list[int]] = {}
    digests: dict[str, "hashlib._Hash"] = {}  # noqa: UP037  # a type of the stubs only
    await consumer.start()
    try:
        places = {TopicPartition(topic, number): end for number, end in recorded.end.items()}
        consumer.assign(list(places))
        for place in places:
            consumer.seek(place, recorded.start[place.partition])
        left = sum(end - recorded.start[place.partition] for place, end in places.items())
        while left > 0:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                left -= len(batch)
                for one in batch:
                    session = (one.key or b"").decode()
                    tally = count.setdefault(session, [0, 0])
                    tally[0] += 1
                    tally[1] += len(one.value)
                    digests.setdefault(session, hashlib.sha256()).update(one.value)
    finally:
        await consumer.stop()
    return {
        name: Tally(records, size, digests[name].hexdigest())
        for name, (records, size) in count.items()
    }


def check_files(folder: Path, key: bytes, expected: dict[str, Tally]) -> None:
    """Raise RuntimeError unless the files have each session's records, all, once, in order."""
    found = {path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."}
    if found != set(expected):
        raise RuntimeError(f"{folder} has {len(found)} sessions instead of {len(expected)}")
    for session, tally in expected.items():
        records = size = 0
        digest = hashlib.sha256()
        for payload in read_session(folder / session, key):
            records += 1
            size += len(payload)
            digest.update(payload)
        if (mine := Tally(records, size, digest.hexdigest())) != tally:
            raise RuntimeError(f"{folder / session} holds {mine} instead of {tally}")


async def _committed(settings: Settings, topic: str, group: str, recorded: Recorded) -> None:
    """Wait until the group has committed all; raises RuntimeError if it does not, or other ones."""
    async with administering(settings) as admin:
        deadline = time.monotonic() + 30
        while True:
            known = await admin.list_consumer_group_offsets(group)
            found = {at.partition: one.offset for at, one in known.items() if at.topic == topic}
            behind = {
                number: (found.get(number), end)
                for number, end in recorded.end.items()
                if end > recorded.start[number] and found.get(number) != end
            }
            if not behind:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{group} has not committed all: {behind} of {topic}")
            await asyncio.sleep(0.1)
