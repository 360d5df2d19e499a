"""What decides over activity, without a display: protection, key logs, key names, drives."""

from __future__ import annotations

import ctypes
import os
import pty
import re
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agents.platform.settings import SettingsError
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.capture import (
    ActivityRefused,
    Capture,
    display_capture,
    source_of,
)
from agents.session.recorder.sources.drives import Drives
from agents.session.recorder.sources.keylog import KeyLog
from agents.session.recorder.sources.patterns import Glance, Patterns, Seen
from agents.session.recorder.sources.protection import Protection, Terminals
from agents.session.recorder.sources.x11_keys import Keyboard, Press, press_of
from schemas.activity import MAX_KEYS, Drive, File, Policy
from schemas.canonical import decode, encode

SECOND = 1_000_000
PLAIN, SECRET = Seen("notes", "XTerm", "xterm", "focus"), Seen("", "Pinentry", "", "focus")


# Protection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seen",
    [
        Seen("", "Pinentry-gtk-2", "pinentry-gtk-2"), Seen("", "", "x11-ssh-askpass"),
        Seen("OpenSSH", "Ksshaskpass"), Seen("", "Polkit-gnome-authentication-agent-1"),
        Seen("", "i3lock"), Seen("", "XScreenSaver"), Seen("", "Lightdm-gtk-greeter"),
        Seen("Db.kdbx", "KeePassXC"), Seen("", "Gcr-prompter"), Seen("", "xsecurelock"),
        Seen("Enter PASSWORD for root"), Seen("Passwort eingeben"), Seen("Mot de passe"),
        Seen("Sign in – Google Accounts", "firefox"), Seen("Log in to GitHub", "firefox"),
        Seen("Anmelden"), Seen("Unlock Login Keyring"), Seen("sudo apt"), Seen("Enter PIN"),
        Seen("Passphrase"), Seen("Введите пароль"), Seen("Authentication required"),
    ],
)  # fmt: skip
def test_windows_in_which_passwords_are_typed_are_covered(seen: Seen) -> None:
    assert Patterns().cover(seen)


@pytest.mark.parametrize(
    "seen",
    [
        PLAIN, Seen("plan.ods – LibreOffice Calc", "libreoffice-calc", "soffice"), Seen(),
        Seen("Opinions and spins", "firefox", "Navigator"), Seen("~: bash", "Gnome-terminal"),
    ],
)  # fmt: skip
def test_other_windows_are_not(seen: Seen) -> None:
    assert not Patterns().cover(seen)


def test_patterns_are_those_that_are_given() -> None:
    own = Patterns(["^vault$"], ["geheim"])
    assert own.cover(Seen("", "Vault"))
    assert own.cover(Seen("Streng GEHEIM"))
    assert not own.cover(SECRET)


class ProtectedKeys(RuleBasedStateMachine):
    """Keys pass only if every look near them was clear, in time, and saw everything."""

    def __init__(self) -> None:
        super().__init__()
        self.protection = Protection(Patterns())
        self.clock = 100.0
        self.looks: list[bool] = []
        self.allowed = False

    @rule(secret=st.booleans(), other=st.booleans(), sure=st.booleans(), whole=st.booleans(),
          pause=st.sampled_from([0.1, 0.4, 0.6, 60.0]))  # fmt: skip
    def look(self, secret: bool, other: bool, sure: bool, whole: bool, pause: float) -> None:
        self.clock += pause
        glance = Glance(SECRET if secret else PLAIN, (SECRET,) if other else (), sure)
        self.allowed = self.protection.look(glance, self.clock, whole=whole)
        late = pause > 0.5 or not self.looks
        self.looks.append(sure and whole and not (secret or other or late))

    @invariant()
    def only_after_three_clear_looks(self) -> None:
        assert self.allowed == (len(self.looks) >= 3 and all(self.looks[-3:]))
        if self.looks:
            assert self.protection.now != self.looks[-1]


TestProtectedKeys = ProtectedKeys.TestCase
TestProtectedKeys.settings = settings(max_examples=60, deadline=None)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder with one terminal as the kernel has them, and the terminal's descriptor."""
    master, slave = pty.openpty()
    folder = tmp_path / "pts"
    folder.mkdir()
    (folder / "7").symlink_to(os.ttyname(slave))
    (folder / "ptmx").write_text("")
    try:
        yield folder, slave
    finally:
        os.close(master)
        os.close(slave)


def set_flags(descriptor: int, *, lines: bool, echo: bool) -> None:
    mode = termios.tcgetattr(descriptor)
    for flag, on in ((termios.ICANON, lines), (termios.ECHO, echo)):
        mode[3] = mode[3] | flag if on else mode[3] & ~flag
    termios.tcsetattr(descriptor, termios.TCSANOW, mode)


@pytest.mark.parametrize("uid", [None, 0, os.geteuid()])
def test_a_terminal_that_reads_a_line_without_showing_it_asks_for_a_password(
    terminal: tuple[Path, int], uid: int | None
) -> None:
    folder, slave = terminal
    terminals = Terminals(uid, folder)
    for lines, echo in ((True, True), (False, False), (False, True)):
        set_flags(slave, lines=lines, echo=echo)
        assert not terminals.asking(1.0)
    set_flags(slave, lines=True, echo=False)  # as getpass and sudo do
    assert terminals.asking(2.0)


def test_terminals_of_others_are_no_concern(terminal: tuple[Path, int]) -> None:
    folder, slave = terminal
    set_flags(slave, lines=True, echo=False)
    assert not Terminals(os.geteuid() + 1, folder).asking(1.0)
    assert not Terminals(None, folder / "none").asking(1.0)


def test_a_new_terminal_protects_until_it_is_set_up(terminal: tuple[Path, int]) -> None:
    folder, slave = terminal
    terminals = Terminals(None, folder)
    assert not terminals.asking(1.0)
    (folder / "8").symlink_to(os.ttyname(slave))
    assert terminals.asking(2.0)
    assert terminals.asking(2.9)
    assert not terminals.asking(3.1)


def test_a_terminal_that_cannot_be_looked_at_is_no_terminal(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("no terminal")
    (tmp_path / "2").mkdir()
    (tmp_path / "3").symlink_to(tmp_path / "nothing")
    assert not Terminals(None, tmp_path).asking(1.0)
    assert not Terminals(5, tmp_path).asking(1.0)
    assert Terminals(None, tmp_path / "1").asking(1.0)


# Keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keysym", "state", "press"),
    [
        (0x61, 0, Press("a", "letter")), (0xE9, 0, Press("é", "letter")),
        (0x10020AC, 0, Press("€", "symbol")), (0x6C1, 0, Press("Cyrillic_a", "letter")),
        (0x31, 0, Press("1", "digit")), (0xFFB1, 0, Press("KP_1", "digit")),
        (0x2B, 0, Press("+", "symbol")), (0x20, 0, Press("space", "space")),
        (0xFF0D, 0, Press("Return", "space")), (0xFF08, 0, Press("BackSpace", "edit")),
        (0xFF51, 0, Press("Left", "move")), (0xFFC2, 0, Press("F5", "function")),
        (0xFFE1, 4, Press("Shift_L", "modifier")),
        (0xFE03, 0, Press("ISO_Level3_Shift", "modifier")),
        (0x63, 4, Press("Control+c", "shortcut")),
        (0xFFC1, 12, Press("Control+Alt+F4", "shortcut")),
        (0x6C, 64, Press("Super+l", "shortcut")), (0x61, 1, Press("a", "letter")),
        (0x1008FF13, 0, Press("AudioRaiseVolume", "other")), (0xFF1B, 0, Press("Escape", "other")),
        (0xAD, 0, Press("\\xad", "symbol")), (0x12345678, 0, Press("0x12345678", "other")),
        (0, 0, Press("0x0", "other")),
    ],
)  # fmt: skip
def test_a_key_has_a_name_and_a_class(keysym: int, state: int, press: Press) -> None:
    assert press_of(keysym, state) == press


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_every_keysym_has_a_name_that_fits(keysym: int, state: int) -> None:
    log = KeyLog("comprehensive", 5)
    log.add([press_of(keysym, state)], 0)
    entry = log.close(1)
    assert entry is not None
    assert entry.keys == [press_of(keysym, state).name]


KEYS = {
    38: [0x61, 0x41, 0x6C6, 0x6E6, 0xE6, 0xC6],  # a A, second layout, third level
    10: [0x31, 0x21], 87: [0xFF9C, 0xFFB1], 36: [0xFF0D], 50: [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "state", "keysym"),
    [
        (38, 0, 0x61), (38, 1, 0x41), (38, 2, 0x41), (38, 3, 0x61),  # shift, lock, both
        (38, 1 << 13, 0x6C6), (38, 1 | 1 << 13, 0x6E6), (38, 128, 0xE6), (38, 129, 0xC6),
        (10, 1 << 13, 0x31), (10, 128, 0x31), (10, 2, 0x31), (10, 1, 0x21),
        (87, 0, 0xFF9C), (87, 16, 0xFFB1), (87, 17, 0xFF9C),  # the keypad, with Num Lock
        (36, 1, 0xFF0D), (50, 0, 0), (99, 1, 0),
    ],
)  # fmt: skip
def test_a_keycode_gives_the_keysym_that_programs_get(code: int, state: int, keysym: int) -> None:
    keyboard = object.__new__(Keyboard)
    keyboard._symbols = KEYS
    assert keyboard._symbol(code, state) == keysym


A, SPACE = Press("a", "letter"), Press("space", "space")


def test_each_level_keeps_what_it_says_and_no_more() -> None:
    basic, strict, full = (KeyLog(level, 5) for level in ("basic", "strict", "comprehensive"))  # type: ignore[arg-type]
    for log in (basic, strict, full):
        log.add([], 1 * SECOND)
        log.add([A, A], 2 * SECOND)
        log.add([SPACE], 3 * SECOND)
        assert log.take(3 * SECOND) is None
    one, two, three = (log.take(7 * SECOND) for log in (basic, strict, full))
    assert one is not None
    assert two is not None
    assert three is not None
    assert (one.count, one.span, one.classes, one.keys) == (3, 5 * SECOND, None, None)
    assert (two.classes, two.keys) == ({"letter": 2, "space": 1}, None)
    assert (three.classes, three.keys) == (None, ["a", "a", "space"])
    for log in (basic, strict, full):
        assert log.take(20 * SECOND) is None
    assert "_keys" not in repr(vars(basic)) or not vars(basic)["_keys"]


def test_keys_have_an_entry_every_two_seconds_and_when_it_is_full() -> None:
    log = KeyLog("comprehensive", 600)
    log.add([A], 0)
    assert log.take(2 * SECOND - 1) is None
    assert log.take(2 * SECOND) is not None
    log.add([A] * 1000, 3 * SECOND)
    assert log.take(3 * SECOND + SECOND // 10) is None
    entry = log.take(3 * SECOND + SECOND // 4)
    assert entry is not None
    assert entry.keys is not None
    assert (entry.count, len(entry.keys)) == (1000, MAX_KEYS)


# Drives -------------------------------------------------------------------------------------------

MOUNT = "77 32 0:51 / {place} rw,nosuid,nodev - fuse.xrdp-chansrv xrdp-chansrv rw,user_id={uid}"


class Machine:
    """A folder as /proc is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "self").mkdir(parents=True)
        self.mounts()

    def mounts(self, *lines: str) -> None:
        usual = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n30 1 0:5 / /tmp rw - fuse.sshfs x rw"
        (self.folder / "self/mountinfo").write_text("\n".join([usual, *lines]) + "\n")

    def opens(self, pid: int, program: str, *files: tuple[str, int]) -> None:
        process = self.folder / str(pid)
        for part in ("fd", "fdinfo"):
            (process / part).mkdir(parents=True, exist_ok=True)
        (process / "comm").write_text(f"{program}\n")
        for number, (place, flags) in enumerate(files):
            (process / "fd" / str(number)).symlink_to(place)
            (process / "fdinfo" / str(number)).write_text(
                f"pos:\t0\nflags:\t0{flags:o}\nmnt_id:\t7\n"
            )


def test_a_drive_and_the_files_that_are_open_on_it(tmp_path: Path) -> None:
    uid = os.geteuid()
    machine = Machine(tmp_path / "proc")
    drives = Drives(uid, machine.folder)
    machine.opens(10, "cat", ("/home/ada/drive s/x", os.O_RDONLY))
    assert drives.look(0) == []
    machine.mounts(MOUNT.format(place="/home/ada/drive\\040s", uid=uid),
                   MOUNT.format(place="/home/bob/drives", uid=uid + 1))  # fmt: skip
    assert drives.look(1.9) == []  # not yet
    place = "/home/ada/drive s"
    assert drives.look(2.0) == [
        Drive(place=place, mounted=True),
        File(place=f"{place}/x", program="cat", access="read", left_out=0),
    ]
    machine.opens(11, "cp", ("/etc/passwd", 0), (f"{place}/b\n", os.O_WRONLY | os.O_CREAT))
    machine.opens(12, "soffice", (f"{place}/c", os.O_RDWR), ("socket:[1]", os.O_RDWR))
    machine.opens(13, "xrdp-chansrv", (f"{place}/d", os.O_RDWR))
    assert drives.look(4.0) == [
        File(place=f"{place}/b\\x0a", program="cp", access="write", left_out=0),
        File(place=f"{place}/c", program="soffice", access="both", left_out=0),
    ]
    assert drives.look(6.0) == []
    machine.mounts()
    assert drives.look(8.0) == [Drive(place=place, mounted=False)]


def test_a_real_mount_is_seen_and_never_touched(tmp_path: Path) -> None:
    """A mount of the kernel's as xrdp's channel server makes it; nobody answers for its files, so
    whoever looked into it would wait for ever."""
    folder, libc = tmp_path / "thinclient_drives", ctypes.CDLL(None)
    folder.mkdir()
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    options = f"fd={device},rootmode=40000,user_id={os.geteuid()},group_id=0".encode()
    try:
        kind = b"fuse.xrdp-chansrv"
        if libc.mount(b"xrdp-chansrv", os.fsencode(folder), kind, 6, options):
            pytest.skip("mounting is not allowed here")
        drives = Drives(os.geteuid())
        assert Drive(place=str(folder), mounted=True) in drives.look(0)
        assert not any(isinstance(one, Drive) for one in drives.look(5))
    finally:
        os.close(device)
        libc.umount2(os.fsencode(folder), 2)
    assert Drive(place=str(folder), mounted=False) in drives.look(10)


def test_many_files_have_a_bounded_number_of_entries(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "proc")
    machine.mounts(MOUNT.format(place="/d", uid=5))
    machine.opens(10, "tar", *((f"/d/{number:03d}", 0) for number in range(50)))
    found = [one for one in Drives(None, machine.folder).look(0) if isinstance(one, File)]
    assert [one.left_out for one in found] == [0] * 19 + [30]


def test_a_machine_that_says_nothing_has_no_drives(tmp_path: Path) -> None:
    assert Drives(0, tmp_path).look(0) == []


# Settings -----------------------------------------------------------------------------------------


def test_a_start_command_may_not_ask_for_more_than_the_host_allows() -> None:
    section = RecorderSettings(activity_most=Policy(clipboard="use", keys="basic"))
    assert display_capture(section, ":1", None, None).activity == Policy()
    asked = Policy(clipboard="use", keys="basic")
    assert display_capture(section, ":1", None, asked).activity == asked
    for more in (Policy(keys="strict"), Policy(clipboard="details"), Policy(files=True)):
        with pytest.raises(ActivityRefused, match="LUCID_RECORDER_ACTIVITY_MOST"):
            display_capture(section, ":1", None, more)
    assert display_capture(section, ":1", None, Policy(windows=False)).activity is not None


def test_a_capture_of_an_older_recorder_is_read_and_a_plain_one_written_as_before() -> None:
    old = (
        b'{"frames":0,"kind":"display","name":":1","rate":0.0,"seed":0,"size":0,"xauthority":null}'
    ).replace(b"0.0", b"0")
    plain = Capture(kind="display", name=":1")
    assert encode(plain) == old
    assert decode(Capture, old) == plain
    kept = Capture(kind="display", name=":1", activity=Policy(keys="strict"))
    assert decode(Capture, encode(kept)) == kept


def test_settings_come_as_json_and_wrong_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCID_RECORDER_ACTIVITY", '{"keys": "basic"}')
    monkeypatch.setenv("LUCID_RECORDER_PROTECTED_TITLES", '["geheim"]')
    section = RecorderSettings.load()
    assert section.activity == Policy(keys="basic")
    assert section.protected_titles == ("geheim",)
    assert source_of(Capture(kind="display", name=":1", activity=section.activity), section)
    monkeypatch.setenv("LUCID_RECORDER_PROTECTED_TITLES", '["(["]')
    with pytest.raises(SettingsError, match=re.escape("PROTECTED_TITLES")):
        RecorderSettings.load()
    monkeypatch.delenv("LUCID_RECORDER_PROTECTED_TITLES")
    monkeypatch.setenv("LUCID_RECORDER_ACTIVITY", '{"keys": "all"}')
    with pytest.raises(SettingsError, match="ACTIVITY"):
        RecorderSettings.load()
