"""The one way in which a bundle writes POSIX ustar headers (IEEE 1003.1-1988), and reads them.

All metadata is fixed, so a member's header follows from its name and size alone. `tar` reads
such an archive, and GNU tar writes the same bytes when told the same metadata. Sizes are
below 8 GiB for a member; an archive may have any size.

FormatError
└── InvalidMember     a header, or the padding after a member, is not the one way
"""

from __future__ import annotations

import struct

from schemas.errors import FormatError

BLOCK = 512
RECORD = 20 * BLOCK  # an archive is filled up to a multiple of this
MODIFIED = 315_532_800  # 1980-01-01T00:00:00Z, the oldest date that all tools accept
MAX_NAME = 100
MAX_SIZE = 8**11 - 1

_LAYOUT = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x")
_ZERO = b"0000000\x00"
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"5": "a folder", b"x": "a pax header"}


class InvalidMember(FormatError):
    """A member's header or padding is not what a bundle has."""


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member of `size` bytes; raises InvalidMember."""
    encoded = name.encode("ascii", "replace")
    if len(encoded) > MAX_NAME or not 0 <= size <= MAX_SIZE:
        raise InvalidMember(f"member {name[:120]!r} of {size} bytes does not fit a header")
    packed = _pack(encoded, size, b" " * 8)
    return _pack(encoded, size, b"%06o\x00 " % sum(packed))


def _pack(name: bytes, size: int, checksum: bytes) -> bytes:
    return _LAYOUT.pack(
        name, b"0000644\x00", _ZERO, _ZERO, b"%011o\x00" % size, b"%011o\x00" % MODIFIED,
        checksum, b"0", b"", b"ustar\x00", b"00", b"", b"", _ZERO, _ZERO, b"",
    )  # fmt: skip


def read_header(block: bytes) -> tuple[str, int]:
    """Name and size; raises InvalidMember unless the block is what `header` makes of them."""
    fields = _LAYOUT.unpack(block)
    raw_name, raw_size, kind, magic = fields[0], fields[4], fields[7], fields[9]
    if magic != b"ustar\x00":
        raise InvalidMember("a member has no ustar header")
    name = raw_name.rstrip(b"\x00").decode("ascii", "backslashreplace")
    if not name.isprintable():
        raise InvalidMember(f"member {name!r} has control characters in its name")
    if kind != b"0":
        raise InvalidMember(f"member {name!r} is {_KINDS.get(kind, 'no file')}")
    digits = raw_size[:-1]
    if raw_size[-1:] != b"\x00" or set(digits) - set(b"01234567"):
        raise InvalidMember(f"member {name!r} has size {raw_size!r}, not 11 octal digits")
    size = int(digits, 8)
    if header(name, size) != block:
        raise InvalidMember(f"the header of member {name!r} was changed or is not a bundle's")
    return name, size


def padding(size: int) -> bytes:
    """What follows the bytes of a member up to the next block."""
    return bytes(-size % BLOCK)


def ending(position: int) -> bytes:
    """What follows the last member, which ended at `position`: at least two zero blocks."""
    return bytes(2 * BLOCK + -(position + 2 * BLOCK) % RECORD)
