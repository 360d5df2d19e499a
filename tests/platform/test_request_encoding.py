"""Requests have the bytes that the Kafka protocol names, whatever they are gathered from."""

from __future__ import annotations

import struct

import pytest
from aiokafka.protocol.types import Array, Bytes, Int16, Int32, Schema, String

from agents.platform.aiokafka_changes import change_aiokafka

change_aiokafka()
RECORDS = Array(("topic", String("utf-8")), ("parts", Array(("number", Int32), ("data", Bytes))))
REQUEST = Schema(("acks", Int16), ("topics", RECORDS), ("numbers", Array(Int32)))


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_nested_records(kind: type) -> None:
    data = bytes(range(256)) * 300
    found = REQUEST.encode((-1, [("café", [(7, kind(data)), (8, None), (9, b"")])], [1, 2]))
    text = "café".encode()
    assert found == b"".join(
        (
            struct.pack(">hih", -1, 1, len(text)), text, struct.pack(">i", 3),
            struct.pack(">ii", 7, len(data)), data, struct.pack(">ii", 8, -1),
            struct.pack(">ii", 9, 0), struct.pack(">iii", 2, 1, 2),
        )
    )  # fmt: skip
    assert isinstance(found, bytes)


def test_no_array_and_an_empty_one() -> None:
    assert REQUEST.encode((0, None, [])) == struct.pack(">hii", 0, -1, 0)


def test_too_few_parts() -> None:
    with pytest.raises(ValueError):
        REQUEST.encode((1, []))
