"""The schedule is the seed's alone, and has everything in it."""

from __future__ import annotations

from agents.platform.points import POINTS
from tests.faults.recorders import make_spec
from tests.faults.schedule import KINDS, SERVICES, make_schedule


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    assert make_schedule(1, 600) == make_schedule(1, 600)
    assert make_schedule(1, 600) != make_schedule(2, 600)
    assert [make_spec(1, number) for number in range(9)] == [
        make_spec(1, number) for number in range(9)
    ]


def test_ten_minutes_have_every_kind_of_fault_in_order_of_time() -> None:
    faults = make_schedule(1, 600)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert faults[0].at > 0
    assert faults[-1].at < 600
    killed = {fault.target for fault in faults if fault.kind == "kill"}
    assert killed == set(SERVICES)


def test_what_cannot_be_here_is_left_out() -> None:
    assert "disk" not in {fault.kind for fault in make_schedule(1, 600, without=["disk"])}


def test_a_server_is_not_taken_away_while_it_is_away() -> None:
    for seed in range(20):
        back = 0.0
        for fault in make_schedule(seed, 600, pause=1.0):
            if fault.target == "broker" and fault.kind.startswith("broker"):
                assert fault.at >= back
                back = fault.at + fault.seconds


def test_armed_points_exist_in_the_service_that_is_armed() -> None:
    rooms = {"blobs": {"storage"}, "runner": {"processor", "storage"}}
    for fault in make_schedule(3, 3600):
        if fault.kind == "point":
            point, action, hit = fault.detail.split(":")
            room = point.partition(".")[0]
            assert point in POINTS
            assert fault.target.partition("-")[0] in rooms.get(room, {room})
            assert action in ("kill", "stop")
            assert int(hit) >= 1


def test_a_spec_says_what_its_recorder_records() -> None:
    spec = make_spec(4, 2)
    hashes = list(spec.payload_hashes())
    assert len(set(hashes)) == len(hashes) == spec.frames
    assert spec.size * spec.rate <= 250_000
