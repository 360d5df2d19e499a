"""Verdicts from catalog entries and what is on disk; no disk and no catalog here."""

from __future__ import annotations

import hashlib
from typing import get_args

import pytest

from agents.session.storage.damage import (
    _ADVICE,
    Finding,
    Seen,
    Wanted,
    hasher,
    is_ours,
    judge,
    wanted_chunk,
    wanted_conflict,
    wanted_documents,
)
from schemas.events import Damage
from schemas.merkle import leaf_hash
from tests.factories import make_session

ID = "01a20c5b-f2fa-7557-ac1e-5c3397094c1d"
HASH, OTHER = "ab" * 32, "cd" * 32
CHUNK = "00000000.chunk"
WANTED = Wanted(100, HASH)
OLD, YOUNG = 301.0, 299.0


def verdict(name: str, wanted: Wanted | None, seen: Seen | None) -> str:
    finding = judge(ID, name, wanted, seen, 300.0)
    return finding.verdict if finding else ""


@pytest.mark.parametrize(
    ("name", "wanted", "seen", "expected"),
    [
        (CHUNK, WANTED, Seen(100, OLD, HASH), ""),
        (CHUNK, WANTED, Seen(100, YOUNG, HASH), ""),
        (CHUNK, None, None, ""),
        (CHUNK, WANTED, None, "MissingFile"),
        ("key.age", Wanted(), None, "MissingFile"),
        ("key.age", Wanted(), Seen(9, OLD, OTHER), ""),
        (CHUNK, WANTED, Seen(99, YOUNG), "SizeMismatch"),
        (CHUNK, WANTED, Seen(99, OLD, HASH), "SizeMismatch"),
        (CHUNK, WANTED, Seen(100, YOUNG, OTHER), "ChecksumMismatch"),
        (CHUNK, None, Seen(100, YOUNG), ""),
        (CHUNK, None, Seen(100, OLD), "CatalogMissing"),
        ("manifest.json", None, Seen(100, OLD), "CatalogMissing"),
        ("notes.txt", None, Seen(1, OLD), "UnexpectedFile"),
        ("notes.txt", None, Seen(1, YOUNG), ""),
        ("0.chunk", None, Seen(1, OLD), "UnexpectedFile"),
        ("000000001.chunk", None, Seen(1, OLD), "UnexpectedFile"),
        (".tmp-0123456789abcdef", None, Seen(1, YOUNG), ""),
        (".tmp-0123456789abcdef", None, Seen(1, OLD), "UnexpectedFile"),
        ("conflicts/.tmp-0123456789abcdef", None, Seen(1, YOUNG), ""),
        (f"conflicts/00000000.{HASH}.chunk", Wanted(None, HASH), Seen(5, OLD, HASH), ""),
        (f"conflicts/key.{HASH}.age", Wanted(None, HASH), Seen(5, OLD, OTHER), "ChecksumMismatch"),
        ("conflicts/00000000.chunk", None, Seen(5, OLD), "UnexpectedFile"),
        (CHUNK, WANTED, Seen(error="Input/output error"), "Unknown"),
        (CHUNK, None, Seen(error="Permission denied"), "Unknown"),
    ],
)
def test_a_file_gets_its_verdict(
    name: str, wanted: Wanted | None, seen: Seen | None, expected: str
) -> None:
    assert verdict(name, wanted, seen) == expected


def test_a_finding_says_what_was_expected_and_found_and_what_to_do() -> None:
    missing = judge(ID, CHUNK, WANTED, None, 0)
    assert missing is not None
    assert (missing.expected, missing.found, missing.index) == (f"100 bytes, {HASH}", "no file", 0)
    assert f"lucid replay --session {ID} --repair" in missing.advice
    rotten = judge(ID, CHUNK, WANTED, Seen(100, 0, OTHER), 0)
    assert rotten is not None
    assert (rotten.expected, rotten.found) == (HASH, OTHER)
    assert set(_ADVICE) == set(get_args(Damage))
    assert all(Finding(ID, CHUNK, one, "a", "b").as_json()["advice"] for one in _ADVICE)


def test_what_is_wanted_stands_in_the_catalog() -> None:
    made = make_session()
    chunk = made.chunks[0]
    entry = {"leaf": chunk.leaf.hex(), "size": len(chunk.data)}
    assert wanted_chunk(entry) == Wanted(len(chunk.data), leaf_hash(chunk.data).hex())
    assert wanted_chunk({"leaf": None, "size": "x"}) == Wanted(-1, "None")
    manifest = {
        "manifest": made.manifest_bytes.decode(), "checkpoint": made.checkpoint,
        "hash": hashlib.sha256(made.manifest_bytes).hexdigest(),
    }  # fmt: skip
    assert wanted_documents(manifest, chunks=True) == {
        "manifest.json": Wanted(len(made.manifest_bytes), manifest["hash"]),
        "checkpoint.txt": Wanted(
            len(made.checkpoint.encode()), hashlib.sha256(made.checkpoint.encode()).hexdigest()
        ),
        "key.age": Wanted(None, hashlib.sha256(made.wrapped).hexdigest()),
    }
    assert wanted_documents(None, chunks=True) == {"key.age": Wanted()}
    assert wanted_documents(None, chunks=False) == {}
    assert wanted_documents({"manifest": "{}"}, chunks=True)["key.age"] == Wanted()


def test_the_hash_of_a_chunk_is_its_leaf_and_of_others_plain() -> None:
    for name, wanted in (
        (CHUNK, leaf_hash(b"data")),
        (f"conflicts/00000000.{HASH}.chunk", leaf_hash(b"data")),
        ("manifest.json", hashlib.sha256(b"data").digest()),
    ):
        digest = hasher(name)()
        digest.update(b"data")
        assert digest.digest() == wanted


def test_names_of_the_store_are_known() -> None:
    assert all(map(is_ours, ["manifest.json", "checkpoint.txt", "key.age", CHUNK]))
    assert is_ours(f"conflicts/manifest.{HASH}.json")
    assert not any(map(is_ours, ["conflicts", "conflicts/key.age", "x.chunk", "manifest.json~"]))
    assert wanted_conflict(f"conflicts/manifest.{HASH}.json") == Wanted(None, HASH)
    assert wanted_conflict("manifest.json") is None
