"""Nodes made in memory: keys, requests, heartbeats, commands."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from schemas.node_base import SECOND
from schemas.node_commands import NodeCommand
from schemas.node_heartbeats import Beat, Figures, HeartbeatSent, SlotWork, sign_beat
from schemas.node_registration import (
    ChallengeAnswered,
    ChallengeIssued,
    Hardware,
    RegistrationRequested,
    answer,
)
from schemas.node_states import NodeState, Open
from schemas.notes import Signer

SECRET = bytes(range(32))
BEGIN = 1_795_000_000 * SECOND
HARDWARE = Hardware(cpus=4, memory_bytes=8 * 10**9, disk_bytes=10**12)


def signer(name: str = "desk7") -> Signer:
    """A node's key, always the same for a name."""
    return Signer(f"{name}/node", name.encode().ljust(32, b"\x07")[:32])


def ids(number: int) -> str:
    return str(UUID(int=(4 << 76) | (2 << 62) | number))


def request(node: str = "desk7", key: Signer | None = None) -> RegistrationRequested:
    return RegistrationRequested(
        node=node, key=str((key or signer(node)).verifier), kind="worker", host="desk7.example",
        hardware=HARDWARE, max_sessions=10,
    )  # fmt: skip


def answer_to(events: tuple[Any, ...], key: Signer | None = None) -> ChallengeAnswered:
    """The answer to the challenge among these events."""
    (issued,) = [one for one in events if isinstance(one, ChallengeIssued)]
    return answer(key or signer(issued.node), issued)


def figures(**changes: int) -> Figures:
    return Figures(**{
        "cpu": 120, "memory": 400, "disk": 250, "sent_bytes": 10**6, "received_bytes": 10**7,
        "processes": 180, "sessions": 2, **changes,
    })  # fmt: skip


def heartbeat(
    counter: int, time: int, node: str = "desk7", key: Signer | None = None,
    work: list[SlotWork] | None = None, **changes: int,
) -> HeartbeatSent:  # fmt: skip
    beat = Beat(node=node, counter=counter, time=time, figures=figures(**changes), work=work or [])
    return sign_beat(key or signer(node), beat)


def slot_work(slot: int, relay: int = 0, proofs: int = 0, signatures: int = 0) -> SlotWork:
    return SlotWork(slot=slot, relay_bytes=relay, storage_proofs=proofs, signatures=signatures)


def approved(node: str = "desk7", at: int = BEGIN, **more: Any) -> NodeState:
    """A node that was taken in."""
    known = Open(
        id=ids(1), key=str(signer(node).verifier), kind="worker", host="h", hardware=HARDWARE,
        max_sessions=10, challenge="ab" * 32, answer_by=at, decide_by=at, shown=True, reason="x",
    )  # fmt: skip
    return NodeState(node=node, state="approved", registration=known).model_copy(update=more)


def command(action: str, number: int = 100, **fields: Any) -> NodeCommand:
    return NodeCommand.model_validate({"id": ids(number), "action": action, **fields})
