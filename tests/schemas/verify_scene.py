"""A recorded session, what verifying is given of it, and what a report finds."""

from __future__ import annotations

from schemas.notes import Signer
from schemas.verdicts import Report
from schemas.verify_documents import Access
from tests.factories import MadeSession, make_session
from tests.memory_source import MemorySource

MADE = make_session(frames=20, seed=1)
OTHER = make_session(frames=20, seed=2)
LAST = len(MADE.chunks) - 1
TALLY = MADE.manifest.tally
STRANGER = Signer("processor.example/two", b"\x09" * 32)


def access(made: MadeSession = MADE) -> Access:
    return Access(
        trusted=(made.processor.verifier, made.recorder.verifier),
        identities=(made.auditor_identity.secret,),
        demanded=True,
    )


def source_of(made: MadeSession = MADE) -> MemorySource:
    return MemorySource.of(made)


def found(report: Report) -> set[tuple[str, int | None]]:
    return {(entry.verdict.value, entry.chunk) for entry in report.findings}


def verdicts(report: Report) -> set[str]:
    return {entry.verdict.value for entry in report.findings}


def flip(data: bytes, at: int, bit: int = 1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= bit
    return bytes(changed)


def areas(report: Report) -> dict[str, str]:
    return {line.area.value: line.result for line in report.areas}


def open_source(chunks: int, made: MadeSession = MADE) -> MemorySource:
    source = source_of(made)
    source.manifest_data = source.note = None
    source.ended = False
    source.chunks = {i: data for i, data in source.chunks.items() if i < chunks}
    assert source.listed is not None
    source.listed = {i: entry for i, entry in source.listed.items() if i < chunks}
    return source
