"""Audit events on a real broker: who, what, when, about what, and in one chain whatever happens."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from agents.platform import audit
from agents.platform.audit import (
    Actor,
    Audit,
    AuditBusy,
    AuditFull,
    acting_user,
    audit_producer,
    chain_folder,
)
from agents.platform.audit_state import AuditFailed, Slot, read_states
from agents.platform.contract import apply_contract, load_contract
from agents.platform.producer import RecordTooLarge, SendRefused
from agents.platform.retry import BrokerUnreachable
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from schemas.audit import ResourceRead
from schemas.envelope import InvalidEvent
from tests.conftest import Stack
from tests.platform.audit_scene import Running, Trail, act, command
from tests.waiting import until


@pytest.fixture
async def trail(stack: Stack, tmp_path: Path) -> Trail:
    settings = Settings.load(
        home=tmp_path, kafka=stack.kafka, topic_prefix=f"au{uuid4().hex[:8]}.", host="desk7"
    )
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    return Trail(settings, contract)


# Commands -------------------------------------------------------------------------------------


async def test_an_act_is_on_the_topic_with_its_user_and_host(trail: Trail) -> None:
    async with trail.producer() as producer:
        written = await Audit(producer, trail.contract, host="desk7").record(act(3), "sessions")
    started, found = await trail.events()
    assert found == written
    assert (found.data, found.subject, found.source) == (act(3), "sessions", "lucid/cli/desk7")
    assert found.user == pwd.getpwuid(os.getuid()).pw_name
    assert abs(found.time - datetime.now(UTC)) < timedelta(seconds=30)
    assert (started.type, started.number, found.number) == (
        "lucid.audit.chain_started.v1", "0", "1",
    )  # fmt: skip


def test_the_environment_does_not_decide_who_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "somebody-else")
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert acting_user() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999)
    assert acting_user() == "uid 3999999"


async def test_calls_that_come_together_are_in_one_chain(trail: Trail) -> None:
    async with trail.producer() as producer:
        writer = Audit(producer, trail.contract)
        written = await asyncio.gather(*(writer.record(act(n), "sessions") for n in range(1200)))
    assert [event.number for event in written] == [str(n + 1) for n in range(1200)]
    report = await trail.check()
    assert report.ok
    [chain] = report.chains
    assert (chain.entries, chain.repeated, chain.confirmed) == (1201, 0, ["this installation"])


async def test_commands_of_one_home_continue_one_chain_also_at_the_same_time(trail: Trail) -> None:
    running = [command(trail, 100 * n, 10) for n in range(4)]
    for process in running:
        _, said = await asyncio.to_thread(process.communicate, None, 60)
        assert process.returncode == 0, said.decode()
    report = await trail.check()
    assert report.ok
    [chain] = report.chains
    assert (chain.entries, chain.repeated) == (41, 0)
    assert set((await trail.acts()).values()) == {1}


@pytest.mark.parametrize("point", ["audit.kept", "audit.sent"])
@pytest.mark.parametrize("hit", [1, 3])
async def test_a_command_that_is_killed_leaves_no_hole(trail: Trail, point: str, hit: int) -> None:
    killed = command(trail, 0, 5, LUCID_TEST_POINTS=f"{point}:kill:{hit}")
    await asyncio.to_thread(killed.communicate, None, 60)
    assert killed.returncode == -signal.SIGKILL
    assert (await trail.check()).ok, "what may be on its way may also not be there"
    async with trail.producer() as producer:
        await Audit(producer, trail.contract).record(act(77), "sessions")
    report = await trail.check()
    assert report.ok
    # The first act is kept together with the start of the chain.
    assert report.chains[0].repeated == ((2 if hit == 1 else 1) if point == "audit.sent" else 0)
    acts = await trail.acts()
    assert acts[77] == 1
    assert set(acts.values()) == {1}


async def test_without_a_broker_an_entry_is_kept_and_sent_with_the_next(trail: Trail) -> None:
    await Audit(None, trail.contract, settings=trail.settings).keep(act(1), "sessions")
    assert await trail.events() == []
    assert (await trail.check()).ok
    async with trail.producer() as producer:
        await Audit(producer, trail.contract).deliver()
        assert await trail.acts() == {1: 1}
        await Audit(producer, trail.contract).record(act(2), "sessions")
    assert await trail.acts() == {1: 1, 2: 1}
    assert (await trail.check()).ok


async def test_a_broker_that_does_not_answer_is_told_after_a_while(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SECONDS", 0.5)
    async with trail.producer() as producer:
        writer = Audit(producer, trail.contract)
        await writer.record(act(0), "sessions")
        with monkeypatch.context() as patch:
            never = asyncio.Event()
            patch.setattr(producer, "acknowledged", lambda _: never.wait())
            results = await asyncio.gather(
                *(writer.record(act(n), "sessions") for n in (1, 2)), return_exceptions=True
            )
        assert [type(result) for result in results] == [BrokerUnreachable] * 2
        await writer.record(act(3), "sessions")
    acts = await trail.acts()
    assert acts[0] == acts[1] == acts[3] == 1, "the first was on its way already"
    assert (await trail.check()).ok


async def test_who_is_cancelled_takes_nobody_along(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trail.producer() as producer:
        writer = Audit(producer, trail.contract)
        await writer.record(act(0), "sessions")
        first, held = asyncio.Event(), asyncio.Event()
        real = producer.acknowledged

        async def slow(sending: object) -> object:
            first.set()
            await held.wait()
            return await real(sending)  # type: ignore[arg-type]

        monkeypatch.setattr(producer, "acknowledged", slow)
        leader = asyncio.create_task(writer.record(act(1), "sessions"))
        followers = [asyncio.create_task(writer.record(act(n), "sessions")) for n in (2, 3)]
        await asyncio.wait_for(first.wait(), 20)
        leader.cancel()
        held.set()
        async with asyncio.timeout(20):
            numbers = [(await one).number for one in followers]
    assert numbers == ["3", "4"]
    assert await trail.acts() == {0: 1, 1: 1, 2: 1, 3: 1}
    assert (await trail.check()).ok


async def test_a_chain_that_others_hold_for_too_long_is_told(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "LOCK_SECONDS", 0.2)
    other = Slot(chain_folder(trail.settings, trail.contract), "cli", "cli")
    assert other.try_lock()
    async with trail.producer() as producer:
        writer = Audit(producer, trail.contract)
        with pytest.raises(AuditBusy, match="other commands"):
            await writer.record(act(1), "sessions")
        other.release()
        await writer.record(act(2), "sessions")
    assert await trail.acts() == {2: 1}


async def test_an_act_that_could_never_be_sent_is_refused_at_once(trail: Trail) -> None:
    writer = Audit(None, trail.contract, settings=trail.settings)
    big = ResourceRead(
        action="a", resource="b", session="s" * 300_000, request=None, bytes=0, items=0,
        outcome="ok",
    )  # fmt: skip
    with pytest.raises(RecordTooLarge):
        await writer.record(big, "sessions")
    for subject in ("", "a\nb", "x" * 301):
        with pytest.raises(InvalidEvent, match="subject"):
            await writer.record(act(1), subject)
    assert not chain_folder(trail.settings, trail.contract).exists()


# Services -------------------------------------------------------------------------------------


@pytest.fixture
async def running(trail: Trail) -> AsyncIterator[Running]:
    async with (
        audit_producer(trail.settings, trail.contract) as producer,
        Audit(producer, trail.contract, service="api", notes=5000) as writer,
    ):
        stop = StopSignal()
        found = Running(writer, stop, asyncio.create_task(writer.run(stop)))
        yield found
        found.task.cancel()
        await asyncio.gather(found.task, return_exceptions=True)


async def test_notes_are_sent_in_their_order_with_who_and_from_where(
    trail: Trail, running: Running
) -> None:
    ada = Actor("ada", "api", "203.0.113.9", ("auditor",))
    for number in range(1500):
        running.writer.note(act(number), "sessions", actor=ada)
    record = await running.writer.record(act(1500), "sessions")
    await running.end()
    started, *notes = await trail.events()
    assert (started.user_type, started.source) == ("service", "lucid/api/desk7")
    assert [event.data for event in notes] == [act(number) for number in range(1501)]
    assert {event.actor for event in notes[:-1]} == {ada}
    assert (notes[-1], record.user_type) == (record, "service")
    report = await trail.check()
    assert report.ok
    assert report.chains[0].confirmed == ["this installation"]


async def test_more_notes_than_memory_may_hold_are_refused(trail: Trail) -> None:
    writer = Audit(None, trail.contract, settings=trail.settings, service="api", notes=3)
    for number in range(3):
        writer.note(act(number), "sessions")
    with pytest.raises(AuditFull, match="3 acts wait") as caught:
        writer.note(act(3), "sessions")
    assert caught.value.retry_after == 1.0
    assert writer.waiting == 3


async def test_notes_wait_for_a_broker_that_refuses_for_now(
    trail: Trail, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.writer.record(act(0), "sessions")
    refused = asyncio.Event()

    async def away() -> int:
        refused.set()
        raise BrokerUnreachable("away", retry_after=0.05)

    producer = running.writer._producer
    assert producer is not None
    with monkeypatch.context() as patch:
        patch.setattr(audit, "TRY_SECONDS", 0.0)
        patch.setattr(producer, "epoch", away)
        running.writer.note(act(1), "sessions")
        await asyncio.wait_for(refused.wait(), 20)
        running.writer.note(act(2), "sessions")
        with pytest.raises(BrokerUnreachable):
            await running.writer.record(act(3), "sessions")
    await until(lambda: running.writer.waiting == 0)
    await running.end()
    acts = await trail.acts()
    assert {acts[number] for number in (0, 1, 2)} == {1}
    assert (await trail.check()).ok


async def test_what_a_service_could_not_send_is_sent_after_its_next_start(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "FINISH_SECONDS", 0.5)
    async with trail.producer() as producer:
        never = asyncio.Event()
        with monkeypatch.context() as patch:
            patch.setattr(producer, "acknowledged", lambda _: never.wait())
            async with Audit(producer, trail.contract, service="api") as writer:
                stop = StopSignal()
                task = asyncio.create_task(writer.run(stop))
                for number in range(700):
                    writer.note(act(number), "sessions")
                await until(lambda: writer.waiting < 700)
                stop.set()
                await asyncio.wait_for(task, 20)
                patch.setattr(audit, "FINISH_SECONDS", 600.0)  # it waits only once
                writer.note(act(700), "sessions")
    folder = chain_folder(trail.settings, trail.contract)
    assert len(read_states(folder)[0].pending) == 702
    assert (await trail.check()).ok
    async with (
        trail.producer() as producer,
        Audit(producer, trail.contract, service="api") as writer,
    ):
        stop = StopSignal()
        task = asyncio.create_task(writer.run(stop))
        await until(lambda: not read_states(folder)[0].pending)
        stop.set()
        await asyncio.wait_for(task, 20)
    assert await trail.acts() == dict.fromkeys(range(701), 1)
    assert (await trail.check()).ok


async def test_a_broker_that_refuses_for_good_ends_the_service_and_loses_no_note(
    trail: Trail, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.writer.record(act(0), "sessions")
    producer = running.writer._producer
    assert producer is not None

    async def refused() -> int:
        raise SendRefused("not allowed")

    with monkeypatch.context() as patch:
        patch.setattr(producer, "epoch", refused)
        for number in range(1, 700):
            running.writer.note(act(number), "sessions")
        with pytest.raises(SendRefused):
            await asyncio.wait_for(running.task, 20)
        await running.writer.finish()
    assert running.writer.waiting == 0
    await running.writer.deliver()
    assert await trail.acts() == dict.fromkeys(range(700), 1)
    assert (await trail.check()).ok


async def test_a_disk_that_fails_ends_the_service(
    trail: Trail, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.writer.record(act(0), "sessions")

    def broken(*_: object) -> None:
        raise AuditFailed("no disk")

    with monkeypatch.context() as patch:
        patch.setattr(Slot, "keep", broken)
        running.writer.note(act(1), "sessions")
        with pytest.raises(AuditFailed):
            await asyncio.wait_for(running.task, 20)
    assert running.writer.waiting == 1, "nothing is lost while the process lives"
    await running.writer.finish()
    assert await trail.acts() == {0: 1, 1: 1}


async def test_two_processes_of_a_service_have_a_chain_each(trail: Trail) -> None:
    async with (
        trail.producer() as producer,
        Audit(producer, trail.contract, service="api") as one,
        Audit(producer, trail.contract, service="api") as two,
    ):
        await asyncio.gather(*(w.record(act(n), "s") for n in range(20) for w in (one, two)))
    report = await trail.check()
    assert report.ok
    assert [chain.entries for chain in report.chains] == [21, 21]
