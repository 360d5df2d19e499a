"""A made session's bundle, and ways to take it apart."""

from __future__ import annotations

import io
import tarfile

from schemas import ustar
from schemas.bundle import (
    write_bundle,
)
from schemas.verify_documents import Access
from tests.factories import MadeSession, make_session
from tests.memory_source import MemorySource

MADE = make_session(frames=14, seed=7)
DOCUMENTS = (
    "README.txt", "manifest.json", "checkpoint.txt", "leaves.txt", "key.age", "recorder.vkey",
    "processor.vkey",
)  # fmt: skip


def bundle_of(source: MemorySource) -> bytes:
    out = io.BytesIO()
    written = write_bundle(out, source)
    assert written.size == len(out.getvalue())
    return out.getvalue()


def source_of(made: MadeSession = MADE) -> MemorySource:
    return MemorySource.of(made, processor_key=str(made.processor.verifier))


BYTES = bundle_of(source_of())
MEMBERS: list[tuple[str, bytes]] = []


with tarfile.open(fileobj=io.BytesIO(BYTES)) as _archive:
    for _member in _archive:
        _file = _archive.extractfile(_member)
        assert _file is not None
        MEMBERS.append((_member.name, _file.read()))


ACCESS = Access(
    trusted=(MADE.processor.verifier, MADE.recorder.verifier),
    identities=(MADE.auditor_identity.secret,),
    demanded=True,
)


def packed(members: list[tuple[str, bytes]]) -> bytes:
    out = b"".join(
        ustar.header(name, len(data)) + data + ustar.padding(len(data)) for name, data in members
    )
    return out + ustar.ending(len(out))


def renamed(old: str, new: str) -> list[tuple[str, bytes]]:
    return [(new if name == old else name, data) for name, data in MEMBERS]


def with_data(name: str, data: bytes) -> list[tuple[str, bytes]]:
    return [(member, data if member == name else old) for member, old in MEMBERS]
