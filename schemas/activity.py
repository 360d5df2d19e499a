"""Payloads of codec `screen/2`: pictures as in `screen/1`, and activity beside them.

A payload whose first byte is 1 belongs to the pictures (schemas/screen.py), one whose first
byte is 2 holds activity entries. Format: docs/formats/frame-payload.md.

FormatError
└── InvalidActivity     an entry, its type or its size break the format
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from schemas.canonical import Count, InvalidModel, Positive, Strict, decode, encode
from schemas.errors import FormatError, Truncated, UnknownVersion
from schemas.frames import MAX_PAYLOAD

CODEC_PICTURES = "screen/1"
CODEC_ACTIVITY = "screen/2"
SCREEN_CODECS = (CODEC_PICTURES, CODEC_ACTIVITY)
VERSION = 2
MAX_ENTRY = 16_384  # bytes of an entry
MAX_ENTRIES = 65_535  # in a payload
MAX_TEXT = 300
MAX_NAME = 100
MAX_FORMATS = 32
MAX_KEYS = 256

_HEAD = struct.Struct(">BBH")
_ITEM = struct.Struct(">BI")
# Control characters, and what hides, reverses or breaks a line when it is shown.
_CLASS = (
    "\\x00-\\x1f\\x7f-\\x9f\\u00ad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f"
    "\\ufeff\\ufff9-\\ufffb"
)
_UNFIT = re.compile(f"[{_CLASS}\\ud800-\\udfff\U000e0000-\U000e007f]")
_FIT = f"^[^{_CLASS}\\U000e0000-\\U000e007f]*$"

Text = Annotated[str, Field(max_length=MAX_TEXT, pattern=_FIT)]
Name = Annotated[str, Field(max_length=MAX_NAME, pattern=_FIT)]
KeyLevel = Literal["disabled", "basic", "strict", "comprehensive"]
ClipboardLevel = Literal["off", "use", "details"]
KEY_LEVELS: tuple[KeyLevel, ...] = ("disabled", "basic", "strict", "comprehensive")
CLIPBOARD_LEVELS: tuple[ClipboardLevel, ...] = ("off", "use", "details")
KeyClass = Literal[
    "letter", "digit", "symbol", "space", "edit", "move", "function", "modifier", "shortcut",
    "other",
]  # fmt: skip


class InvalidActivity(FormatError):
    """An activity payload breaks its format."""


def fit(text: str, most: int = MAX_TEXT) -> str:
    """Any text as a Text or Name: what cannot be shown safely escaped, cut to `most` characters."""
    escaped = _UNFIT.sub(_escape, text[: most + 1])
    return escaped if len(escaped) <= most else f"{escaped[: most - 1]}…"


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{{{number:x}}}"


# What is recorded -------------------------------------------------------------------------------


class Policy(Strict):
    """What is recorded beside the pictures.

    windows: which window is used, and the display's size. clipboard: `use` is that somebody
    took it over, `details` its formats and size. files: use of redirected drives. keys:
    `basic` counts, `strict` counts classes of keys, `comprehensive` has the keys.
    """

    windows: bool = True
    clipboard: ClipboardLevel = "off"
    files: bool = False
    keys: KeyLevel = "disabled"

    @property
    def nothing(self) -> bool:
        """Nothing at all is recorded."""
        return self == Policy(windows=False)

    def beyond(self, most: Policy) -> list[str]:
        """What this asks for and `most` does not allow, such as `keys=strict`."""
        wanted = {
            "windows": self.windows > most.windows,
            "clipboard": _over(CLIPBOARD_LEVELS, self.clipboard, most.clipboard),
            "files": self.files > most.files,
            "keys": _over(KEY_LEVELS, self.keys, most.keys),
        }
        return [f"{name}={_shown(getattr(self, name))}" for name, over in wanted.items() if over]


def _over(levels: tuple[Any, ...], one: str, most: str) -> bool:
    return levels.index(one) > levels.index(most)


def _shown(value: bool | str) -> str:
    return str(value).lower()


# Entries ----------------------------------------------------------------------------------------


class Unseen(Strict):
    """A part of the policy that cannot be seen here, and why."""

    part: Literal["windows", "clipboard", "files", "keys"]
    why: Text


class Watching(Strict):
    """Activity is recorded from here on: what by the policy, and what of it cannot be seen."""

    policy: Policy
    unseen: Annotated[list[Unseen], Field(max_length=8)]


class Window(Strict):
    """Another window is used, or it has another title.

    program, instance: the two parts of WM_CLASS, else what the process is called. via: how it
    was found: the window manager's word, the input focus, or the pointer; `none` is used then.
    protected: its keys are not recorded. left_out: changes since the last entry that have no
    entry of their own, to bound their number.
    """

    title: Text
    program: Name
    instance: Name
    via: Literal["manager", "focus", "pointer", "none"]
    protected: bool
    left_out: Count


class Display(Strict):
    """The display has this size, in pixels, from here on."""

    width: Annotated[int, Field(ge=1, le=65_535)]
    height: Annotated[int, Field(ge=1, le=65_535)]


class Clipboard(Strict):
    """Somebody took a selection over, or gave it up. Its content is in no entry.

    program: of the new owner, empty if unknown or there is none. changes: how many there were
    since the last entry; program and details are those of the last. formats, size: what the
    owner offers, and bytes as text; null where the policy, or the owner, does not say.
    """

    selection: Literal["CLIPBOARD", "PRIMARY"]
    owned: bool
    program: Name
    changes: Positive
    formats: Annotated[list[Name], Field(max_length=MAX_FORMATS)] | None
    size: Count | None


class Drive(Strict):
    """A redirected drive's folder appeared or went away."""

    place: Text
    mounted: bool


class File(Strict):
    """A file on a redirected drive was seen open, and was not a moment before.

    access: as it was opened. left_out: further ones of the same moment that have no entry.
    """

    place: Text
    program: Name
    access: Literal["read", "write", "both"]
    left_out: Count


class Keys(Strict):
    """Keys pressed in the `span` microseconds before this entry, protected ones left out.

    count: presses, modifiers included. classes: of level `strict`. keys: of level
    `comprehensive`, the first 256 in their order: a character, or an X keysym's name.
    """

    level: Literal["basic", "strict", "comprehensive"]
    span: Count
    count: Positive
    classes: dict[KeyClass, Positive] | None
    keys: Annotated[list[Name], Field(max_length=MAX_KEYS)] | None

    @model_validator(mode="after")
    def _fits_level(self) -> Self:
        has = (self.classes is not None, self.keys is not None)
        if has != (self.level == "strict", self.level == "comprehensive"):
            raise InvalidModel(f"keys of level {self.level} have the members of another")
        if self.classes is not None and sum(self.classes.values()) != self.count:
            raise InvalidModel("the classes of keys do not add up to their count")
        if self.keys is not None and len(self.keys) != min(self.count, MAX_KEYS):
            raise InvalidModel("there are not as many keys as their count says")
        return self


Entry: TypeAlias = Watching | Window | Display | Clipboard | Drive | File | Keys
ENTRY_TYPES: dict[int, type[Entry]] = {
    5: Watching, 6: Window, 7: Display, 8: Clipboard, 9: Drive, 10: File, 11: Keys,
}  # fmt: skip
"""The type byte of each entry; those up to 4 are items of pictures."""
_NUMBERS = {model: number for number, model in ENTRY_TYPES.items()}


def type_name(entry: Entry) -> str:
    """`window`, `keys`, …"""
    return type(entry).__name__.lower()


# Payloads ---------------------------------------------------------------------------------------


def encode_activity(entries: Iterable[Entry]) -> list[bytes]:
    """The payloads of entries in their order; none for no entry. Raises InvalidActivity."""
    groups: list[list[bytes]] = []
    size = 0
    for entry in entries:
        body = encode(entry)
        if len(body) > MAX_ENTRY:
            raise InvalidActivity(f"an entry of activity has {len(body)} bytes, over {MAX_ENTRY}")
        packed = _ITEM.pack(_NUMBERS[type(entry)], len(body)) + body
        if not groups or size + len(packed) > MAX_PAYLOAD or len(groups[-1]) == MAX_ENTRIES:
            groups.append([])
            size = _HEAD.size
        groups[-1].append(packed)
        size += len(packed)
    return [_HEAD.pack(VERSION, 0, len(group)) + b"".join(group) for group in groups]


def is_activity(payload: bytes) -> bool:
    """Whether a payload of codec `screen/2` holds activity, not pictures."""
    return payload[:1] == bytes([VERSION])


def decode_activity(payload: bytes) -> tuple[Entry, ...]:
    """The entries of a payload; raises FormatError, whatever the bytes are."""
    if len(payload) < _HEAD.size:
        raise Truncated(f"an activity payload has {len(payload)} bytes, fewer than its head")
    version, flags, count = _HEAD.unpack_from(payload)
    if version != VERSION:
        raise UnknownVersion(f"an activity payload has version {version}, this reader knows 2")
    if flags or not count or len(payload) > MAX_PAYLOAD:
        raise InvalidActivity(f"an activity payload has flags {flags:#x} and {count} entries")
    entries, position = [], _HEAD.size
    for _ in range(count):
        if position + _ITEM.size > len(payload):
            raise Truncated(f"an entry at byte {position} of an activity payload is cut off")
        number, length = _ITEM.unpack_from(payload, position)
        position += _ITEM.size
        if position + length > len(payload):
            raise Truncated(f"an entry at byte {position} of an activity payload is cut off")
        entries.append(_read_entry(number, payload[position : position + length]))
        position += length
    if position != len(payload):
        raise InvalidActivity(f"an activity payload has {len(payload) - position} bytes left over")
    return tuple(entries)


def _read_entry(number: int, body: bytes) -> Entry:
    model = ENTRY_TYPES.get(number)
    if model is None:
        raise InvalidActivity(f"an activity payload has an entry of type {number}")
    if len(body) > MAX_ENTRY:
        raise InvalidActivity(f"an entry of activity has {len(body)} bytes, over {MAX_ENTRY}")
    return decode(model, body)


def pictures_of(codec: str, payloads: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Those payloads, with their times, that belong to the pictures."""
    for time, payload in payloads:
        if codec != CODEC_ACTIVITY or not is_activity(payload):
            yield time, payload


def entries_of(codec: str, payloads: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Entry]]:
    """Activity entries with the event time of their record; raises FormatError."""
    for time, payload in payloads:
        if codec == CODEC_ACTIVITY and is_activity(payload):
            for entry in decode_activity(payload):
                yield time, entry
