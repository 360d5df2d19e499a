"""Progress of a session's sealing: what a processor needs to go on where another stopped.

A record of the compacted topic `session.progress`, key session id. It is published after
the chunk it speaks of is acknowledged and before the offset is committed; a tombstone
follows once the session has ended and the commit has passed its last record.
"""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from schemas.canonical import Count, Hex32, Strict, decode
from schemas.controls import Open
from schemas.errors import FormatError, UnknownVersion
from schemas.manifests import Tally
from schemas.merkle import Frontier


class SessionProgress(Strict):
    """After `next_index` chunks.

    frontier: hashes of the tree's perfect subtrees. chain: after the last sealed record.
    offset: of the last sealed record on the session's partition of `session.frames`.
    ended: the last chunk and the manifest are on the broker.
    """

    version: Literal[1] = 1
    opened: Open
    partition: Count
    offset: Count
    next_seq: Count
    next_index: Count
    chain: Hex32
    frontier: Annotated[list[Hex32], Field(max_length=64)]
    tally: Tally
    ended: bool = False

    @property
    def session_id(self) -> UUID:
        return self.opened.session_id

    def tree(self) -> Frontier:
        """The Merkle frontier to append to; raises InvalidProof."""
        return Frontier(self.next_index, [bytes.fromhex(node) for node in self.frontier])


def read_progress(data: bytes) -> SessionProgress:
    """Read a progress record's canonical bytes; raises FormatError.

    UnknownVersion only for what says of itself that it is progress of another version.
    """
    try:
        return decode(SessionProgress, data)
    except FormatError as error:
        if (version := _version(data)) not in (None, 1):
            raise UnknownVersion(
                f"a progress record has version {version}, this reader knows 1",
                hint="Run a newer Lucid",
            ) from error
        raise


def _version(data: bytes) -> int | None:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(data)
        if isinstance(found, dict) and isinstance(found.get("version"), int) and "opened" in found:
            return int(found["version"])
    return None
