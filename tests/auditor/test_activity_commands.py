"""`lucid activity` over a bundle: everything, a type, a text; what has none; and its trace."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import av
import pytest
from typer.testing import CliRunner

from agents.auditor.activity_commands import NoActivity, describe, readable
from agents.auditor.bundle import save_bundle
from agents.auditor.traces import Export
from agents.cli import app
from agents.platform.retry import BrokerUnreachable
from agents.platform.settings import Settings
from schemas.activity import Clipboard, Drive, Entry, File, Keys, Policy, Unseen, Watching, Window
from schemas.audit import AuditEvent, ResourceRead
from schemas.canonical import encode
from schemas.errors import LucidError
from tests.auditor.test_audit_commands import SESSION, make  # noqa: F401 - a fixture
from tests.factories import make_session
from tests.memory_source import MemorySource
from tests.vectors.make_activity import ENTRIES

VECTORS = Path(__file__).parents[1] / "vectors"


def vector(name: str) -> MemorySource:
    folder = VECTORS / name
    chunks = {int(path.stem): path.read_bytes() for path in folder.glob("chunks/*.chunk")}
    return MemorySource(
        session=None, manifest_data=(folder / "manifest.json").read_bytes(),
        note=(folder / "checkpoint.txt").read_bytes(), wrapped=(folder / "key.age").read_bytes(),
        chunks=chunks, listed=None,
    )  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "activity.lucid"
    save_bundle(vector("activity"), path, force=False)
    return path


@pytest.fixture(autouse=True)
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vectors' auditor, as a file that only we can read."""
    path = tmp_path / "auditor.age"
    path.write_bytes((VECTORS / "keys/auditor.age").read_bytes())
    path.chmod(0o600)
    monkeypatch.setenv("TEST_IDENTITY", str(path))


def lucid(*arguments: str) -> Any:
    """A command's JSON, or its text."""
    done = CliRunner().invoke(app, [*arguments, "--identity", os.environ["TEST_IDENTITY"]])
    if isinstance(done.exception, LucidError):
        raise done.exception
    if "--json" in arguments and done.exit_code == 0:
        return json.loads(done.stdout)
    return done


def test_all_entries_come_with_their_time_and_type(bundle: Path) -> None:
    found = lucid("activity", str(bundle), "--json")
    wanted = [(ms, one) for ms, entries in ENTRIES for one in entries]
    assert len(found["entries"]) == len(wanted)
    for shown, (ms, entry) in zip(found["entries"], wanted, strict=True):
        assert shown.pop("time") == 1_767_225_600_000_000 + ms * 1000
        assert shown.pop("type") == type(entry).__name__.lower()
        assert shown == json.loads(encode(entry))


def test_a_table_shows_them_and_hostile_titles_stay_text(bundle: Path) -> None:
    text = lucid("activity", str(bundle)).stdout
    assert "2026-01-01 00:00:00.500" in text
    assert "Calc: Lohn – März 2026.ods\\x1b[2J (3 changes before it left out)" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("arguments", "types"),
    [
        (["--search", "MÄRZ"], ["window"]),
        (["--search", "plan.pdf"], ["file"]),
        (["--search", "chansrv"], ["clipboard"]),
        (["--search", "utf8_"], ["clipboard"]),
        (["--type", "keys"], ["keys"] * 3),
        (["--type", "window", "--search", "keyring"], ["window"]),
        (["--search", "nowhere"], []),
    ],
)
def test_searching(bundle: Path, arguments: list[str], types: list[str]) -> None:
    found = lucid("activity", str(bundle), "--json", *arguments)
    assert [one["type"] for one in found["entries"]] == types


def test_a_recording_without_activity_says_so(tmp_path: Path, bundle: Path) -> None:
    other = tmp_path / "other.lucid"
    save_bundle(vector("closed"), other, force=False)
    with pytest.raises(NoActivity, match="LUCID_RECORDER_ACTIVITY"):
        lucid("activity", str(other))
    assert lucid("activity", str(bundle), "--type", "nonsense").exit_code == 2


def test_film_and_contact_sheet_are_made_of_the_pictures_alone(
    bundle: Path, tmp_path: Path
) -> None:
    film = lucid("export", str(bundle), str(tmp_path / "a.mp4"), "--json")
    assert (film["pictures"], film["width"], film["height"]) == (4, 16, 8)
    # The last picture is shown until the recording ends, in the film as in its facts.
    with av.open(str(tmp_path / "a.mp4")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert len(shown) == 5
    assert shown[-1] == pytest.approx(film["seconds"], abs=0.002)
    assert film["seconds"] > shown[-2]
    assert lucid("export", str(bundle), str(tmp_path / "a.png"), "--json")["moments"] == 4


def test_showing_is_put_down_before_it_happens(make: Any) -> None:  # noqa: F811
    home = make("one")
    Export(home.settings, SESSION).shown("activity.read", 12, 3456)
    acts = [AuditEvent.from_kafka(raw.key, raw.headers, raw.value).data for raw in home.records()]
    assert acts[1:] == [
        ResourceRead(action="activity.read", resource=f"sessions/{SESSION}", session=SESSION,
                     request=None, bytes=3456, items=12, outcome="ok"),
    ]  # fmt: skip
    away = Settings.load(home=home.settings.home, kafka="127.0.0.1:1", host="desk7")
    with pytest.raises(BrokerUnreachable):
        Export(away, SESSION)


WINDOW = {"instance": "", "via": "focus", "protected": False, "left_out": 0}


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (Watching(policy=Policy(), unseen=[Unseen(part="keys", why="no XInput")]),
         "windows True, clipboard off, files False, keys disabled; keys cannot be seen: no XInput"),
        (Window(title="a", program="", **WINDOW), "unknown program: a"),
        (Window(title="", program="", **{**WINDOW, "via": "none"}), "no window"),
        (Window(title="a", program="X", **{**WINDOW, "protected": True}), "X: a (keys protected)"),
        (Clipboard(selection="PRIMARY", owned=False, program="", changes=1, formats=None,
                   size=None), "PRIMARY given up"),
        (Clipboard(selection="CLIPBOARD", owned=True, program="", changes=3, formats=["a", "b"],
                   size=7),
         "CLIPBOARD taken by an unknown program, 3 times, 7 bytes of text, a b"),
        (Drive(place="/d", mounted=False), "/d unmounted"),
        (File(place="/d/x", program="", access="both", left_out=4),
         "a program: both /d/x, 4 more files"),
        (Keys(level="basic", span=1_500_000, count=3, classes=None, keys=None), "3 in 1.5 s"),
        (Keys(level="strict", span=0, count=3, classes={"digit": 3}, keys=None),
         "3 in 0.0 s: digit 3"),
        (Keys(level="comprehensive", span=0, count=2, classes=None, keys=["Shift_L", "A"]),
         "2 in 0.0 s: A"),
    ],
)  # fmt: skip
def test_an_entry_as_a_line(entry: Entry, text: str) -> None:
    assert describe(entry) == text


def test_keys_read_as_text() -> None:
    keys = ["Shift_L", "H", "i", "space", "Tab", "Control+c", "BackSpace", "Return"]
    assert readable(keys) == "Hi ⇥[Control+c][BackSpace]⏎"


def test_an_erased_or_damaged_recording_shows_nothing_of_it(tmp_path: Path) -> None:
    made = make_session(frames=3, per_chunk=2)
    path = tmp_path / "no.lucid"
    save_bundle(MemorySource.of(made), path, force=False)
    with pytest.raises(LucidError):
        lucid("activity", str(path))
