"""The audit trail of a broker: read, checked, and compared with what is known of it here.

LucidError
└── InvalidHeads      a file of heads cannot be read
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agents.auditor.access import load_access
from agents.auditor.files import whole_file
from agents.platform.audit import chain_folder
from agents.platform.audit_state import ChainState, known_of, read_states
from agents.platform.clock import wall_clock
from agents.platform.contract import Contract, load_contract
from agents.platform.keys import KeyMissing, load_signer
from agents.platform.reader import open_reader
from agents.platform.settings import Settings
from agents.platform.topic_reader import Seen, read_topic
from schemas.audit import AuditEvent
from schemas.audit_heads import Head, read_heads, sign_heads
from schemas.audit_trail import Expiry, Known, TrailCheck, TrailReport
from schemas.errors import FormatError, LucidError
from schemas.notes import Signer

FETCH_BYTES = 4 * 1024**2
Step = Callable[[int, int], None]
"""Called with how many records are read, and of how many."""


class InvalidHeads(LucidError):
    """What `--head` names cannot be read."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


# Checking -------------------------------------------------------------------------------------


async def check_trail(
    settings: Settings, heads: Sequence[Known] = (), step: Step = lambda *_: None
) -> tuple[TrailReport, list[ChainState]]:
    """Check the whole topic; the report, and the states of this installation's chains.

    Raises BrokerUnreachable, TopicMissing, and RecordsGone when some expire meanwhile.
    """
    contract = load_contract(settings)
    folder = chain_folder(settings, contract)
    before = {state.chain: state for state in read_states(folder)}
    async with open_reader(settings, contract, "audit.events", FETCH_BYTES) as reader:
        trail = TrailCheck(ordered=len(reader.bounds) == 1)
        starts = {partition: first for partition, (first, _) in reader.bounds.items()}
        total = sum(end - first for first, end in reader.bounds.values())
        async for raw in reader.records(starts):
            trail.add(raw.headers, raw.value, raw.offset)
            if not trail.records % 1000:
                step(trail.records, total)
    states = read_states(folder)
    known = [*(known_of(before.get(state.chain), state) for state in states), *heads]
    return trail.finish(known, _expiry(contract, starts.values())), states


def _expiry(contract: Contract, firsts: Any) -> Expiry | None:
    retention = contract.topic("audit.events").retention_ms
    if retention < 0:
        return None
    return Expiry(wall_clock() - retention * 1000, trimmed=any(firsts))


def load_heads(paths: Sequence[Path], trust: Sequence[str], settings: Settings) -> list[Known]:
    """What signed heads say; raises InvalidHeads, InvalidTrust, InvalidNote, InvalidSignature."""
    trusted = load_access([], trust, settings).trusted
    found = []
    for path in paths:
        try:
            note = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidHeads(f"cannot read {path}: {error}") from error
        heads, signer = read_heads(note, trusted)
        found += [head.known(signer.name) for head in heads]
    return found


def write_heads(
    settings: Settings, states: Sequence[ChainState], path: Path, *, force: bool
) -> int:
    """Sign how far the chains here are; how many there are. Raises KeyProblem, FileProblem."""
    heads = [
        Head(state.chain, state.entries, state.written, bytes.fromhex(state.head))
        for state in states
        if state.entries
    ]
    note = sign_heads(heads, _signer(settings))
    with whole_file(path, force=force) as temporary:
        temporary.write_text(note, encoding="utf-8")
    return len(heads)


def _signer(settings: Settings) -> Signer:
    """The processor's, or the recorder's where there is no other."""
    try:
        return load_signer(settings, "processor")
    except KeyMissing:
        return load_signer(settings, "recorder")


# Listing --------------------------------------------------------------------------------------


def type_word(kind: str) -> str:
    """The middle word of a type: `session_verified` of `lucid.audit.session_verified.v1`."""
    return kind.removeprefix("lucid.audit.").rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries are meant; an empty text leaves all. type: whole, or its middle word."""

    session: str = ""
    user: str = ""
    type: str = ""
    since: datetime | None = None

    def fits(self, event: AuditEvent) -> bool:
        about = {event.subject, getattr(event.data, "session", None)}
        types = {event.type, type_word(event.type)}
        return (
            (not self.session or self.session in about)
            and self.user in ("", event.user)
            and (not self.type or self.type in types)
            and (self.since is None or event.time >= self.since)
        )


@dataclass(slots=True)
class Listing:
    """The newest entries that fit, oldest first. found: how many fit; unreadable: are none."""

    events: deque[tuple[int, AuditEvent]]
    found: int = 0
    unreadable: int = 0


async def list_trail(
    settings: Settings, wanted: Wanted, limit: int, seen: Seen | None = None
) -> Listing:
    """Read the entries that fit, each once; raises BrokerUnreachable and TopicMissing."""
    listing = Listing(deque(maxlen=limit))
    async for offset, event in _entries(settings, wanted, listing, seen):
        if wanted.fits(event):
            listing.found += 1
            listing.events.append((offset, event))
    return listing


async def _entries(
    settings: Settings, wanted: Wanted, listing: Listing, seen: Seen | None
) -> AsyncIterator[tuple[int, AuditEvent]]:
    topic = load_contract(settings).topic("audit.events").full_name
    since = None if wanted.since is None else round(wanted.since.timestamp() * 1000)
    known: set[tuple[str, str]] = set()
    async for raw in read_topic(settings, topic, since_ms=since, seen=seen):
        try:
            event = AuditEvent.from_kafka(raw.key, raw.headers, raw.value)
        except FormatError:
            listing.unreadable += 1
            continue
        if (event.source, event.id) not in known:
            known.add((event.source, event.id))
            yield raw.offset, event
