"""Merkle trees of RFC 6962, over hashes of leaves.

Everywhere here a leaf is its 32-byte hash, SHA-256(0x00 ‖ bytes). The algorithms for proofs
are those of RFC 9162, 2.1.3 and 2.1.4, which restates RFC 6962's trees.

FormatError
└── InvalidProof      a proof that does not connect its leaf or trees to the root
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from schemas.errors import FormatError

EMPTY_ROOT = hashlib.sha256(b"").digest()
HASH_SIZE = 32


class InvalidProof(FormatError):
    """An inclusion or consistency proof does not hold."""


def leaf_hash(*parts: bytes) -> bytes:
    """SHA-256(0x00 ‖ parts), 32 bytes."""
    digest = hashlib.sha256(b"\x00")
    for part in parts:
        digest.update(part)
    return digest.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right), 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The roots of a tree's perfect subtrees, largest first: enough to append and to take the root.

    At most log2(size) + 1 hashes.
    """

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size < 0 or len(hashes) != size.bit_count():
            raise InvalidProof(f"a frontier of {size} leaves has {len(hashes)} hashes")
        if any(len(node) != HASH_SIZE for node in hashes):
            raise InvalidProof("a frontier has a hash that is not 32 bytes")
        self.size = size
        self.hashes = list(hashes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf."""
        node, size = leaf, self.size
        while size & 1:
            node = node_hash(self.hashes.pop(), node)
            size >>= 1
        self.hashes.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves so far."""
        if not self.hashes:
            return EMPTY_ROOT
        node = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            node = node_hash(left, node)
        return node

    def copy(self) -> Frontier:
        return Frontier(self.size, self.hashes)


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over `leaves`."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index`, from the leaf up."""
    if not 0 <= index < len(leaves):
        raise InvalidProof(f"there is no leaf {index} among {len(leaves)}")
    if len(leaves) == 1:
        return []
    middle = _split(len(leaves))
    if index < middle:
        return [*inclusion_proof(leaves[:middle], index), root(leaves[middle:])]
    return [*inclusion_proof(leaves[middle:], index - middle), root(leaves[:middle])]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes
) -> None:
    """Check an audit path (RFC 9162, 2.1.3.2); raises InvalidProof."""
    if not 0 <= index < size:
        raise InvalidProof(f"there is no leaf {index} in a tree of {size}")
    node, last, position = leaf, size - 1, index
    for sibling in proof:
        if last == 0:
            raise InvalidProof("the inclusion proof is too long")
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        position >>= 1
        last >>= 1
    if last != 0:
        raise InvalidProof("the inclusion proof is too short")
    if node != expected:
        raise InvalidProof(f"leaf {index} is not in the tree of {size} with that root")


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the tree of `leaves` extends the tree of its first `old_size`."""
    if not 0 <= old_size <= len(leaves):
        raise InvalidProof(f"no tree of {old_size} is a prefix of one of {len(leaves)}")
    if old_size in (0, len(leaves)):
        return []
    return _subproof(leaves, old_size, True)


def _subproof(leaves: Sequence[bytes], old_size: int, whole: bool) -> list[bytes]:
    if old_size == len(leaves):
        return [] if whole else [root(leaves)]
    middle = _split(len(leaves))
    if old_size <= middle:
        return [*_subproof(leaves[:middle], old_size, whole), root(leaves[middle:])]
    return [*_subproof(leaves[middle:], old_size - middle, False), root(leaves[:middle])]


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check a consistency proof (RFC 9162, 2.1.4.2); raises InvalidProof."""
    if not 0 <= old_size <= new_size:
        raise InvalidProof(f"a tree of {new_size} cannot extend one of {old_size}")
    if old_size in (0, new_size):
        same = old_size == 0 or old_root == new_root
        if proof or not same:
            raise InvalidProof("the trees differ, or the proof is not empty")
        return
    path = list(proof)
    if old_size.bit_count() == 1:
        path.insert(0, old_root)
    if not path:
        raise InvalidProof("the consistency proof is empty")
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = path[0]
    for node in path[1:]:
        if last == 0:
            raise InvalidProof("the consistency proof is too long")
        if position & 1 or position == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, node)
        position >>= 1
        last >>= 1
    if last != 0 or old != old_root or new != new_root:
        raise InvalidProof(f"the tree of {new_size} does not extend the tree of {old_size}")
