"""RFC 6962 trees: the RFC's own values, and proofs of every size that hold and only so."""

from __future__ import annotations

import hashlib

import pytest

from schemas.merkle import (
    Frontier,
    InvalidProof,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

# The test data of the Certificate Transparency reference implementation (RFC 6962).
DATA = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(bytes.fromhex(data)) for data in DATA]


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_the_roots_are_the_rfcs(size: int) -> None:
    assert root(LEAVES[:size]).hex() == ROOTS[size]


def leaves(count: int) -> list[bytes]:
    return [hashlib.sha256(b"%d" % number).digest() for number in range(count)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33])
def test_inclusion_holds_for_each_leaf_and_no_other(size: int) -> None:
    found = leaves(size)
    top = root(found)
    for index in range(size):
        proof = inclusion_proof(found, index)
        verify_inclusion(found[index], index, size, proof, top)
        for bad in (
            (found[index - 1] if size > 1 else bytes(32), index, size, proof, top),
            (found[index], index, size, [*proof, bytes(32)], top),
            (found[index], index, size, proof, bytes(32)),
            (found[index], size, size, proof, top),
        ):
            with pytest.raises(InvalidProof):
                verify_inclusion(*bad)
        if proof:
            with pytest.raises(InvalidProof):
                verify_inclusion(found[index], index, size, proof[:-1], top)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 9, 17])
def test_consistency_holds_for_each_prefix_and_no_other_tree(size: int) -> None:
    found = leaves(size)
    top = root(found)
    for old in range(size + 1):
        proof = consistency_proof(found, old)
        before = root(found[:old])
        verify_consistency(old, size, before, top, proof)
        with pytest.raises(InvalidProof):
            verify_consistency(old, size, before, top, [*proof, bytes(32)])
        if old > 0:
            with pytest.raises(InvalidProof):
                verify_consistency(old, size, bytes(32), top, proof)
        if 0 < old < size:
            with pytest.raises(InvalidProof):
                verify_consistency(old, size, before, bytes(32), proof)
            with pytest.raises(InvalidProof):
                verify_consistency(old, size, before, top, proof[:-1])


def test_what_has_no_proof_is_refused() -> None:
    found = leaves(3)
    for index in (-1, 3):
        with pytest.raises(InvalidProof):
            inclusion_proof(found, index)
    with pytest.raises(InvalidProof):
        consistency_proof(found, 4)
    with pytest.raises(InvalidProof):
        verify_consistency(4, 3, bytes(32), bytes(32), [])


def test_a_frontier_goes_on_where_another_stopped() -> None:
    found = leaves(40)
    for size in range(40):
        frontier = Frontier()
        for leaf in found[:size]:
            frontier.append(leaf)
        again = Frontier(frontier.size, frontier.hashes)
        kept = again.copy()
        for leaf in found[size:]:
            again.append(leaf)
        assert again.root() == root(found)
        assert kept.root() == root(found[:size])


@pytest.mark.parametrize(("size", "hashes"), [(-1, []), (3, [bytes(32)]), (1, [bytes(31)])])
def test_a_frontier_that_cannot_be_is_refused(size: int, hashes: list[bytes]) -> None:
    with pytest.raises(InvalidProof):
        Frontier(size, hashes)
