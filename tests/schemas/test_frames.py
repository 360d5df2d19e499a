"""Frame records: read back from Kafka and from chunks, refused when anything is off."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import FormatError, Truncated, UnknownVersion
from schemas.frames import (
    MAX_PAYLOAD,
    FrameRecord,
    InvalidFrameRecord,
    Kind,
    chain_next,
    chain_start,
    decode_entries,
    encode_entries,
    from_kafka,
    missing_record,
    read_missing,
    to_kafka,
)
from schemas.sessions import new_session_id

SESSION = new_session_id(1_700_000_000_000_000, bytes(10))
FRAME = FrameRecord(SESSION, Kind.FRAMES, 7, 1_700_000_000_000_001, b"\xab" * 32, b"payload")
ABANDON = FrameRecord(SESSION, Kind.ABANDON, -1, 5, b"", b"{}")


@pytest.mark.parametrize("record", [FRAME, ABANDON])
def test_a_record_is_read_back(record: FrameRecord) -> None:
    assert from_kafka(*to_kafka(record)) == record


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("version", b"2", UnknownVersion),
        ("version", None, UnknownVersion),
        ("kind", b"missing", InvalidFrameRecord),
        ("kind", b"\xff", InvalidFrameRecord),
        ("seq", b"07", InvalidFrameRecord),
        ("seq", b"+7", InvalidFrameRecord),
        ("seq", b"9007199254740992", InvalidFrameRecord),
        ("time", b"", InvalidFrameRecord),
        ("chain", b"ab", InvalidFrameRecord),
        ("chain", b"AB" * 32, InvalidFrameRecord),
        ("extra", b"1", InvalidFrameRecord),
    ],
)
def test_a_wrong_header_is_refused(
    name: str, value: bytes | None, error: type[FormatError]
) -> None:
    key, headers, payload = to_kafka(FRAME)
    changed = {**dict(headers), name: value}
    with pytest.raises(error):
        from_kafka(key, list(changed.items()), payload)


def test_headers_come_once_each_and_payloads_have_a_limit() -> None:
    key, headers, payload = to_kafka(FRAME)
    wide: list[tuple[str, bytes | None]] = [*headers]
    for bad in ([*wide, wide[0]], wide[1:]):
        with pytest.raises(FormatError):
            from_kafka(key, bad, payload)
    for value in (None, bytes(MAX_PAYLOAD + 1)):
        with pytest.raises(InvalidFrameRecord):
            from_kafka(key, wide, value)
    for other in (None, b"no session", str(SESSION).upper().encode()):
        with pytest.raises(FormatError):
            from_kafka(other, wide, payload)
    assert from_kafka(key, wide, bytes(MAX_PAYLOAD)).size == MAX_PAYLOAD + 21


def test_the_chain_depends_on_key_order_and_every_field() -> None:
    start = chain_start(SESSION)
    others = [(Kind.GAP, 7, FRAME.time, b"payload"), (Kind.FRAMES, 8, FRAME.time, b"payload"),
              (Kind.FRAMES, 7, 0, b"payload"), (Kind.FRAMES, 7, FRAME.time, b"other")]  # fmt: skip
    heads = {
        chain_next(start, bytes(32), FRAME),
        chain_next(start, b"\x01" * 32, FRAME),
        chain_next(bytes(32), bytes(32), FRAME),
        *(
            chain_next(start, bytes(32), FrameRecord(SESSION, kind, seq, time, b"", payload))
            for kind, seq, time, payload in others
        ),
    }
    assert len(heads) == 7


def test_missing_records_stand_for_a_run_and_the_chain_after_it() -> None:
    entry = missing_record(FRAME, 3)
    assert (entry.kind, entry.seq) == (Kind.MISSING, 3)
    assert read_missing(entry) == (4, FRAME.chain)
    with pytest.raises(InvalidFrameRecord):
        read_missing(FRAME)
    with pytest.raises(InvalidFrameRecord):
        read_missing(FrameRecord(SESSION, Kind.MISSING, 3, 0, b"", bytes(40)))


def test_entries_are_read_back_and_cut_off_ones_refused() -> None:
    records = [FRAME, missing_record(FRAME, 2)]
    plaintext = encode_entries(records)
    assert [(one.kind, one.seq, one.time, one.payload)
            for one in decode_entries(SESSION, plaintext)] == [
        (one.kind, one.seq, one.time, one.payload) for one in records
    ]  # fmt: skip
    for end in (5, 22, len(plaintext) - 1):
        with pytest.raises(Truncated):
            decode_entries(SESSION, plaintext[:end])
    with pytest.raises(InvalidFrameRecord):
        decode_entries(SESSION, b"\x63" + plaintext[1:])
    with pytest.raises(InvalidFrameRecord):
        decode_entries(SESSION, plaintext[:17] + b"\xff\xff\xff\xff" + plaintext[21:])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=120))
def test_any_plaintext_gives_records_or_a_typed_error(data: bytes) -> None:
    try:
        assert encode_entries(decode_entries(SESSION, data)) == data
    except FormatError:
        return
