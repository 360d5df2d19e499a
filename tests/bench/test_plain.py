"""The plain versions do the whole job: every record in a file, once, in order, and committed."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import defaultdict
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from agents.platform.settings import Settings
from bench import frameworks
from bench.frameworks import PLAIN, Tally, check_files, figures, on_topic, run_plain
from bench.plain import job as job_module
from bench.plain.job import DONE_FILE, KEY_FILE, Done, Job, Order, read_session
from bench.recorded import Recorded
from tests.conftest import Stack
from tests.platform.topics import create_topic

KEY = bytes(range(32))


def a_job(folder: Path, records: int) -> Job:
    folder.mkdir(exist_ok=True)
    (folder / KEY_FILE).write_bytes(KEY)
    return Job(Order("", "frames", "group", str(folder), records))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, list[bytes]]]:
    """A job of three sessions, whose chunks are cut at 1000 bytes."""
    monkeypatch.setattr(job_module, "CHUNK_BYTES", 1000)
    job = a_job(tmp_path / "job", 30)
    job.begin()
    sent: dict[str, list[bytes]] = defaultdict(list)
    for number in range(30):
        session, payload = f"s{number % 3}", secrets.token_bytes(number * 17 % 400)
        sent[session].append(payload)
        assert not job.complete
        if (chunk := job.add(session.encode(), payload)) is not None:
            assert chunk.size >= 1000
            job.write(chunk)
    assert job.due()
    job.tell()
    assert not (tmp_path / "job" / DONE_FILE).exists()  # some are not written yet
    for chunk in job.rest():
        job.write(chunk)
    job.tell()
    return tmp_path / "job", sent


def tallies(sent: dict[str, list[bytes]]) -> dict[str, Tally]:
    import hashlib

    return {
        name: Tally(len(some), sum(map(len, some)), hashlib.sha256(b"".join(some)).hexdigest())
        for name, some in sent.items()
    }


def test_files_hold_every_payload_in_order(
    written: tuple[Path, dict[str, list[bytes]]],
) -> None:
    folder, sent = written
    for session, payloads in sent.items():
        assert list(read_session(folder / session, KEY)) == payloads
        assert len(list((folder / session).iterdir())) > 1
    done = Done(**json.loads((folder / DONE_FILE).read_text()))
    assert (done.records, done.bytes) == (30, sum(len(p) for some in sent.values() for p in some))
    assert 0 < done.begun <= done.ended
    check_files(folder, KEY, tallies(sent))


def test_a_file_that_is_missing_altered_or_too_many_is_no_success(
    written: tuple[Path, dict[str, list[bytes]]],
) -> None:
    folder, sent = written
    expected = tallies(sent)
    paths = sorted((folder / "s1").iterdir())
    last = paths[-1].read_bytes()
    paths[-1].write_bytes(last[:-1] + bytes([last[-1] ^ 1]))
    with pytest.raises(ValueError, match="not as it was written"):
        check_files(folder, KEY, expected)
    paths[-1].unlink()
    with pytest.raises(RuntimeError, match=r"s1 holds .* instead of"):
        check_files(folder, KEY, expected)
    paths[-1].write_bytes(last)
    (folder / "s9").mkdir()
    with pytest.raises(RuntimeError, match="4 sessions instead of 3"):
        check_files(folder, KEY, expected)


def test_a_chunk_that_ends_within_a_payload_is_found(tmp_path: Path) -> None:
    job = a_job(tmp_path / "job", 1)
    chunk = job_module.Chunk("s", 0, [b"abc"], 3)
    job_module.LENGTH, kept = job_module.struct.Struct("<I"), job_module.LENGTH
    try:
        job.write(chunk)
    finally:
        job_module.LENGTH = kept
    with pytest.raises(ValueError, match="ends within a payload"):
        list(read_session(tmp_path / "job" / "s", KEY))


def test_ratios_are_to_the_best_of_each_round() -> None:
    found = figures({"lucid": [60.0, 90.0], "bare": [100.0, 90.0], "faust": [20.0, 60.0],
                     "quix": [40.0, 30.0], "faststream": [30.0, 45.0]})  # fmt: skip
    assert found["ratio"] == [1.5, 1.5]
    assert found["bare_ratio"] == [0.6, 1.0]
    assert found["quix_ratio"] == [1.5, 3.0]
    assert found["quix_mb_s"] == [40.0, 30.0]


# -- on a real broker ------------------------------------------------------------------------------


async def _fill(settings: Settings, topic: str) -> Recorded:
    await create_topic(settings, topic, 3)
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_servers(), acks="all")
    await producer.start()
    sizes = []
    for number in range(60):
        value = secrets.token_bytes(number * 997 % 30_000)
        sizes.append(len(value))
        await producer.send_and_wait(
            topic, value, key=f"s{number % 5}".encode(), partition=number % 5 % 3
        )
    await producer.stop()
    # Partition 0 has sessions 0 and 3, 1 has 1 and 4, 2 has session 2.
    return Recorded(("s0", "s1", "s2", "s3", "s4"), 60, 60, sum(sizes), {0: 0, 1: 0, 2: 0},
                    {0: 24, 1: 24, 2: 12})  # fmt: skip


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_a_plain_version_does_the_whole_job(stack: Stack, tmp_path: Path, name: str) -> None:
    if not PLAIN[name].exists():
        pytest.skip("`make bench-plain` installs it")
    settings = Settings.load(home=tmp_path, kafka=stack.kafka)
    topic = f"plain-{name}-{secrets.token_hex(4)}"
    recorded = asyncio.run(_fill(settings, topic))
    assert sum(one.records for one in asyncio.run(
        on_topic(stack.kafka, topic, recorded)).values()) == 60  # fmt: skip
    seconds, cpu = run_plain(name, settings, topic, recorded)
    assert 0 < seconds < 60
    assert 0 < cpu < 20
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_a_version_that_dies_gives_no_figure(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load(home=tmp_path, kafka=stack.kafka)
    topic = f"plain-dies-{secrets.token_hex(4)}"
    recorded = asyncio.run(_fill(settings, topic))
    monkeypatch.setitem(frameworks.PLAIN, "quix", Path("/bin/false"))
    with pytest.raises(RuntimeError, match="did not do all"):
        run_plain("quix", settings, topic, recorded)


async def test_all_versions_take_the_same_records(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frameworks, "PLAIN", {"faust": PLAIN["faust"]})
    monkeypatch.setattr(frameworks, "ROUNDS", 1)
    monkeypatch.setattr(frameworks, "_idle", lambda _: 0.0)  # saves a start of both services
    monkeypatch.setattr(frameworks, "SESSIONS", 2)
    monkeypatch.setattr(frameworks, "TOTAL", 3_000_000)
    name = f"f{secrets.token_hex(4)}"
    settings = Settings.load(
        home=tmp_path, kafka=stack.kafka, mongo=stack.mongo, topic_prefix=f"{name}.", database=name
    )
    found = await frameworks._measure(settings)
    for version in ("lucid", "bare", "faust"):
        assert found[f"{version}_mb_s"][0] > 0
    assert found["faust_cpu_ms_mb"][0] > 0
    assert found["ratio"] == found["faust_ratio"]


def test_without_the_plain_versions_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frameworks, "OWN", tmp_path / "none")
    with pytest.raises(RuntimeError, match="make bench-plain"):
        frameworks.run()
