"""A whole `audit.events` topic checked: all chains, and what stands outside of them.

    trail = TrailCheck()
    trail.add(headers, value, offset)           each record, in the topic's order
    report = trail.finish(known, expiry)        what is wrong, chain by chain

`Known` is what somebody else says of a chain: the state of the installation that writes it, or
a signed head. Without one, nobody sees that the newest entries were removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.audit_chain import (
    MOST,
    ChainCheck,
    Fault,
    Finding,
    Headers,
    Link,
    chain_started,
    read_attributes,
    read_link,
)
from schemas.errors import FormatError


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a chain from elsewhere. by: whose word it is, for people.

    hashes: of entries that must be there, by number; `perhaps`: of entries that may be on
    their way. most: how many there are at most, None if nobody knows. written: of the newest
    entry, microseconds since 1970, None if unknown.
    """

    chain: str
    by: str
    hashes: Mapping[int, bytes]
    perhaps: Mapping[int, bytes] = field(default_factory=dict)
    most: int | None = None
    written: int | None = None


@dataclass(frozen=True, slots=True)
class Expiry:
    """Which entries may have expired: those before `before` (microseconds since 1970).

    trimmed: whether the topic has lost its first records at all.
    """

    before: int
    trimmed: bool


@dataclass(slots=True)
class ChainReport:
    """A line of `lucid audit verify`.

    entries: how many there are, `first` to `last`; doubles are `repeated`. expired: how many
    from entry 0 on are gone with the topic's retention. confirmed: whose word agrees with it.
    """

    chain: str
    source: str = ""
    entries: int = 0
    first: int | None = None
    last: int | None = None
    from_time: str = ""
    to_time: str = ""
    expired: int = 0
    repeated: int = 0
    confirmed: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings


@dataclass(slots=True)
class TrailReport:
    """unchained: entries from before there were chains; findings: of no chain in particular."""

    chains: list[ChainReport]
    unchained: int
    records: int
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        return not self.findings and all(chain.ok for chain in self.chains)


class TrailCheck:
    """Collects a topic. ordered: whether its records have one order, so one partition."""

    def __init__(self, *, ordered: bool = True) -> None:
        self.records = 0
        self._ordered = ordered
        self._checks: dict[str, ChainCheck] = {}
        self._chained: set[str] = set()
        self._unchained = 0
        self._found: list[Finding] = []

    def add(self, headers: Headers, value: bytes | None, offset: int) -> None:
        """Take the next record, whatever it is."""
        self.records += 1
        try:
            link = read_link(headers, value)
            if link is None:
                self._outside(read_attributes(headers)["source"], offset)
                return
        except FormatError as error:
            self._find(Fault.UNREADABLE, offset, f"the record at offset {offset}: {error.what}")
            return
        self._take(link)

    def _take(self, link: Link) -> None:
        check = self._checks.get(link.place.chain)
        if check is None:
            check = ChainCheck(link.place.chain, ordered=self._ordered)
            self._checks[link.place.chain] = check
        check.add(link)
        self._chained.add(link.source)

    def _outside(self, source: str, offset: int) -> None:
        """An entry without a chain is an old one, unless its source chains by now."""
        self._unchained += 1
        if self._ordered and source in self._chained:
            self._find(
                Fault.UNCHAINED, offset,
                f"the entry at offset {offset} is in no chain, and its source {source} has one",
            )  # fmt: skip

    def _find(self, fault: Fault, offset: int, detail: str) -> None:
        if len(self._found) < MOST:
            self._found.append(Finding(fault, offset, offset, detail))

    def finish(self, known: Iterable[Known] = (), expiry: Expiry | None = None) -> TrailReport:
        """The report; without `expiry` no entry may have expired."""
        told: dict[str, list[Known]] = {}
        for one in known:
            told.setdefault(one.chain, []).append(one)
        for chain in told:
            self._checks.setdefault(chain, ChainCheck(chain))
        reports = [
            _report(check, told.get(chain, ()), expiry) for chain, check in self._checks.items()
        ]
        reports.sort(key=lambda report: report.chain)
        return TrailReport(reports, self._unchained, self.records, self._found)


def _report(check: ChainCheck, known: Sequence[Known], expiry: Expiry | None) -> ChainReport:
    """A chain's findings, with the gaps told apart from what expired."""
    report = ChainReport(
        check.chain, check.source, check.count, from_time=check.first_time,
        to_time=check.last_time, repeated=check.repeated, findings=check.findings(),
    )  # fmt: skip
    report.last = check.next - 1 if check.next else None
    report.first = 0 if check.next else None
    for first, last in check.gaps():
        if first == 0:
            report.first = last + 1
            if expiry and expiry.trimmed and chain_started(check.chain) < expiry.before:
                report.expired = last + 1
                continue
        numbers = f"entry {first} is" if first == last else f"entries {first} to {last} are"
        report.findings.append(Finding(Fault.MISSING, first, last, f"{numbers} missing"))
    for one in known:
        findings = _compare(check, one, expiry)
        report.findings += findings
        if not findings:
            report.confirmed.append(one.by)
    return report


def _compare(check: ChainCheck, known: Known, expiry: Expiry | None) -> list[Finding]:
    """Where a chain differs from what is known of it."""
    found = []
    newest = max(known.hashes, default=-1)
    if newest >= check.next and not _all_expired(check, known, expiry):
        found.append(Finding(
            Fault.TAIL, check.next, newest,
            f"{known.by} has entries up to {newest}, the topic up to {check.next - 1}",
        ))  # fmt: skip
    for number, hashed in {**known.perhaps, **known.hashes}.items():
        here = check.hash_of(number)
        if here is not None and here != hashed:
            found.append(Finding(
                Fault.HEAD, number, number, f"entry {number} is another one than {known.by} has",
            ))  # fmt: skip
    if known.most is not None and check.next > known.most:
        found.append(Finding(
            Fault.AHEAD, known.most, check.next - 1,
            f"{known.by} has written {known.most} entries, the topic has {check.next}",
        ))  # fmt: skip
    return found


def _all_expired(check: ChainCheck, known: Known, expiry: Expiry | None) -> bool:
    """Whether the whole chain may be gone because its newest entry is too old."""
    return (
        check.count == 0 and known.written is not None and expiry is not None
        and expiry.trimmed and known.written < expiry.before
    )  # fmt: skip
