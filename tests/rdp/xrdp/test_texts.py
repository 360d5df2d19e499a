"""The files that xrdp and its session manager read, and the certificate."""

from __future__ import annotations

import configparser
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agents.rdp.xrdp import rendering
from agents.rdp.xrdp.certificate import (
    ensure_certificate,
    fingerprint,
    make_certificate,
    trouble_with,
)
from agents.rdp.xrdp.files import FolderLock, RoomBusy, make_folder, write_private
from agents.rdp.xrdp.launcher import LOG_LIMIT, Gate, Launcher, _rotate
from agents.rdp.xrdp.rendering import Layout
from agents.rdp.xrdp.settings import XrdpSettings
from schemas.rdp_config import DesiredServer, Devices, LogLevel, Security, ServerConfig
from schemas.sessions import new_session_id
from tests.rdp.people import open_folder

SERVER = str(new_session_id())
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def server(**config: object) -> DesiredServer:
    return DesiredServer(
        server=SERVER, name="support-desk", host="desk", version=3, desired="running", restarts=0,
        port=13400, config=ServerConfig(**config),
    )  # fmt: skip


LAYOUT = Layout(Path("/var/lib/lucid/xrdp/s"), "127.0.0.1", 23400, 320)


def parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(text)
    return parser


def test_nothing_passes_unless_it_is_allowed() -> None:
    closed = parsed(rendering.xrdp_ini(server(), LAYOUT))
    for channel in ("rdpdr", "rdpsnd", "cliprdr", "rail", "xrdpvr"):
        assert closed["Channels"][channel] == "false"
    assert closed["Xorg"]["channel.cliprdr"] == "false"
    manager = parsed(rendering.sesman_ini(server(), LAYOUT))
    assert manager["Security"]["RestrictOutboundClipboard"] == "all"
    assert manager["Security"]["RestrictInboundClipboard"] == "all"
    assert manager["Chansrv"]["EnableFuseMount"] == "false"


@pytest.mark.parametrize(
    ("device", "channel"),
    [("clipboard", "cliprdr"), ("drive", "rdpdr"), ("printer", "rdpdr"), ("audio", "rdpsnd")],
)
def test_each_device_opens_its_own_channel(device: str, channel: str) -> None:
    devices = Devices(**{device: True})
    text = parsed(rendering.xrdp_ini(server(devices=devices), LAYOUT))
    allowed = [name for name in ("rdpdr", "rdpsnd", "cliprdr") if text["Channels"][name] == "true"]
    assert allowed == [channel]
    manager = parsed(rendering.sesman_ini(server(devices=devices), LAYOUT))
    clipboard = "none" if device == "clipboard" else "all"
    assert manager["Security"]["RestrictOutboundClipboard"] == clipboard
    assert (manager["Chansrv"]["EnableFuseMount"] == "true") == (device == "drive")


@pytest.mark.parametrize(
    ("security", "versions"),
    [("low", "TLSv1, TLSv1.1, TLSv1.2"), ("medium", "TLSv1.2"), ("high", "TLSv1.2, TLSv1.3"),
     ("maximum", "TLSv1.3")],
)  # fmt: skip
def test_security_is_tls_of_these_versions(security: Security, versions: str) -> None:
    text = parsed(rendering.xrdp_ini(server(security=security), LAYOUT))
    assert text["Globals"]["ssl_protocols"] == versions
    assert text["Globals"]["security_layer"] == "tls"


@pytest.mark.parametrize("level", ["error", "warning", "info", "debug"])
def test_what_the_configuration_says_is_in_the_files(level: LogLevel) -> None:
    wanted = server(colour_depth=32, max_sessions=4, log_level=level)
    text = parsed(rendering.xrdp_ini(wanted, LAYOUT))
    assert text["Globals"]["port"] == "tcp://127.0.0.1:13400"
    assert text["Globals"]["max_bpp"] == "32"
    assert text["Globals"]["certificate"] == "/var/lib/lucid/xrdp/s/cert.pem"
    assert text["Logging"]["LogLevel"] == level.upper()
    manager = parsed(rendering.sesman_ini(wanted, LAYOUT))
    assert manager["Globals"]["ListenPort"] == "23400"
    assert manager["Globals"]["ListenAddress"] == "127.0.0.1"
    assert manager["Globals"]["EnableUserWindowManager"] == "false"
    assert manager["Globals"]["DefaultWindowManager"].endswith("/public/startwm.sh")
    assert manager["Sessions"]["X11DisplayOffset"] == "320"
    assert manager["Sessions"]["MaxSessions"] == "4"
    assert manager["Security"]["AllowRootLogin"] == "false"
    assert manager["SessionVariables"]["LUCID_RDP_SERVER"] == SERVER


def test_a_certificate_is_kept_while_it_serves(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    assert trouble_with(certificate, key, NOW) == "there is none"
    make_certificate(certificate, key, "desk", 30, NOW)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert trouble_with(certificate, key, NOW) == ""
    assert trouble_with(certificate, key, NOW + timedelta(days=29, hours=1)) != ""
    assert trouble_with(certificate, key, NOW - timedelta(hours=2)) != ""
    first = fingerprint(certificate)
    make_certificate(tmp_path / "other.pem", tmp_path / "other.key", "desk", 30, NOW)
    assert trouble_with(certificate, tmp_path / "other.key", NOW) == "it belongs to another key"
    key.write_bytes(b"nonsense")
    assert "cannot be read" in trouble_with(certificate, key, NOW)
    assert ensure_certificate(certificate, key, "desk", 30)
    assert fingerprint(certificate) != first
    assert ensure_certificate(certificate, key, "desk", 30) == ""


def test_a_file_is_replaced_whole_and_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "key.pem"
    make_folder(path.parent)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (path.parent / ".key.pem.new").write_text("left by a killed writer")
    write_private(path, b"one")
    write_private(path, b"two", 0o755)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert [entry.name for entry in path.parent.iterdir()] == ["key.pem"]


def test_a_large_log_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "xrdp.log"
    _rotate(log)
    log.write_text("small")
    _rotate(log)
    assert log.exists()
    with log.open("r+b") as file:
        file.truncate(LOG_LIMIT + 1)
    _rotate(log)
    assert not log.exists()
    assert (tmp_path / "xrdp.log.1").exists()


def test_each_port_has_displays_and_a_session_manager_of_its_own(tmp_path: Path) -> None:
    launcher = Launcher(XrdpSettings(), tmp_path)
    seen = set()
    for port in range(13389, 14390):
        layout = launcher.layout(server().model_copy(update={"port": port}))
        seen.add((layout.sesman_port, layout.display))
        assert 100 <= layout.display <= 20_200
        assert layout.sesman_port == port + 10_000
    assert len(seen) == 1001
    assert len({display // 20 for _, display in seen}) == 1001


def test_files_are_private_and_a_desktop_begins_at_the_gate() -> None:
    with open_folder() as folder:
        launcher = Launcher(XrdpSettings(), folder, Gate(folder / "c.sock", True))
        assert launcher.write_files(server()) == "there is none"
        layout = launcher.layout(server())
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in layout.folder.iterdir()}
        assert modes == {
            "public": 0o755, "xrdp.ini": 0o600, "sesman.ini": 0o644, "cert.pem": 0o600,
            "key.pem": 0o600,
        }  # fmt: skip
        assert "gate.py" in layout.startwm.read_text()
        assert str(folder / "c.sock") in layout.startwm.read_text()
        assert launcher.write_files(server()) == ""
        launcher.gate = None
        launcher.write_files(server())
        assert ".xsession" in layout.startwm.read_text()


async def test_a_folder_has_one_room_at_a_time(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "xrdp"), FolderLock(tmp_path / "xrdp")
    with first.held(), second.held():
        await first.take()
        with pytest.raises(RoomBusy, match="another xrdp room keeps the servers of"):
            await second.take()
    with second.held():
        await second.take()
