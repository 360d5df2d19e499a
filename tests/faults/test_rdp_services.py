"""Each of the five RDP services is killed and started again while two desktops are recorded."""

from __future__ import annotations

import itertools
import sys
import time

import pytest

from tests.conftest import Stack
from tests.faults.rdp_plan import ACTS, LONGEST, SERVICES, SHORT, make_plan
from tests.faults.rdp_scene import a_scene
from tests.rdp.people import can_run, open_folder


def tell(text: str) -> None:
    print(f"{time.monotonic():.1f} {text}", file=sys.stderr)


@pytest.mark.display
@pytest.mark.skipif(not can_run(), reason="needs root, xrdp and xfreerdp")
def test_five_services_are_killed_while_two_desktops_are_recorded(stack: Stack) -> None:
    with open_folder() as folder:
        with a_scene(stack, folder / "home", tell) as scene:
            for step in SHORT:
                scene.play(step)
            scene.settle()
        assert scene.problems == [], "\n".join(scene.problems)
        assert scene.kills == len(SERVICES)


def test_a_plan_kills_all_five_before_one_comes_again_and_follows_from_its_seed() -> None:
    steps = list(itertools.islice(make_plan(7), 500))
    assert steps == list(itertools.islice(make_plan(7), 500))
    assert steps != list(itertools.islice(make_plan(8), 500))
    for first in range(0, 500, len(SERVICES)):
        some = steps[first : first + len(SERVICES)]
        assert {one.service for one in some} == set(SERVICES)
    assert {(one.service, one.act) for one in steps} == {
        (service, act) for service, acts in ACTS.items() for act in acts
    }
    assert all(one.both != one.service and 0 <= one.away <= LONGEST for one in steps)
    assert {one.both for one in steps} == {"", *SERVICES}
    assert {one.service for one in SHORT} == set(SERVICES)
