"""Payloads of codec `screen/1`: what changed on a screen. Format: docs/formats/frame-payload.md.

A payload is 4 bytes (version, flags, item count) and items, each with a type and a length.
An update that is larger than a frame record is spread over several, all but the last of
which carry the flag `more`.

FormatError
└── InvalidPayload      items, sizes or pixels break the format
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import lz4.block
import numpy as np
from numpy.typing import NDArray

from schemas.errors import FormatError, Truncated, UnknownVersion
from schemas.frames import MAX_PAYLOAD

VERSION = 1
KEYFRAME = 1
MORE = 2
MAX_SIDE = 16_384
MAX_AREA = 2**26  # pixels of a screen: a reader's memory is bounded by it
MAX_ITEMS = 65_535
MAX_CURSOR = 512
RAW, LZ4 = 0, 1
MAX_RECT_PIXELS = 320_000
"""Pixels of a rectangle that always fit into one record, whatever they look like."""

_HEAD = struct.Struct(">BBH")
_ITEM = struct.Struct(">BI")
_SCREEN = struct.Struct(">HH")
_RECT = struct.Struct(">HHHHB")
_CURSOR = struct.Struct(">IHHHH")
_POINTER = struct.Struct(">hhBB")

Pixels: TypeAlias = NDArray[np.uint8]


class InvalidPayload(FormatError):
    """A screen payload breaks its format."""


@dataclass(frozen=True, slots=True)
class Size:
    """The screen's size from here on; its content is undefined until it is drawn."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Rect:
    """Pixels of a rectangle: planes B, G, R of `height` rows by `width` bytes each."""

    x: int
    y: int
    width: int
    height: int
    encoding: int
    data: bytes

    def planes(self) -> Pixels:
        """The pixels, uint8 of shape (3, height, width); raises InvalidPayload."""
        size = 3 * self.width * self.height
        plain = self.data if self.encoding == RAW else _unpack(self.data, size)
        if len(plain) != size:
            raise InvalidPayload(f"a rectangle has {len(plain)} bytes of pixels, not {size}")
        return np.frombuffer(plain, np.uint8).reshape(3, self.height, self.width)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The pointer's shape: premultiplied B, G, R, A for each pixel, LZ4; its hot spot."""

    serial: int
    width: int
    height: int
    hot_x: int
    hot_y: int
    data: bytes

    def pixels(self) -> Pixels:
        """uint8 of shape (height, width, 4); raises InvalidPayload."""
        plain = _unpack(self.data, 4 * self.width * self.height)
        return np.frombuffer(plain, np.uint8).reshape(self.height, self.width, 4)


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where the pointer is; buttons: bit 0 is the first."""

    x: int
    y: int
    visible: bool
    buttons: int


Item: TypeAlias = Size | Rect | Cursor | Pointer


@dataclass(frozen=True, slots=True)
class Update:
    """One payload."""

    keyframe: bool
    more: bool
    items: tuple[Item, ...]


def _unpack(data: bytes, size: int) -> bytes:
    try:
        plain: bytes = lz4.block.decompress(data, uncompressed_size=size)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise InvalidPayload(f"pixels do not decompress: {error}") from error
    if len(plain) != size:
        raise InvalidPayload(f"pixels decompress to {len(plain)} bytes, not {size}")
    return plain


# Writing ----------------------------------------------------------------------------------------


def pack_rect(x: int, y: int, bgrx: Pixels) -> list[Rect]:
    """A rectangle of pixels, uint8 of shape (height, width, 3 or 4), in pieces that fit."""
    height, width = bgrx.shape[:2]
    rows = max(1, MAX_RECT_PIXELS // width)
    found = []
    for top in range(0, height, rows):
        part = bgrx[top : top + rows]
        planes = np.ascontiguousarray(part[:, :, :3].transpose(2, 0, 1)).tobytes()
        packed: bytes = lz4.block.compress(planes, store_size=False)
        small = len(packed) < len(planes)
        found.append(
            Rect(x, y + top, width, part.shape[0], LZ4 if small else RAW,
                 packed if small else planes)
        )  # fmt: skip
    return found


def pack_cursor(serial: int, hot_x: int, hot_y: int, bgra: Pixels) -> Cursor:
    """A pointer's shape from premultiplied pixels, uint8 of shape (height, width, 4)."""
    height, width = bgra.shape[:2]
    data: bytes = lz4.block.compress(np.ascontiguousarray(bgra).tobytes(), store_size=False)
    return Cursor(serial, width, height, hot_x, hot_y, data)


def _body(item: Item) -> tuple[int, bytes]:
    if isinstance(item, Size):
        return 1, _SCREEN.pack(item.width, item.height)
    if isinstance(item, Rect):
        head = _RECT.pack(item.x, item.y, item.width, item.height, item.encoding)
        return 2, head + item.data
    if isinstance(item, Cursor):
        head = _CURSOR.pack(item.serial, item.width, item.height, item.hot_x, item.hot_y)
        return 3, head + item.data
    return 4, _POINTER.pack(item.x, item.y, item.visible, item.buttons)


def encode_update(items: Iterable[Item], *, keyframe: bool) -> list[bytes]:
    """The payloads of one update, each at most MAX_PAYLOAD bytes; only the first says keyframe."""
    groups: list[list[bytes]] = [[]]
    size = _HEAD.size
    for item in items:
        number, body = _body(item)
        packed = _ITEM.pack(number, len(body)) + body
        if groups[-1] and (size + len(packed) > MAX_PAYLOAD or len(groups[-1]) == MAX_ITEMS):
            groups.append([])
            size = _HEAD.size
        groups[-1].append(packed)
        size += len(packed)
    payloads = []
    for number, group in enumerate(groups):
        flags = (KEYFRAME if keyframe and number == 0 else 0) | (
            MORE if number < len(groups) - 1 else 0
        )
        payloads.append(_HEAD.pack(VERSION, flags, len(group)) + b"".join(group))
    return payloads


# Reading ----------------------------------------------------------------------------------------


def decode_update(payload: bytes) -> Update:
    """Read a payload; pixels are unpacked later. Raises FormatError, whatever the bytes are."""
    if len(payload) < _HEAD.size:
        raise Truncated(f"a screen payload has {len(payload)} bytes, fewer than its head")
    version, flags, count = _HEAD.unpack_from(payload)
    if version != VERSION:
        raise UnknownVersion(f"a screen payload has version {version}, this reader knows 1")
    if flags & ~(KEYFRAME | MORE):
        raise InvalidPayload(f"a screen payload has flags {flags:#x}")
    items: list[Item] = []
    position = _HEAD.size
    for _ in range(count):
        if position + _ITEM.size > len(payload):
            raise Truncated(f"an item at byte {position} of a screen payload is cut off")
        number, length = _ITEM.unpack_from(payload, position)
        position += _ITEM.size
        if position + length > len(payload):
            raise Truncated(f"an item at byte {position} of a screen payload is cut off")
        items.append(_read_item(number, payload[position : position + length]))
        position += length
    if position != len(payload):
        raise InvalidPayload(f"a screen payload has {len(payload) - position} bytes left over")
    keyframe = bool(flags & KEYFRAME)
    if keyframe and not (items and isinstance(items[0], Size)):
        raise InvalidPayload("a keyframe does not begin with the screen's size")
    return Update(keyframe, bool(flags & MORE), tuple(items))


def _read_item(number: int, body: bytes) -> Item:
    try:
        if number == 1:
            return _check_size(Size(*_SCREEN.unpack(body)))
        if number == 2:
            x, y, width, height, encoding = _RECT.unpack_from(body)
            return _check_rect(Rect(x, y, width, height, encoding, body[_RECT.size :]))
        if number == 3:
            serial, width, height, hot_x, hot_y = _CURSOR.unpack_from(body)
            return _check_cursor(Cursor(serial, width, height, hot_x, hot_y, body[_CURSOR.size :]))
        if number == 4:
            x, y, visible, buttons = _POINTER.unpack(body)
            if visible > 1:
                raise InvalidPayload(f"a pointer has visibility {visible}")
            return Pointer(x, y, bool(visible), buttons)
    except struct.error as error:
        raise InvalidPayload(f"item {number} has {len(body)} bytes: {error}") from error
    raise InvalidPayload(f"a screen payload has an item of type {number}")


def _check_size(size: Size) -> Size:
    area = size.width * size.height
    if not (0 < area <= MAX_AREA and max(size.width, size.height) <= MAX_SIDE):
        raise InvalidPayload(f"a screen of {size.width} by {size.height} is out of range")
    return size


def _check_rect(rect: Rect) -> Rect:
    pixels = rect.width * rect.height
    inside = rect.x + rect.width <= MAX_SIDE and rect.y + rect.height <= MAX_SIDE
    if not 0 < pixels <= MAX_RECT_PIXELS or not inside or rect.encoding not in (RAW, LZ4):
        raise InvalidPayload(
            f"a rectangle of {rect.width} by {rect.height} at {rect.x}, {rect.y} in encoding "
            f"{rect.encoding} is out of range"
        )
    if rect.encoding == RAW and len(rect.data) != 3 * pixels:
        raise InvalidPayload(f"a raw rectangle has {len(rect.data)} bytes, not {3 * pixels}")
    return rect


def _check_cursor(cursor: Cursor) -> Cursor:
    if not (0 < cursor.width <= MAX_CURSOR and 0 < cursor.height <= MAX_CURSOR):
        raise InvalidPayload(f"a cursor of {cursor.width} by {cursor.height} is out of range")
    return cursor


class Screen:
    """The picture that a session's payloads build up, from the first keyframe on."""

    def __init__(self) -> None:
        self.canvas: Pixels = np.zeros((0, 0, 3), np.uint8)  # height, width, BGR
        self.pointer: Pointer | None = None
        self._cursor: Cursor | None = None

    def apply(self, update: Update) -> bool:
        """Draw an update; whether the picture is whole now. Raises InvalidPayload."""
        for item in update.items:
            if isinstance(item, Size):
                self.canvas = np.zeros((item.height, item.width, 3), np.uint8)
            elif isinstance(item, Rect):
                self._draw(item)
            elif isinstance(item, Cursor):
                item.pixels()
                self._cursor = item
            else:
                self.pointer = item
        return not update.more and self.canvas.size > 0

    def _draw(self, rect: Rect) -> None:
        height, width = self.canvas.shape[:2]
        if rect.x + rect.width > width or rect.y + rect.height > height:
            raise InvalidPayload(f"a rectangle reaches over the screen of {width} by {height}")
        part = self.canvas[rect.y : rect.y + rect.height, rect.x : rect.x + rect.width]
        part[:] = rect.planes().transpose(1, 2, 0)

    def picture(self) -> Pixels:
        """A copy of the screen with the pointer drawn, uint8 of shape (height, width, BGR)."""
        picture = self.canvas.copy()
        if self._cursor is not None and self.pointer is not None and self.pointer.visible:
            _blend(picture, self._cursor, self.pointer)
        return picture


def _blend(picture: Pixels, cursor: Cursor, pointer: Pointer) -> None:
    shape = cursor.pixels()
    left, top = pointer.x - cursor.hot_x, pointer.y - cursor.hot_y
    x0, y0 = max(left, 0), max(top, 0)
    x1 = min(left + cursor.width, picture.shape[1])
    y1 = min(top + cursor.height, picture.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part = shape[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.uint16)
    under = picture[y0:y1, x0:x1].astype(np.uint16)
    mixed = part[:, :, :3] + under * (255 - part[:, :, 3:]) // 255
    picture[y0:y1, x0:x1] = np.minimum(mixed, 255).astype(np.uint8)


def pictures(payloads: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Screen]]:
    """Event time and screen after each whole update; the same Screen each time."""
    screen = Screen()
    for time, payload in payloads:
        if screen.apply(decode_update(payload)):
            yield time, screen
