"""Whatever is in a record or a head: a value, or a typed error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.audit import AuditEvent, KafkaRecord
from schemas.audit_chain import read_link
from schemas.audit_heads import read_heads
from schemas.audit_trail import TrailCheck
from schemas.errors import FormatError
from schemas.notes import Signer, Verifier
from schemas.receipts import AnchorReceipt, ReceiptEvent
from tests.schemas.test_audit_vectors import FOLDER, records
from tests.schemas.test_fuzz import spoil

ENTRIES = list(records("chain.jsonl"))
RECEIPT = AnchorReceipt(
    session="018bcfe5-6800-7000-8000-000000000001", manifest_hash="ab" * 32, ledger="file",
    reference="line 7", anchored_at=5, proof="a\n",
)  # fmt: skip
READERS: dict[str, tuple[Callable[..., Any], list[KafkaRecord]]] = {
    "event": (AuditEvent.from_kafka, ENTRIES),
    "link": (lambda _, headers, value: read_link(headers, value), ENTRIES),
    "receipt": (
        ReceiptEvent.from_kafka, [ReceiptEvent(RECEIPT, "client", RECEIPT.session).to_kafka()],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_spoiled_record_gives_a_value_or_a_typed_error(name: str, data: st.DataObject) -> None:
    reader, originals = READERS[name]
    key, headers, value = data.draw(st.sampled_from(originals))
    parts = [key, value, *(text for _, text in headers)]
    at = data.draw(st.integers(0, len(parts) - 1))
    parts[at] = spoil(data, parts[at])
    spoiled = [(header, text) for (header, _), text in zip(headers, parts[2:], strict=True)]
    if data.draw(st.booleans()):
        spoiled.append((data.draw(st.sampled_from(["ce_", "ce_x", "", "ce_id"])), b"1"))
    try:
        reader(parts[0], spoiled, parts[1])
    except FormatError:
        return


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.text(max_size=9), st.none() | st.binary(max_size=9)), max_size=4),
            st.none() | st.binary(max_size=20),
        ),
        max_size=5,
    )
)
def test_a_topic_of_anything_gives_a_report(
    topic: list[tuple[list[tuple[str, bytes | None]], bytes | None]],
) -> None:
    trail = TrailCheck()
    for offset, (headers, value) in enumerate(topic):
        trail.add(headers, value, offset)
    report = trail.finish()
    assert (report.records, report.ok) == (len(topic), not topic)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_spoiled_heads_are_refused(data: st.DataObject) -> None:
    trusted = [Verifier.parse((FOLDER.parent / "keys" / "processor.vkey").read_text())]
    note = (FOLDER / "heads.txt").read_bytes()
    try:
        text = spoil(data, note).decode()
        heads, _ = read_heads(text, trusted)
    except (UnicodeDecodeError, FormatError):
        return
    # A signature more, or another name on one that is not looked at, changes nothing.
    assert heads == read_heads(note.decode(), trusted)[0]


def test_heads_of_anybody_are_no_heads_of_a_session() -> None:
    note = Signer("x/y", b"\x01" * 32).sign("lucid/session/x\n5\nAAAA\n")
    with pytest.raises(FormatError):
        read_heads(note, [Signer("x/y", b"\x01" * 32).verifier])
