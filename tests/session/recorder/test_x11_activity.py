"""Activity on a real X server when something is missing, or goes away."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agents.session.recorder.sources.base import DisplayLost
from agents.session.recorder.sources.patterns import Glance
from schemas.activity import (
    Clipboard,
    Watching,
    decode_activity,
    encode_activity,
    is_activity,
)
from tests.session.recorder.desktop import Desktop, Xvfb, client

pytestmark = pytest.mark.display


def test_a_server_that_dies_ends_the_recording_as_without_activity(
    xvfb: Xvfb, desktop: Desktop
) -> None:
    desktop.record(keys="basic", clipboard="details")
    xvfb.process.kill()
    assert desktop.thread is not None
    desktop.thread.join(3)
    assert isinstance(desktop.error, DisplayLost)


def test_what_cannot_be_seen_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "320x200x24", "-nolisten", "tcp", "-noreset",
         "-extension", "X-Resource"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert server.stdout is not None
    desktop = Desktop(f":{int(server.stdout.readline())}", tmp_path)
    try:
        # As a user who may neither see nor read the terminals of the X server's user.
        monkeypatch.setattr("agents.session.recorder.sources.x11_activity.os.geteuid", lambda: -1)
        desktop.record(keys="basic", clipboard="use")
        (watching,) = desktop.found(Watching)
        assert [one.part for one in watching.unseen] == ["keys"]
        assert "password prompts" in watching.unseen[0].why
        with client(desktop.display) as program:
            program.own("CLIPBOARD", program.window())
            desktop.until(lambda: desktop.found(Clipboard))
            assert desktop.found(Clipboard)[0].program == ""
    finally:
        desktop.end()
        server.kill()
        server.wait()
        server.stdout.close()


def test_activity_that_is_killed_says_so_and_the_pictures_go_on(desktop: Desktop) -> None:
    desktop.record(keys="basic", clipboard="use", files=True)
    source = desktop.source
    assert source is not None
    watch = source._watch
    assert watch is not None
    assert watch._desk is not None
    with client(desktop.display) as other:
        window = watch._desk.new_window()
        watch._desk.connection.core.GetInputFocus().reply()  # the server has made it
        other.core.KillClient(window)
        other.settle()
        desktop.until(lambda: len(desktop.found(Watching)) == 2)
        last = desktop.found(Watching)[1]
        assert [one.part for one in last.unseen] == ["windows", "clipboard", "files", "keys"]
        count = len(desktop.payloads)
        other.core.WarpPointer(0, other.root, 0, 0, 0, 0, 77, 88)
        other.settle()
        desktop.until(lambda: len(desktop.payloads) > count)
    assert desktop.error is None
    assert len(desktop.found(Watching)) == 2


def test_a_mistake_in_activity_ends_no_recording(desktop: Desktop) -> None:
    desktop.record()
    source = desktop.source
    assert source is not None
    watch = source._watch
    assert watch is not None

    def broken() -> Glance:
        raise RuntimeError("no\nluck")

    watch._windows.look = broken  # type: ignore[method-assign]
    desktop.until(lambda: len(desktop.found(Watching)) == 2)
    (unseen,) = desktop.found(Watching)[1].unseen
    assert (unseen.part, unseen.why) == ("windows", "it failed: RuntimeError('no\\nluck')")
    assert desktop.error is None


def test_a_display_of_another_machine_has_neither_keys_nor_files(
    desktop: Desktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.session.recorder.sources.x11_desk.server_uid", lambda _: None)
    desktop.record(keys="basic", files=True)
    (watching,) = desktop.found(Watching)
    assert [one.part for one in watching.unseen] == ["files", "keys"]
    assert all("network" in one.why for one in watching.unseen)


def test_entries_are_encoded_as_they_are_read(desktop: Desktop) -> None:
    desktop.record()
    for _, data in [one for one in desktop.payloads if is_activity(one[1])]:
        assert encode_activity(decode_activity(data)) == [data]
