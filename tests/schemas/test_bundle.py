"""The bundle format: written once, read strictly, and checked with nothing but coreutils."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

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
    NothingToBundle,
    TrailingData,
    TruncatedBundle,
    UnknownBundleVersion,
    UnknownMember,
    WrongOrder,
    write_bundle,
)
from schemas.bundle_readme import README
from schemas.chunks import HEADER_SIZE
from schemas.errors import FormatError, Truncated, UnknownVersion
from schemas.verdicts import Severity, Verdict
from schemas.verify import verify
from schemas.verify_chunk import MAX_CHUNK
from schemas.verify_documents import Access
from tests.factories import STORAGE, MadeSession, MemorySource, make_session, with_manifest

MADE = make_session(frames=14, seed=7)
DOCUMENTS = (
    "README.txt", "manifest.json", "checkpoint.txt", "leaves.txt", "key.age", "recorder.vkey",
    "processor.vkey",
)  # fmt: skip


def bundle_of(source: MemorySource) -> bytes:
    out = io.BytesIO()
    written = write_bundle(out, source)
    assert written.size == len(out.getvalue())
    return out.getvalue()


def source_of(made: MadeSession = MADE) -> MemorySource:
    return MemorySource.of(made, processor_key=str(made.processor.verifier))


BYTES = bundle_of(source_of())
MEMBERS: list[tuple[str, bytes]] = []
with tarfile.open(fileobj=io.BytesIO(BYTES)) as _archive:
    for _member in _archive:
        _file = _archive.extractfile(_member)
        assert _file is not None
        MEMBERS.append((_member.name, _file.read()))
ACCESS = Access(
    trusted=(MADE.processor.verifier, MADE.recorder.verifier),
    identities=(MADE.auditor_identity.secret,),
    demanded=True,
)


def packed(members: list[tuple[str, bytes]]) -> bytes:
    out = b"".join(
        ustar.header(name, len(data)) + data + ustar.padding(len(data)) for name, data in members
    )
    return out + ustar.ending(len(out))


def renamed(old: str, new: str) -> list[tuple[str, bytes]]:
    return [(new if name == old else name, data) for name, data in MEMBERS]


def with_data(name: str, data: bytes) -> list[tuple[str, bytes]]:
    return [(member, data if member == name else old) for member, old in MEMBERS]


def test_a_bundle_holds_the_session_and_verifies_offline() -> None:
    bundle = Bundle(io.BytesIO(BYTES))
    assert [bundle.chunk(i) for i in bundle.present()] == [chunk.data for chunk in MADE.chunks]
    assert bundle.manifest() == MADE.manifest_bytes
    assert bundle.wrapped_key() == MADE.wrapped
    report = verify(bundle, ACCESS)
    assert report.outcome is Severity.OK, report.findings
    assert report.unchecked == []
    assert report.totals.chunks_decrypted == len(MADE.chunks)


def test_the_same_session_gives_the_same_bytes() -> None:
    assert bundle_of(source_of()) == BYTES
    assert packed(MEMBERS) == BYTES


def test_members_stand_in_their_fixed_order() -> None:
    chunks = [f"chunks/{index:08d}.chunk" for index in range(len(MADE.chunks))]
    assert [name for name, _ in MEMBERS] == [*DOCUMENTS, *chunks]


def test_key_and_processor_key_may_be_absent() -> None:
    source = MemorySource.of(MADE, processor_key=None)
    source.wrapped = None
    bundle = Bundle(io.BytesIO(bundle_of(source)))
    assert bundle.wrapped_key() is None
    assert bundle.processor_key is None
    assert verify(bundle, Access()).outcome is Severity.INCOMPLETE


def test_a_session_without_manifest_has_no_bundle() -> None:
    source = source_of()
    source.manifest_data = None
    with pytest.raises(NothingToBundle, match="has no manifest"):
        write_bundle(io.BytesIO(), source)


def test_leaves_come_from_the_list_so_that_damage_can_be_placed() -> None:
    source = source_of()
    source.chunks[1] = source.chunks[1][:-1] + bytes([source.chunks[1][-1] ^ 1])
    report = verify(Bundle(io.BytesIO(bundle_of(source))), Access())
    assert [(entry.verdict, entry.chunk) for entry in report.findings] == [
        (Verdict.LEAF_MISMATCH, 1)
    ]


def test_without_a_list_the_leaves_are_those_of_the_chunks() -> None:
    source = source_of()
    source.listed = None
    assert bundle_of(source) == BYTES


def test_a_missing_chunk_is_told_and_found_again() -> None:
    source = source_of()
    del source.chunks[1]
    source.listed = None
    steps: list[tuple[int, int]] = []
    out = io.BytesIO()
    written = write_bundle(out, source, lambda done, total: steps.append((done, total)))
    assert written.missing == [1]
    assert written.chunks == len(MADE.chunks) - 1
    assert steps == [(done, len(MADE.chunks)) for done in range(1, len(MADE.chunks) + 1)]
    report = verify(Bundle(io.BytesIO(out.getvalue())), Access())
    assert (Verdict.MISSING_CHUNK, 1) in [(e.verdict, e.chunk) for e in report.findings]


def test_an_extra_chunk_comes_along_as_evidence() -> None:
    source = source_of()
    count = len(MADE.chunks)
    source.chunks[count] = source.chunks[0]
    report = verify(Bundle(io.BytesIO(bundle_of(source))), Access())
    assert [(e.verdict, e.chunk) for e in report.findings] == [(Verdict.EXTRA_CHUNK, count)]


def test_a_member_too_large_is_refused_by_the_writer() -> None:
    source = source_of()
    source.wrapped = bytes(1024**2)
    with pytest.raises(DamagedMember, match="more than a bundle takes"):
        write_bundle(io.BytesIO(), source)


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


# By other tools -------------------------------------------------------------------------------


def unpack(folder: Path) -> Path:
    (folder / "b.tar").write_bytes(BYTES)
    subprocess.run(["tar", "-xf", "../b.tar"], cwd=_made(folder / "x"), check=True)
    return folder / "x"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.skipif(not shutil.which("tar"), reason="needs tar")
def test_gnu_tar_reads_a_bundle_and_writes_the_same_bytes(tmp_path: Path) -> None:
    folder = unpack(tmp_path)
    made = subprocess.run(
        ["tar", "--format=ustar", "--owner=0", "--group=0", "--numeric-owner", "--mode=0644",
         f"--mtime=@{ustar.MODIFIED}", "-cf", "-", *[name for name, _ in MEMBERS]],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    assert made.stdout == BYTES


def _commands() -> list[str]:
    """The shell commands of README.txt, steps 1 to 3."""
    text = README.decode()
    steps = (r"equal:\n\n(.*?)\n\n2", r"nothing:\n\n(.*?)\n\n3", r"True:\n\n(.*?)\n\n4")
    found = re.search(".*?".join(steps), text, re.DOTALL)
    assert found
    return list(found.groups())


@pytest.mark.skipif(not shutil.which("tar"), reason="needs tar")
def test_the_commands_of_the_readme_check_a_bundle(tmp_path: Path) -> None:
    folder = unpack(tmp_path)

    def run(command: str) -> str:
        done = subprocess.run(
            ["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False
        )
        return done.stdout

    manifest, leaves, tree = _commands()
    first, second = run(manifest).split()
    assert first == second
    assert run(leaves) == ""
    assert run(tree) == "True\n"
    (folder / "manifest.json").write_bytes(b"{}")
    first, second = run(manifest).split()
    assert first != second
    (folder / "chunks/00000000.chunk").write_bytes(b"x")
    assert "differ" in run(leaves)
    (folder / "leaves.txt").write_text("00" * 32 + "\n")
    assert run(tree) == "False\n"


def test_a_bundle_of_many_chunks_is_read_without_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            Counting.taken += len(data)
            return data

    made = make_session(frames=40, per_chunk=2, payload_size=5000, seed=3)
    data = bundle_of(source_of(made))
    Counting.taken = 0
    bundle = Bundle(Counting(data))
    assert Counting.taken < len(data) / 2
    assert len(bundle.present()) == len(made.chunks)


def test_a_manifest_with_absurd_numbers_is_refused_by_the_writer() -> None:
    source = source_of(with_manifest(MADE, chunks=10**9))
    with pytest.raises(DamagedMember, match="counts 1000000000 chunks"):
        write_bundle(io.BytesIO(), source)


# Erased sessions ----------------------------------------------------------------------------


def erased_bundle() -> bytes:
    source = source_of()
    source.erase(MADE)
    return bundle_of(source)


def test_the_bundle_of_an_erased_session_is_version_2_and_verifies_offline() -> None:
    data = erased_bundle()
    bundle = Bundle(io.BytesIO(data))
    assert data[512:].startswith(b"Lucid bundle 2\n")
    trusted = (MADE.processor.verifier, MADE.recorder.verifier, STORAGE.verifier)
    report = verify(bundle, Access(trusted=trusted))
    assert report.outcome is Severity.ERASED
    assert report.exit_status == 0
    assert report.root == MADE.manifest.root
    assert bundle.wrapped_key() is None
    assert MADE.wrapped not in data
    for chunk in MADE.chunks:
        assert chunk.data[HEADER_SIZE:] not in data


def test_a_bundle_takes_no_content_that_is_still_there() -> None:
    source = source_of()
    source.erase(MADE)
    source.chunks, source.wrapped = {0: MADE.chunks[0].data}, MADE.wrapped
    assert bundle_of(source) == erased_bundle()


def test_records_and_headers_come_together_and_only_in_version_2() -> None:
    with tarfile.open(fileobj=io.BytesIO(erased_bundle())) as archive:
        members = [(one.name, archive.extractfile(one).read()) for one in archive]  # type: ignore[union-attr]
    without = [one for one in members if one[0] != "headers.bin"]
    with pytest.raises(MissingMember, match=r"headers\.bin"):
        Bundle(io.BytesIO(packed(without)))
    old = [(name, README if name == "README.txt" else data) for name, data in members]
    with pytest.raises(UnknownMember, match="erasure-content"):
        Bundle(io.BytesIO(packed(old)))


def test_without_a_manifest_there_is_no_bundle() -> None:
    source = source_of()
    source.erase(MADE, "metadata")
    with pytest.raises(NothingToBundle, match="erased"):
        bundle_of(source)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_the_readme_of_an_erased_session_says_how_to_check_it(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(erased_bundle())) as archive:
        archive.extractall(tmp_path, filter="data")
    readme = (tmp_path / "README.txt").read_text()
    script = readme[readme.index("python3 -c") : readme.index("3. The record")]
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "True", done.stderr
    lines = [line.strip() for line in readme.splitlines() if line.startswith(("  sha", "  sed"))]
    hashes = [
        subprocess.run(["bash", "-c", one], cwd=tmp_path, capture_output=True, check=True).stdout
        for one in lines
    ]
    assert hashes[0].strip() == hashes[1].strip()
