"""The plan of a load: an open loop, the same for the same seed."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agents.load.schedule import KEEPALIVE_SECONDS, WAVES, Arrival, Plan, arrivals, steps
from schemas.frames import Kind

sizes = st.lists(st.integers(100, 200_000), min_size=1, max_size=20)


@given(st.integers(1, 300), st.sampled_from(Arrival), st.floats(0, 1e4), st.integers(0, 9))
def test_every_session_begins_once_within_the_ramp(
    count: int, arrival: Arrival, ramp: float, seed: int
) -> None:
    plan = Plan(count, 1.0, 1.0, arrival, ramp, seed)
    found = arrivals(plan)
    assert len(found) == count
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] <= ramp
    assert found == arrivals(plan)


def test_arrivals_follow_their_pattern() -> None:
    assert arrivals(Plan(4, 1, 1, Arrival.AT_ONCE, 8)) == [0, 0, 0, 0]
    assert arrivals(Plan(4, 1, 1, Arrival.EVEN, 8)) == [0, 2, 4, 6]
    waves = arrivals(Plan(100, 1, 1, Arrival.WAVES, 10))
    assert [waves.count(float(n)) for n in range(WAVES)] == [10] * WAVES
    one, two = (arrivals(Plan(50, 1, 1, Arrival.RANDOM, 10, seed)) for seed in (1, 2))
    assert one != two
    assert Plan(4, 1, 5, Arrival.EVEN, 8).seconds == 13


@given(sizes, st.floats(100, 1e6), st.floats(1, 60), st.floats(0, 1))
def test_the_rate_holds_at_every_moment(
    sizes: list[int], rate: float, duration: float, phase: float
) -> None:
    found = list(itertools.islice(steps(sizes, rate=rate, duration=duration, phase=phase), 2000))
    sent = 0.0
    for step in found:
        if step.kind is Kind.FRAMES:
            # What was sent before is exactly what the rate carries in that time.
            assert abs(sent - rate * (step.at - phase)) <= 1e-6 * (1 + sent)
            sent += sizes[step.payload]
    payloads = [step.payload for step in found if step.kind is Kind.FRAMES]
    assert payloads == [number % len(sizes) for number in range(len(payloads))]


@given(sizes, st.floats(1000, 1e6), st.floats(1, 60), st.floats(0, 1))
def test_no_silence_is_longer_than_a_recorder_may_be(
    sizes: list[int], rate: float, duration: float, phase: float
) -> None:
    found = list(itertools.islice(steps(sizes, rate=rate, duration=duration, phase=phase), 2000))
    times = [0.0, *(step.at for step in found)]
    assert all(0 <= b - a <= KEEPALIVE_SECONDS for a, b in itertools.pairwise(times))
    if len(found) < 2000:
        assert found[-1] == (duration, Kind.CLOSE, -1)
        assert [step.kind for step in found].count(Kind.CLOSE) == 1
