"""Costs of frames are put together by sessions and by bytes."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from agents.platform.settings import Settings
from bench import growth
from bench.growth import Cost, draw, figures
from bench.recorded import in_time
from schemas.frames import Kind
from tests.conftest import Stack


def cost(sessions: int, raw: float, frame_us: float, open_ms: float = 0.0) -> Cost:
    frames = round(raw / 1000)
    spent = frames * frame_us / 1e6 + sessions * open_ms / 1e3
    return Cost(
        sessions,
        round(raw),
        round(raw),
        frames,
        sessions * 2,
        spent * 0.75,
        spent * 0.25,
        2.0,
        2**24,
    )


def test_ratios_are_within_a_round() -> None:
    costs = [cost(10, 1e6, 100), cost(1000, 1e6, 120), cost(1000, 1e6, 150), cost(10, 1e6, 120)]
    found = figures(costs)
    assert found["sessions_10_frame_us"] == pytest.approx([100, 120])
    assert found["sessions_ratio"] == pytest.approx([1.2, 1.25])
    assert found["sessions_1000_chunks"] == [2000, 2000]
    assert found["sessions_10_mb_s"] == [0.5, 0.5]
    assert found["sessions_10_processor_mib"] == [16.0, 16.0]


def test_bytes_are_compared_at_the_same_number_of_sessions() -> None:
    found = figures([cost(10, 1e6, 90), cost(10, 25e4, 100), cost(10, 5e5, 95), cost(100, 1e6, 90)])
    assert found["mb_0_frame_us"] == pytest.approx([100, 95])  # both round to 0 MB
    assert found["bytes_ratio"] == pytest.approx([90 / 97.5])


def test_what_a_session_costs_is_told_from_what_a_frame_costs() -> None:
    costs = [cost(count, 1e7, 80, open_ms=5) for count in (1, 10, 100, 1000)]
    found = figures(costs)
    assert found["frame_us"] == pytest.approx([80])
    assert found["open_close_ms"] == pytest.approx([5])


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "out" / "growth.png"
    draw([cost(1, 1e6, 100), cost(10, 1e6, 100), cost(10, 5e5, 110)], path)
    assert path.read_bytes().startswith(b"\x89PNG")


async def test_sessions_are_recorded_and_their_cost_is_that_of_both_services(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "COUNTS", (1, 4))
    monkeypatch.setattr(growth, "TOTAL", 400_000)
    monkeypatch.setattr(growth, "SHARES", ())
    monkeypatch.setattr(growth, "ROUNDS", 1)
    name = f"g{secrets.token_hex(4)}"
    settings = Settings.load(
        home=tmp_path, kafka=stack.kafka, mongo=stack.mongo, topic_prefix=f"{name}.", database=name
    )
    one, four = await growth._measure(settings)
    assert (one.sessions, four.sessions) == (1, 4)
    for found in (one, four):
        assert found.chunks >= found.sessions
        assert found.processor > 0
        assert 10 < found.frames < 80
        assert 300_000 < found.raw < 700_000
        assert found.peak > 2**24
    assert (one.frames, one.raw // 10_000) == (four.frames, four.raw // 10_000)


@pytest.mark.parametrize("sessions", [1, 3, 10])
def test_the_same_frames_are_shared_out_whatever_the_number_of_sessions(sessions: int) -> None:
    found = list(in_time([10, 20, 30], sessions=sessions, total=200, duration=9.0))
    times = [step.at for step, _ in found]
    assert times == sorted(times)
    payloads = []
    for number in range(sessions):
        kinds = [step.kind for step, whose in found if whose == number]
        assert (kinds[0], kinds[-1]) == (Kind.OPEN, Kind.CLOSE)
        payloads += [
            step.payload for step, whose in found if whose == number and step.kind is Kind.FRAMES
        ]
    assert payloads == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]  # 210 bytes
