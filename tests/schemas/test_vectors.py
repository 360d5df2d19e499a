"""The committed vectors are read and made again, byte for byte, by schemas/ and the processor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from schemas.anchors import anchor_of, read_anchor
from schemas.chunks import ZSTD_VERSION, Chunk, read_chunk, unseal
from schemas.datakey import DataKey, derive, unwrap
from schemas.erasure import ErasureFiles
from schemas.frames import (
    FrameRecord,
    Kind,
    chain_next,
    chain_start,
    from_kafka,
    to_kafka,
)
from schemas.manifests import Manifest, checkpoint_of, manifest_hash, read_manifest
from schemas.merkle import inclusion_proof, root, verify_inclusion
from schemas.notes import Checkpoint, Signer, Verifier, open_note
from schemas.progress import read_progress
from schemas.verdicts import Severity
from schemas.verify import verify
from schemas.verify_documents import Access
from tests.memory_source import MemorySource
from tests.vectors import make

VECTORS = Path(__file__).parents[1] / "vectors"
SESSIONS = ("closed", "abandoned", "activity")


class Vector:
    """The files of one vector, read with schemas/."""

    def __init__(self, name: str) -> None:
        self.folder = VECTORS / name
        self.expected: dict[str, Any] = json.loads(self.data("expected.json"))
        self.session = UUID(self.expected["session"])
        self.manifest: Manifest = read_manifest(self.data("manifest.json"))
        self.chunks: list[Chunk] = [
            read_chunk(path.read_bytes()) for path in sorted(self.folder.glob("chunks/*.chunk"))
        ]

    def data(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    @property
    def key(self) -> DataKey:
        return derive(bytes.fromhex(self.expected["data_key"]), self.session)

    def kafka(self) -> Iterator[tuple[bytes, list[tuple[str, bytes]], bytes]]:
        """The Kafka records of records.jsonl."""
        for line in self.data("records.jsonl").splitlines():
            fields = json.loads(line)
            headers = [(name, bytes.fromhex(value)) for name, value in fields["headers"]]
            yield bytes.fromhex(fields["key"]), headers, bytes.fromhex(fields["value"])

    def records(self) -> list[FrameRecord]:
        return [from_kafka(*record) for record in self.kafka()]


@pytest.fixture(params=SESSIONS)
def vector(request: pytest.FixtureRequest) -> Vector:
    return Vector(request.param)


def identity(role: str) -> str:
    return (VECTORS / f"keys/{role}.age").read_text().splitlines()[1]


def verifier(role: str) -> Verifier:
    return Verifier.parse((VECTORS / f"keys/{role}.vkey").read_text())


@pytest.mark.parametrize("role", ["recorder", "processor", "storage"])
def test_the_signing_keys_read_and_give_their_verifier_keys(role: str) -> None:
    text = (VECTORS / f"keys/{role}.key").read_text()
    signer = Signer.parse(text)
    assert signer.verifier == verifier(role)
    assert signer.to_text() == text.strip()


@pytest.mark.parametrize("role", ["auditor", "processor"])
def test_the_wrapped_key_opens_to_the_data_key(vector: Vector, role: str) -> None:
    data_key = unwrap(vector.data("key.age"), [identity(role)])
    assert data_key.hex() == vector.expected["data_key"]


def test_the_subkeys_are_those_of_the_vector(vector: Vector) -> None:
    subkeys = {name: getattr(vector.key, name).hex() for name in vector.expected["subkeys"]}
    assert subkeys == vector.expected["subkeys"]
    assert len(subkeys) == 4


def test_frame_records_read_and_write_as_they_are_on_the_topic(vector: Vector) -> None:
    assert [to_kafka(record) for record in vector.records()] == list(vector.kafka())


def test_the_record_chain_takes_the_values_of_the_vector(vector: Vector) -> None:
    values = [bytes.fromhex(value) for value in vector.expected["chain"]]
    records = {record.seq: record for record in vector.records() if record.seq >= 0}
    assert values[0] == chain_start(vector.session)
    assert len(records) > 3
    for seq, record in records.items():
        assert record.chain == values[seq]
        assert chain_next(values[seq], vector.key.chain, record) == values[seq + 1]


def test_chunks_have_the_leaves_of_the_vector_and_their_headers_write_back(vector: Vector) -> None:
    assert [chunk.leaf.hex() for chunk in vector.chunks] == vector.expected["leaves"]
    assert len(vector.chunks) == 3
    for chunk in vector.chunks:
        assert chunk.header.pack() == chunk.data[: len(chunk.header.pack())]


def test_chunks_follow_one_another(vector: Vector) -> None:
    for before, after in pairwise(chunk.header for chunk in vector.chunks):
        assert (before.index + 1, before.next_seq) == (after.index, after.first_seq)
        assert before.chain_after == after.chain_before
        assert not before.last
    assert vector.chunks[-1].header.last


def test_chunks_open_to_the_entries_of_the_vector(vector: Vector) -> None:
    opened = [
        [[entry.kind.label, entry.seq, entry.time, entry.payload.hex()] for entry in entries]
        for entries in (unseal(chunk, vector.key) for chunk in vector.chunks)
    ]
    assert opened == vector.expected["chunks"]


def test_the_root_and_every_inclusion_proof_hold(vector: Vector) -> None:
    leaves = [chunk.leaf for chunk in vector.chunks]
    top = root(leaves)
    assert top.hex() == vector.expected["root"] == vector.manifest.root
    for index, nodes in enumerate(vector.expected["inclusion_proofs"]):
        proof = [bytes.fromhex(node) for node in nodes]
        assert proof == inclusion_proof(leaves, index)
        verify_inclusion(leaves[index], index, len(leaves), proof, top)


def test_the_checkpoint_is_the_processors_over_this_manifest(vector: Vector) -> None:
    text = open_note(vector.data("checkpoint.txt").decode(), verifier("processor"))
    assert Checkpoint.parse(text) == checkpoint_of(vector.manifest)
    digest = manifest_hash(vector.data("manifest.json"))
    assert digest.hex() == vector.expected["manifest_hash"]


def test_the_anchor_is_that_of_the_manifest(vector: Vector) -> None:
    assert read_anchor(vector.data("anchor.json")) == anchor_of(vector.manifest)


def test_the_progress_after_each_chunk_has_its_chain_and_tree(vector: Vector) -> None:
    lines = vector.data("progress.jsonl").splitlines()
    assert len(lines) == len(vector.chunks)
    for count, line in enumerate(lines, start=1):
        progress = read_progress(line)
        header = vector.chunks[count - 1].header
        assert (progress.next_index, progress.next_seq) == (count, header.next_seq)
        assert progress.chain == header.chain_after.hex()
        assert progress.tree().root() == root([chunk.leaf for chunk in vector.chunks[:count]])
    assert read_progress(lines[-1]).tally == vector.manifest.tally


def test_the_vectors_hold_every_kind_of_record() -> None:
    kinds = {
        entry[0]
        for name in SESSIONS
        for entries in Vector(name).expected["chunks"]
        for entry in entries
    }
    assert kinds == {kind.label for kind in Kind}


def made_with() -> set[int]:
    return {chunk.header.compressor_version for name in SESSIONS for chunk in Vector(name).chunks}


def test_the_script_makes_the_same_files_again_byte_for_byte(tmp_path: Path) -> None:
    if made_with() != {ZSTD_VERSION}:
        pytest.skip(f"the vectors were sealed with zstd {made_with()}, here is {ZSTD_VERSION}")
    for kept in [*VECTORS.glob("keys/*.age"), *VECTORS.glob("*/key.age")]:
        target = tmp_path / kept.relative_to(VECTORS)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(kept, target)
    make.main(tmp_path)
    again = {path.relative_to(tmp_path): path.read_bytes() for path in files_of(tmp_path)}
    assert again == {path.relative_to(VECTORS): path.read_bytes() for path in files_of(VECTORS)}


def files_of(folder: Path) -> list[Path]:
    """Everything that the script makes."""
    return [
        path
        for path in folder.rglob("*")
        # Those are made once, by make_events.py and its like.
        if not path.relative_to(folder).parts[0].startswith(("events", "rdp_", "node_", "credits"))
        if path.is_file() and path.parent != folder and "__pycache__" not in path.parts
    ]


def test_the_erased_vector_verifies_as_its_original_did() -> None:
    closed, folder = Vector("closed"), VECTORS / "erased"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    access = Access(trusted=tuple(verifier(role) for role in ("recorder", "processor", "storage")))
    for metadata in (None, files["erasure-metadata.txt"]):
        source = MemorySource(
            session=closed.session, manifest_data=None if metadata else files["manifest.json"],
            note=files["checkpoint.txt"], wrapped=None, chunks={}, listed=None,
            erased=ErasureFiles(
                files["erasure-content.txt"], metadata, files["leaves.txt"],
                None if metadata else files["headers.bin"],
            ),
        )  # fmt: skip
        report = verify(source, access)
        assert report.outcome is Severity.ERASED
        assert report.root == closed.expected["root"]
        assert not [one for one in report.findings if one.severity is Severity.FAILED]
