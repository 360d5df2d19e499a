"""Makes the test vectors: `python tests/vectors/make.py`, run from the top of the checkout.

Everything is fixed but what age makes at random: identities and wrapped keys are made once
and kept. All keys here are public and for tests only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import pyrage  # noqa: E402

from agents.session.processor.chunker import Chunker  # noqa: E402
from agents.session.processor.sealer import make_manifest, open_session, seal_cut  # noqa: E402
from schemas.anchors import anchor_of  # noqa: E402
from schemas.audit import (  # noqa: E402
    AccessDenied,
    Actor,
    AuditEvent,
    ChainStarted,
    ChunksRepaired,
    LetterDiscarded,
    LetterReplayed,
    ProjectionRebuilt,
    ResourceRead,
    SessionExported,
    SessionReplayed,
    SessionVerified,
    put_in_chain,
)
from schemas.audit_chain import Place  # noqa: E402
from schemas.audit_heads import Head, sign_heads  # noqa: E402
from schemas.canonical import Strict, encode  # noqa: E402
from schemas.chunks import HEADER_SIZE, Chunk, Compressor, Sealing, unseal  # noqa: E402
from schemas.controls import Abandon, Close, Gap, Keepalive, Open, Pause, Resume  # noqa: E402
from schemas.datakey import DataKey, derive, unwrap, wrap  # noqa: E402
from schemas.erasure import (  # noqa: E402
    Erasure,
    digest,
    sign_erasure,
    write_headers,
    write_leaves,
)
from schemas.frames import FrameRecord, Kind, chain_next, chain_start, to_kafka  # noqa: E402
from schemas.manifests import Manifest, checkpoint_of, manifest_hash  # noqa: E402
from schemas.merkle import inclusion_proof  # noqa: E402
from schemas.notes import Commitment, Signer  # noqa: E402
from schemas.progress import SessionProgress  # noqa: E402
from tests.vectors.make_activity import screen_payloads  # noqa: E402

START = 1_767_225_600_000_000  # 2026-01-01 00:00 UTC
RECORDER = Signer("test-only.example/recorder", b"\x11" * 32)
PROCESSOR = Signer("test-only.example/processor", b"\x22" * 32)
STORAGE = Signer("test-only.example/storage", b"\x33" * 32)
DAY = 86_400_000_000
KafkaRecord = tuple[bytes, list[tuple[str, bytes]], bytes]


@dataclass(frozen=True)
class Vector:
    """One made session; `sent` in order of offsets, as they are on the topic."""

    session: UUID
    data_key: bytes
    sent: list[FrameRecord]
    chains: list[bytes]
    chunks: list[Chunk]
    manifest: Manifest
    progress: list[SessionProgress]


class Tape:
    """Writes records as a recorder does; `lost` ones never reach the topic."""

    def __init__(self, session: UUID, key: DataKey) -> None:
        self.session, self.key = session, key
        self.chains = [chain_start(session)]
        self.sent: list[FrameRecord] = []

    def add(self, kind: Kind, payload: bytes | Strict, ms: int, *, lost: bool = False) -> None:
        """A record `ms` milliseconds after the start."""
        data = payload if isinstance(payload, bytes) else encode(payload)
        seq, chain, time = len(self.chains) - 1, self.chains[-1], START + ms * 1000
        record = FrameRecord(self.session, kind, seq, time, chain, data)
        self.chains.append(chain_next(chain, self.key.chain, record))
        if not lost:
            self.sent.append(record)

    def keepalive(self, ms: int) -> None:
        self.add(Kind.KEEPALIVE, Keepalive(note=self.note()), ms)

    def abandon(self, reason: str, ms: int) -> None:
        """What the pipeline adds."""
        abandon = Abandon(
            reason=reason, by="pipeline/test", last_seen=START + ms * 1000 - 60_000_000
        )
        record = FrameRecord(
            self.session, Kind.ABANDON, -1, START + ms * 1000, b"", encode(abandon)
        )
        self.sent.append(record)

    def note(self, closed: str = "") -> str:
        """The recorder's commitment to all records so far."""
        commitment = Commitment(self.session, len(self.chains) - 1, self.chains[-1], closed)
        return RECORDER.sign(commitment.to_text())


def noise(label: str, size: int) -> bytes:
    """Bytes that zstd cannot shrink, the same each time."""
    return hashlib.shake_256(b"lucid test vector " + label.encode()).digest(size)


def closed_session(tape: Tape, opened: Open) -> None:
    """Three chunks: cut by event time, cut by bytes, ended by `close`; two records lost."""
    tape.add(Kind.OPEN, opened, 0)
    tape.add(Kind.FRAMES, b"the first frame\n", 100)
    tape.add(Kind.FRAMES, b"", 200)
    tape.keepalive(1000)
    tape.add(Kind.PAUSE, Pause(reason="lunch"), 1500)
    tape.keepalive(2500)
    tape.add(Kind.RESUME, Resume(reason="back: Zoë"), 2600)
    tape.add(Kind.FRAMES, noise("a", 600), 2700)
    tape.sent.append(tape.sent[-1])  # the producer sent it twice
    tape.add(Kind.FRAMES, noise("b", 500), 2800, lost=True)
    tape.add(Kind.FRAMES, noise("c", 500), 2900, lost=True)
    tape.add(Kind.FRAMES, noise("d", 500), 3000)
    tape.add(Kind.FRAMES, b"so that this one starts a chunk " * 38, 3100)
    tape.keepalive(3200)
    reason = "the recording was stopped"
    tape.add(Kind.CLOSE, Close(reason=reason, note=tape.note(reason)), 3300)


def abandoned_session(tape: Tape, opened: Open) -> None:
    """Three chunks, the last of `abandon` alone; a gap, records behind the last commitment."""
    tape.add(Kind.OPEN, opened, 0)
    tape.add(Kind.FRAMES, b"\x00" * 500, 500)
    tape.keepalive(900)
    gap = Gap(reason="the display was away", from_time=START + 950_000, to_time=START + 2_150_000)
    tape.add(Kind.GAP, gap, 2150)
    tape.add(Kind.FRAMES, noise("e", 64), 2200)
    tape.abandon("no sign of the recorder for 60 s", 62_200)


def activity_session(tape: Tape, opened: Open) -> None:
    """Codec `screen/2`, three chunks: pictures, and an entry of every type beside them."""
    tape.add(Kind.OPEN, opened, 0)
    for ms, payload in screen_payloads():
        tape.add(Kind.FRAMES, payload, ms)
    tape.keepalive(4700)
    tape.add(Kind.CLOSE, Close(reason="done", note=tape.note("done")), 4800)


SESSIONS = {
    "closed": (UUID("019b76da-a800-7000-8000-00000000c105"), closed_session),
    "abandoned": (UUID("019b76da-a801-7000-8000-00000000aba1"), abandoned_session),
    "activity": (UUID("019b76da-a803-7000-8000-00000000ac71"), activity_session),
}


def seal(
    sent: Sequence[FrameRecord], key: DataKey
) -> tuple[list[Chunk], Manifest, list[SessionProgress]]:
    """What a processor makes of records at offsets 0, 1, 2, …"""
    progress = open_session(sent[0], 0, 0)
    sealing = progress.opened.sealing
    chunker, compressor = Chunker(sealing), Compressor(sealing.level, sealing.window_log)
    chunks, steps = [], []
    manifest: Manifest | None = None
    for offset, record in enumerate(sent):
        for cut in chunker.add(record, offset):
            records = cut.held.take()
            chunk, progress = seal_cut(
                progress, records, cut.last_offset, key, compressor, last=cut.last
            )
            chunks.append(chunk)
            steps.append(progress)
            if cut.last:
                manifest = make_manifest(progress, records[-1], key)
    assert manifest is not None
    return chunks, manifest, steps


def make(name: str, folder: Path, keys: Path) -> Vector:
    """One session; its wrapped key is made unless the folder has one."""
    session, script = SESSIONS[name]
    data_key = noise(f"test-only data key of {name}", 32)
    recipients = [recipient(keys, role) for role in ("processor", "auditor")]
    wrapped = once(folder / "key.age", lambda: wrap(data_key, recipients))
    assert unwrap(wrapped, [identity(keys, "auditor")]) == data_key
    opened = Open(
        session=str(session), recorder=str(RECORDER.verifier), recipients=recipients,
        codec="screen/2" if name == "activity" else "bytes/1", host="desk-1.example", owner="ada",
        key=base64.b64encode(wrapped).decode(), source={"type": "vector", "number": 7},
        project="Grüße", sealing=Sealing(cut_bytes=2048, cut_us=2_000_000),
    )  # fmt: skip
    key = derive(data_key, session)
    tape = Tape(session, key)
    script(tape, opened)
    return Vector(session, data_key, tape.sent, tape.chains, *seal(tape.sent, key))


def once(path: Path, data: Any) -> bytes:
    """The file's content; made first if there is no such file."""
    if not path.exists():
        path.write_bytes(data())
    return path.read_bytes()


def identity(keys: Path, role: str) -> str:
    """A test-only age identity."""
    head = f"# test only: the age identity of the vectors' {role}\n"
    text = once(
        keys / f"{role}.age", lambda: f"{head}{pyrage.x25519.Identity.generate()}\n".encode()
    )
    return text.decode().splitlines()[1]


def recipient(keys: Path, role: str) -> str:
    return str(pyrage.x25519.Identity.from_str(identity(keys, role)).to_public())


def line_of(record: KafkaRecord) -> str:
    """A Kafka record as a line of JSON, bytes in hex."""
    key, headers, value = record
    fields = {"key": key.hex(), "headers": [[n, v.hex()] for n, v in headers], "value": value.hex()}
    return json.dumps(fields) + "\n"


def expected(vector: Vector) -> dict[str, Any]:
    """What a reader should find, all bytes in hex."""
    key = derive(vector.data_key, vector.session)
    leaves = [chunk.leaf for chunk in vector.chunks]
    return {
        "session": str(vector.session),
        "data_key": vector.data_key.hex(),
        "subkeys": {
            "seal": key.seal.hex(), "nonce": key.nonce.hex(), "chain": key.chain.hex(),
            "commitment": key.commitment.hex(),
        },
        "recorder": str(RECORDER.verifier),
        "processor": str(PROCESSOR.verifier),
        "chain": [value.hex() for value in vector.chains],
        "leaves": [leaf.hex() for leaf in leaves],
        "inclusion_proofs": [
            [node.hex() for node in inclusion_proof(leaves, index)] for index in range(len(leaves))
        ],
        "root": vector.manifest.root,
        "manifest_hash": manifest_hash(encode(vector.manifest)).hex(),
        "chunks": [
            [[entry.kind.label, entry.seq, entry.time, entry.payload.hex()] for entry in entries]
            for entries in (unseal(chunk, key) for chunk in vector.chunks)
        ],
    }  # fmt: skip


def write(vector: Vector, folder: Path) -> None:
    """All files but key.age, which is there already."""
    (folder / "chunks").mkdir(exist_ok=True)
    lines = [line_of(to_kafka(record)) for record in vector.sent]
    (folder / "records.jsonl").write_text("".join(lines))
    for chunk in vector.chunks:
        (folder / "chunks" / f"{chunk.header.index:08d}.chunk").write_bytes(chunk.data)
    (folder / "manifest.json").write_bytes(encode(vector.manifest))
    note = PROCESSOR.sign(checkpoint_of(vector.manifest).to_text())
    (folder / "checkpoint.txt").write_bytes(note.encode())
    (folder / "anchor.json").write_bytes(encode(anchor_of(vector.manifest)))
    (folder / "progress.jsonl").write_bytes(b"".join(encode(p) + b"\n" for p in vector.progress))
    text = json.dumps(expected(vector), indent=1, ensure_ascii=False)
    (folder / "expected.json").write_text(text + "\n", encoding="utf-8")


# Audit events ------------------------------------------------------------------------------------

SESSION = "019b76da-a800-7000-8000-00000000c105"
ACTS: tuple[Strict, ...] = (
    LetterReplayed(origin="session.frames/3/77", letter=4, session=SESSION, offset=99, tries=2),
    LetterDiscarded(origin="session.events/0/5", letter=5, session=None, reason="Lärm"),
    SessionReplayed(session=SESSION, outcome="identical", chunks=3, differences=0),
    ChunksRepaired(session=SESSION, indexes=[0, 2]),
    ProjectionRebuilt(projection="sessions", events=12),
)


def audit_events() -> list[AuditEvent]:
    """An event of each type that there was before entries were chained."""
    subjects = [SESSION, "session.events/0/5", *[SESSION] * 3]
    users = [Actor("ada"), Actor("Zoë")] * 2 + [Actor("ada")]
    return [
        audit_event(n, *parts) for n, parts in enumerate(zip(ACTS, subjects, users, strict=True))
    ]


def audit_event(number: int, act: Strict, subject: str, actor: Actor) -> AuditEvent:
    """An event of the command line that is the same each time."""
    return AuditEvent(
        act, "lucid/cli/desk-1.example", subject, user=actor.user, user_type=actor.user_type,
        address=actor.address, roles=actor.roles, id=f"00000000-0000-4000-8000-{number:012d}",
        time=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number, microseconds=number),
    )  # fmt: skip


CHAIN = "api/019b76da-a802-7000-8000-00000000c4a1"
MALLORY = Actor("", "anonymous", "203.0.113.9")
ADA = Actor("ada", "api", "2001:db8::7", ("auditor", "session_viewer"))
CHAINED: tuple[tuple[Strict, str, Actor], ...] = (
    (ChainStarted(reason="lost", former="api/019b76da-a701-7000-8000-00000000c4a0"), CHAIN,
     Actor("lucid", "service")),
    *((act, SESSION, Actor("Zoë")) for act in ACTS),
    (ResourceRead(action="chunks.download", resource=f"/api/v1/sessions/{SESSION}/chunks/0",
                  session=SESSION, request="r-1", bytes=2124, items=1, outcome="ok"), SESSION, ADA),
    (ResourceRead(action="sessions.list", resource="/api/v1/sessions", session=None,
                  request=None, bytes=0, items=50, outcome="ok"), "sessions", ADA),
    (AccessDenied(permission="chunks:read", resource=f"/api/v1/sessions/{SESSION}",
                  session=SESSION, code="TokenExpired", request="r-2"), SESSION, MALLORY),
    (SessionExported(session=SESSION, form="film", file_type="mp4", size=51_221), SESSION, ADA),
    (SessionVerified(session=SESSION, outcome="incomplete", findings={"Gap": 1}, unchecked=0),
     SESSION, ADA),
)  # fmt: skip


def audit_chain() -> list[tuple[KafkaRecord, bytes]]:
    """A chain that has an entry of every type, each with its hash."""
    events = [audit_event(100 + n, *parts) for n, parts in enumerate(CHAINED)]
    return list(put_in_chain(events, Place(CHAIN, 0)))


def write_audit(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    lines = [line_of(event.to_kafka()) for event in audit_events()]
    (folder / "unchained.jsonl").write_text("".join(lines))
    entries = audit_chain()
    (folder / "chain.jsonl").write_text("".join(line_of(record) for record, _ in entries))
    (folder / "hashes.txt").write_text("".join(f"{hashed.hex()}\n" for _, hashed in entries))
    newest = audit_event(100 + len(entries) - 1, *CHAINED[-1])
    head = Head(CHAIN, len(entries), newest.micros, entries[-1][1])
    (folder / "heads.txt").write_text(sign_heads([head], PROCESSOR), encoding="utf-8")


def write_erased(vector: Vector, folder: Path) -> None:
    """What is left of a session: content erased after 30 days, metadata after 90."""
    folder.mkdir(exist_ok=True)
    manifest = encode(vector.manifest)
    left = {
        "leaves.txt": write_leaves([chunk.leaf for chunk in vector.chunks]),
        "headers.bin": write_headers(chunk.data[:HEADER_SIZE] for chunk in vector.chunks),
    }
    ended = vector.manifest.tally.last_time
    content = Erasure(
        session=str(vector.session), stage="content", scope="default", keep_days=30, ended=ended,
        decided=ended + 30 * DAY, by="root", host="store.example",
        manifest_hash=manifest_hash(manifest).hex(), root=vector.manifest.root,
        chunks=len(vector.chunks), leaves_hash=digest(left["leaves.txt"]),
        headers_hash=digest(left["headers.bin"]),
    )  # fmt: skip
    later = {"stage": "metadata", "scope": "project", "keep_days": 90, "headers_hash": None,
             "decided": ended + 91 * DAY}  # fmt: skip
    left |= {
        "manifest.json": manifest,
        "checkpoint.txt": PROCESSOR.sign(checkpoint_of(vector.manifest).to_text()).encode(),
        "erasure-content.txt": sign_erasure(content, STORAGE),
        "erasure-metadata.txt": sign_erasure(content.model_copy(update=later), STORAGE),
    }
    for name, data in left.items():
        (folder / name).write_bytes(data)


def main(target: Path) -> None:
    """Write everything under `target`."""
    write_audit(target / "audit")
    keys = target / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    for role, signer in (
        ("recorder", RECORDER), ("processor", PROCESSOR), ("storage", STORAGE),
    ):  # fmt: skip
        (keys / f"{role}.vkey").write_text(f"{signer.verifier}\n")
        (keys / f"{role}.key").write_text(f"{signer.to_text()}\n")
    for name in SESSIONS:
        folder = target / name
        folder.mkdir(exist_ok=True)
        vector = make(name, folder, keys)
        write(vector, folder)
        if name == "closed":
            write_erased(vector, target / "erased")


if __name__ == "__main__":
    main(HERE)
