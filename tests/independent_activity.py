"""A second reader of activity, written from the words of docs/formats/frame-payload.md alone:
nothing of Lucid is imported. `activity` takes payloads of a session of codec `screen/2`."""

import json
import re
import struct
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], bool]
UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


class Wrong(Exception):
    """What is wrong, in a few words."""


def need(holds: object, what: str) -> None:
    if not holds:
        raise Wrong(what)


def string(most: int) -> Check:
    return lambda v: isinstance(v, str) and len(v) <= most and not UNSHOWN.search(v)


def number(least: int, most: int = 2**53 - 1) -> Check:
    return lambda v: type(v) is int and least <= v <= most


def one_of(*values: str) -> Check:
    return lambda v: isinstance(v, str) and v in values


def listed(each: Check, most: int) -> Check:
    return lambda v: isinstance(v, list) and len(v) <= most and all(map(each, v))


def or_null(check: Check) -> Check:
    return lambda v: v is None or check(v)


def members(**checks: Check) -> Check:
    return lambda v: isinstance(v, dict) and v.keys() == checks.keys() and all(
        check(v[name]) for name, check in checks.items()
    )  # fmt: skip


def truth(value: Any) -> bool:
    return isinstance(value, bool)


def classes(value: Any) -> bool:
    names = re.findall(
        r"\w+", "letter digit symbol space edit move function modifier shortcut other"
    )
    return isinstance(value, dict) and value.keys() <= set(names) and all(
        map(number(1), value.values())
    )  # fmt: skip


text, name, count = string(300), string(100), number(0)
LEVELS = ("basic", "strict", "comprehensive")
policy = members(
    windows=truth, clipboard=one_of("off", "use", "details"), files=truth,
    keys=one_of("disabled", *LEVELS),
)  # fmt: skip
TYPES: dict[int, tuple[str, Check]] = {
    5: ("watching", members(policy=policy, unseen=listed(members(
        part=one_of("windows", "clipboard", "files", "keys"), why=text), 8))),
    6: ("window", members(title=text, program=name, instance=name, protected=truth, left_out=count,
                          via=one_of("manager", "focus", "pointer", "none"))),
    7: ("display", members(width=number(1, 65_535), height=number(1, 65_535))),
    8: ("clipboard", members(
        selection=one_of("CLIPBOARD", "PRIMARY"), owned=truth, program=name, changes=number(1),
        formats=or_null(listed(name, 32)), size=or_null(count))),
    9: ("drive", members(place=text, mounted=truth)),
    10: ("file", members(place=text, program=name, access=one_of("read", "write", "both"),
                         left_out=count)),
    11: ("keys", members(level=one_of(*LEVELS), span=count, count=number(1),
                         classes=or_null(classes), keys=or_null(listed(name, 256)))),
}  # fmt: skip


def activity(payload: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The entries of a payload, none of one that belongs to the pictures. Raises Wrong."""
    if payload[:1] == b"\x01":
        return []
    need(len(payload) >= 4, "a payload is cut off")
    version, flags, left = struct.unpack_from(">BBH", payload)
    need((version, flags) == (2, 0) and left, "that is no activity")
    entries, at = [], 4
    while left:
        need(len(payload) >= at + 5, "an entry is cut off")
        kind, size = struct.unpack_from(">BI", payload, at)
        body = payload[at + 5 : at + 5 + size]
        need(kind in TYPES and len(body) == size <= 16_384, "an entry is wrong")
        entries.append((TYPES[kind][0], _body(body, TYPES[kind][1])))
        at, left = at + 5 + size, left - 1
    need(at == len(payload), "something follows")
    return entries


def _body(body: bytes, check: Check) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Wrong("a body is no JSON") from error
    packed = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    need(packed.encode("utf-8", "replace") == body and check(value), "a body is wrong")
    if "level" in value:
        shown = (value["classes"] is not None, value["keys"] is not None)
        need(shown == (value["level"] == "strict", value["level"] == "comprehensive"), "a level")
        total = sum((value["classes"] or {"": value["count"]}).values())
        need(total == value["count"], "the classes do not add up")
        need(value["keys"] is None or len(value["keys"]) == min(256, value["count"]), "the keys")
    return dict(value)
