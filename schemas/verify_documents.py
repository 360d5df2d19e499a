"""Checking a session's documents: manifest, checkpoint, closing note and wrapped key. Pure.

Each function adds what it finds to a `Found` and gives back what could be read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from uuid import UUID

from schemas.datakey import MAX_WRAPPED, DataKey, NoIdentity, WrongKey, derive, unwrap
from schemas.erasure import STORAGE_NAME
from schemas.errors import FormatError
from schemas.manifests import Manifest, manifest_hash, read_manifest
from schemas.notes import (
    Checkpoint,
    Commitment,
    InvalidKey,
    InvalidNote,
    InvalidSignature,
    Verifier,
    open_note,
    split_note,
)
from schemas.verdicts import Area, Found, Verdict
from schemas.verify_chunk import differences, read_commitment

RECORDER_NAME = "/recorder"
"""How the names of recorders' keys end (`lucid keys init`): trusted for commitments only."""


def may_sign_checkpoints(verifier: Verifier, recorder: str | None) -> bool:
    """Whether a trusted key counts for checkpoints: neither a recorder's nor a storage's."""
    return str(verifier) != recorder and not verifier.name.endswith((RECORDER_NAME, STORAGE_NAME))


@dataclass(frozen=True, slots=True)
class Access:
    """With what a session is checked.

    trusted: verifier keys that the reader trusts; none means that no signer is pinned.
    identities: age identities. demanded: the reader named them, so one of them must open
    the key; otherwise they are only tried.
    """

    trusted: tuple[Verifier, ...] = ()
    identities: tuple[str, ...] = ()
    demanded: bool = False


def check_manifest(data: bytes | None, ended: bool, found: Found) -> Manifest | None:
    """Read the manifest; a session that has not ended has none."""
    if data is None:
        if ended:
            found.add(Verdict.MISSING_MANIFEST, "the session has ended and has no manifest")
        else:
            found.skip(Area.MANIFEST, "the manifest", "the session has not ended")
        return None
    try:
        manifest = read_manifest(data)
        Verifier.parse(manifest.recorder)
    except FormatError as error:
        version = _other_version(data)
        if version is not None:
            what = f"the manifest has version {version}, this reader knows 1"
            found.add(Verdict.UNKNOWN_MANIFEST_VERSION, what)
        else:
            found.add(Verdict.MALFORMED_MANIFEST, error.what)
        return None
    return manifest


def _other_version(data: bytes) -> int | None:
    """The version of a JSON object that has another one than this reader knows."""
    try:
        version = json.loads(data)["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return version if type(version) is int and version != 1 else None


def parse_checkpoint(data: bytes | None, ended: bool, found: Found) -> Checkpoint | None:
    """Read the checkpoint's text, whoever signed it."""
    if data is None:
        if ended:
            found.add(Verdict.MISSING_CHECKPOINT, "the session has ended and has no checkpoint")
        else:
            found.skip(Area.CHECKPOINT, "the checkpoint", "the session has not ended")
        return None
    try:
        text, _ = split_note(_text(data))
        return Checkpoint.parse(text)
    except FormatError as error:
        found.add(Verdict.MALFORMED_CHECKPOINT, error.what)
        return None


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidNote(f"the checkpoint is not UTF-8: {error}") from error


def compare_documents(
    session: UUID | None,
    manifest: Manifest | None,
    data: bytes | None,
    checkpoint: Checkpoint | None,
    found: Found,
) -> None:
    """Manifest and checkpoint speak of the same session, manifest, number of chunks and root."""
    for name, names in (("manifest", manifest), ("checkpoint", checkpoint)):
        if names is not None and names_session(names) != session:
            what = f"the {name} is of session {names_session(names)}, not of {session}"
            found.add(Verdict.MANIFEST_MISMATCH, what)
    if checkpoint is None or data is None:
        return
    if checkpoint.manifest != manifest_hash(data):
        what = "the checkpoint names a manifest with another SHA-256 than this one"
        found.add(Verdict.MANIFEST_MISMATCH, what)
    if manifest is None:
        return
    if checkpoint.size != manifest.chunks:
        what = f"the checkpoint counts {checkpoint.size} chunks, the manifest {manifest.chunks}"
        found.add(Verdict.MANIFEST_MISMATCH, what)
    if checkpoint.root.hex() != manifest.root:
        found.add(Verdict.ROOT_MISMATCH, "checkpoint and manifest name different roots")


def names_session(document: Manifest | Checkpoint) -> UUID:
    """The session that a document says it is of."""
    return document.session_id if isinstance(document, Manifest) else document.session


def check_signers(
    data: bytes, access: Access, named: str | None, recorder: str | None, found: Found
) -> list[str]:
    """The trusted keys that signed a well-formed checkpoint.

    named: the processor's key as a bundle names it, which shows that the signature holds
    but not whose it is. recorder: as every recorder's, its key signs no checkpoints, even if
    it is trusted.
    """
    note = _text(data)
    _, signatures = split_note(note)
    names = ", ".join(f"{name}+{blob[:4].hex()}" for name, blob in signatures)
    if named is not None:
        _check_named(note, named, found)
    signers = []
    refused = False
    for verifier in access.trusted:
        signed = (verifier.name, verifier.key_id) in ((n, blob[:4]) for n, blob in signatures)
        if not signed or not may_sign_checkpoints(verifier, recorder):
            continue
        try:
            open_note(note, verifier)
            signers.append(str(verifier))
        except InvalidSignature as error:
            refused = True
            found.add(Verdict.INVALID_SIGNATURE, f"the checkpoint: {error.what}")
    if access.trusted and not signers and not refused:
        what = f"the checkpoint is signed by {names}, which is none of the keys you trust"
        found.add(Verdict.UNTRUSTED_SIGNER, what)
    if not access.trusted:
        holds = "holds, but is not pinned" if named else "cannot be checked"
        why = f"no key is trusted, so the signature of {names} {holds}: name the key with --trust"
        found.skip(Area.CHECKPOINT, "who signed the checkpoint (signer not pinned)", why)
    return signers


def _check_named(note: str, named: str, found: Found) -> None:
    try:
        open_note(note, Verifier.parse(named))
    except (InvalidSignature, InvalidKey) as error:
        what = f"the checkpoint and the processor's key beside it do not match: {error.what}"
        found.add(Verdict.INVALID_SIGNATURE, what)


def check_closing_note(manifest: Manifest, named: str | None, access: Access, found: Found) -> None:
    """The recorder's last commitment against what a manifest can be compared with."""
    if named is not None and named != manifest.recorder:
        what = "the recorder's key beside the manifest is not the one that the manifest names"
        found.add(Verdict.MANIFEST_MISMATCH, what)
    recorder = Verifier.parse(manifest.recorder)
    if recorder not in access.trusted:
        why = f"{recorder.name}+{recorder.key_id.hex()} is not among the keys you trust"
        if access.trusted:
            # Whoever can write to the broker can invent a session under a key of their own.
            found.add(Verdict.UNTRUSTED_RECORDER, f"the recorder's key {why}")
        else:
            found.skip(Area.RECORDER, "whose key the recorder's is (recorder not pinned)", why)
    if manifest.ended_by == "abandon":
        if manifest.closing_note is not None:
            what = "the session was abandoned, and yet has a closing note"
            found.add(Verdict.COMMITMENT_MISMATCH, what)
        return
    if manifest.closing_note is None:
        what = f"the session was closed without a closing note: {manifest.reason}"
        found.add(Verdict.MALFORMED_COMMITMENT, what)
        return
    signed = read_commitment(manifest.closing_note, recorder, found)
    if signed is None:
        return
    # The note covers every record but the `close` that carries it; its chain is known
    # only once the records are decrypted.
    stored = Commitment(
        manifest.session_id, max(manifest.next_seq - 1, 0), signed.chain, manifest.reason
    )
    if signed != stored:
        what = f"the recorder's closing note {differences(signed, stored)}"
        found.add(Verdict.COMMITMENT_MISMATCH, what)


def open_key(
    wrapped: bytes | None,
    session: UUID | None,
    manifest: Manifest | None,
    access: Access,
    found: Found,
) -> DataKey | None:
    """The session's subkeys if an identity opens the wrapped key."""
    what = "content, record chain and the recorder's commitments"
    if wrapped is None:
        found.add(Verdict.MISSING_KEY, "the session's wrapped key is missing")
        found.skip(Area.CONTENT, what, "the wrapped key is missing")
        return None
    changed = manifest and hashlib.sha256(wrapped).hexdigest() != manifest.wrapped_key_hash
    if changed:
        found.add(Verdict.KEY_MISMATCH, "the wrapped key is not the one that the manifest names")
    if not access.identities or session is None:
        why = "no identity was given" if session else "no document names the session"
        found.skip(Area.CONTENT, what, why)
        return None
    if len(wrapped) > MAX_WRAPPED:
        found.add(Verdict.KEY_MISMATCH, f"the wrapped key has {len(wrapped)} bytes")
        found.skip(Area.CONTENT, what, "the wrapped key is too large to be one")
        return None
    try:
        key = derive(unwrap(wrapped, access.identities), session)
    except NoIdentity as error:
        if access.demanded and not changed:
            found.add(Verdict.WRONG_IDENTITY, error.what)
        found.skip(Area.CONTENT, what, error.what)
        return None
    except WrongKey as error:
        found.add(Verdict.WRONG_KEY, error.what)
        found.skip(Area.CONTENT, what, error.what)
        return None
    if manifest and key.commitment.hex() != manifest.key_commitment:
        found.add(Verdict.WRONG_KEY, "the wrapped key is not the one that the manifest commits to")
    return key
