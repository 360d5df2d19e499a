"""What dies at any point leaves, once it is started again, what an undisturbed run leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from agents.platform import points
from agents.platform.points import POINTS, Armed, InvalidPoint, Plan, read_plan
from tests.conftest import Stack
from tests.faults.recorder_scene import recorder_dies
from tests.faults.scenes import Scene

RECORDER = [name for name in POINTS if name.startswith("recorder.")]
PROCESSOR = [name for name in POINTS if name.startswith(("processor.", "runner."))]
STORAGE = [name for name in POINTS if name.startswith(("storage.", "blobs.", "runner."))]
SECOND = {"processor.chunk-sent", "processor.progress-sent", "storage.entry-made", "blobs.written"}
"""Points at which the second hit is the one that kills: there is something to go on from."""


def processor_dies(scene: Scene, point: str) -> None:
    scene.send_frames(scene.sessions)
    scene.killed_at(point, 2 if point in SECOND else 1)
    scene.start()
    scene.judge_sealed(scene.sessions)


def storage_dies(scene: Scene, point: str) -> None:
    scene.send_sealed()
    scene.killed_at(point, 2 if point in SECOND else 1)
    scene.start()
    scene.judge_stored()


def commit_while_progress_is_held(scene: Scene, point: str) -> None:
    """The order is chunk, progress, commit: the processor dies when progress is held back.

    Commits go on meanwhile, for the runner does not wait; they may not pass a record whose
    progress is not on the broker.
    """
    name, _, hit = point.partition(":")
    scene.send_frames(scene.sessions[:1])
    scene.start(f"{name}:hold:{hit}")

    def committed_twice() -> bool:
        passed = scene.passed()
        held = passed.index((name, "hold")) if (name, "hold") in passed else len(passed)
        return passed[held:].count(("runner.before-commit", "note")) >= 3

    scene.until(committed_twice, "turns of the commit after progress was held")
    scene.end(signal.SIGKILL)
    scene.start()
    scene.judge_sealed(scene.sessions[:1])


AT_ONCE = 10
"""More of them only wait for each other to start."""
ACTS: dict[str, tuple[str, Callable[[Scene, str], None], str]] = {
    **{f"recorder at {name}": ("recorder", recorder_dies, name) for name in RECORDER},
    **{f"processor at {name}": ("processor", processor_dies, name) for name in PROCESSOR},
    **{f"storage at {name}": ("storage", storage_dies, name) for name in STORAGE},
    **{
        f"commits with progress {hit} held": (
            "processor", commit_while_progress_is_held, f"processor.before-progress:{hit}",
        )
        for hit in (1, 2)
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def acts(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[list[tuple[str, str]]]]]:
    """All scenes, AT_ONCE of them at a time; what each passed, or failed with."""
    folder = tmp_path_factory.mktemp("scenes")

    def play(number: int, room: str, act: Callable[[Scene, str], None], point: str):  # type: ignore[no-untyped-def]
        scene = Scene(stack, folder / str(number), room)
        try:
            act(scene, point)
            return scene.passed()
        finally:
            scene.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(play, n, *act) for n, (name, act) in enumerate(ACTS.items())}


@pytest.mark.parametrize("name", ACTS)
def test_what_dies_there_goes_on_with_equal_bytes(
    acts: dict[str, Future[list[tuple[str, str]]]], name: str
) -> None:
    assert acts[name].result()


def test_every_point_was_struck(acts: dict[str, Future[list[tuple[str, str]]]]) -> None:
    struck = set()
    for act in acts.values():
        with contextlib.suppress(AssertionError):
            struck |= {name for name, action in act.result() if action != "note"}
    # Others are struck by tests/platform/test_audit.py and test_retention_killed.py.
    elsewhere = ("audit.", "retention.")
    assert struck == {name for name in POINTS if not name.startswith(elsewhere)}


# -- the points themselves ---------------------------------------------------------------------


def test_a_plan_is_read() -> None:
    assert read_plan("blobs.written:kill, storage.event-sent:stop:12") == {
        "blobs.written": Armed("kill", 1), "storage.event-sent": Armed("stop", 12),
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "nowhere:kill", "blobs.written", "blobs.written:explode", "blobs.written:kill:0",
             "blobs.written:kill:x", "blobs.written:kill:1,", "blobs.written:kill:²"],
)  # fmt: skip
def test_a_wrong_plan_is_refused(text: str) -> None:
    with pytest.raises(InvalidPoint, match="LUCID_TEST_POINTS"):
        read_plan(text)


def test_a_wrong_plan_ends_a_command_with_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agents.cli", "keys", "show"], capture_output=True, check=False,
        env={**os.environ, points.VARIABLE: "nowhere:kill"},
    )  # fmt: skip
    assert done.returncode == 78
    assert done.stderr.startswith(b"error: LUCID_TEST_POINTS has 'nowhere:kill'")


def test_points_are_off_unless_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "_plan", None)
    points.arm({})
    points.point("blobs.written")
    assert points._plan is None


def test_hits_are_counted_and_noted_and_a_held_thread_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(points, "_plan", Plan({"blobs.written": Armed("hold", 2)}, tmp_path / "l"))
    points.point("blobs.written")
    held = threading.Thread(target=points.point, args=["blobs.written"], daemon=True)
    held.start()
    held.join(0.2)
    assert held.is_alive()
    lines = [line.split()[1:] for line in (tmp_path / "l").read_text().splitlines()]
    assert lines == [["blobs.written", "1", "note"], ["blobs.written", "2", "hold"]]
