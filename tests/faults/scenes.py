"""One service alone, ended at one point, started again, and what it leaves compared.

A scene has topics of one partition, a consumer group and a database of its own, so that
many run at the same time: each waits ten seconds for the broker to give up on a killed member.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from aiokafka import AIOKafkaProducer
from pymongo import MongoClient

from agents.platform.contract import apply_contract, load_contract
from agents.platform.keys import init_keys, load_identities, load_recipients, load_signer
from agents.platform.points import LOG_VARIABLE, VARIABLE
from agents.platform.settings import Settings
from agents.session.processor.sealer import open_session
from agents.session.processor.session import Session
from schemas.canonical import encode
from schemas.chunks import Sealing
from schemas.controls import Close, Keepalive, Open
from schemas.datakey import derive, wrap
from schemas.frames import FrameRecord, Kind, to_kafka
from schemas.manifests import checkpoint_of
from schemas.notes import Signer
from schemas.sessions import new_session_id
from schemas.stored import ChunkRecord, ManifestRecord
from tests.conftest import Stack
from tests.factories import RECORDER, START, Recording, wrapped_key_text
from tests.faults.judge import read_folder
from tests.faults.reference import is_whole
from tests.faults.topics import records
from tests.waiting import wait_for

SECONDS = 240.0  # for any one step; the cores may be busy
FRAMES = 40
SMALL = Sealing(cut_bytes=4096, cut_us=60_000_000)
KafkaRecord = tuple[bytes, list[tuple[str, bytes]], bytes]


@dataclass
class Made:
    """A session's records, and what the same code makes of them undisturbed."""

    session: str
    records: list[FrameRecord] = field(repr=False)
    chunks: list[KafkaRecord] = field(default_factory=list, repr=False)
    manifest: KafkaRecord = field(default=(b"", [], b""), repr=False)
    files: dict[str, bytes] = field(default_factory=dict, repr=False)


def make(settings: Settings, signer: Signer, seed: int) -> Made:
    """A session of noise for the recipients of the keys folder, cut every few records."""
    noise = random.Random(seed)
    session, data_key = new_session_id(START + seed, noise.randbytes(10)), noise.randbytes(32)
    recording = Recording(session, derive(data_key, session))
    recording.add(Kind.OPEN, _opened(settings, session, data_key))
    for number in range(FRAMES):
        recording.add(Kind.FRAMES, noise.randbytes(noise.randint(0, 1500)))
        if number % 9 == 8:
            recording.add(Kind.KEEPALIVE, Keepalive(note=recording.note()))
    recording.add(Kind.CLOSE, Close(reason="done", note=recording.note("done")))
    made = Made(str(session), recording.records)
    identities = load_identities(settings.keys_dir / "processor.age")
    again = Session(open_session(made.records[0], 0, 0), identities)
    wrapped = again.progress.opened.wrapped_key
    for offset, record in enumerate(made.records):
        for cut in again.chunker.add(record, offset):
            chunk, _, manifest = again.seal(cut)
            made.chunks.append(ChunkRecord(chunk, wrapped).to_kafka())
            made.files[f"{chunk.header.index:08d}.chunk"] = chunk.data
            if manifest is not None:
                note = signer.sign(checkpoint_of(manifest).to_text())
                made.manifest = ManifestRecord(encode(manifest), note, wrapped).to_kafka()
                made.files |= {"manifest.json": made.manifest[2], "checkpoint.txt": note.encode(),
                               "key.age": wrapped}  # fmt: skip
    return made


def _opened(settings: Settings, session: UUID, data_key: bytes) -> Open:
    recipients = load_recipients(settings)
    return Open(
        session=str(session), recorder=str(RECORDER.verifier),
        key=wrapped_key_text(wrap(data_key, recipients)), recipients=recipients,
        codec="bytes/1", source={}, host="desk", sealing=SMALL,
    )  # fmt: skip


class Scene:
    """Topics, keys, a database and two made sessions, for one service that is started twice."""

    def __init__(self, stack: Stack, home: Path, room: str) -> None:
        self.home, self.room = home, room
        self.command = ["run", room]
        mark = uuid4().hex[:10]
        home.mkdir(parents=True)
        topics = Path(__file__).parents[2].joinpath("topics.yaml").read_text()
        (home / "topics.yaml").write_text(re.sub(r"partitions: \d+", "partitions: 1", topics))
        self.settings = Settings.load(
            home=home, kafka=stack.kafka, mongo=stack.mongo, redis=None, database=f"p{mark}",
            topic_prefix=f"p{mark}.", topics_file=home / "topics.yaml", host="desk",
        )  # fmt: skip
        init_keys(self.settings)
        signer = load_signer(self.settings, "processor")
        self.sessions = [make(self.settings, signer, seed) for seed in (1, 2)]
        self.process: subprocess.Popen[bytes] | None = None
        self.points_log = home / "points.log"
        asyncio.run(apply_contract(self.settings, load_contract(self.settings)))

    # -- the service -------------------------------------------------------------------------

    def env(self, armed: str = "") -> dict[str, str]:
        """What a process of this scene needs, with points armed or not."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("LUCID_")}
        env |= {
            "LUCID_HOME": str(self.home), "LUCID_KAFKA": self.settings.kafka_servers(),
            "LUCID_MONGO": self.settings.mongo_url(), "LUCID_DATABASE": self.settings.database,
            "LUCID_TOPIC_PREFIX": self.settings.topic_prefix, "LUCID_HOST": "desk",
            "LUCID_TOPICS_FILE": str(self.home / "topics.yaml"), "LUCID_MIN_FREE": "1MiB",
            f"LUCID_{self.room.upper()}_PORT": "0",
        }  # fmt: skip
        if armed:
            env |= {VARIABLE: armed, LOG_VARIABLE: str(self.points_log)}
        return env

    def start(self, armed: str = "") -> None:
        """Start the service, or what `command` says instead."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agents.cli", *self.command], env=self.env(armed),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def log(self) -> Path:
        return self.home / "service.log"

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the service; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def until(self, look: Callable[[], Any], what: str) -> Any:
        """The first true answer; raises AssertionError after a deadline."""
        try:
            return wait_for(look, what, SECONDS, every=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}; the end of the log:\n{self.log_end()}") from error

    def log_end(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-15:])

    def passed(self) -> list[tuple[str, str]]:
        """Point and action of each hit so far."""
        if not self.points_log.exists():
            return []
        lines = [line.split() for line in self.points_log.read_text().splitlines()]
        return [(name, action) for _, name, _, action in lines]

    def killed_at(self, point: str, hit: int = 1) -> None:
        """Start the service armed, and wait until it has killed itself at `point`."""
        self.start(f"{point}:kill:{hit}")
        process = self.process
        assert process is not None
        self.until(lambda: process.poll() is not None, f"death at {point}")
        found = [name for name, action in self.passed() if action == "kill"]
        if process.returncode != -signal.SIGKILL or found != [point]:
            raise AssertionError(f"status {process.returncode}, {found}:\n{self.log_end()}")

    # -- topics ------------------------------------------------------------------------------

    def topic(self, name: str) -> str:
        return f"{self.settings.topic_prefix}{name}"

    def send_frames(self, sessions: list[Made]) -> None:
        """The records of the sessions, one of each in turn."""
        turns = zip(*(made.records for made in sessions), strict=True)
        self._send([("session.frames", to_kafka(one)) for turn in turns for one in turn])

    def send_sealed(self) -> None:
        """What a processor makes of the sessions."""
        for made in self.sessions:
            self._send([("session.chunks", one) for one in made.chunks])
            self._send([("session.manifests", made.manifest)])

    def _send(self, wanted: list[tuple[str, KafkaRecord]]) -> None:
        async def send() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self.settings.kafka_servers())
            async with producer:
                for name, (key, headers, value) in wanted:
                    await producer.send(self.topic(name), value, key=key, headers=headers)

        asyncio.run(send())

    def read(self, name: str) -> list[Any]:
        async def read() -> list[Any]:
            servers = self.settings.kafka_servers()
            return [raw async for raw in records(servers, self.topic(name))]

        return asyncio.run(read())

    # -- what is left ------------------------------------------------------------------------

    def judge_sealed(self, sessions: list[Made]) -> None:
        """Wait for the manifests; every record must be the one of an undisturbed run."""

        def ended() -> bool:
            self.no_dead_letters()
            return {raw.key for raw in self.read("session.manifests")} >= {
                made.session.encode() for made in sessions
            }

        self.until(ended, "manifest of every session")
        self.end()
        sealed = self.read("session.chunks")
        manifests = self.read("session.manifests")
        for made in sessions:
            key = made.session.encode()
            found = {(tuple(raw.headers), raw.value) for raw in sealed if raw.key == key}
            wanted = {(tuple(headers), value) for _, headers, value in made.chunks}
            others, missing = len(found - wanted), len(wanted - found)
            assert (others, missing) == (0, 0), f"{others} chunks differ, {missing} are missing"
            found = {(tuple(raw.headers), raw.value) for raw in manifests if raw.key == key}
            differs = found != {(tuple(made.manifest[1]), made.manifest[2])}
            assert not differs, f"the manifest of session {made.session} differs"

    def judge_stored(self) -> None:
        """Wait for every file; files, entries and events must be those of an undisturbed run."""
        blobs = self.settings.blobs_dir

        def counted() -> int:
            return len({raw.value for raw in self.read("session.events")})

        wanted = sum(len(made.chunks) + 1 for made in self.sessions)
        self.until(lambda: all(is_whole(blobs / made.session) for made in self.sessions), "files")
        self.until(lambda: counted() >= wanted, "event of every file")
        self.end()
        client: MongoClient[dict[str, Any]] = MongoClient(self.settings.mongo_url())
        try:
            catalog = client[self.settings.database]
            entries = {one["_id"]: one["size"] for one in catalog.chunks.find()}
            manifests = {one["_id"]: one["manifest"].encode() for one in catalog.manifests.find()}
            assert catalog.conflicts.count_documents({}) == 0
        finally:
            client.drop_database(self.settings.database)
            client.close()
        for made in self.sessions:
            assert read_folder(blobs / made.session) == made.files
            sizes = {f"{made.session}:{number}": len(one[2])
                     for number, one in enumerate(made.chunks)}  # fmt: skip
            assert {key: size for key, size in entries.items() if key in sizes} == sizes
            assert manifests[made.session] == made.manifest[2]
        self.no_dead_letters()

    def no_dead_letters(self) -> None:
        found = [dict(raw.headers) for raw in self.read("dead.letters")]
        assert not found, f"{len(found)} dead letters, the first: {found[0]}"

    def spools(self) -> list[Path]:
        """What recorders left on this host."""
        return sorted((self.home / "spool").glob("*"))

    def close(self) -> None:
        """End the service, whatever it is at."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
