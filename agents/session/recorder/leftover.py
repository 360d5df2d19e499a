"""Sessions that a recorder left behind: what their spools and the broker hold of them.

    leftover = await take_up(place, order, outlet)      None if nothing had been recorded

LucidError
├── Forked            another recorder has gone on with the session
├── ForeignSpool      the spool was written on another host
└── EndedElsewhere    the session was given up while nobody recorded it
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.platform.broker import unreachable
from agents.platform.tls import kafka_options
from agents.session.recorder.order import EndedElsewhere, Order, Outlet
from agents.session.recorder.sequencer import Sequencer
from agents.session.recorder.spool import Spool, SpoolHead
from agents.session.recorder.spool_folder import SpoolUnreadable
from schemas.errors import FormatError, LucidError
from schemas.frames import FrameRecord, Kind, from_kafka

log = structlog.get_logger(__name__)

POLL_MS = 1000


class Forked(LucidError):
    """The broker holds records of the session that this spool does not know."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h


class ForeignSpool(LucidError):
    """A spool of another host: its own recorder may still write the session."""

    exit_status = 78  # EX_CONFIG of sysexits.h


@dataclass(frozen=True, slots=True)
class OnBroker:
    """What a partition holds of a session, from some time on.

    last: the newest record of the recorder. opened: offset of its `open` record.
    """

    last: FrameRecord | None = None
    opened: int | None = None
    abandoned: bool = False

    @property
    def next_seq(self) -> int:
        return self.last.seq + 1 if self.last else 0


@dataclass(slots=True)
class Leftover:
    """A session to go on with. exact: frames and bytes so far are known for sure."""

    spool: Spool
    head: SpoolHead
    sequencer: Sequencer
    frames: int
    raw_bytes: int
    offset: int | None
    exact: bool
    closed: FrameRecord | None


async def take_up(place: Path, order: Order, outlet: Outlet) -> Leftover | None:
    """Open a spool and compare it with the broker.

    Raises SpoolBusy, SpoolFailed, SpoolUnreadable, Forked, ForeignSpool, EndedElsewhere or
    BrokerUnreachable; the spool is left as it is, or put aside where the error says so.
    """
    spool, head = await asyncio.to_thread(Spool.open, place, order.signer)
    try:
        return await _compare(spool, head, order, outlet)
    except BaseException:
        spool.close()
        raise


async def _compare(spool: Spool, head: SpoolHead, order: Order, outlet: Outlet) -> Leftover | None:
    session, newest = spool.session, spool.last
    if head.opened.host != order.host:
        raise ForeignSpool(
            f"the spool {spool.place} was written on host {head.opened.host}",
            hint=f"Resume it there, or set LUCID_HOST={head.opened.host} if this is that host",
        )
    if newest is None and spool.state.offset is None:
        spool.remove()
        return None
    oldest = await asyncio.to_thread(spool.read, spool.first_seq, 1)
    since = oldest[0].time if oldest else head.started
    found = await held_by_broker(outlet, session, head.partition, since)
    if found.next_seq > spool.next_seq and not spool.damaged and newest is not None:
        raise Forked(
            f"session {session} has {found.next_seq} records on the broker and "
            f"{spool.next_seq} in its spool: another recorder has gone on with it",
            hint=f"A session has one recorder; look who else holds a copy of {spool.place}",
        )
    spool.release(found.next_seq)
    if found.abandoned:
        raise ended_elsewhere(spool)
    if newest is None and found.last is None:
        raise SpoolUnreadable(
            f"the records of session {session} are gone, from its spool and from the broker",
            hint=f"The pipeline ends the session; look at the disk of {spool.place}",
        )
    sequencer = Sequencer(session, bytes.fromhex(head.chain_key), order.signer)
    ahead = found.last is not None and found.next_seq > spool.next_seq
    last = found.last if ahead or newest is None else newest.record
    if last is not None:
        sequencer.follow(last)
    if ahead:
        await asyncio.to_thread(spool.jump, found.next_seq)
    return Leftover(
        spool, head, sequencer,
        frames=newest.frames if newest else 0,
        raw_bytes=newest.raw_bytes if newest else 0,
        offset=spool.state.offset if spool.state.offset is not None else found.opened,
        exact=not ahead,
        closed=last if last is not None and last.kind is Kind.CLOSE else None,
    )  # fmt: skip


def ended_elsewhere(spool: Spool) -> EndedElsewhere:
    """The error of a session that others have ended; its spool is removed or put aside."""
    first, last = spool.first_seq, spool.next_seq - 1
    what = f"session {spool.session} was ended by the pipeline: its recorder was silent too long"
    if first > last:
        spool.remove()
        return EndedElsewhere(what, hint="All that was recorded before is on the broker")
    kept = spool.set_aside()
    return EndedElsewhere(
        f"{what}. Records {first} to {last} came too late and are kept in {kept}",
        hint="Delete that folder once nobody asks for them; start a new recording",
    )


async def held_by_broker(outlet: Outlet, session: UUID, partition: int, since: int) -> OnBroker:
    """What the partition holds of a session, among records of event time `since` or later.

    Raises BrokerUnreachable.
    """
    place = TopicPartition(outlet.frames, partition)
    consumer = AIOKafkaConsumer(
        **kafka_options(outlet.settings), client_id="lucid-resume",
        group_id=None, enable_auto_commit=False, auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 * 1024**2,
    )  # fmt: skip
    found, key = OnBroker(), str(session).encode()
    try:
        await consumer.start()
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        start = (await consumer.offsets_for_times({place: since // 1000}))[place]
        consumer.seek(place, start.offset if start else end)
        while await consumer.position(place) < end:
            batches = await consumer.getmany(place, timeout_ms=POLL_MS)
            for raw in batches.get(place, []):
                if raw.key == key:
                    found = _with(found, raw.offset, raw.headers, raw.key, raw.value)
    except KafkaError as error:
        raise unreachable(outlet.settings, error) from error
    finally:
        await consumer.stop()
    return found


def _with(
    found: OnBroker, offset: int, headers: tuple[tuple[str, bytes], ...], key: bytes,
    value: bytes | None,
) -> OnBroker:  # fmt: skip
    try:
        record = from_kafka(key, headers, value)
    except FormatError:
        return found  # the processor refuses it, too
    if record.kind is Kind.ABANDON:
        return OnBroker(found.last, found.opened, True)
    opened = offset if record.seq == 0 and found.opened is None else found.opened
    last = record if record.seq >= found.next_seq else found.last
    return OnBroker(last, opened, found.abandoned)
