"""A bundle holds a session, whole or erased, and is checked offline."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from schemas import ustar
from schemas.bundle import (
    Bundle,
    DamagedMember,
    MissingMember,
    NothingToBundle,
    UnknownMember,
    write_bundle,
)
from schemas.bundle_readme import README
from schemas.chunks import HEADER_SIZE
from schemas.verdicts import Severity, Verdict
from schemas.verify import verify
from schemas.verify_documents import Access
from tests.factories import STORAGE, make_session, with_manifest
from tests.memory_source import MemorySource
from tests.schemas.bundle_scene import (
    ACCESS,
    BYTES,
    DOCUMENTS,
    MADE,
    MEMBERS,
    bundle_of,
    packed,
    source_of,
)


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
