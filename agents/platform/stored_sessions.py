"""Sessions as the catalog and the store have them, as a source to verify.

LucidError
└── UnknownSession      neither the catalog nor the store has anything of it
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from agents.platform.blobs import (
    CHECKPOINT,
    ERASED_CONTENT,
    ERASED_METADATA,
    HEADERS,
    KEY,
    LEAVES,
    MANIFEST,
    Blobs,
    StoreFailed,
    chunk_name,
)
from agents.platform.catalog import Catalog, Document
from agents.platform.settings import Settings
from schemas.erasure import ErasureFiles
from schemas.errors import FormatError, LucidError
from schemas.notes import Verifier, split_note
from schemas.verify_chunk import MAX_CHUNK, Expected

MAX_DOCUMENT = 4 * 1024**2
MAX_LEFT = 256 * 1024**2  # of a million chunks
OVER = frozenset({"processing", "completed", "incomplete"})
"""States of a session that has ended (agents/session/pipeline/states.py writes them)."""


class UnknownSession(LucidError):
    """No service has stored anything under this session id."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


@dataclass
class StoredSession:
    """A SessionSource over the store's files and what the catalog says of them."""

    session: UUID
    blobs: Blobs
    listed: Mapping[int, Expected]
    ended: bool
    catalog_manifest: bytes | None = None
    catalog_checkpoint: bytes | None = None
    trusted: Sequence[Verifier] = ()
    name: str = field(default="catalog", init=False)
    recorder_key: str | None = field(default=None, init=False)

    @property
    def processor_key(self) -> str | None:
        """The trusted key that is named as the checkpoint's signer."""
        try:
            _, signatures = split_note((self.checkpoint() or b"").decode())
        except (FormatError, UnicodeDecodeError):
            return None
        signers = {(name, data[:4]) for name, data in signatures}
        for verifier in self.trusted:
            if (verifier.name, verifier.key_id) in signers:
                return str(verifier)
        return None

    def manifest(self) -> bytes | None:
        return self._file(MANIFEST)

    def checkpoint(self) -> bytes | None:
        return self._file(CHECKPOINT)

    def wrapped_key(self) -> bytes | None:
        return self._file(KEY)

    def listing(self) -> Mapping[int, Expected] | None:
        return self.listed

    def disagreements(self) -> list[str]:
        """Where the catalog's documents differ from the files."""
        found = []
        if self._file(ERASED_METADATA) is not None:
            return []
        pairs = (
            (MANIFEST, self.manifest(), self.catalog_manifest),
            (CHECKPOINT, self.checkpoint(), self.catalog_checkpoint),
        )
        for name, stored, entered in pairs:
            if stored != entered and stored is not None and entered is not None:
                found.append(f"the catalog has another {name} than the store")
            elif stored != entered:
                where = "catalog" if stored is None else "store"
                found.append(f"only the {where} has {name}")
        return found

    def present(self) -> Collection[int]:
        try:
            return self.blobs.chunk_indexes(str(self.session))
        except OSError as error:
            raise self._failed("its folder", error) from error

    def chunk(self, index: int) -> bytes | None:
        return self._file(chunk_name(index), MAX_CHUNK + 1)

    def erasure(self) -> ErasureFiles | None:
        content = self._file(ERASED_CONTENT)
        if content is None:
            return None
        leaves, headers = self._file(LEAVES, MAX_LEFT), self._file(HEADERS, MAX_LEFT)
        return ErasureFiles(content, self._file(ERASED_METADATA), leaves, headers)

    def _file(self, name: str, limit: int = MAX_DOCUMENT) -> bytes | None:
        """At most `limit` bytes, whatever somebody has put there; raises StoreFailed."""
        try:
            with self.blobs.path(str(self.session), name).open("rb") as file:
                return file.read(limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(name, error) from error

    def _failed(self, name: str, error: OSError) -> StoreFailed:
        return StoreFailed(
            f"cannot read {name} of session {self.session}: {error.strerror or error}",
            hint=f"Look at the permissions and the disk of {self.blobs.root}",
        )


async def find_session(
    settings: Settings, session: UUID, trusted: Sequence[Verifier] = ()
) -> StoredSession:
    """Everything the catalog knows of a session; raises UnknownSession, CatalogUnreachable."""
    key = str(session)
    async with Catalog(settings) as catalog:
        state, entry = await catalog.get("sessions", key), await catalog.get("manifests", key)
        listed = {
            int(document["index"]): _expected(document) async for document in catalog.chunks(key)
        }
    blobs = Blobs(settings.blobs_dir)
    if state is None and entry is None and not listed and not blobs.folder(key).is_dir():
        raise UnknownSession(
            f"nothing is known of session {key}", hint="`lucid sessions list` shows all sessions"
        )
    return StoredSession(
        session=session,
        blobs=blobs,
        listed=listed,
        ended=_is_over(state),
        catalog_manifest=text_of(entry, "manifest"),
        catalog_checkpoint=text_of(entry, "checkpoint"),
        trusted=trusted,
    )


def _expected(document: Document) -> Expected:
    """What a chunk's entry says; a leaf that is none equals no chunk's."""
    try:
        leaf = bytes.fromhex(document["leaf"])
    except (KeyError, TypeError, ValueError):
        leaf = b""
    size = document.get("size")
    return Expected(leaf, size if isinstance(size, int) else -1)


def _is_over(state: Document | None) -> bool:
    return state is not None and state.get("state") in OVER


def text_of(document: Document | None, name: str) -> bytes | None:
    value = document.get(name) if document else None
    return value.encode() if isinstance(value, str) else None
