"""Work credits out of `node.work`: the same events give the same bytes. Pure.

    ledger.take(event.data) …                   WorkCounted in any order, as often as they come
    ledger.statement(node, as_of)               credits of the 5040 slots before `as_of`

Of each slot the largest figure stands and minutes are set bits, so neither order nor
repetition changes anything. Counting is in billionths of a credit, as integers: a byte
relayed is one (1.0 for 10^9 bytes), a storage proof 0.5, a signature 0.3, a minute with a
heartbeat 0.1 credits; nothing is rounded.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from schemas.canonical import Hex32, Strict, encode
from schemas.node_base import Amount, NodeId
from schemas.node_events import WorkCounted
from schemas.node_health import SLOTS_A_DAY
from schemas.node_heartbeats import SLOT

WINDOW_SLOTS = 7 * SLOTS_A_DAY
PER_BYTE, PER_PROOF, PER_SIGNATURE, PER_BEAT = 1, 500_000_000, 300_000_000, 100_000_000
NANO = 1_000_000_000
FIELDS = 4  # relay bytes, storage proofs, signatures, minutes as bits
Row = tuple[int, int, int, int]


class CreditStatement(Strict):
    """A node's work and credits in slots first_slot to behind_slot - 1.

    slots: how many have any work. credits: a decimal number, exact. rows: SHA-256 over
    a line for each of these slots: slot, relay bytes, proofs, signatures, minutes.
    """

    version: Literal[1] = 1
    node: NodeId
    first_slot: Amount
    behind_slot: Amount
    slots: Amount
    relay_bytes: Amount
    storage_proofs: Amount
    signatures: Amount
    beats: Amount
    credits: str
    rows: Hex32


class Day:
    """One node's slots of one day."""

    def __init__(self, cells: Iterable[int] = ()) -> None:
        self.cells = array("q", cells or bytes(8 * FIELDS * SLOTS_A_DAY))

    def take(self, data: WorkCounted) -> bool:
        """Count an event of this day; whether it says anything new."""
        cells, start, new = self.cells, data.day * SLOTS_A_DAY, False
        for one in data.work:
            at = (one.slot - start) * FIELDS
            told = (one.relay_bytes, one.storage_proofs, one.signatures)
            for place, value in enumerate(told, at):
                if value > cells[place]:
                    cells[place], new = value, True
        if data.beat_slot is not None:
            at = (data.beat_slot - start) * FIELDS + 3
            if data.beats & ~cells[at]:
                cells[at], new = cells[at] | data.beats, True
        return new


class Ledger:
    """The work of many nodes. About 23 KB for a node and day."""

    def __init__(self) -> None:
        self._days: dict[tuple[str, int], Day] = {}

    def take(self, data: WorkCounted) -> None:
        """Count an event; one that was counted changes nothing."""
        if not fits(data):
            return
        key = (data.node, data.day)
        day = self._days.get(key)
        if day is None:
            day = self._days[key] = Day()
        day.take(data)

    def put(self, node: str, number: int, day: Day) -> None:
        """Take a day that was counted before."""
        self._days[(node, number)] = day

    @property
    def nodes(self) -> list[str]:
        return sorted({node for node, _ in self._days})

    def statement(self, node: str, as_of: int) -> CreditStatement:
        """The statement at a time in microseconds; the slot that runs then is not in it."""
        behind = as_of // SLOT
        first = max(0, behind - WINDOW_SLOTS)
        wanted = range(first // SLOTS_A_DAY, behind // SLOTS_A_DAY + 1)
        days = {day: found for day in wanted if (found := self._days.get((node, day)))}
        return statement(node, first, behind, rows_of(days, first, behind))


def fits(data: WorkCounted) -> bool:
    """Whether all slots are of the event's day; the manager writes no others."""
    slots = [one.slot for one in data.work]
    slots += [] if data.beat_slot is None else [data.beat_slot]
    return all(slot // SLOTS_A_DAY == data.day for slot in slots)


def rows_of(days: Mapping[int, Day], first: int, behind: int) -> Iterator[tuple[int, Row]]:
    """Slots of a window that have any work, in order."""
    for number in sorted(days):
        start = number * SLOTS_A_DAY
        cells = days[number].cells
        low, high = max(first - start, 0), min(behind - start, SLOTS_A_DAY)
        for at in range(low * FIELDS, high * FIELDS, FIELDS):
            relay, proofs, signatures, bits = cells[at : at + FIELDS]
            if relay or proofs or signatures or bits:
                yield start + at // FIELDS, (relay, proofs, signatures, bits)


def statement(
    node: str, first: int, behind: int, rows: Iterable[tuple[int, Row]]
) -> CreditStatement:
    """Add up rows that are in order."""
    digest = hashlib.sha256()
    slots = relay = proofs = signatures = beats = 0
    for slot, (bytes_, proof, signature, bits) in rows:
        digest.update(b"%d %d %d %d %d\n" % (slot, bytes_, proof, signature, bits))
        slots, relay, proofs = slots + 1, relay + bytes_, proofs + proof
        signatures, beats = signatures + signature, beats + bits.bit_count()
    nano = relay * PER_BYTE + proofs * PER_PROOF + signatures * PER_SIGNATURE + beats * PER_BEAT
    return CreditStatement(
        node=node, first_slot=first, behind_slot=behind, slots=slots, relay_bytes=relay,
        storage_proofs=proofs, signatures=signatures, beats=beats, credits=decimal(nano),
        rows=digest.hexdigest(),
    )  # fmt: skip


def decimal(nano: int) -> str:
    """Billionths as a decimal number in its one spelling."""
    whole, rest = divmod(nano, NANO)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def statement_bytes(found: CreditStatement) -> bytes:
    """The statement's canonical JSON."""
    return encode(found)
