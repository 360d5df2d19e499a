"""`lucid recorder start|pause|resume|stop`: what a recorder answers, or that none does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from agents.platform.answers import NoAnswer
from agents.platform.command_topic import Refused
from agents.platform.contract import load_contract
from agents.platform.topic_reader import read_topic
from agents.session.recorder.remote_commands import app
from schemas.canonical import Strict
from schemas.commands import Action, RecorderCommand, read_command
from schemas.events import CommandDone, CommandRefused
from schemas.sessions import new_session_id
from tests.conftest import Stack
from tests.session.recorder.test_recording import Place, place_on
from tests.waiting import until

SESSION = str(new_session_id())


@pytest.fixture
async def place(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    async with place_on(stack, tmp_path) as found:
        for name, value in {"HOME": str(tmp_path), "KAFKA": stack.kafka, "HOST": "desk",
                            "TOPIC_PREFIX": found.settings.topic_prefix}.items():  # fmt: skip
            monkeypatch.setenv(f"LUCID_{name}", value)
        yield found


async def recorder(*arguments: str) -> Result:
    """Run `lucid recorder …`; commands have an event loop of their own."""
    return await asyncio.to_thread(CliRunner().invoke, app, list(arguments))


async def sent(place: Place) -> list[RecorderCommand]:
    topic = load_contract(place.settings).topic("session.commands").full_name
    return [read_command(one.value or b"") async for one in read_topic(place.settings, topic)]


@asynccontextmanager
async def answering(place: Place, data: Strict) -> AsyncIterator[None]:
    """Answers the next command that comes."""
    before = len(await sent(place))

    async def answer() -> None:
        (command,) = await until(lambda: after(before), "command")
        await place.outlet.events.emit(data, SESSION, correlation=command.id)

    async def after(count: int) -> list[RecorderCommand]:
        return (await sent(place))[count:]

    task = asyncio.create_task(answer())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_success_is_told_once_the_recorder_has_done_it(place: Place) -> None:
    told: dict[Action, str] = {
        "start": "is being recorded", "pause": "is paused", "resume": "is recorded again",
        "stop": "has ended",
    }  # fmt: skip
    for action, state in told.items():
        async with answering(place, CommandDone(action=action, host="desk", session=SESSION)):
            found = await recorder(action, ":7" if action == "start" else SESSION)
        assert (found.exit_code, found.stdout) == (0, f"Session {SESSION} {state}\n")
    async with answering(place, CommandDone(action="start", host="desk", session=SESSION)):
        found = await recorder("start", ":7", "--json")
    commands = await sent(place)
    assert [one.action for one in commands] == [*told, "start"]
    assert json.loads(found.stdout) == {
        "command": commands[-1].id, "action": "start", "host": "desk", "session": SESSION,
    }  # fmt: skip


async def test_a_refusal_is_an_error_with_its_reason(place: Place) -> None:
    data = CommandRefused(action="stop", host="desk", session=SESSION, code="NotRecording",
                          reason="the recorder of desk records no such session")  # fmt: skip
    async with answering(place, data):
        found = await recorder("stop", SESSION)
    assert isinstance(found.exception, Refused)
    assert "NotRecording: the recorder of desk" in str(found.exception)
    assert (found.exception.exit_status, found.stdout) == (1, "")


async def test_without_a_recorder_there_is_no_success(place: Place) -> None:
    found = await recorder("start", ":7", "--host", "desk9", "--wait", "0.2")
    assert isinstance(found.exception, NoAnswer)
    assert (found.exception.exit_status, found.stdout) == (75, "")
    for part in ("no recorder of desk9", "0.2 s", "lucid run recorder"):
        assert part in str(found.exception)
    # Who does not wait is told no more than that it was sent.
    found = await recorder("start", ":7", "--wait", "0")
    command = (await sent(place))[-1]
    assert found.stdout == f"Sent start to the recorder of desk, command {command.id}\n"
    again = await recorder("stop", SESSION, "--wait", "0", "--json")
    assert json.loads(again.stdout)["session"] == SESSION
