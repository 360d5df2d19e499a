"""Verdicts: what checking a session can find, each with what to do about it.

A report lists everything that was found, what could not be checked and why, and one row for
each chunk. It is never cut short by the first finding.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple

from schemas.canonical import Strict


class Area(StrEnum):
    """What a verdict speaks of; the order is that of a report's summary."""

    CHUNKS = "chunks"
    ORDER = "order"
    TREE = "tree"
    MANIFEST = "manifest"
    CHECKPOINT = "checkpoint"
    RECORDER = "recorder"
    KEY = "key"
    CONTENT = "content"
    COMPLETENESS = "completeness"


class Severity(StrEnum):
    """FAILED: something was altered, lost or forged. INCOMPLETE: intact, but not everything.

    ERASED: deleted by a policy that says so, with its proof left.
    """

    OK = "ok"
    INCOMPLETE = "incomplete"
    ERASED = "erased"
    FAILED = "failed"


class Verdict(StrEnum):
    """The stable names of all findings."""

    OK = "Ok"
    MISSING_CHUNK = "MissingChunk"
    MISSING_FILE = "MissingFile"
    SIZE_MISMATCH = "SizeMismatch"
    TRUNCATED = "Truncated"
    MALFORMED_CHUNK = "MalformedChunk"
    UNKNOWN_VERSION = "UnknownVersion"
    FOREIGN_CHUNK = "ForeignChunk"
    SWAPPED_CHUNK = "SwappedChunk"
    EXTRA_CHUNK = "ExtraChunk"
    LEAF_MISMATCH = "LeafMismatch"
    BROKEN_SEQUENCE = "BrokenSequence"
    BROKEN_CHAIN = "BrokenChain"
    MISPLACED_END = "MisplacedEnd"
    ROOT_MISMATCH = "RootMismatch"
    CATALOG_MISMATCH = "CatalogMismatch"
    MISSING_MANIFEST = "MissingManifest"
    MALFORMED_MANIFEST = "MalformedManifest"
    UNKNOWN_MANIFEST_VERSION = "UnknownManifestVersion"
    MANIFEST_MISMATCH = "ManifestMismatch"
    TALLY_MISMATCH = "TallyMismatch"
    MISSING_CHECKPOINT = "MissingCheckpoint"
    MALFORMED_CHECKPOINT = "MalformedCheckpoint"
    INVALID_SIGNATURE = "InvalidSignature"
    UNTRUSTED_SIGNER = "UntrustedSigner"
    UNTRUSTED_RECORDER = "UntrustedRecorder"
    MALFORMED_COMMITMENT = "MalformedCommitment"
    FORGED_COMMITMENT = "ForgedCommitment"
    COMMITMENT_MISMATCH = "CommitmentMismatch"
    UNSIGNED = "Unsigned"
    MISSING_KEY = "MissingKey"
    KEY_MISMATCH = "KeyMismatch"
    WRONG_IDENTITY = "WrongIdentity"
    WRONG_KEY = "WrongKey"
    UNDECRYPTABLE = "Undecryptable"
    MALFORMED_RECORD = "MalformedRecord"
    GAP = "Gap"
    INTERRUPTION = "Interruption"
    ABANDONED = "Abandoned"
    STILL_OPEN = "StillOpen"
    ERASED = "Erased"
    NOT_ERASED = "NotErased"
    ERASED_EARLY = "ErasedEarly"
    MALFORMED_ERASURE = "MalformedErasure"
    ERASURE_MISMATCH = "ErasureMismatch"
    FORGED_ERASURE = "ForgedErasure"
    UNTRUSTED_ERASURE = "UntrustedErasure"

    @property
    def area(self) -> Area:
        return _MEANINGS[self].area

    @property
    def severity(self) -> Severity:
        return _MEANINGS[self].severity

    @property
    def advice(self) -> str:
        """One sentence that says what to do."""
        return _MEANINGS[self].advice


class _Meaning(NamedTuple):
    area: Area
    severity: Severity
    advice: str


_F, _I = Severity.FAILED, Severity.INCOMPLETE
_COPY = "Restore this chunk from a backup or a bundle, or process the session's log again"
_EVIDENCE = "Keep these files as they are and find out who could write to them"

_MEANINGS = {
    Verdict.OK: _Meaning(Area.CHUNKS, Severity.OK, ""),
    Verdict.MISSING_CHUNK: _Meaning(Area.CHUNKS, _F, _COPY),
    Verdict.MISSING_FILE: _Meaning(
        Area.CHUNKS, _F, "The catalog lists this chunk and its file is gone: restore the file"
    ),
    Verdict.SIZE_MISMATCH: _Meaning(Area.CHUNKS, _F, _COPY),
    Verdict.TRUNCATED: _Meaning(Area.CHUNKS, _F, _COPY),
    Verdict.MALFORMED_CHUNK: _Meaning(Area.CHUNKS, _F, _COPY),
    Verdict.UNKNOWN_VERSION: _Meaning(
        Area.CHUNKS, _F, "Check it with a newer Lucid; if there is none, the bytes were changed"
    ),
    Verdict.FOREIGN_CHUNK: _Meaning(
        Area.CHUNKS, _F, "This file is another session's: put this session's chunk in its place"
    ),
    Verdict.SWAPPED_CHUNK: _Meaning(
        Area.CHUNKS, _F, "This file is another chunk of the session: put each into its own place"
    ),
    Verdict.EXTRA_CHUNK: _Meaning(
        Area.CHUNKS, _F, "The manifest does not count this chunk: find out who added it"
    ),
    Verdict.LEAF_MISMATCH: _Meaning(Area.CHUNKS, _F, _COPY),
    Verdict.BROKEN_SEQUENCE: _Meaning(Area.ORDER, _F, _EVIDENCE),
    Verdict.BROKEN_CHAIN: _Meaning(Area.ORDER, _F, _EVIDENCE),
    Verdict.MISPLACED_END: _Meaning(Area.ORDER, _F, _EVIDENCE),
    Verdict.ROOT_MISMATCH: _Meaning(
        Area.TREE, _F, "Compare with a bundle or an anchor of this session to see what changed"
    ),
    Verdict.CATALOG_MISMATCH: _Meaning(
        Area.TREE, _F, "The list of chunks was changed: rebuild it from the chunk files"
    ),
    Verdict.MISSING_MANIFEST: _Meaning(
        Area.MANIFEST, _F, "Wait for the processor, or process the session's log again"
    ),
    Verdict.MALFORMED_MANIFEST: _Meaning(
        Area.MANIFEST, _F, "Restore the manifest from a backup or a bundle"
    ),
    Verdict.UNKNOWN_MANIFEST_VERSION: _Meaning(
        Area.MANIFEST, _F, "Check it with a newer Lucid; if there is none, the bytes were changed"
    ),
    Verdict.MANIFEST_MISMATCH: _Meaning(Area.MANIFEST, _F, _EVIDENCE),
    Verdict.TALLY_MISMATCH: _Meaning(Area.MANIFEST, _F, _EVIDENCE),
    Verdict.MISSING_CHECKPOINT: _Meaning(
        Area.CHECKPOINT, _F, "Restore the checkpoint from a backup or a bundle"
    ),
    Verdict.MALFORMED_CHECKPOINT: _Meaning(
        Area.CHECKPOINT, _F, "Restore the checkpoint from a backup or a bundle"
    ),
    Verdict.INVALID_SIGNATURE: _Meaning(Area.CHECKPOINT, _F, _EVIDENCE),
    Verdict.UNTRUSTED_SIGNER: _Meaning(
        Area.CHECKPOINT, _F, "If you trust this processor, add its verifier key with --trust"
    ),
    Verdict.UNTRUSTED_RECORDER: _Meaning(
        Area.RECORDER, _F, "If you trust this recorder, add its verifier key with --trust"
    ),
    Verdict.MALFORMED_COMMITMENT: _Meaning(
        Area.RECORDER, _F, "The recorder wrote what no recorder writes: look at its host"
    ),
    Verdict.FORGED_COMMITMENT: _Meaning(Area.RECORDER, _F, _EVIDENCE),
    Verdict.COMMITMENT_MISMATCH: _Meaning(
        Area.RECORDER, _F, "What is stored is not what the recorder signed: trust none of it"
    ),
    Verdict.UNSIGNED: _Meaning(
        Area.RECORDER, _I, "No signature speaks for these records: compare them with the log"
    ),
    Verdict.MISSING_KEY: _Meaning(
        Area.KEY, _I, "Without key.age nobody reads this recording; look for it in a bundle"
    ),
    Verdict.KEY_MISMATCH: _Meaning(
        Area.KEY, _F, "Restore key.age from a bundle, or from the session's `open` record"
    ),
    Verdict.WRONG_IDENTITY: _Meaning(
        Area.KEY, _F, "Use the identity of a recipient that the manifest lists"
    ),
    Verdict.WRONG_KEY: _Meaning(Area.KEY, _F, _EVIDENCE),
    Verdict.UNDECRYPTABLE: _Meaning(Area.CONTENT, _F, _COPY),
    Verdict.MALFORMED_RECORD: _Meaning(
        Area.CONTENT, _F, "The recorder wrote what no recorder writes: look at its host"
    ),
    Verdict.GAP: _Meaning(
        Area.COMPLETENESS, _I, "Records were lost before sealing: look at the broker's retention"
    ),
    Verdict.INTERRUPTION: _Meaning(
        Area.COMPLETENESS, _I, "The recorder saw nothing for a while: look at its host"
    ),
    Verdict.ABANDONED: _Meaning(
        Area.COMPLETENESS, _I, "The recorder vanished before the end: look at its host"
    ),
    Verdict.STILL_OPEN: _Meaning(
        Area.COMPLETENESS, _I, "The session has not ended: check it again when it has"
    ),
    Verdict.ERASED: _Meaning(
        Area.CONTENT, Severity.ERASED, "Compare with the policy of that time and with audit.events"
    ),
    Verdict.NOT_ERASED: _Meaning(
        Area.CONTENT, _I, "The erasure is not finished: run `lucid retention apply` again"
    ),
    Verdict.ERASED_EARLY: _Meaning(Area.CONTENT, _F, _EVIDENCE),
    Verdict.MALFORMED_ERASURE: _Meaning(Area.CONTENT, _F, _EVIDENCE),
    Verdict.ERASURE_MISMATCH: _Meaning(Area.CONTENT, _F, _EVIDENCE),
    Verdict.FORGED_ERASURE: _Meaning(Area.CONTENT, _F, _EVIDENCE),
    Verdict.UNTRUSTED_ERASURE: _Meaning(
        Area.CONTENT, _F, "If you trust this storage, add its verifier key with --trust"
    ),
}  # fmt: skip


class Finding(Strict):
    """One verdict. chunk: the index it is about, or null for the session."""

    verdict: Verdict
    severity: Severity
    area: Area
    chunk: int | None
    detail: str
    advice: str


class Unchecked(Strict):
    """What was not checked, and why."""

    area: Area
    what: str
    why: str


class ChunkRow(Strict):
    """One chunk: its verdicts (`Ok` alone when there is nothing to say) and public facts."""

    index: int
    verdicts: list[Verdict]
    size: int | None = None
    leaf: str | None = None
    records: int | None = None
    missing: int | None = None
    decrypted: bool = False

    @property
    def intact(self) -> bool:
        """Nothing failed; a chunk with a gap is intact."""
        return all(verdict.severity is not Severity.FAILED for verdict in self.verdicts)


Result = Literal["ok", "unchecked", "incomplete", "erased", "failed"]


class AreaResult(Strict):
    """An area's worst finding; `unchecked` when nothing is wrong but not all was checked."""

    area: Area
    result: Result


class ErasureFacts(Strict):
    """The last stage of an erasure; times in microseconds, signers: trusted keys."""

    stage: Literal["content", "metadata"]
    scope: str
    keep_days: int
    ended: int
    decided: int
    by: str
    host: str
    manifest_hash: str | None
    root: str | None
    leaves_hash: str
    headers_hash: str | None
    signers: list[str]


class Totals(Strict):
    """Over the chunks that could be read; sizes in bytes."""

    chunks_expected: int
    chunks_found: int
    chunks_ok: int
    chunks_decrypted: int
    records: int
    missing: int
    raw_bytes: int
    sealed_bytes: int


class Report(Strict):
    """All that checking a session gave; its JSON is what `lucid verify --json` prints.

    outcome: `ok`, `incomplete` (intact, but not everything was recorded), `erased` (deleted by
    policy, and what is left is right; findings say whether it was complete) or `failed`.
    signers: trusted keys that signed the checkpoint. committed: number of the last record
    with a verified signature, null when there is none; `Unsigned` names what it leaves out.
    root: over the chunks as they are, null when one of them is missing.
    """

    version: Literal[1] = 1
    session: str | None
    source: str
    outcome: Severity
    ended: bool
    root: str | None
    signers: list[str]
    recorder: str | None
    committed: int | None
    totals: Totals
    areas: list[AreaResult]
    findings: list[Finding]
    unchecked: list[Unchecked]
    chunks: list[ChunkRow]
    erasure: ErasureFacts | None = None

    @property
    def exit_status(self) -> int:
        """0 when all is well, or was when it was erased; else 1."""
        well = {Severity.OK, Severity.ERASED}
        return 0 if {entry.severity for entry in self.findings} <= well else 1


def finding(verdict: Verdict, detail: str, chunk: int | None = None) -> Finding:
    """A finding with its verdict's own severity, area and advice."""
    return Finding(
        verdict=verdict,
        severity=verdict.severity,
        area=verdict.area,
        chunk=chunk,
        detail=detail,
        advice=verdict.advice,
    )


def outcome_of(findings: list[Finding]) -> Severity:
    """The worst severity; an erased session that was incomplete is erased."""
    found = {entry.severity for entry in findings}
    for severity in (Severity.FAILED, Severity.ERASED, Severity.INCOMPLETE):
        if severity in found:
            return severity
    return Severity.OK


def area_results(findings: list[Finding], unchecked: list[Unchecked]) -> list[AreaResult]:
    """One line for each area."""
    results = []
    for area in Area:
        worst = outcome_of([entry for entry in findings if entry.area is area])
        result: Result = worst.value
        if worst is Severity.OK and any(entry.area is area for entry in unchecked):
            result = "unchecked"
        results.append(AreaResult(area=area, result=result))
    return results


class Found:
    """Collects findings and what went unchecked, in the order they turn up."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.unchecked: list[Unchecked] = []

    def add(self, verdict: Verdict, detail: str, chunk: int | None = None) -> None:
        """Note a finding."""
        self.findings.append(finding(verdict, detail, chunk))

    def skip(self, area: Area, what: str, why: str) -> None:
        """Note what was not checked."""
        self.unchecked.append(Unchecked(area=area, what=what, why=why))
