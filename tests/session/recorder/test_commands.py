"""What `lucid record` tells while it records, and at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.platform.retry import Transient
from agents.session.recorder import commands
from agents.session.recorder.order import LeftInSpool
from agents.session.recorder.recording import Recording
from tests.conftest import Stack
from tests.session.recorder.test_recording import Place, place_on
from tests.session.recorder.test_resume import Nowhere, Screen, crashed_screen, running
from tests.waiting import until


@pytest.fixture
async def place(stack: Stack, tmp_path: Path) -> AsyncIterator[Place]:
    async with place_on(stack, tmp_path) as found:
        yield found


@contextlib.asynccontextmanager
async def told(recording: Recording) -> AsyncIterator[None]:
    showing = asyncio.create_task(commands.Progress([recording]).show())
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def test_without_a_terminal_it_is_said_that_the_broker_is_away_and_back(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = Recording(Screen(), replace(place.order, keepalive_every=60), place.outlet)
    await recording.open()
    work = asyncio.create_task(recording.run())
    await until(lambda: recording.frames == 5 and not recording.waiting)
    said = ""

    def has(text: str) -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return text in said

    async with told(recording):
        recording.track.publisher.trouble = Transient("no record was acknowledged for 3 s")
        await until(lambda: has("no broker answers (no record was acknowledged for 3 s)"))
        recording.track.publisher.trouble = None
        await until(lambda: has("the broker is back"))
    recording.stop("enough")
    await work
    lines = said.splitlines()
    assert len(lines) == 3, "one line each, unwrapped"
    assert all(str(recording.session) in line for line in lines)


async def test_the_first_ctrl_c_says_what_the_second_does_while_no_broker_answers(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = Recording(Screen(4), place.order, place.outlet)
    await recording.open()
    await until(lambda: not recording.waiting)
    recording.track.publisher._producer = Nowhere()  # type: ignore[assignment]
    recording.track.publisher.trouble = Transient("no record was acknowledged for 3 s")
    work = asyncio.create_task(commands._run(place.settings, [recording], None, quiet=True))
    await until(lambda: recording.frames == 4)
    os.kill(os.getpid(), signal.SIGINT)
    await until(lambda: recording.waiting > 4)
    assert "Ctrl-C again leaves the rest on disk" in capsys.readouterr().err
    assert not work.done()
    os.kill(os.getpid(), signal.SIGINT)
    results = await work
    ((_, ended),) = results
    assert isinstance(ended.error, LeftInSpool)
    assert capsys.readouterr().err == ""
    commands._report(results, as_json=False, alone=True)
    assert "lucid verify" not in capsys.readouterr().out, "there is no whole recording yet"


async def test_a_session_that_is_being_recorded_is_not_left_but_can_be_named(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    _, left = await crashed_screen(place)
    recording, work = await running(place, Screen())
    folder, name = place.order.spool.folder, str(recording.session)
    assert commands._left(folder, None) == [left]
    assert "left alone: 1" in capsys.readouterr().err
    assert commands._left(folder, name) == [folder / name]
    recording.stop("enough")
    assert (await work).error is None
    with pytest.raises(commands.NothingLeft, match=name):
        commands._left(folder, name)
