"""What stays of a session is right, or its content stays, too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.platform.blobs import Blobs
from agents.session.storage.retention_proof import Damaged, names_of, prove
from schemas.erasure import UNKNOWN, digest, read_headers, read_leaves
from schemas.manifests import manifest_hash
from tests.factories import make_session

MADE = make_session(frames=20, seed=71)
OTHER = make_session(frames=20, seed=72)
SESSION = str(MADE.session)
LISTED = {chunk.header.index: chunk.leaf.hex() for chunk in MADE.chunks}


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    blobs = Blobs(tmp_path)
    for chunk in MADE.chunks:
        blobs.put(SESSION, f"{chunk.header.index:08d}.chunk", chunk.data)
    blobs.put(SESSION, "manifest.json", MADE.manifest_bytes)
    blobs.put(SESSION, "checkpoint.txt", MADE.checkpoint.encode())
    blobs.put(SESSION, "key.age", MADE.wrapped)
    return blobs


def test_the_proof_of_a_whole_session(blobs: Blobs) -> None:
    proof = prove(blobs, SESSION, LISTED, complete=True, damaged=False)
    assert read_leaves(proof.leaves) == MADE.leaves
    assert list(read_headers(proof.headers).values()) == [one.data[:216] for one in MADE.chunks]
    assert proof.manifest_hash == manifest_hash(MADE.manifest_bytes).hex()
    assert (proof.root, proof.chunks) == (MADE.manifest.root, len(MADE.chunks))
    assert proof.size == MADE.manifest.tally.sealed_bytes
    (blobs.folder(SESSION) / ".tmp-0011").write_bytes(b"half")
    assert prove(blobs, SESSION, LISTED, complete=True, damaged=False) == proof


def rotten(blobs: Blobs) -> None:
    path = blobs.path(SESSION, "00000001.chunk")
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def another(blobs: Blobs) -> None:
    blobs.path(SESSION, "00000001.chunk").write_bytes(OTHER.chunks[1].data)


def write(name: str, data: bytes) -> Callable[[Blobs], None]:
    def change(blobs: Blobs) -> None:
        blobs.path(SESSION, name).parent.mkdir(exist_ok=True)
        blobs.path(SESSION, name).write_bytes(data)

    return change


def without(name: str) -> Callable[[Blobs], None]:
    return lambda blobs: blobs.path(SESSION, name).unlink()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (rotten, "chunk 1 is not what the catalog names"),
        (another, "at place 1 is another chunk"),
        (write("00000001.chunk", b"rubbish"), "chunk 1 cannot be read"),
        (without("00000001.chunk"), "chunk 1 is missing"),
        (write("00000009.chunk", MADE.chunks[0].data), "chunk 9 is more than the manifest counts"),
        (write("manifest.json", b"{}"), "its manifest cannot be read"),
        (write("manifest.json", OTHER.manifest_bytes), "its checkpoint names another manifest"),
        (write("checkpoint.txt", b"\xff"), "its checkpoint is missing or cannot be read"),
        (without("checkpoint.txt"), "its checkpoint is missing or cannot be read"),
        (write("key.age", OTHER.wrapped), "its wrapped key is not the one"),
        (without("key.age"), "its wrapped key is missing"),
        (write("conflicts/key.aa.age", b"x"), "conflicts/key.aa.age differs from"),
        (write("notes.txt", b"x"), "notes.txt is no file of the store"),
        (write("below/notes.txt", b"x"), "below/notes.txt is no file of the store"),
    ],
)
def test_what_is_damaged_is_left_to_people(
    blobs: Blobs, damage: Callable[[Blobs], None], problem: str
) -> None:
    damage(blobs)
    with pytest.raises(Damaged, match=SESSION) as caught:
        prove(blobs, SESSION, LISTED, complete=True, damaged=False)
    assert any(one.startswith(problem) for one in caught.value.problems)
    assert "--damaged" in str(caught.value)
    proof = prove(blobs, SESSION, LISTED, complete=True, damaged=True)
    assert proof.leaves, "somebody has looked, and it goes all the same"


def test_leaves_of_the_catalog_stay_for_chunks_that_are_gone(blobs: Blobs) -> None:
    rotten(blobs)
    without("00000002.chunk")(blobs)
    proof = prove(blobs, SESSION, LISTED, complete=True, damaged=True)
    assert read_leaves(proof.leaves) == MADE.leaves
    assert 1 not in read_headers(proof.headers)


def test_a_chunk_that_neither_side_has_is_unknown(blobs: Blobs) -> None:
    without("00000001.chunk")(blobs)
    listed = {index: leaf for index, leaf in LISTED.items() if index != 1}
    proof = prove(blobs, SESSION, listed, complete=False, damaged=False)
    assert read_leaves(proof.leaves)[1] == UNKNOWN
    with pytest.raises(Damaged, match="chunk 1 is neither stored nor listed"):
        prove(blobs, SESSION, listed, complete=True, damaged=False)
    with pytest.raises(Damaged, match="does not list chunk 0"):
        prove(blobs, SESSION, {}, complete=False, damaged=False)


def test_a_catalog_that_agrees_with_other_chunks_does_not_help(blobs: Blobs) -> None:
    rotten(blobs)
    data = blobs.get(SESSION, "00000001.chunk")
    listed = {**LISTED, 1: hashlib.sha256(b"\0" + data).hexdigest()}
    with pytest.raises(Damaged, match="another root"):
        prove(blobs, SESSION, listed, complete=True, damaged=False)


def test_without_a_manifest_the_chunks_count_themselves(blobs: Blobs) -> None:
    for name in ("manifest.json", "checkpoint.txt"):
        without(name)(blobs)
    proof = prove(blobs, SESSION, LISTED, complete=True, damaged=False)
    assert (proof.manifest_hash, proof.root, proof.chunks) == (None, None, len(MADE.chunks))
    for name in names_of(blobs, SESSION):
        if name.endswith(".chunk"):
            without(name)(blobs)
    empty = prove(blobs, SESSION, {}, complete=True, damaged=False)
    assert (empty.chunks, empty.leaves, digest(empty.headers)) == (0, b"", digest(b""))


def test_many_problems_are_counted(blobs: Blobs) -> None:
    for number in range(9):
        write(f"stray{number}", b"x")(blobs)
    with pytest.raises(Damaged, match="and 4 more"):
        prove(blobs, SESSION, LISTED, complete=True, damaged=False)
