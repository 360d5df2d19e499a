"""Dead letters: whole, with their origin, and read back only in the form they are written in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.deadletters import (
    MAX_HEADERS,
    REPLAY,
    DeadLetter,
    Replay,
    from_kafka,
    one_line,
    shorten,
    take_off,
    to_kafka,
)
from schemas.errors import FormatError

LETTER = DeadLetter(
    service="storage", topic="session.chunks", partition=3, offset=77, code="LeafMismatch",
    reason="chunk 4 is not what its leaf says", key=b"\xffkey", value=b"bytes",
    headers=(("leaf", b"\x00"), ("leaf", None), ("dl_code", b"not ours")), timestamp=5,
)  # fmt: skip


@pytest.mark.parametrize(
    "letter",
    [LETTER, replace(LETTER, key=None, value=None, timestamp=None, headers=()),
     replace(LETTER, left_out=4), LETTER.without_value(),
     replace(LETTER, tries=2, first="session.chunks/3/5")],
)  # fmt: skip
def test_a_letter_is_read_back(letter: DeadLetter) -> None:
    assert from_kafka(*to_kafka(letter)) == letter


def test_a_letter_without_its_value_says_how_large_it_was() -> None:
    assert LETTER.without_value().value_size == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dl_version", b"2"), ("dl_version", b"3"), ("dl_tries", b"2"), ("dl_first", b"t/0/0"),
        ("dl_service", b"UPPER CASE!"), ("dl_offset", b"-1"),
        ("dl_offset", b"01"), ("dl_topic", b"\xff"), ("dl_reason", b"two\nlines"),
        ("dl_reason", b""), ("dl_value_size", b"9"), ("dl_unknown", b"1"),
    ],
)  # fmt: skip
def test_a_changed_header_is_refused(name: str, value: bytes) -> None:
    key, headers, body = to_kafka(LETTER)
    changed = [(n, v) for n, v in headers if n != name] + [(name, value)]
    with pytest.raises(FormatError):
        from_kafka(key, changed, body)


def test_a_record_that_was_never_replayed_gives_a_letter_of_version_1() -> None:
    assert dict(to_kafka(LETTER)[1])["dl_version"] == b"1"
    again = dict(to_kafka(replace(LETTER, tries=3, first="session.chunks/3/5"))[1])
    assert (again["dl_version"], again["dl_tries"]) == (b"2", b"3")


@pytest.mark.parametrize(
    ("name", "value"),
    [("dl_tries", b"1"), ("dl_tries", b"0"), ("dl_first", b"nowhere"), ("dl_first", b"t/0/01"),
     ("dl_version", b"1")],
)  # fmt: skip
def test_a_changed_header_of_version_2_is_refused(name: str, value: bytes) -> None:
    key, headers, body = to_kafka(replace(LETTER, tries=2, first="session.chunks/3/5"))
    changed = [(n, value if n == name else v) for n, v in headers]
    assert from_kafka(key, headers, body).tries == 2
    with pytest.raises(FormatError):
        from_kafka(key, changed, body)


def test_a_replayed_record_has_its_own_headers_and_counts_its_tries() -> None:
    once = LETTER.record_headers()
    assert once == [*LETTER.headers, (REPLAY, b"2 session.chunks/3/77")]
    assert take_off(once) == (LETTER.headers, Replay(2, "session.chunks/3/77"))
    later = replace(LETTER, offset=90, tries=2, first=LETTER.origin).record_headers()
    assert take_off(later)[1] == Replay(3, "session.chunks/3/77")


@pytest.mark.parametrize(
    "value",
    [None, b"", b"1 t/0/0", b"02 t/0/0", b"2", b"2  t/0/0", b"2 t/0/0 ", b"2 t/0", b"2 t/0/01",
     b"2 a b/0/0", b"\xff t/0/0"],
)  # fmt: skip
def test_a_mark_that_lucid_did_not_write_stays_for_the_reader_to_refuse(
    value: bytes | None,
) -> None:
    headers = [("kind", b"open"), (REPLAY, value)]
    assert take_off(headers) == (headers, None)


def test_a_mark_in_another_place_stays_where_it_is() -> None:
    headers = [(REPLAY, b"2 t/0/0"), ("kind", b"open")]
    assert take_off(headers) == (headers, None)
    assert take_off([]) == ([], None)


def test_another_key_than_the_origin_is_refused() -> None:
    _, headers, body = to_kafka(LETTER)
    with pytest.raises(FormatError):
        from_kafka(b"elsewhere", headers, body)


def test_reasons_are_one_line_and_headers_are_not_without_end() -> None:
    assert one_line(" a\n b\t\x0b c ") == "a b c"
    assert one_line("") == "no reason was given"
    assert len(one_line("x" * 5000)) == 2000
    many = [(f"h{n}", b"") for n in range(MAX_HEADERS + 3)]
    kept, left_out = shorten(many)
    assert (len(kept), left_out) == (MAX_HEADERS, 3)


Headers = st.lists(
    st.tuples(st.sampled_from(["dl_version", "dl_topic", "dl_offset", "x"]),
              st.none() | st.sampled_from([b"1", b"storage"]) | st.binary(max_size=6)),
    max_size=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.none() | st.binary(max_size=20), Headers, st.none() | st.binary(max_size=20))
def test_any_record_gives_a_letter_or_a_typed_error(
    key: bytes | None, headers: list[tuple[str, bytes | None]], value: bytes | None
) -> None:
    try:
        from_kafka(key, headers, value)
    except FormatError:
        return
