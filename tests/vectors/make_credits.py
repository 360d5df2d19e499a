"""Makes the vectors of work credits: `python -m tests.vectors.make_credits`.

Each has events of `node.work` and the statements that they make, byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from schemas.node_credits import WINDOW_SLOTS, Ledger, statement_bytes
from schemas.node_events import WorkCounted
from schemas.node_health import SLOTS_A_DAY
from schemas.node_heartbeats import SLOT, SlotWork

FOLDER = Path(__file__).parent / "credits"
FIRST = 14_958_333 // SLOTS_A_DAY * SLOTS_A_DAY


def event(node: str, counter: int, slot: int, work: list[tuple[int, int, int, int]], beats: int) -> WorkCounted:  # noqa: E501 # fmt: skip
    return WorkCounted(
        node=node, counter=counter, day=slot // SLOTS_A_DAY, beat_slot=slot, beats=beats,
        work=[SlotWork(slot=one, relay_bytes=relay, storage_proofs=proofs, signatures=signatures)
              for one, relay, proofs, signatures in work],
    )  # fmt: skip


def plain() -> list[WorkCounted]:
    """One slot of each kind of work."""
    return [
        event("desk7", 1, FIRST, [(FIRST, 1_000_000_000, 0, 0)], 1),
        event("desk7", 2, FIRST, [(FIRST, 1_500_000_001, 2, 0)], 2),
        event("desk7", 3, FIRST + 1, [(FIRST, 1_500_000_001, 2, 1), (FIRST + 1, 0, 0, 3)], 1),
    ]


def mixed() -> list[WorkCounted]:
    """Two nodes over eight days, some events twice, in no order."""
    pick = random.Random(6)
    found = []
    for node in ("desk7", "desk8"):
        for counter in range(120):
            slot = FIRST + pick.randrange(8 * SLOTS_A_DAY)
            work = [(slot, pick.randrange(10**10), pick.randrange(4), pick.randrange(4))]
            found.append(event(node, counter, slot, work, 1 + pick.randrange(2)))
    found += found[::7]
    pick.shuffle(found)
    return found


def edges() -> list[WorkCounted]:
    """Slots at both ends of the window, and the largest figures."""
    most = (10**12, 10**6, 10**6)
    return [
        event("desk7", at, FIRST + slot, [(FIRST + slot, *most)], 3)
        for at, slot in enumerate((-1, 0, SLOTS_A_DAY - 1, WINDOW_SLOTS - 1, WINDOW_SLOTS))
    ]


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    for make in (plain, mixed, edges):
        events, ledger = make(), Ledger()
        for one in events:
            ledger.take(one)
        statements = []
        for node in [*ledger.nodes, "unknown"]:
            for slots in (1, WINDOW_SLOTS, WINDOW_SLOTS + 1):
                as_of = (FIRST + slots) * SLOT + 5
                text = statement_bytes(ledger.statement(node, as_of))
                statements.append({"node": node, "as_of": as_of, "statement": text.decode(),
                                   "sha256": hashlib.sha256(text).hexdigest()})  # fmt: skip
        found = {
            "about": (make.__doc__ or "").strip(),
            "events": [one.model_dump(mode="json") for one in events],
            "statements": statements,
        }
        (FOLDER / f"{make.__name__}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
