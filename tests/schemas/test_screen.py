"""The screen payload: what is drawn is read back, and any bytes give a value or a typed error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import FormatError, Truncated, UnknownVersion
from schemas.frames import MAX_PAYLOAD
from schemas.screen import (
    MAX_RECT_PIXELS,
    InvalidPayload,
    Item,
    Pixels,
    Pointer,
    Rect,
    Screen,
    Size,
    Update,
    decode_update,
    encode_update,
    pack_cursor,
    pack_rect,
    pictures,
)


def noise(height: int, width: int, channels: int = 4, seed: int = 1) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def shown(payloads: list[bytes]) -> Screen:
    screen = Screen()
    for payload in payloads:
        screen.apply(decode_update(payload))
    return screen


def test_a_picture_is_read_back_without_its_fourth_byte() -> None:
    picture = noise(30, 50)
    items = [Size(50, 30), *pack_rect(0, 0, picture)]
    (payload,) = encode_update(items, keyframe=True)
    assert np.array_equal(shown([payload]).canvas, picture[:, :, :3])


def test_a_picture_larger_than_a_record_is_split_and_comes_together_again() -> None:
    picture = noise(700, 1500)
    payloads = encode_update([Size(1500, 700), *pack_rect(0, 0, picture)], keyframe=True)
    assert len(payloads) > 3
    assert max(map(len, payloads)) <= MAX_PAYLOAD
    updates = [decode_update(payload) for payload in payloads]
    assert [update.more for update in updates] == [True] * (len(updates) - 1) + [False]
    assert [update.keyframe for update in updates] == [True] + [False] * (len(updates) - 1)
    assert np.array_equal(shown(payloads).canvas, picture[:, :, :3])
    whole = list(pictures((number, payload) for number, payload in enumerate(payloads)))
    assert [time for time, _ in whole] == [len(payloads) - 1]


def test_even_the_worst_rectangle_fits_into_a_record() -> None:
    for width in (1, 64, 1920, 16_384):
        rows = MAX_RECT_PIXELS // width
        for rect in pack_rect(0, 0, noise(min(rows + 1, 400), width)):
            assert len(encode_update([rect], keyframe=False)) == 1
            assert len(encode_update([rect], keyframe=False)[0]) <= MAX_PAYLOAD


def test_plain_areas_are_packed_and_noise_is_not() -> None:
    assert pack_rect(0, 0, np.zeros((64, 64, 4), np.uint8))[0].encoding == 1
    assert pack_rect(0, 0, noise(64, 64))[0].encoding == 0


def test_the_pointer_is_blended_over_the_picture_and_clipped_at_its_edge() -> None:
    shape = np.zeros((2, 2, 4), np.uint8)
    shape[:] = (10, 20, 30, 128)
    items: list[Item] = [
        Size(4, 4), *pack_rect(0, 0, np.full((4, 4, 4), 200, np.uint8)),
        pack_cursor(1, 1, 1, shape), Pointer(0, 0, True, 0),
    ]  # fmt: skip
    screen = shown(encode_update(items, keyframe=True))
    assert screen.picture()[0, 0].tolist() == [10 + 200 * 127 // 255, 20 + 99, 30 + 99]
    assert screen.picture()[1, 1].tolist() == [200, 200, 200]
    screen.apply(Update(False, False, (Pointer(0, 0, False, 0),)))
    assert screen.picture()[0, 0].tolist() == [200, 200, 200]
    screen.apply(Update(False, False, (Pointer(-50, 9, True, 0),)))
    assert np.array_equal(screen.picture(), screen.canvas)


def test_nothing_is_whole_before_the_first_size() -> None:
    assert not Screen().apply(Update(False, False, (Pointer(1, 1, True, 0),)))


def test_a_rectangle_over_the_edge_is_refused() -> None:
    screen = shown(encode_update([Size(10, 10)], keyframe=True))
    with pytest.raises(InvalidPayload, match="over the screen"):
        screen.apply(Update(False, False, (Rect(5, 5, 6, 1, 0, bytes(18)),)))


HEAD = b"\x01\x00\x00\x01"


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", Truncated),
        (b"\x02\x00\x00\x00", UnknownVersion),
        (b"\x01\x04\x00\x00", InvalidPayload),  # an unknown flag
        (b"\x01\x01\x00\x00", InvalidPayload),  # a keyframe without a size
        (HEAD, Truncated),
        (HEAD + b"\x01\x00\x00\x00\x05ab", Truncated),
        (b"\x01\x00\x00\x00x", InvalidPayload),  # left over
        (HEAD + b"\x09\x00\x00\x00\x00", InvalidPayload),  # an unknown item
        (HEAD + b"\x01\x00\x00\x00\x04\x00\x00\x00\x01", InvalidPayload),  # no width
        (HEAD + b"\x01\x00\x00\x00\x04\x40\x00\x40\x00", InvalidPayload),  # too many pixels
        (HEAD + b"\x01\x00\x00\x00\x03abc", InvalidPayload),
        (HEAD + b"\x04\x00\x00\x00\x06\x00\x00\x00\x00\x02\x00", InvalidPayload),
        (HEAD + b"\x02\x00\x00\x00\x09" + b"\x00\x00\x00\x00\x00\x01\x00\x01\x07", InvalidPayload),
        (HEAD + b"\x02\x00\x00\x00\x0a" + b"\x00\x00\x00\x00\x00\x01\x00\x01\x00a", InvalidPayload),
        (HEAD + b"\x03\x00\x00\x00\x0c" + bytes(12), InvalidPayload),  # a cursor of no pixels
    ],
)
def test_what_breaks_the_format_has_its_own_error(payload: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode_update(payload)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 40])
def test_pixels_that_do_not_unpack_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidPayload):
        Rect(0, 0, 8, 8, 1, data).planes()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_value_or_a_typed_error(data: bytes) -> None:
    for payload in (data, b"\x01\x00\x00\x01" + data, b"\x01\x01\x00\x02" + data):
        try:
            Screen().apply(decode_update(payload))
        except FormatError:
            continue


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_byte_gives_a_value_or_a_typed_error(data: st.DataObject) -> None:
    items = [
        Size(20, 10),
        *pack_rect(0, 0, np.zeros((10, 20, 4), np.uint8)),
        Pointer(3, 4, True, 1),
    ]
    (payload,) = encode_update(items, keyframe=True)
    changed = bytearray(payload)
    changed[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        Screen().apply(decode_update(bytes(changed)))
    except FormatError:
        return
