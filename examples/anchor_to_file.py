"""Anchors sessions in a file: the smallest client of `session.anchors`.

    python examples/anchor_to_file.py --kafka 127.0.0.1:9092 ledger.jsonl

For each anchor: a line in the file, on disk; a receipt, acknowledged; the offset, committed.
After a crash an anchor may come again; it is in the file once, and its receipt is the same.

Exit status: 0 after SIGTERM or SIGINT, 65 for a damaged file, 69 without a broker, 75 if
another client has the file. After any of them it goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.anchors import Anchor, read_anchor
from schemas.canonical import Strict, decode, encode
from schemas.errors import FormatError
from schemas.receipts import AnchorReceipt, ReceiptEvent

LEDGER = "file"
START = "0" * 64


class Entry(Strict):
    """A line of the file. previous: SHA-256 of the line before, without its newline."""

    number: int
    previous: str
    anchored_at: int
    anchor: Anchor


class LedgerProblem(Exception):
    """The file cannot be gone on with; `status` is the exit status."""

    def __init__(self, what: str, status: int) -> None:
        super().__init__(what)
        self.status = status


class Ledger:
    """An append-only file of anchors, each line naming the hash of the one before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[tuple[str, str], tuple[Entry, str]] = {}
        self.head = START
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise LedgerProblem(f"another client has {path} open", 75) from None
        try:
            self._read()
        except BaseException:
            os.close(self._file)
            raise
        self._sync_folder()

    def close(self) -> None:
        os.close(self._file)

    def add(self, anchor: Anchor) -> tuple[Entry, str]:
        """The anchor's line and the line's hash; on disk when this returns, and only once."""
        known = self.entries.get((anchor.session, anchor.manifest_hash))
        if known is not None:
            return known
        now = time.time_ns() // 1000
        entry = Entry(
            number=len(self.entries), previous=self.head, anchored_at=now, anchor=anchor
        )  # fmt: skip
        line = encode(entry)
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)
        return self._take(entry, line)

    def _take(self, entry: Entry, line: bytes) -> tuple[Entry, str]:
        self.head = hashlib.sha256(line).hexdigest()
        key = (entry.anchor.session, entry.anchor.manifest_hash)
        self.entries[key] = entry, self.head
        return self.entries[key]

    def _read(self) -> None:
        """Follow the chain from its start; cut off a last line that is not whole."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].split(b"\n")[:-1]):
            try:
                entry = decode(Entry, line)
            except FormatError as error:
                raise LedgerProblem(f"{self.path} line {number}: {error}", 65) from error
            key = (entry.anchor.session, entry.anchor.manifest_hash)
            if (entry.number, entry.previous) != (number, self.head) or key in self.entries:
                raise LedgerProblem(f"{self.path} line {number} does not follow the one before", 65)
            self._take(entry, line)
        if whole < len(data):
            os.ftruncate(self._file, whole)
            os.fsync(self._file)

    def _sync_folder(self) -> None:
        folder = os.open(self.path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def receipt_of(entry: Entry, line_hash: str, ledger: str) -> ReceiptEvent:
    """The receipt of a line, the same each time it is made."""
    anchor = entry.anchor
    receipt = AnchorReceipt(
        session=anchor.session, manifest_hash=anchor.manifest_hash, ledger=ledger,
        reference=f"line {entry.number}, SHA-256 {line_hash}", anchored_at=entry.anchored_at,
        proof=None,
    )  # fmt: skip
    return ReceiptEvent(
        receipt, f"anchor-to-file/{socket.gethostname()}", anchor.session,
        id=str(uuid5(NAMESPACE_URL, f"{ledger} {line_hash}")),
        time=datetime.fromtimestamp(entry.anchored_at / 1e6, UTC),
    )  # fmt: skip


async def serve(ledger: Ledger, options: argparse.Namespace) -> None:
    """Anchor what comes, until cancelled."""
    consumer = AIOKafkaConsumer(
        f"{options.prefix}session.anchors", bootstrap_servers=options.kafka,
        group_id=options.group, enable_auto_commit=False, auto_offset_reset="earliest",
    )  # fmt: skip
    producer = AIOKafkaProducer(
        bootstrap_servers=options.kafka, enable_idempotence=True, acks="all"
    )
    async with producer, consumer:
        async for record in consumer:
            try:
                anchor = read_anchor(record.value or b"")
            except FormatError as error:
                print(f"offset {record.offset} is no anchor: {error}", file=sys.stderr)
            else:
                entry, line_hash = ledger.add(anchor)
                key, headers, value = receipt_of(entry, line_hash, options.ledger).to_kafka()
                topic = f"{options.prefix}session.anchor_receipts"
                await producer.send_and_wait(topic, value, key=key, headers=headers)
            await consumer.commit()


async def run(ledger: Ledger, options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    work = asyncio.create_task(serve(ledger, options))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Anchors sessions in a file.")
    parser.add_argument("file", type=Path, help="the ledger; made if there is none")
    parser.add_argument("--kafka", default="127.0.0.1:9092", help="bootstrap servers")
    parser.add_argument("--prefix", default="", help="LUCID_TOPIC_PREFIX of the installation")
    parser.add_argument("--group", default="anchor-to-file", help="consumer group")
    parser.add_argument("--ledger", default=LEDGER, help="the ledger's name in receipts")
    parser.add_argument("--check", action="store_true", help="only check the file")
    options = parser.parse_args(arguments)
    try:
        with contextlib.closing(Ledger(options.file)) as ledger:
            print(f"{options.file}: {len(ledger.entries)} anchors, head {ledger.head}")
            if not options.check:
                asyncio.run(run(ledger, options))
    except LedgerProblem as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KafkaError as error:
        print(f"error: the broker {options.kafka}: {error!r}", file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main())
