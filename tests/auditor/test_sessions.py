"""What `lucid sessions show` says, from documents as the pipeline writes them."""

from __future__ import annotations

from agents.auditor.sessions import detail
from agents.session.pipeline.states import SessionState, lost, state_document
from schemas.events import RecordsExpired

SESSION = "01a21243-d8ba-71a3-8a96-4be8cf90a7e2"


def loss(first: int, next_seq: int | None) -> RecordsExpired:
    return RecordsExpired(
        session=None if next_seq is None else SESSION, topic="session.frames", partition=2,
        first_offset=first, next_offset=first + 10, next_seq=next_seq,
    )  # fmt: skip


def test_what_expired_is_told_before_anything_is_counted() -> None:
    state = SessionState(session=SESSION)
    assert detail(SESSION, state_document(state), None, "").expired == []
    state = lost(lost(state, loss(363, 281), 1), loss(400, None), 2)
    assert detail(SESSION, state_document(state), None, "").expired == [
        "offsets 363 to 372 of partition 2 of session.frames: its records from 281 on",
        "offsets 400 to 409 of partition 2 of session.frames: perhaps records of this session",
    ]
