"""Processes found again by what the kernel says of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from uuid import uuid4

import pytest

from agents.platform.process_table import (
    children_of,
    command_of,
    end_processes,
    is_alive,
    marked,
    parent_of,
    process_ref,
)
from schemas.rdp_processes import ProcessRef
from tests.waiting import wait_for

NOBODY = ProcessRef(pid=2**22 - 1, started=1)


@contextlib.contextmanager
def shell(script: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell that has printed its first line."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"{script}"], env={**os.environ, **env}, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        process.stdout.close()


def test_a_process_is_itself_and_no_other_with_its_pid() -> None:
    me = process_ref(os.getpid())
    assert is_alive(me)
    assert me is not None
    assert not is_alive(me.model_copy(update={"started": me.started + 1}))
    assert parent_of(os.getpid()) == os.getppid()
    assert (process_ref(NOBODY.pid), parent_of(NOBODY.pid), command_of(NOBODY)) == (None, 0, [])
    assert not is_alive(None)


def test_a_zombie_does_not_live() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        wait_for(lambda: process_ref(process.pid) is None)
        assert process.poll() == 0


def test_descendants_and_marks_are_found() -> None:
    mark = f"LUCID_TEST_{uuid4().hex}"
    script = "sleep 60 & (sleep 61 & sleep 62) & echo; wait"
    with shell(script, **{mark: "one"}) as parent:
        wanted = {("sleep", "60"), ("sleep", "61"), ("sleep", "62")}
        wait_for(lambda: wanted <= {tuple(command_of(one)) for one in children_of([parent.pid])})
        found = marked(mark)
        assert set(found) == {"one"}
        assert set(found["one"]) == {process_ref(parent.pid), *children_of([parent.pid])}
    # Its children are not ours to wait for.
    wait_for(lambda: marked(mark) == {})


async def test_whoever_does_not_listen_is_killed() -> None:
    with (
        shell("trap '' TERM; echo; while :; do sleep 0.1; done") as deaf,
        shell("echo; exec sleep 60") as good,
    ):
        refs = [process_ref(one.pid) for one in (deaf, good)]
        both = [one for one in refs if one is not None]
        assert await end_processes([*both, NOBODY], 0.3) == 1
        assert not any(is_alive(one) for one in both)
        assert (deaf.wait(5), good.wait(5)) == (-signal.SIGKILL, -signal.SIGTERM)


async def test_nobody_is_hit_for_another_ones_pid() -> None:
    with shell("echo; exec sleep 60") as process:
        me = process_ref(process.pid)
        assert me is not None
        assert await end_processes([me.model_copy(update={"started": 1})], 0.1) == 0
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
