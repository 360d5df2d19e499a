"""Records of a fetch: header names that are not UTF-8 are read, checksums are checked fast.

A broker takes any bytes as a header's name. aiokafka 0.14 decodes them strictly and raises
UnicodeDecodeError out of `getmany`, each time anew: one such record would hold up its
partition, and end each service that is assigned it. Consumers are made to read
the batch again with `\\xNN` for the bytes that are no UTF-8, so that the record's own
parser refuses it and a dead letter takes it.

The same place checks a batch's CRC-32C with the CPU's instruction: aiokafka's own, by tables,
is the dearest part of reading large records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, SupportsIndex, overload

import crc32c
from aiokafka.consumer import fetcher
from aiokafka.record import memory_records
from aiokafka.record.default_records import _DefaultRecordBatchPy

# Of a batch (Kafka protocol, record batch): length behind itself, magic, CRC of all behind itself.
_LENGTH, _LENGTH_AT = struct.Struct(">i"), 8
_MAGIC_AT = 16
_CRC, _CRC_AT = struct.Struct(">I"), 17


class _Escaping(bytearray):
    """Bytes that decode to text whatever they are."""

    @overload
    def __getitem__(self, place: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> _Escaping: ...
    def __getitem__(self, place: SupportsIndex | slice) -> int | _Escaping:
        found = super().__getitem__(place)
        return _Escaping(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "") -> str:
        return super().decode(encoding, "backslashreplace")


class _Batch:
    """A batch of aiokafka's, whose records are read again if that fails on a header's name."""

    def __init__(self, batch: Any, records: bytes, number: int, start: int) -> None:
        self._batch, self._records, self._number, self._start = batch, records, number, start

    @property
    def end(self) -> int:
        """Where in its records the batch ends."""
        (length,) = _LENGTH.unpack_from(self._records, self._start + _LENGTH_AT)
        return self._start + _LENGTH_AT + _LENGTH.size + int(length)

    def validate_crc(self) -> bool:
        if self._records[self._start + _MAGIC_AT] != 2:
            return bool(self._batch.validate_crc())
        (stored,) = _CRC.unpack_from(self._records, self._start + _CRC_AT)
        with memoryview(self._records) as whole:
            covered = whole[self._start + _CRC_AT + _CRC.size : self.end]
            return bool(crc32c.crc32c(covered) == stored)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        given = 0
        try:
            for record in self._batch:
                yield record
                given += 1
        except UnicodeDecodeError:
            for at, record in enumerate(self._again()):
                if at >= given:
                    yield record

    def _again(self) -> Any:
        slices = memory_records._MemoryRecordsPy(self._records)
        for _ in range(self._number):
            slices.next_batch()
        batch = _DefaultRecordBatchPy(slices._next_slice)
        iter(batch)  # decompresses
        batch._buffer = _Escaping(batch._buffer)
        return batch


class _Records:
    """What one fetch brought of a partition, as aiokafka's fetcher asks for it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = memory_records.MemoryRecords(data)
        self._number = self._at = 0

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _Batch:
        batch = _Batch(self._records.next_batch(), self._data, self._number, self._at)
        self._number, self._at = self._number + 1, batch.end
        return batch


def use() -> None:
    """Let all consumers read what they fetched so."""
    fetcher.MemoryRecords = _Records
