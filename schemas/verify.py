"""Verification of a session from bytes and documents to a report. Pure: no I/O of its own.

    check = SessionCheck(source, access)
    for task in check.tasks():
        check.take(check_chunk(task, source.chunk(task.index)))
    report = check.finish()

`check_chunk` may run in threads while `check.parallel` holds; `take` wants the facts in the
order of the tasks. One chunk is held at a time, or as many as there are threads.
"""

from __future__ import annotations

from collections.abc import Iterator

from schemas.chunks import ChunkHeader
from schemas.frames import chain_start
from schemas.merkle import Frontier
from schemas.notes import Verifier
from schemas.verdicts import (
    Area,
    ChunkRow,
    Found,
    Report,
    Severity,
    Totals,
    Verdict,
    area_results,
    outcome_of,
)
from schemas.verify_chunk import ChunkFacts, ChunkTask, Content, check_chunk
from schemas.verify_documents import Access
from schemas.verify_source import SessionSource, read_documents
from schemas.verify_tally import Sums, compare_tally

_COUNTED = {Area.CHUNKS, Area.ORDER, Area.TREE, Area.MANIFEST}
"""What has to be right for chunks to confirm that nothing is missing."""


def verify(source: SessionSource, access: Access) -> Report:
    """Check a whole session, one chunk after the other."""
    check = SessionCheck(source, access)
    for task in check.tasks():
        check.take(check_chunk(task, source.chunk(task.index)))
    return check.finish()


class SessionCheck:
    """One verification: documents first, then chunks in order, then what they add up to."""

    def __init__(self, source: SessionSource, access: Access) -> None:
        self._source = source
        self._found = Found()
        self._rows: list[ChunkRow] = []
        self._sums = Sums()
        self._tree = Frontier()
        self._whole = True  # every chunk so far was there and belongs here
        self._previous: ChunkHeader | None = None
        listing = source.listing()
        self._present = frozenset(source.present())
        documents = read_documents(source, listing, self._present, access, self._found)
        self._session, self._manifest = documents.session, documents.manifest
        self._checkpoint, self._signers = documents.checkpoint, documents.signers
        self._erased, self._listing = documents.erased, documents.listing
        self._key, self._ended = documents.key, documents.ended
        self._recorder = Verifier.parse(self._manifest.recorder) if self._manifest else None
        self._plan()

    # Chunks -------------------------------------------------------------------------------

    def _plan(self) -> None:
        known = sorted(self._present | (self._listing or {}).keys())
        if self._manifest is not None:
            self._count = self._manifest.chunks
        elif self._checkpoint is not None:
            self._count = self._checkpoint.size
        else:
            self._count = known[-1] + 1 if known else 0
        self._places = [index for index in known if index < self._count]
        self._extra = [index for index in known if index >= self._count]

    @property
    def total(self) -> int:
        """How many tasks there are."""
        return len(self._places)

    @property
    def parallel(self) -> bool:
        """Whether the tasks that follow depend on no facts that are still to be taken."""
        return self._key is None or self._recorder is not None

    def tasks(self) -> Iterator[ChunkTask]:
        """What to check, in order; take the facts of one before the next unless `parallel`."""
        for index in self._places:
            expected = (self._listing or {}).get(index)
            header = self._erased.headers.get(index) if self._erased else None
            yield ChunkTask(
                index, self._session, expected, self._key, self._recorder,
                erased=self._erased is not None, header=header,
            )  # fmt: skip

    def take(self, facts: ChunkFacts) -> None:
        """The facts of the next chunk."""
        self._miss_until(facts.index)
        self._found.findings.extend(facts.findings)
        self._check_listed(facts.index)
        if self._erased is not None and facts.index in self._present:
            what = f"chunk {facts.index} is still there"
            self._found.add(Verdict.NOT_ERASED, what, facts.index)
        header = facts.header
        if header is not None:
            self._check_order(header)
            self._check_manifest_of(header)
        if facts.leaf is not None:
            self._tree.append(facts.leaf)
        self._whole &= header is not None
        self._previous = header
        if header is not None and facts.size is not None:
            self._sums.add(header, facts.size, facts.content)
        self._take_recorder(facts.content)
        self._rows.append(_row(facts))

    def _take_recorder(self, content: Content | None) -> None:
        if self._recorder is None and content is not None and content.opened is not None:
            self._recorder = Verifier.parse(content.opened.recorder)

    def _check_listed(self, index: int) -> None:
        if self._listing is not None and index not in self._listing:
            what = f"chunk {index} is there, but the {self._source.name} does not list it"
            self._found.add(Verdict.CATALOG_MISMATCH, what, index)

    def _miss_until(self, index: int) -> None:
        """Chunks before `index` that neither a list nor a file knows: one finding for the run."""
        first = self._rows[-1].index + 1 if self._rows else 0
        if first >= index:
            return
        what = f"chunk {first} is missing"
        if index - first > 1:
            what = f"chunks {first} to {index - 1} are missing"
        self._found.add(Verdict.MISSING_CHUNK, what, first)
        self._rows.append(ChunkRow(index=first, verdicts=[]))
        # The row stands for the run; the next one is compared with nothing.
        self._whole, self._previous = False, None

    def _check_order(self, header: ChunkHeader) -> None:
        """A chunk goes on where the one before it stopped."""
        add, index, previous = self._found.add, header.index, self._previous
        if index == 0:
            seq, chain = 0, chain_start(header.session)
        elif previous is None:
            return
        else:
            seq, chain = previous.next_seq, previous.chain_after
            if previous.last:
                what = f"chunk {previous.index} says it is the last, and chunk {index} follows"
                add(Verdict.MISPLACED_END, what, index)
            if previous.key_commitment != header.key_commitment:
                add(Verdict.WRONG_KEY, f"chunk {index} has another key than the one before", index)
        if header.first_seq != seq:
            what = f"chunk {index} starts at record {header.first_seq}, expected {seq}"
            add(Verdict.BROKEN_SEQUENCE, what, index)
        if header.chain_before != chain:
            what = f"chunk {index} does not continue the record chain"
            add(Verdict.BROKEN_CHAIN, what, index)

    def _check_manifest_of(self, header: ChunkHeader) -> None:
        """A chunk is sealed as the manifest says."""
        manifest, index = self._manifest, header.index
        if manifest is None:
            return
        if header.key_commitment.hex() != manifest.key_commitment:
            what = f"chunk {index} is sealed with another key than the manifest names"
            self._found.add(Verdict.WRONG_KEY, what, index)
        sealing = manifest.sealing
        if (header.level, header.window_log) != (sealing.level, sealing.window_log):
            what = f"chunk {index} is compressed with other parameters than the manifest names"
            self._found.add(Verdict.MANIFEST_MISMATCH, what, index)

    # The whole ----------------------------------------------------------------------------

    def finish(self) -> Report:
        """Compare what the chunks add up to, and report."""
        if self._manifest or self._checkpoint:
            self._miss_until(self._count)
        last = self._previous
        self._ended = self._ended or bool(last and last.last)
        self._check_end(last)
        self._check_tree()
        self._check_completeness()
        self._check_sums()
        self._note_extra()
        self._note_unconfirmed()
        return self._report()

    def _check_end(self, last: ChunkHeader | None) -> None:
        if self._manifest is None and self._checkpoint is None and last and last.last:
            if not self._source.ended:
                what = "the last chunk is there, and the session has no manifest"
                self._found.add(Verdict.MISSING_MANIFEST, what)
        elif self._ended and last and not last.last:
            what = f"chunk {last.index} should end the session, and does not say so"
            self._found.add(Verdict.MISPLACED_END, what, last.index)

    def _check_tree(self) -> None:
        """The root over the chunks, and the list's root if there is a list."""
        manifest, checkpoint = self._manifest, self._checkpoint
        if manifest is None and checkpoint is None:
            self._found.skip(Area.TREE, "the root over all chunks", "no document names a root")
            return
        claimed = manifest.root if manifest else checkpoint.root.hex() if checkpoint else ""
        listed = self._listed_root()
        if listed is not None and listed != claimed:
            what = f"the leaves that the {self._source.name} lists have another root"
            self._found.add(Verdict.CATALOG_MISMATCH, what)
        if self._tree.size != self._count:
            found = f"{self._tree.size} of {self._count} chunks are there"
            self._found.skip(Area.TREE, "the root over all chunks", found)
        elif self._tree.root().hex() != claimed and listed != claimed:
            self._found.add(Verdict.ROOT_MISMATCH, "the chunks have another root than documented")

    def _listed_root(self) -> str | None:
        """The root over the listed leaves; None without a list, "" for one of another length."""
        if self._listing is None:
            return None
        listed = sorted(index for index in self._listing if index < self._count)
        if len(listed) != self._count:
            return ""
        tree = Frontier()
        for index in listed:
            tree.append(self._listing[index].leaf)
        return tree.root().hex()

    def _check_completeness(self) -> None:
        manifest, sums, found = self._manifest, self._sums, self._found
        if not self._ended:
            found.add(Verdict.STILL_OPEN, f"the session is still open at chunk {self._count}")
        if manifest and manifest.ended_by == "abandon":
            found.add(Verdict.ABANDONED, f"the recorder vanished: {manifest.reason}")
        if manifest and manifest.tally.missing and not sums.missing:
            what = f"the manifest says that {manifest.tally.missing} records never arrived"
            found.add(Verdict.GAP, what)
        counted = manifest.tally if manifest else sums
        for gap in counted.interruptions:
            seconds = (gap.to_time - gap.from_time) / 1e6
            what = f"nothing was captured for {seconds:.3f} s at record {gap.seq}: {gap.reason}"
            found.add(Verdict.INTERRUPTION, what)
        unlisted = counted.interruptions_total - len(counted.interruptions)
        if unlisted > 0:
            found.add(Verdict.INTERRUPTION, f"{unlisted} more interruptions")

    def _check_sums(self) -> None:
        sums, found = self._sums, self._found
        if self._key is not None and sums.decrypted < len(self._places):
            rest = len(self._places) - sums.decrypted
            found.skip(Area.CONTENT, "the content of some chunks", f"{rest} could not be read")
        if self._manifest is None:
            return
        if not self._whole:
            why = "not every chunk, or its header, is there and readable"
            found.skip(Area.MANIFEST, "the manifest's counts against the chunks", why)
            return
        compare_tally(self._manifest, sums, found)
        if sums.decrypted == len(self._places):
            self._note_uncommitted()

    def _note_uncommitted(self) -> None:
        """Records that no signature of the recorder covers: before missing ones, or the last."""
        assert self._manifest is not None
        uncovered = self._sums.uncovered
        if uncovered:
            start, end = uncovered[0]
            more = f" and {len(uncovered) - 1} more runs" if len(uncovered) > 1 else ""
            what = f"records {start} to {end - 1}{more}, each before missing ones, are not signed"
            self._found.add(Verdict.UNSIGNED, what)
        first = self._sums.covered
        if self._manifest.ended_by == "abandon" and first < self._manifest.next_seq:
            span = f"records {first} to {self._manifest.next_seq - 1}"
            why = "the recorder vanished before it signed for them"
            self._found.skip(Area.RECORDER, span, why)

    def _note_extra(self) -> None:
        for index in self._extra:
            what = f"chunk {index} is more than the {self._count} of the session"
            self._found.add(Verdict.EXTRA_CHUNK, what, index)
            self._rows.append(ChunkRow(index=index, verdicts=[]))

    def _note_unconfirmed(self) -> None:
        """Completeness is the manifest's word where the chunks cannot be counted."""
        findings = self._found.findings
        failed = {entry.area for entry in findings if entry.severity is Severity.FAILED}
        if failed.isdisjoint(_COUNTED):
            return
        word = "it is as the manifest says" if self._manifest else "no manifest says it"
        why = f"{word}, and the chunks as they are do not confirm it"
        self._found.skip(Area.COMPLETENESS, "whether everything that was recorded is there", why)

    def _report(self) -> Report:
        found = self._found
        whole = self._tree.size == self._count and self._count > 0
        rows = self._judged_rows()
        return Report(
            session=str(self._session) if self._session else None,
            source=self._source.name,
            outcome=outcome_of(found.findings),
            ended=self._ended,
            root=self._tree.root().hex() if whole else None,
            signers=self._signers,
            recorder=str(self._recorder) if self._recorder else None,
            committed=self._sums.committed,
            totals=Totals(
                chunks_expected=self._count,
                chunks_found=len(self._present),
                chunks_ok=sum(row.intact for row in rows),
                chunks_decrypted=self._sums.decrypted,
                records=self._sums.records,
                missing=self._sums.missing,
                raw_bytes=self._sums.raw_bytes,
                sealed_bytes=self._sums.sealed_bytes,
            ),
            areas=area_results(found.findings, found.unchecked),
            findings=found.findings,
            unchecked=found.unchecked,
            chunks=rows,
            erasure=self._erased.facts if self._erased else None,
        )

    def _judged_rows(self) -> list[ChunkRow]:
        verdicts: dict[int, dict[Verdict, None]] = {}
        for entry in self._found.findings:
            if entry.chunk is not None:
                verdicts.setdefault(entry.chunk, {})[entry.verdict] = None
        return [
            row.model_copy(update={"verdicts": list(verdicts.get(row.index, [Verdict.OK]))})
            for row in self._rows
        ]


def _row(facts: ChunkFacts) -> ChunkRow:
    header = facts.header
    return ChunkRow(
        index=facts.index,
        verdicts=[],
        size=facts.size,
        leaf=facts.leaf.hex() if facts.leaf else None,
        records=header.records if header else None,
        missing=header.missing if header else None,
        decrypted=facts.content is not None,
    )
