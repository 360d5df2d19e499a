"""Starting, stopping and failing, as processes and in one loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import structlog

from agents.platform.broker import BrokerProbe, wait_for_broker
from agents.platform.ports import free_port
from agents.platform.retry import BrokerUnreachable, CatalogUnreachable
from agents.platform.service import (
    Part,
    PartEnded,
    Service,
    StopSignal,
    make_service,
    serve,
    with_broker,
)
from agents.platform.settings import Settings
from schemas.errors import LucidError

Make = Callable[..., Service]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(**overrides: Any) -> Service:
        settings = Settings.load(home=tmp_path, **overrides)
        return make_service("storage", settings, SimpleNamespace(port=0))

    return made


@asynccontextmanager
async def nothing(_: Service) -> AsyncIterator[None]:
    yield


class Patient:
    """A part that runs until it is asked to stop."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.left_with: float | None = None

    async def run(self, stop: StopSignal) -> None:
        self.running.set()
        await stop.wait()
        self.left_with = stop.deadline.remaining()


class Failing:
    def __init__(self, error: BaseException | None, *, late: bool = False) -> None:
        self.error, self.late = error, late

    async def run(self, stop: StopSignal) -> None:
        if self.late:
            await stop.wait()
        if self.error is not None:
            raise self.error


def built_of(*parts: Part, closed: list[str] | None = None) -> Any:
    @asynccontextmanager
    async def build(_: Service) -> AsyncIterator[Sequence[Part]]:
        yield list(parts)
        if closed is not None:
            closed.append("closed")

    return build


async def test_parts_run_until_stop_and_share_one_deadline(make: Make) -> None:
    service, parts, closed = make(), (Patient(), Patient()), []
    async with asyncio.timeout(10):
        running = asyncio.create_task(serve(service, built_of(*parts, closed=closed), nothing))
        await asyncio.gather(*(part.running.wait() for part in parts))
        assert service.port > 0
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{service.port}/health") as response,
        ):
            assert response.status == 200
        service.stop.set()
        assert await running == 0
    assert closed == ["closed"]
    left = [part.left_with for part in parts]
    assert all(seconds is not None and 0 < seconds <= 8 for seconds in left)


class Special(LucidError):
    exit_status = 42


@pytest.mark.parametrize(
    ("error", "status"),
    [(Special("disk gone"), 42), (ValueError("bug"), 70), (None, PartEnded.exit_status)],
)
async def test_a_part_that_fails_or_ends_stops_the_others(
    make: Make, error: BaseException | None, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    patient = Patient()
    async with asyncio.timeout(10):
        assert await serve(make(), built_of(patient, Failing(error)), nothing) == status
    assert patient.left_with is not None


@pytest.mark.parametrize(("hint", "traced"), [("Give another port", False), ("", True)])
async def test_a_failure_with_a_hint_is_one_line_and_any_other_says_where_it_came_from(
    make: Make, hint: str, traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    error = Special("the port is taken", hint=hint)
    error.__cause__ = OSError("in use")
    with structlog.testing.capture_logs() as lines:
        assert await serve(make(), built_of(Failing(error)), nothing) == 42
    [line] = [one for one in lines if one["event"] == "service failed"]
    assert bool(line["exc_info"]) == traced


async def test_an_error_while_stopping_is_not_lost(make: Make) -> None:
    service = make()
    service.stop.on_set.append(lambda: None)
    async with asyncio.timeout(10):
        parts = (Failing(Special("first")), Failing(ValueError("second"), late=True))
        assert await serve(service, built_of(*parts), nothing) == 42


async def test_a_part_that_does_not_stop_is_cancelled_at_the_deadline(make: Make) -> None:
    service = make()
    service.stop = StopSignal(seconds=0.05)
    cancelled = []

    class Stubborn:
        async def run(self, _: StopSignal) -> None:
            service.stop.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

    async with asyncio.timeout(10):
        assert await serve(service, built_of(Stubborn()), nothing) == 0
    assert cancelled


async def test_an_error_in_build_is_the_exit_status(make: Make) -> None:
    @asynccontextmanager
    async def build(_: Service) -> AsyncIterator[Sequence[Part]]:
        raise Special("no key")
        yield []

    assert await serve(make(), build, nothing) == 42


async def test_stopping_does_not_wait_for_a_start_up_that_waits(make: Make) -> None:
    service, waiting = make(), asyncio.Event()

    async def down() -> None:
        waiting.set()
        raise CatalogUnreachable("no catalog")

    @asynccontextmanager
    async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
        await service.wait_until(down, seconds=60)
        yield []

    async with asyncio.timeout(10):
        running = asyncio.create_task(serve(service, build, nothing))
        await waiting.wait()
        service.stop.set()
        assert await running == 0


async def test_waiting_for_a_server_has_an_end_and_says_what_to_do(make: Make) -> None:
    async def down() -> None:
        raise CatalogUnreachable("no catalog")

    with pytest.raises(CatalogUnreachable):
        await make().wait_until(down, seconds=0.2)


async def test_no_broker_is_an_error_that_says_what_to_do(make: Make) -> None:
    settings = make(kafka=f"127.0.0.1:{free_port()}").settings
    with pytest.raises(BrokerUnreachable, match="LUCID_KAFKA"):
        await wait_for_broker(settings, seconds=0.2)


async def test_a_broker_that_answers_is_found_again_after_a_failure(stack: Any) -> None:
    await wait_for_broker(stack.settings, seconds=20)
    async with BrokerProbe(stack.settings) as probe:
        await probe.check()
        await probe.close()
        await probe.check()


async def test_a_busy_broker_gets_more_time_to_name_its_topics_than_for_a_check(
    stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = stack.kafka.split(":")
    answers, tasks = asyncio.Event(), set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers.wait()
        there = await asyncio.open_connection(host, int(port))
        for source, drain in ((reader, there[1]), (there[0], writer)):
            tasks.add(asyncio.create_task(pump(source, drain)))

    async def pump(source: asyncio.StreamReader, drain: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            drain.write(data)
        drain.close()

    monkeypatch.setattr("agents.platform.broker.ANSWER_SECONDS", 0.2)
    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        here = "{}:{}".format(*server.sockets[0].getsockname())
        async with BrokerProbe(stack.settings.model_copy(update={"kafka": here})) as probe:
            with pytest.raises(BrokerUnreachable, match="no answer"):
                await probe.check()
            required = asyncio.create_task(probe.require([]))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(required), 0.5)
            answers.set()
            await required
    await asyncio.gather(*tasks)


async def test_without_a_broker_a_service_exits_with_its_status(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.platform.service.START_WITHIN", 0.2)
    service = make(kafka=f"127.0.0.1:{free_port()}")
    assert await serve(service, built_of(Patient()), with_broker) == BrokerUnreachable.exit_status


PROGRAM = """
import asyncio, os, sys, threading, time
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from agents.platform import service as module
from agents.platform.settings import Settings

class Part:
    async def run(self, stop):
        Path(sys.argv[1], "running").touch()
        await stop.wait()
        {leaving}

@asynccontextmanager
async def nothing(service):
    yield

@asynccontextmanager
async def build(service):
    yield [Part()]
    Path(sys.argv[1], "closed").touch()

module.KILL_AFTER = {kill_after}
home = Settings.load(home=Path(sys.argv[1]))
sys.exit(module.run_service("storage", home, SimpleNamespace(port=0), build, prepare=nothing))
"""


class Running:
    """A service as a process of its own."""

    def __init__(self, home: Path, leaving: str, kill_after: float) -> None:
        program = textwrap.dedent(PROGRAM).format(leaving=leaving, kill_after=kill_after)
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(home)], stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        end = time.monotonic() + 30
        while not (home / "running").exists():
            assert time.monotonic() < end, "the service does not start"
            assert self.process.poll() is None, self.process.stderr
            time.sleep(0.02)

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        _, text = self.process.communicate(timeout=20)
        return self.process.returncode, [json.loads(line) for line in text.splitlines()]


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def run(leaving: str = "pass", kill_after: float = 9.5) -> Running:
        started.append(Running(tmp_path, leaving, kill_after))
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_clean_exit(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    running = start()
    (file,) = (tmp_path / "run").iterdir()
    assert file.name == f"storage-{running.process.pid}.json"
    running.process.send_signal(number)
    status, lines = running.end()
    assert status == 0
    assert [line["event"] for line in lines][-2:] == ["stopping", "stopped"]
    assert (tmp_path / "closed").exists()
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("leaving", ["await asyncio.Event().wait()", "time.sleep(60)",
    "asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)"])  # fmt: skip
def test_what_hangs_is_ended_hard_with_a_line_that_says_so(start: Start, leaving: str) -> None:
    running = start(leaving, 0.5)
    running.process.send_signal(signal.SIGTERM)
    status, lines = running.end()
    assert (status, lines[-1]["event"], lines[-1]["level"]) == (1, "hard exit", "critical")


def test_a_second_signal_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    leaving = "(Path(sys.argv[1]) / 'leaving').touch(); await asyncio.Event().wait()"
    running = start(leaving)
    running.process.send_signal(signal.SIGINT)
    end = time.monotonic() + 10
    while not (tmp_path / "leaving").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    running.process.send_signal(signal.SIGINT)
    status, lines = running.end()
    assert (status, lines[-1]["event"]) == (1, "hard exit")
    assert "second" in lines[-1]["reason"]


async def test_why_a_part_ended_is_logged_before_the_others_are_waited_for(make: Make) -> None:
    class Deaf:
        async def run(self, _: StopSignal) -> None:
            await asyncio.Event().wait()

    service = make()
    service.stop = StopSignal(seconds=0.05)
    with structlog.testing.capture_logs() as lines:
        await serve(service, built_of(Deaf(), Failing(Special("disk gone"))), nothing)
    events = [one["event"] for one in lines]
    assert events.index("part ended, stopping") < events.index("part does not stop, cancelling it")
    (told,) = [one for one in lines if one["event"] == "part ended, stopping"]
    assert str(told["error"]) == "disk gone"
