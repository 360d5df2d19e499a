"""A client's drive and clipboard: there on a server that allows them, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.rdp_config import Devices, ServerConfig
from tests.e2e.conftest import xvfb
from tests.rdp.people import Account, account, can_run, open_folder
from tests.rdp.xrdp.yard import leftovers, running
from tests.session.recorder.desktop import Client
from tests.session.recorder.desktop import client as x_client
from tests.waiting import until

pytestmark = [
    pytest.mark.display,
    pytest.mark.skipif(
        not (can_run() and shutil.which("rdesktop")), reason="needs root, xrdp and rdesktop"
    ),
]
# What is on the drive is written where the test can read it; the X server has the clipboard.
SESSION = """\
#!/bin/sh
while :; do
    cat "$HOME/thinclient_drives/share/paper" > "$HOME/paper.new" 2> "$HOME/why"
    mv "$HOME/paper.new" "$HOME/paper"
    echo "$DISPLAY" > "$HOME/display.new" && mv "$HOME/display.new" "$HOME/display"
    sleep 0.1
done &
exec xterm
"""
PAPER, COPIED = "from the client's drive\n", b"from the client's clipboard"


def owned(program: Client) -> bool:
    """Whether anybody has copied anything."""
    return bool(program.core.GetSelectionOwner(program.atom("CLIPBOARD")).reply().owner)


async def pasted(program: Client) -> bytes:
    """What whoever owns the clipboard hands out."""
    window, place = program.window(), program.atom("HERE")
    program.core.ConvertSelection(
        window, program.atom("CLIPBOARD"), program.atom("UTF8_STRING"), place, 0
    )

    def there() -> bytes:
        found = program.core.GetProperty(False, window, place, 0, 0, 1000).reply()
        return bytes(found.value.buf())

    program.settle()
    return bytes(await until(there, "pasted text"))


@contextlib.contextmanager
def copied_at(screen: str) -> Iterator[None]:
    """Somebody at the client has copied a text."""
    with x_client(screen) as program:
        targets = b"".join(program.atom(name).to_bytes(4, "little")
                           for name in ("UTF8_STRING", "TARGETS"))  # fmt: skip
        program.own("CLIPBOARD", program.window())
        program.serve({
            "UTF8_STRING": ("UTF8_STRING", COPIED, 8), "TARGETS": ("ATOM", targets, 32),
        })  # fmt: skip
        yield


@contextlib.contextmanager
def rdesktop(port: int, user: Account, screen: str, share: Path) -> Iterator[None]:
    """An RDP client that brings a drive and its clipboard.

    FreeRDP 2.11 shows its drives to servers alone that announce the message of a logon, which
    xrdp 0.9 sends without having announced it.
    """
    program = subprocess.Popen(
        ["rdesktop", "-u", user.name, "-p", "-", "-g", "800x600", "-r", f"disk:share={share}",
         "-r", "clipboard:CLIPBOARD", f"127.0.0.1:{port}"],
        env={**os.environ, "DISPLAY": screen, "HOME": str(share.parent)},
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert program.stdin is not None
    # It asks whether it may trust a certificate that it does not know.
    program.stdin.write(f"{user.password}\nyes\n".encode())
    program.stdin.flush()
    try:
        yield
    finally:
        program.kill()
        program.wait()
        program.stdin.close()


async def test_a_client_brings_what_its_server_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_folder() as folder, account(SESSION) as user, xvfb("1024x768") as (screen, _):
        share = folder / "share"
        share.mkdir()
        (share / "paper").write_text(PAPER)
        monkeypatch.setenv("XAUTHORITY", str(user.home / ".Xauthority"))
        async with running(folder) as yard:
            open_one = yard.want(config=ServerConfig(devices=Devices(drive=True, clipboard=True)))
            closed = yard.want()
            for wanted in (open_one, closed):
                await yard.reach(wanted, "running")
                with copied_at(screen), rdesktop(wanted.port, user, screen, share):
                    await desktop(user.home)
                    display = (user.home / "display").read_text().strip()
                    with x_client(display) as program:
                        if wanted is open_one:
                            await until(lambda: (user.home / "paper").read_text() == PAPER, "drive")
                            await until(lambda p=program: owned(p), "clipboard")
                            assert await pasted(program) == COPIED
                        else:
                            assert not owned(program)
                            assert (user.home / "paper").read_text() == ""
                deleted = yard.again(wanted, desired="deleted")
                await yard.gone(deleted)
                assert leftovers(yard, deleted) == []
                (user.home / "display").unlink()


async def desktop(home: Path) -> None:
    await until(lambda: (home / "display").exists(), "desktop", 60)
