"""Screen content that was recorded of real programs, made long enough to be sent for hours.

A file is zstd of a chunk's plaintext. Sent again and again as it is, it would compress far
better than a screen does: zstd finds in its window what it had a lap ago. So each lap is mirrored
another way and has other colours (all bytes of its pixels are XORed with the lap's own), which
leaves what repeats within a lap, and hardly anything between two.

LucidError
└── ContentError      a file cannot be read, or there is none of that name
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from uuid import UUID

import lz4.block
import numpy as np
import zstandard

from schemas.errors import FormatError, LucidError
from schemas.frames import MAX_PAYLOAD, decode_entries
from schemas.screen import LZ4, RAW, Item, Rect, Size, decode_update, encode_update

ENDING = ".entries.zst"
MAX_FILE = 64 * 1024**2  # bytes of its plaintext
WINDOW_LOG = 23  # of the processor's compressor
MAX_LAPS = 12
MOST_NOISE, NOISE_ROWS = 200_000, 360  # pixels of a rectangle, and its rows: it fits a screen


class ContentError(LucidError):
    """Screen content cannot be had."""

    exit_status = 66


@dataclass(frozen=True, slots=True)
class Content:
    """Payloads of one kind. compressed: their size after zstd, divided by the size before."""

    name: str
    payloads: tuple[bytes, ...]
    compressed: float

    @property
    def sizes(self) -> list[int]:
        return [len(one) for one in self.payloads]


def folder() -> Path:
    """Where the content is: beside this file when installed, else in the checkout."""
    packaged = resources.files("agents.load").joinpath("data")
    if packaged.is_dir():
        return Path(str(packaged))
    return Path(__file__).parents[2] / "bench" / "data"


def names() -> list[str]:
    """The kinds that there are."""
    return sorted(path.name.removesuffix(ENDING) for path in folder().glob(f"*{ENDING}"))


def load_content(
    name: str, *, noise: float = 0.0, record_bytes: int = 0, need: int = 0, seed: int = 0
) -> Content:
    """The payloads of a kind, or of a file of that name; raises ContentError.

    noise: share of each payload's bytes that does not compress, below 1. record_bytes: updates
    go together until they have as many. need: bytes that a session will send; as many laps are
    made, up to what fills the compressor's window.
    """
    path = folder() / f"{name}{ENDING}" if name in names() else Path(name)
    updates = _grouped([_items(payload) for payload in _read(path, name)], record_bytes)
    source = random.Random(f"content {seed}")
    payloads: list[bytes] = []
    size, turn = _screen(updates), 0
    while updates:
        lap, turn = len(payloads), 0 if not payloads else turn + 1
        colour = bytes(3) if not payloads else source.randbytes(3)
        for number, items in enumerate(updates):
            found = [
                _changed(one, size, turn, colour) if isinstance(one, Rect) else one for one in items
            ]
            whole = number == 0 and isinstance(found[0], Size)
            payloads += encode_update([*found, *_noise(found, noise, source)], keyframe=whole)
        total = sum(map(len, payloads))
        laps = len(payloads) // (len(payloads) - lap)
        if total >= min(need, 2 << WINDOW_LOG) or laps >= MAX_LAPS:
            break
    return Content(name, tuple(payloads), _compressed(payloads))


def _read(path: Path, name: str) -> list[bytes]:
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            plain = reader.read(MAX_FILE)
        found = [one.payload for one in decode_entries(UUID(int=0), plain)]
    except OSError as error:
        raise ContentError(
            f"there is no content {name}: {error.strerror}",
            hint=f"There are {', '.join(names())}, or give the path of a file",
        ) from error
    except (zstandard.ZstdError, FormatError) as error:
        raise ContentError(
            f"{path} is not screen content: {error}",
            hint="docs/load.md says what is in such a file",
        ) from error
    if not found:
        raise ContentError(f"{path} has no updates", hint="Record it anew")
    return found


def _items(payload: bytes) -> list[Item]:
    try:
        return list(decode_update(payload).items)
    except FormatError as error:
        raise ContentError(f"an update of the content cannot be read: {error}") from error


def _grouped(updates: Iterable[list[Item]], least: int) -> list[list[Item]]:
    """Updates put together, so that each group but the last has `least` bytes of pixels."""
    groups: list[list[Item]] = []
    size = least
    for items in updates:
        mine = sum(len(one.data) for one in items if isinstance(one, Rect))
        if size >= least or size + mine > MAX_PAYLOAD // 2:
            groups.append([])
            size = 0
        # A screen's size begins a picture; in the middle of others' it would wipe it.
        groups[-1] += [one for one in items if not (groups[-1] and isinstance(one, Size))]
        size += mine
    return groups


def _screen(updates: Iterable[list[Item]]) -> Size:
    """The largest screen that there is; raises ContentError."""
    found = [one for items in updates for one in items if isinstance(one, Size)]
    if not found:
        raise ContentError("the content never says how large its screen is", hint="Record it anew")
    return max(found, key=lambda one: one.width * one.height)


def _changed(rect: Rect, screen: Size, turn: int, colour: bytes) -> Rect:
    """A rectangle in a lap's colours, on a screen that is mirrored: bit 0 across, bit 1 down."""
    if not any(colour):
        return rect
    planes = rect.planes() ^ np.frombuffer(colour, np.uint8)[:, None, None]
    x, y = rect.x, rect.y
    if turn & 1:
        planes, x = planes[:, :, ::-1], max(0, screen.width - x - rect.width)
    if turn & 2:
        planes, y = planes[:, ::-1], max(0, screen.height - y - rect.height)
    plain = planes.tobytes()
    packed: bytes = lz4.block.compress(plain, store_size=False)
    small = len(packed) < len(plain)
    return Rect(x, y, rect.width, rect.height, LZ4 if small else RAW, packed if small else plain)


def _noise(items: Sequence[Item], share: float, source: random.Random) -> list[Rect]:
    """A rectangle of random pixels, which makes up that share of an update's bytes."""
    size = sum(len(one.data) for one in items if isinstance(one, Rect))
    pixels = min(size * share / (1.0 - share) / 3, MOST_NOISE)
    rows = min(max(1, round(pixels**0.5)), NOISE_ROWS)
    width = round(pixels / rows)
    if width == 0:
        return []
    return [Rect(0, 0, width, rows, RAW, source.randbytes(3 * width * rows))]


def _compressed(payloads: Sequence[bytes]) -> float:
    """As a chunk of 8 MiB would be."""
    plain = b"".join(payloads)[: 1 << WINDOW_LOG]
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=WINDOW_LOG)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(plain)
    return len(packed) / len(plain)
