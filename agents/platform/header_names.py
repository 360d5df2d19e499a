"""Records whose header names are not UTF-8, read by every consumer of this process.

A broker takes any bytes as a header's name. aiokafka 0.14 decodes them strictly and raises
UnicodeDecodeError out of `getmany`, each time anew: one such record would hold up its
partition, and end each service that is assigned it. Importing this module makes consumers
read the batch again with `\\xNN` for the bytes that are no UTF-8, so that the record's own
parser refuses it and a dead letter takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex, overload

from aiokafka.consumer import fetcher
from aiokafka.record import memory_records
from aiokafka.record.default_records import _DefaultRecordBatchPy


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

    def __init__(self, batch: Any, records: Any, number: int) -> None:
        self._batch, self._records, self._number = batch, records, number

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
        self._number = 0

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _Batch:
        self._number += 1
        return _Batch(self._records.next_batch(), self._data, self._number - 1)


fetcher.MemoryRecords = _Records
