"""Activity payloads: what is written is read back by two readers, bad bytes are typed errors."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.activity import (
    CODEC_ACTIVITY,
    CODEC_PICTURES,
    ENTRY_TYPES,
    MAX_ENTRY,
    MAX_TEXT,
    Clipboard,
    Display,
    Entry,
    Keys,
    Policy,
    Unseen,
    Watching,
    Window,
    decode_activity,
    encode_activity,
    entries_of,
    fit,
    is_activity,
    pictures_of,
    type_name,
)
from schemas.canonical import LARGEST, InvalidModel, encode
from schemas.commands import RecorderCommand, read_command
from schemas.errors import FormatError, Truncated, UnknownVersion
from schemas.frames import MAX_PAYLOAD
from schemas.screen import Size, decode_update, encode_update, pictures
from schemas.sessions import new_session_id
from tests import independent_activity
from tests.vectors.make_activity import ENTRIES, screen_payloads

DOCS = Path(__file__).parents[2] / "docs" / "formats"
Texts = st.text(max_size=400).map(fit)
Names = st.text(max_size=120).map(lambda text: fit(text, 100))
Counts = st.integers(0, LARGEST)
Policies = st.builds(
    Policy, windows=st.booleans(), clipboard=st.sampled_from(["off", "use", "details"]),
    files=st.booleans(), keys=st.sampled_from(["disabled", "basic", "strict", "comprehensive"]),
)  # fmt: skip


@st.composite
def key_entries(draw: st.DrawFn) -> Keys:
    level = draw(st.sampled_from(["basic", "strict", "comprehensive"]))
    names = draw(st.lists(Names, min_size=1, max_size=256))
    kinds = draw(st.dictionaries(st.sampled_from(["letter", "digit", "other"]),
                                 st.integers(1, 99), min_size=1))  # fmt: skip
    classes = kinds if level == "strict" else None
    keys = names if level == "comprehensive" else None
    count = sum(kinds.values()) if classes else len(names) if keys else draw(st.integers(1, 9))
    return Keys(level=level, span=draw(Counts), count=count, classes=classes, keys=keys)


Entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Watching, policy=Policies, unseen=st.lists(
        st.builds(Unseen, part=st.sampled_from(["keys", "files"]), why=Texts), max_size=8)),
    st.builds(Window, title=Texts, program=Names, instance=Names, left_out=Counts),
    st.builds(Display, width=st.integers(1, 65_535), height=st.integers(1, 65_535)),
    st.builds(Clipboard, program=Names, changes=st.integers(1, LARGEST),
              formats=st.none() | st.lists(Names, max_size=32), size=st.none() | Counts),
    key_entries(),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(Entries, min_size=1, max_size=5))
def test_entries_are_read_back_by_both_readers(entries: list[Entry]) -> None:
    (payload,) = encode_activity(entries)
    assert is_activity(payload)
    assert list(decode_activity(payload)) == entries
    found = independent_activity.activity(payload)
    assert [(type_name(one), json.loads(encode(one))) for one in entries] == found
    assert encode_activity(decode_activity(payload)) == [payload]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400), st.sampled_from([1, 100, MAX_TEXT]))
def test_any_text_becomes_one_that_can_be_shown_and_kept(text: str, most: int) -> None:
    found = fit(text, most)
    assert len(found) <= most
    assert not independent_activity.UNSHOWN.search(found)
    assert Window(title=found, program="", instance="", via="none", protected=False, left_out=0)


def test_a_hostile_title_is_cut_and_escaped() -> None:
    text = "\x1b]0;root\x07\n" + "\u202edesrever\u2028\ud800\U000e0041" + "ü" * 1024**2
    found = fit(text)
    assert found.startswith(
        "\\x1b]0;root\\x07\\x0a\\u{202e}desrever\\u{2028}\\u{d800}\\u{e0041}üüü"
    )
    assert len(found) == MAX_TEXT
    assert found.endswith("…")
    assert fit("as it is: ä\\n") == "as it is: ä\\n"


@pytest.mark.parametrize("bad", ["\n", "\x7f", "\x9b", "\u202e", "\ufeff", "\U000e0041", "x" * 301])
def test_a_text_that_is_not_fit_is_refused(bad: str) -> None:
    good = Window(title="a", program="", instance="", via="none", protected=False, left_out=0)
    body = encode(good).replace(b'"a"', json.dumps(bad, ensure_ascii=False).encode())
    payload = b"\x02\x00\x00\x01\x06" + len(body).to_bytes(4, "big") + body
    with pytest.raises(FormatError):
        decode_activity(payload)
    with pytest.raises(independent_activity.Wrong):
        independent_activity.activity(payload)


def test_many_entries_are_spread_over_payloads() -> None:
    one = Window(
        title="\\" * 300, program="\\" * 100, instance="", via="focus", protected=True, left_out=0
    )
    payloads = encode_activity([one] * 2000)
    assert len(payloads) == 2
    assert max(map(len, payloads)) <= MAX_PAYLOAD
    assert [entry for payload in payloads for entry in decode_activity(payload)] == [one] * 2000
    assert encode_activity([]) == []


def test_the_largest_entries_fit() -> None:
    wide = "\U0001f600" * 100
    largest = [
        Clipboard(selection="PRIMARY", owned=True, program=wide, changes=1,
                  formats=["\U0001f600" * 100] * 32, size=LARGEST),
        Keys(level="comprehensive", span=LARGEST, count=300, classes=None,
             keys=["Control+Alt+Super+Hangul_switch_xxxxxxxxxxxxxxxxxxxxxxxx"] * 256),
    ]  # fmt: skip
    for entry in largest:
        assert len(encode(entry)) <= MAX_ENTRY
        assert decode_activity(encode_activity([entry])[0]) == (entry,)
    keys = Keys(level="comprehensive", span=1, count=256, classes=None, keys=[wide] * 256)
    with pytest.raises(FormatError, match="16384"):
        encode_activity([keys])


HEAD = b"\x02\x00\x00\x01"
SMALL = b'{"height":4,"width":3}'


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", Truncated),
        (b"\x02\x00\x00", Truncated),
        (b"\x03\x00\x00\x01", UnknownVersion),
        (b"\x01\x00\x00\x01", UnknownVersion),
        (b"\x02\x01\x00\x01", FormatError),  # a flag
        (b"\x02\x00\x00\x00", FormatError),  # no entry
        (HEAD, Truncated),
        (HEAD + b"\x07\x00\x00\x00\x09{}", Truncated),
        (HEAD + b"\x04\x00\x00\x00\x16" + SMALL, FormatError),  # an item of pictures
        (HEAD + b"\x0c\x00\x00\x00\x16" + SMALL, FormatError),
        (HEAD + b"\x07\x00\x00\x00\x16" + SMALL + b"x", FormatError),
        (HEAD + b"\x07\x00\x00\x00\x17" + SMALL + b" ", FormatError),  # not canonical
        (HEAD + b"\x07\x00\x00\x00\x02{}", FormatError),
        (HEAD + b"\x07\x00\x00\x40\x01" + b" " * 16_385, FormatError),
    ],
)
def test_what_breaks_the_format_has_its_own_error(payload: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode_activity(payload)
    if payload[:1] != b"\x01":  # those of pictures are not this reader's
        with pytest.raises(independent_activity.Wrong):
            independent_activity.activity(payload)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(5, 11))
def test_any_bytes_give_entries_or_a_typed_error(data: bytes, number: int) -> None:
    whole = HEAD + bytes([number]) + len(data).to_bytes(4, "big") + data
    for payload in (data, HEAD + data, whole):
        try:
            found = decode_activity(payload)
        except FormatError:
            continue
        assert encode_activity(found) == [payload]


@settings(max_examples=200, deadline=None)
@given(st.data(), Entries)
def test_a_changed_byte_means_the_same_to_both_readers(data: st.DataObject, entry: Entry) -> None:
    (payload,) = encode_activity([entry])
    changed = bytearray(payload)
    changed[data.draw(st.integers(1, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        found: Any = [(type_name(one), json.loads(encode(one))) for one in
                      decode_activity(bytes(changed))]  # fmt: skip
    except FormatError:
        found = None
    try:
        other = independent_activity.activity(bytes(changed))
    except independent_activity.Wrong:
        other = None
    assert found == other


@pytest.mark.parametrize(
    "members",
    [
        {"level": "basic", "count": 1, "classes": {"letter": 1}, "keys": None},
        {"level": "strict", "count": 2, "classes": {"letter": 1}, "keys": None},
        {"level": "strict", "count": 1, "classes": None, "keys": None},
        {"level": "comprehensive", "count": 2, "classes": None, "keys": ["a"]},
        {"level": "comprehensive", "count": 1, "classes": None, "keys": None},
        {"level": "basic", "count": 0, "classes": None, "keys": None},
        {"level": "disabled", "count": 1, "classes": None, "keys": None},
    ],
)
def test_keys_have_the_members_of_their_level(members: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, InvalidModel)):
        Keys(span=1, **members)


# Pictures and activity side by side ---------------------------------------------------------------


def test_pictures_and_activity_are_told_apart_by_their_first_byte() -> None:
    payloads = list(screen_payloads())
    shown = list(pictures_of(CODEC_ACTIVITY, payloads))
    assert len(shown) == len(ENTRIES)
    assert [time for time, _ in pictures(shown)] == [ms for ms, _ in ENTRIES]
    found = list(entries_of(CODEC_ACTIVITY, payloads))
    grouped = [(ms, tuple(one for _, one in some)) for ms, some in groupby(found, lambda x: x[0])]
    assert grouped == list(ENTRIES)
    assert {type(one) for _, one in found} == set(ENTRY_TYPES.values())


def test_an_older_codec_has_no_activity_and_its_pictures_are_as_before() -> None:
    payloads = list(screen_payloads())
    assert list(entries_of(CODEC_PICTURES, payloads)) == []
    assert list(pictures_of(CODEC_PICTURES, payloads)) == payloads
    with pytest.raises(UnknownVersion):
        list(pictures(pictures_of(CODEC_PICTURES, payloads)))
    with pytest.raises(UnknownVersion):
        decode_update(encode_activity([Display(width=1, height=1)])[0])
    (picture,) = encode_update([Size(1, 1)], keyframe=True)
    assert not is_activity(picture)
    assert independent_activity.activity(picture) == []


# Policy and command -------------------------------------------------------------------------------


@given(Policies, Policies)
def test_a_policy_goes_beyond_another_in_exactly_the_parts_that_are_more(
    one: Policy, most: Policy
) -> None:
    order = {"off": 0, "use": 1, "details": 2, "disabled": 0, "basic": 1, "strict": 2,
             "comprehensive": 3}  # fmt: skip
    more = {
        name
        for name in Policy.model_fields
        if order.get(getattr(one, name), getattr(one, name))
        > order.get(getattr(most, name), getattr(most, name))
    }
    assert {part.partition("=")[0] for part in one.beyond(most)} == more
    assert one.beyond(one) == []


def test_the_default_policy_has_no_keys_no_clipboard_and_no_files() -> None:
    assert Policy() == Policy(windows=True, clipboard="off", files=False, keys="disabled")
    assert not Policy().nothing
    assert Policy(windows=False).nothing
    assert Policy(keys="strict", files=True).beyond(Policy()) == ["files=true", "keys=strict"]


def test_a_command_without_activity_is_what_it_always_was() -> None:
    session = str(new_session_id())
    plain = RecorderCommand(id=session, host="desk", action="start", display=":1")
    assert b"activity" not in encode(plain)
    assert json.loads(encode(plain))["version"] == 1
    assert read_command(encode(plain)) == plain
    asked = RecorderCommand(version=2, id=session, host="desk", action="start", display=":1",
                            activity=Policy(keys="basic"))  # fmt: skip
    assert read_command(encode(asked)) == asked
    for wrong in (
        encode(plain).replace(b'"version":1', b'"version":2'),
        encode(asked).replace(b'"version":2', b'"version":1'),
        encode(plain).replace(b',"display"', b',"activity":null,"display"'),
        encode(asked).replace(b'"start"', b'"stop"').replace(b"null", b'"%s"' % session.encode()),
    ):
        with pytest.raises(FormatError):
            read_command(wrong)


# The page -----------------------------------------------------------------------------------------


def test_the_page_names_every_type_with_its_members() -> None:
    text = (DOCS / "frame-payload.md").read_text(encoding="utf-8")
    for number, model in ENTRY_TYPES.items():
        (row,) = re.findall(rf"^\| {number} {model.__name__.lower()} \| (.*?) \|", text, re.M)
        named = set(re.findall(r"`([a-z_]+)`", row))
        assert set(model.model_fields) <= named, model
    for name in Policy.model_fields:
        assert re.search(rf"^\| `{name}` \|", text, re.M)
