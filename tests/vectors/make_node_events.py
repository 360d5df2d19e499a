"""Makes a sample of each event type of nodes: `python -m tests.vectors.make_node_events`.

What samples are is in samples.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.canonical import Strict
from schemas.node_base import NodeTopicEvent, subject_of
from schemas.node_events import BY_TOPIC
from schemas.node_heartbeats import HeartbeatEvent, sign_beat
from schemas.node_registration import RegistrationEvent, answer
from tests.node.factories import BEGIN, SECRET, heartbeat, ids, request, signer, slot_work
from tests.vectors.make_events import WHEN
from tests.vectors.samples import write_new

FOLDER = Path(__file__).parent / "node_events"
KINDS: list[type[NodeTopicEvent]] = [RegistrationEvent, HeartbeatEvent, *BY_TOPIC.values()]
WINDOW = {"id": ids(8), "begins": BEGIN, "ends": BEGIN + 10**9, "reason": "new disks"}
VALUES: dict[str, Any] = {
    "node": "desk7", "pool": "north", "about": "desk7", "host": "desk7.example",
    "key": str(signer().verifier), "kind": "worker", "max_sessions": 10,
    "hardware": {"cpus": 4, "memory_bytes": 8 * 10**9, "disk_bytes": 10**12},
    "registration": ids(1), "challenge": "ab" * 32, "answer_by": BEGIN, "decide_by": BEGIN + 1,
    "state": "approved", "reason": "taken in", "code": "IdTaken", "health": "stale", "misses": 2,
    "last_heard": BEGIN, "active": True, "windows": [WINDOW], "action": "approve",
    "direction": "up", "load": 850, "threshold": 800, "counter": 7, "time": BEGIN,
    "figures": heartbeat(7, BEGIN).beat.figures.model_dump(), "alert": "node_stale",
    "severity": "warning", "day": 20_775, "beat_slot": 14_958_333, "beats": 1,
    "work": [slot_work(14_958_333, 5_000_000, 1, 2).model_dump()], "payout": ids(9),
    "amount": "12.5", "retries": 1,
}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    "PoolChanged": {"state": "active", "members": ["desk7", "desk8"], "active": ["desk7"]},
    "ScalingHinted": {"active": 3}, "AlertChanged": {"state": "raised"},
    "PayoutChanged": {"state": "failed"},
}  # fmt: skip


def data_of(model: type[Strict]) -> Strict:
    """Data of a type; those that are signed are signed."""
    name = model.__name__
    if name == "HeartbeatSent":
        return sign_beat(signer(), heartbeat(7, BEGIN, work=[slot_work(14_958_333, 5)]).beat)
    if name == "ChallengeAnswered":
        from schemas.node_registration import ChallengeIssued
        from schemas.node_states import NodeState, requested

        step = requested(NodeState(node="desk7"), request(), ids(1), BEGIN, SECRET)
        (issued,) = [one for one in step.events if isinstance(one, ChallengeIssued)]
        return answer(signer(), issued)
    values = {**VALUES, **OTHERS.get(name, {})}
    return model.model_validate({field: values[field] for field in model.model_fields})


def sample(kind: type[NodeTopicEvent], model: type[Strict]) -> NodeTopicEvent:
    """An event with data of this type."""
    data = data_of(model)
    return kind(
        data, "lucid/node-management/desk7", subject_of(data),
        id="8b1f0c9e-0f57-4a52-8d50-0a9d5d1c9a11", time=WHEN, correlation="c-1",
    )  # fmt: skip


def main() -> None:
    """Write what is not there."""
    write_new(FOLDER, (sample(kind, model) for kind in KINDS for model in kind.types.values()))


if __name__ == "__main__":
    main()
