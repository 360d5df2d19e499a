"""Work credits: exact, and the same bytes from the same events in whatever order they come."""

from __future__ import annotations

import hashlib
import json
import random
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.canonical import decode_any
from schemas.node_base import SECOND
from schemas.node_credits import WINDOW_SLOTS, Ledger, decimal, statement_bytes
from schemas.node_events import WorkCounted
from schemas.node_health import SLOTS_A_DAY
from schemas.node_heartbeats import SLOT
from tests.node.factories import slot_work

FOLDER = Path(__file__).parents[1] / "vectors" / "credits"
FIRST = 14_958_333 // SLOTS_A_DAY * SLOTS_A_DAY


def counted(slot: int, relay: int = 0, proofs: int = 0, signatures: int = 0, beats: int = 0,
            node: str = "desk7") -> WorkCounted:  # fmt: skip
    some = relay or proofs or signatures
    return WorkCounted(
        node=node, counter=1, day=slot // SLOTS_A_DAY,
        work=[slot_work(slot, relay, proofs, signatures)] if some else [],
        beat_slot=slot if beats else None, beats=beats,
    )  # fmt: skip


def text(events: list[WorkCounted], as_of: int, node: str = "desk7") -> bytes:
    ledger = Ledger()
    for one in events:
        ledger.take(one)
    return statement_bytes(ledger.statement(node, as_of))


def by_hand(events: list[WorkCounted], as_of: int, node: str = "desk7") -> dict[str, Any]:
    """The same on its own, in fractions and plain dictionaries."""
    rows: dict[int, list[int]] = {}
    for one in (one for one in events if one.node == node):
        for work in one.work:
            row = rows.setdefault(work.slot, [0, 0, 0, 0])
            for at, name in enumerate(("relay_bytes", "storage_proofs", "signatures")):
                row[at] = max(row[at], getattr(work, name))
        if one.beat_slot is not None:
            rows.setdefault(one.beat_slot, [0, 0, 0, 0])[3] |= one.beats
    behind = as_of // SLOT
    kept = {slot: row for slot, row in sorted(rows.items())
            if behind - WINDOW_SLOTS <= slot < behind and any(row)}  # fmt: skip
    lines = "".join(f"{slot} {' '.join(map(str, row))}\n" for slot, row in kept.items())
    relay, proofs, signatures = (sum(row[at] for row in kept.values()) for at in range(3))
    beats = sum(bin(row[3]).count("1") for row in kept.values())
    total = (Fraction(relay, 10**9) + Fraction(proofs, 2) + Fraction(3 * signatures, 10)
             + Fraction(beats, 10))  # fmt: skip
    nano = total * 10**9
    assert nano.denominator == 1
    exact = f"{Decimal(nano.numerator).scaleb(-9):f}"
    return {
        "version": 1, "node": node, "first_slot": max(0, behind - WINDOW_SLOTS),
        "behind_slot": behind, "slots": len(kept), "relay_bytes": relay,
        "storage_proofs": proofs, "signatures": signatures, "beats": beats,
        "credits": exact.rstrip("0").rstrip(".") if "." in exact else exact,
        "rows": hashlib.sha256(lines.encode()).hexdigest(),
    }  # fmt: skip


def test_the_weights() -> None:
    as_of = (FIRST + 10) * SLOT
    for events, credits in (
        ([counted(FIRST, relay=10**9)], "1"), ([counted(FIRST, proofs=1)], "0.5"),
        ([counted(FIRST, signatures=1)], "0.3"), ([counted(FIRST, beats=1)], "0.1"),
        ([counted(FIRST, beats=1), counted(FIRST, beats=2)], "0.2"),
        ([counted(FIRST, relay=1)], "0.000000001"), ([], "0"),
    ):  # fmt: skip
        assert json.loads(text(events, as_of))["credits"] == credits


def test_the_window_is_the_5040_slots_before_the_one_that_runs() -> None:
    as_of = (FIRST + WINDOW_SLOTS) * SLOT + 7
    events = [counted(FIRST + one, proofs=1) for one in (-1, 0, WINDOW_SLOTS - 1, WINDOW_SLOTS)]
    found = json.loads(text(events, as_of))
    assert (found["storage_proofs"], found["slots"]) == (2, 2)
    assert (found["first_slot"], found["behind_slot"]) == (FIRST, FIRST + WINDOW_SLOTS)
    assert json.loads(text([], 5 * SLOT))["first_slot"] == 0


def test_many_heartbeats_earn_no_more_than_one_a_minute() -> None:
    events = [counted(FIRST, beats=1 + one % 2) for one in range(1000)]
    assert json.loads(text(events, (FIRST + 1) * SLOT))["beats"] == 2


def test_an_event_whose_slots_are_of_another_day_counts_nothing() -> None:
    bad = counted(FIRST, proofs=1).model_copy(update={"day": FIRST // SLOTS_A_DAY + 1})
    ledger = Ledger()
    ledger.take(bad)
    assert ledger.nodes == []


@pytest.mark.parametrize(
    ("nano", "shown"),
    [(0, "0"), (1, "0.000000001"), (10**9, "1"), (10**10, "10"), (1_500_000_000, "1.5")],
)
def test_credits_are_written_in_one_spelling(nano: int, shown: str) -> None:
    assert decimal(nano) == shown


events_of = st.lists(
    st.builds(
        counted, slot=st.integers(FIRST - 3, FIRST + 8), relay=st.integers(0, 10**12),
        proofs=st.integers(0, 9), signatures=st.integers(0, 9), beats=st.integers(0, 3),
    ),
    max_size=30,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(events=events_of, seed=st.integers(0, 100), cut=st.integers(0, 12))
def test_order_and_repetition_change_no_byte(
    events: list[WorkCounted], seed: int, cut: int
) -> None:
    as_of = (FIRST + cut) * SLOT
    mixed = [*events, *events[: len(events) // 2]]
    random.Random(seed).shuffle(mixed)
    assert text(mixed, as_of) == text(events, as_of)
    assert json.loads(text(events, as_of)) == by_hand(events, as_of)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_the_vectors(name: str) -> None:
    vector = json.loads((FOLDER / f"{name}.json").read_text())
    events = [decode_any(WorkCounted, json.dumps(one).encode()) for one in vector["events"]]
    for wanted in vector["statements"]:
        made = text(events, wanted["as_of"], wanted["node"])
        assert made.decode() == wanted["statement"]
        assert json.loads(made) == by_hand(events, wanted["as_of"], wanted["node"])
        assert hashlib.sha256(made).hexdigest() == wanted["sha256"]


def test_there_are_vectors() -> None:
    assert len(list(FOLDER.glob("*.json"))) >= 3
    assert SECOND == 10**6
