"""Whatever the bytes are, each reader gives a value or a typed error, and a value reads back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.activity import Policy
from schemas.anchors import anchor_of, read_anchor
from schemas.canonical import decode, encode
from schemas.chunks import HEADER_SIZE, read_chunk, read_header, unseal
from schemas.commands import RecorderCommand, read_command
from schemas.controls import Abandon, Close, Gap, Keepalive, Open, Pause, Resume
from schemas.erasure import (
    Erasure,
    read_erasure,
    read_headers,
    read_leaves,
    write_headers,
    write_leaves,
)
from schemas.errors import FormatError
from schemas.events import SessionEvent, SessionHeartbeat, event_from_kafka
from schemas.manifests import Manifest, read_manifest
from schemas.notes import Checkpoint, Commitment, Signer, Verifier, split_note
from schemas.progress import SessionProgress, read_progress
from schemas.retention import Hold
from schemas.stored import ChunkRecord, ManifestRecord
from tests.factories import RECORDER, START, make_session
from tests.memory_source import MemorySource

MADE = make_session(frames=12, gap_at=4, drop=(6,), seed=5)
CHUNK = MADE.chunks[0].data
OPEN = Open.model_validate_json(MADE.records[0].payload)
PROGRESS = SessionProgress(
    opened=OPEN, partition=3, offset=77, next_seq=9, next_index=1, chain="ab" * 32,
    frontier=["cd" * 32], tally=MADE.manifest.tally,
)  # fmt: skip
COMMAND = RecorderCommand(
    id=str(MADE.session), host="desk", action="start", display=":1", xauthority="/tmp/auth"
)
COMMAND_2 = RecorderCommand(
    version=2, id=str(MADE.session), host="desk", action="start", display=":1",
    activity=Policy(clipboard="details", keys="strict"),
)  # fmt: skip
CONTROLS = (
    Keepalive(note="n"),
    Gap(reason="away", from_time=1, to_time=2),
    Pause(reason="tea"),
    Resume(reason="back"),
    Close(reason="done", note="n"),
    Abandon(reason="silence", by="pipeline", last_seen=START),
)
HOLD = Hold(id="hold-0123456789ab", project="ada", reason="case 7", set_by="root", set_at=1)
SOURCE = MemorySource.of(MADE)
SOURCE.erase(MADE)
assert SOURCE.erased is not None
LEFT = SOURCE.erased
READERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "manifest": (read_manifest, MADE.manifest_bytes),
    "progress": (read_progress, encode(PROGRESS)),
    "command": (read_command, encode(COMMAND)),
    "command 2": (read_command, encode(COMMAND_2)),
    "anchor": (read_anchor, encode(anchor_of(MADE.manifest))),
    "open": (partial(decode, Open), encode(OPEN)),
    "hold": (partial(decode, Hold), encode(HOLD)),
    "erasure": (partial(decode, Erasure), encode(read_erasure(LEFT.content))),
    **{
        type(control).__name__.lower(): (partial(decode, type(control)), encode(control))
        for control in CONTROLS
    },
}
Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def spoil(data: st.DataObject, original: bytes) -> bytes:
    """`original` with a byte changed, a run cut out, or bytes put in; never the same."""
    at = data.draw(st.integers(0, len(original) - 1))
    how = data.draw(st.sampled_from(["change", "cut", "insert"]))
    if how == "change":
        changed = original[at] ^ data.draw(st.integers(1, 255))
        return original[:at] + bytes([changed]) + original[at + 1 :]
    if how == "cut":
        return original[:at] + original[at + data.draw(st.integers(1, 40)) :]
    return original[:at] + data.draw(st.binary(min_size=1, max_size=20)) + original[at:]


@pytest.mark.parametrize("name", READERS)
def test_documents_read_back(name: str) -> None:
    reader, original = READERS[name]
    assert encode(reader(original)) == original


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_spoiled_documents_give_another_value_or_a_typed_error(
    name: str, data: st.DataObject
) -> None:
    reader, original = READERS[name]
    spoiled = spoil(data, original)
    try:
        found = reader(spoiled)
    except FormatError:
        return
    assert encode(found) == spoiled != original


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60), name=st.sampled_from(sorted(READERS)))
def test_any_bytes_are_no_document(data: bytes, name: str) -> None:
    with pytest.raises(FormatError):
        READERS[name][0](data)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), value=Json)
def test_a_manifest_with_any_field_of_any_value(data: st.DataObject, value: Any) -> None:
    fields = json.loads(MADE.manifest_bytes)
    where = fields
    if data.draw(st.booleans()):
        where = fields["tally"]
    where[data.draw(st.sampled_from(sorted(where)) | st.text(max_size=5))] = value
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    try:
        found = read_manifest(text.encode("utf-8", "surrogatepass"))
    except FormatError:
        return
    assert isinstance(found, Manifest)
    assert found.shortcomings() or found.complete


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_as_a_chunk(data: bytes) -> None:
    """Behind a good start too: the first fields are right, the rest is anything."""
    for begun in (data, CHUNK[:8] + data, CHUNK[:36] + data):
        for reader in (read_header, read_chunk):
            with pytest.raises(FormatError):
                reader(begun)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_changed_header_is_refused_or_does_not_open(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, HEADER_SIZE - 1))
    width = data.draw(st.integers(1, 8))
    put = data.draw(st.binary(min_size=width, max_size=width))
    spoiled = (CHUNK[:at] + put + CHUNK[at + width :])[: len(CHUNK)]
    if spoiled == CHUNK:
        return
    try:
        header = read_header(spoiled)
        assert header.pack() == spoiled[:HEADER_SIZE], "two headers for one value"
        chunk = read_chunk(spoiled)
    except FormatError:
        return
    with pytest.raises(FormatError):
        unseal(chunk, MADE.key)


NOTES: dict[str, Callable[[str], Any]] = {
    "note": split_note,
    "checkpoint": Checkpoint.parse,
    "commitment": Commitment.parse,
    "verifier": Verifier.parse,
    "signer": Signer.parse,
}
TEXTS = {
    "note": MADE.checkpoint,
    "checkpoint": split_note(MADE.checkpoint)[0],
    "commitment": Commitment(MADE.session, 7, b"\x01" * 32, "done").to_text(),
    "verifier": str(RECORDER.verifier),
    "signer": RECORDER.to_text(),
}


@pytest.mark.parametrize("name", NOTES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_spoiled_texts_give_another_value_or_a_typed_error(name: str, data: st.DataObject) -> None:
    good = TEXTS[name]
    text = spoil(data, good.encode()).decode("utf-8", "replace")
    try:
        found = NOTES[name](text)
    except FormatError:
        return
    assert found != NOTES[name](good) or text.strip() == good.strip()


KafkaHeaders = st.lists(
    st.tuples(
        st.sampled_from(["leaf", "wrapped-key", "checkpoint", "ce_id", "ce_time", "ce_type"])
        | st.text(max_size=4),
        st.none() | st.binary(max_size=12),
    ),
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(st.none() | st.binary(max_size=40), KafkaHeaders, st.none() | st.binary(max_size=40))
def test_any_kafka_record_is_refused_with_a_typed_error(
    key: bytes | None, headers: list[tuple[str, bytes | None]], value: bytes | None
) -> None:
    for reader in (ChunkRecord.from_kafka, ManifestRecord.from_kafka, event_from_kafka):
        with pytest.raises(FormatError):
            reader(key, headers, value)


EVENT = SessionEvent(
    SessionHeartbeat(session=str(MADE.session), next_seq=4, raw_bytes=99),
    source="lucid/recorder/desk", subject=str(MADE.session), correlation="c1",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_an_event_with_a_spoiled_part(data: st.DataObject) -> None:
    key, headers, value = EVENT.to_kafka()
    where = data.draw(st.integers(-1, len(headers) - 1))
    of_time = where >= 0 and headers[where][0] == "ce_time"
    spoiled_headers = list(headers)
    if where < 0:
        value = spoil(data, value)
    else:
        name, text = headers[where]
        spoiled_headers[where] = (name, spoil(data, text))
    try:
        found = event_from_kafka(key, spoiled_headers, value)
    except FormatError:
        return
    assert of_time or found != EVENT, "one moment may be written in more than one way"


def test_the_records_of_the_processor_read_back() -> None:
    chunk = ChunkRecord(MADE.chunks[0], MADE.wrapped)
    assert ChunkRecord.from_kafka(*chunk.to_kafka()) == chunk
    manifest = ManifestRecord(MADE.manifest_bytes, MADE.checkpoint, MADE.wrapped)
    assert ManifestRecord.from_kafka(*manifest.to_kafka()) == (manifest, MADE.manifest)
    assert event_from_kafka(*EVENT.to_kafka()) == EVENT


@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(["content", "leaves", "headers"]))
def test_what_is_left_of_an_erased_session_is_read_strictly(data: st.DataObject, name: str) -> None:
    reader, writer = {
        "content": (read_erasure, None),
        "leaves": (read_leaves, write_leaves),
        "headers": (read_headers, lambda found: write_headers(found.values())),
    }[name]
    spoiled = spoil(data, getattr(LEFT, name))
    try:
        found = reader(spoiled)
    except FormatError:
        return
    if writer is not None:
        assert writer(found) == spoiled
