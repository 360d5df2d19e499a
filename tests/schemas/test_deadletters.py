"""Dead letters: whole, with their origin, and read back only in the form they are written in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.deadletters import MAX_HEADERS, DeadLetter, from_kafka, one_line, shorten, to_kafka
from schemas.errors import FormatError

LETTER = DeadLetter(
    service="storage", topic="session.chunks", partition=3, offset=77, code="LeafMismatch",
    reason="chunk 4 is not what its leaf says", key=b"\xffkey", value=b"bytes",
    headers=(("leaf", b"\x00"), ("leaf", None), ("dl_code", b"not ours")), timestamp=5,
)  # fmt: skip


@pytest.mark.parametrize(
    "letter",
    [LETTER, replace(LETTER, key=None, value=None, timestamp=None, headers=()),
     replace(LETTER, left_out=4), LETTER.without_value()],
)  # fmt: skip
def test_a_letter_is_read_back(letter: DeadLetter) -> None:
    assert from_kafka(*to_kafka(letter)) == letter


def test_a_letter_without_its_value_says_how_large_it_was() -> None:
    assert LETTER.without_value().value_size == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dl_version", b"2"), ("dl_service", b"UPPER CASE!"), ("dl_offset", b"-1"),
        ("dl_offset", b"01"), ("dl_topic", b"\xff"), ("dl_reason", b"two\nlines"),
        ("dl_reason", b""), ("dl_value_size", b"9"), ("dl_unknown", b"1"),
    ],
)  # fmt: skip
def test_a_changed_header_is_refused(name: str, value: bytes) -> None:
    key, headers, body = to_kafka(LETTER)
    changed = [(n, v) for n, v in headers if n != name] + [(name, value)]
    with pytest.raises(FormatError):
        from_kafka(key, changed, body)


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
