"""Whatever is not exactly a bundle is a typed error."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import ustar
from schemas.bundle import (
    Bundle,
    BundleError,
    DamagedMember,
    DuplicateMember,
    MissingMember,
    NotABundle,
    TrailingData,
    TruncatedBundle,
    UnknownBundleVersion,
    UnknownMember,
    WrongOrder,
)
from schemas.bundle_readme import README
from schemas.errors import FormatError, Truncated, UnknownVersion
from schemas.verify import verify
from schemas.verify_chunk import MAX_CHUNK
from tests.schemas.bundle_scene import (
    ACCESS,
    BYTES,
    MADE,
    MEMBERS,
    packed,
    renamed,
    with_data,
)

# Strictness -----------------------------------------------------------------------------------


def _without(*names: str) -> list[tuple[str, bytes]]:
    return [(name, data) for name, data in MEMBERS if name not in names]


def _swap(first: int, second: int) -> list[tuple[str, bytes]]:
    members = list(MEMBERS)
    members[first], members[second] = members[second], members[first]
    return members


CASES: dict[str, tuple[Callable[[], bytes], type[BundleError]]] = {
    "nothing at all": (lambda: b"", NotABundle),
    "some other file": (lambda: b"%PDF-1.7\n" * 200, NotABundle),
    "another archive": (lambda: packed(_without("README.txt")), NotABundle),
    "cut inside a header": (lambda: BYTES[: BYTES.index(b"manifest.json") + 99], TruncatedBundle),
    "cut inside a chunk": (lambda: BYTES[: BYTES.index(b"LUCIDCHK") + 300], TruncatedBundle),
    "cut inside the end": (lambda: BYTES[:-512], TruncatedBundle),
    "bytes after the end": (lambda: BYTES + bytes(512), TrailingData),
    "bytes inside the end": (lambda: BYTES[:-1] + b"\x01", TrailingData),
    "an unknown member": (lambda: packed([*MEMBERS, ("notes.txt", b"")]), UnknownMember),
    "an unusual chunk name": (
        lambda: packed(renamed("chunks/00000000.chunk", "chunks/0.chunk")), UnknownMember,
    ),
    "a path out of the folder": (
        lambda: packed(renamed("key.age", "../../key.age")), UnknownMember,
    ),
    "documents swapped": (lambda: packed(_swap(1, 2)), WrongOrder),
    "chunks out of order": (lambda: packed(_swap(7, 8)), WrongOrder),
    "a chunk before a document": (lambda: packed(_swap(6, 7)), WrongOrder),
    "a document twice": (
        lambda: packed([*MEMBERS[:2], MEMBERS[1], *MEMBERS[2:]]), DuplicateMember,
    ),
    "a chunk twice": (lambda: packed([*MEMBERS, MEMBERS[7]]), DuplicateMember),
    "no manifest": (lambda: packed(_without("manifest.json")), MissingMember),
    "no checkpoint": (lambda: packed(_without("checkpoint.txt")), MissingMember),
    "no leaves": (lambda: packed(_without("leaves.txt")), MissingMember),
    "no recorder key": (lambda: packed(_without("recorder.vkey")), MissingMember),
    "a later version": (
        lambda: packed(with_data("README.txt", README.replace(b"bundle 1", b"bundle 3", 1))),
        UnknownBundleVersion,
    ),
    "other advice": (
        lambda: packed(with_data("README.txt", README.replace(b"tar", b"rat", 1))), DamagedMember,
    ),
    "leaves that are none": (lambda: packed(with_data("leaves.txt", b"leaf\n")), DamagedMember),
    "no leaf": (lambda: packed(with_data("leaves.txt", b"")), DamagedMember),
    "an unfinished leaf line": (
        lambda: packed(with_data("leaves.txt", b"00" * 32)), DamagedMember,
    ),
    "a key that is none": (
        lambda: packed(with_data("recorder.vkey", b"recorder\n")), DamagedMember,
    ),
    "a key with spaces": (
        lambda: packed(with_data("processor.vkey", b" " + dict(MEMBERS)["processor.vkey"])),
        DamagedMember,
    ),
    "a huge key": (lambda: packed(with_data("key.age", bytes(65 * 1024))), DamagedMember),
    "a chunk over the limit": (
        lambda: packed([*MEMBERS, ("chunks/00000099.chunk", bytes(MAX_CHUNK + 2))]),
        DamagedMember,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_a_bundle_has_its_own_error(case: str) -> None:
    make, error = CASES[case]
    with pytest.raises(error) as raised:
        Bundle(io.BytesIO(make()))
    assert type(raised.value) is error
    assert raised.value.exit_status == 65


def test_errors_are_also_those_of_every_format() -> None:
    assert issubclass(UnknownBundleVersion, UnknownVersion)
    assert issubclass(TruncatedBundle, Truncated)
    assert issubclass(BundleError, FormatError)


def test_a_file_that_shrinks_while_it_is_read_is_truncated() -> None:
    stream = io.BytesIO(BYTES)
    bundle = Bundle(stream)
    stream.truncate(len(BYTES) // 2)
    with pytest.raises(TruncatedBundle):
        bundle.chunk(len(MADE.chunks) - 1)
    assert bundle.chunk(99) is None


LINKS = {b"1": "hard link", b"2": "symbolic link", b"5": "folder", b"x": "pax", b"7": "no file"}


@pytest.mark.parametrize("kind", LINKS)
def test_links_folders_and_pax_headers_are_refused(kind: bytes) -> None:
    block = bytearray(ustar.header("key.age", 0))
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\x00 " % sum(block)
    with pytest.raises(ustar.InvalidMember, match=LINKS[kind]):
        ustar.read_header(bytes(block))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (slice(100, 108), b"0000755\x00"),
        (slice(136, 148), b"00000000000\x00"),
        (slice(124, 136), b"0000000001 \x00"),
        (slice(124, 136), b"00000000001 "),
        (slice(257, 263), b"ustar "),
        (slice(265, 269), b"root"),
        (slice(500, 501), b"\x01"),
        (slice(10, 11), b"\x01"),
    ],
    ids=["mode", "time", "size digits", "size end", "magic", "owner", "tail", "name"],
)
def test_a_header_is_the_one_way_or_refused(place: slice, value: bytes) -> None:
    block = bytearray(ustar.header("key.age", 1))
    block[place] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\x00 " % sum(block)
    with pytest.raises(ustar.InvalidMember):
        ustar.read_header(bytes(block))


def test_names_and_sizes_beyond_a_header_are_refused() -> None:
    with pytest.raises(ustar.InvalidMember):
        ustar.header("x" * 101, 1)
    with pytest.raises(ustar.InvalidMember):
        ustar.header("x", 8**11)


# Fuzzing --------------------------------------------------------------------------------------

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outcome(data: bytes) -> str:
    """A typed error's name, or what a full verification says."""
    try:
        return verify(Bundle(io.BytesIO(data)), ACCESS).outcome.value
    except FormatError as error:
        return error.code


@FUZZ
@given(st.binary(max_size=3000))
def test_any_bytes_give_a_value_or_a_typed_error(data: bytes) -> None:
    assert outcome(data) in ("NotABundle", "TruncatedBundle")
    assert outcome(BYTES[:512] + data) != "ok"


@FUZZ
@given(st.integers(0, len(BYTES) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(place: int, change: int) -> None:
    data = bytearray(BYTES)
    data[place] ^= change
    assert outcome(bytes(data)) != "ok"


@FUZZ
@given(st.integers(0, len(BYTES) - 1))
def test_no_cut_goes_unnoticed(size: int) -> None:
    assert outcome(BYTES[:size]) in ("NotABundle", "TruncatedBundle")


@FUZZ
@given(st.data())
def test_no_change_of_members_goes_unnoticed(data: st.DataObject) -> None:
    members = list(MEMBERS)
    at = data.draw(st.integers(0, len(members) - 1))
    other = data.draw(st.integers(0, len(members) - 1))
    how = data.draw(st.sampled_from(["swap content", "drop", "copy", "move", "add"]))
    if how == "swap content":
        (a, left), (b, right) = members[at], members[other]
        members[at], members[other] = (a, right), (b, left)
    elif how == "drop":
        del members[at]
    elif how == "copy":
        members.insert(other, members[at])
    elif how == "move":
        members.insert(other, members.pop(at))
    else:
        members.insert(other, (data.draw(st.sampled_from(["a", "chunks/00000009.chunk"])), b"x"))
    fine = members == MEMBERS or members == _without("processor.vkey")
    assert (outcome(packed(members)) == "ok") is fine
