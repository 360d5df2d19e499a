"""The formats' pages are enough to read a recording: a reader that shares no code does so."""

from __future__ import annotations

import ast
import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage
import pytest

from tests import independent_activity, independent_erasure, independent_reader
from tests.independent_erasure import check_erased
from tests.independent_reader import Wrong, check

VECTORS = Path(__file__).parent / "vectors"
SESSIONS = ("closed", "abandoned", "activity")
AUDITOR = (VECTORS / "keys/auditor.age").read_text().splitlines()[1]
PROCESSOR = (VECTORS / "keys/processor.vkey").read_text().strip()
RECORDER = (VECTORS / "keys/recorder.vkey").read_text().strip()
DOCUMENTS = ("manifest.json", "checkpoint.txt", "key.age")
CHUNKS = [f"chunks/{index:08d}.chunk" for index in range(3)]


def load(name: str) -> dict[str, bytes]:
    """The files of a vector as a bundle would name them."""
    folder = VECTORS / name
    documents = {part: (folder / part).read_bytes() for part in DOCUMENTS}
    return documents | {part: (folder / part).read_bytes() for part in CHUNKS}


def expected(name: str) -> dict[str, Any]:
    return dict(json.loads((VECTORS / name / "expected.json").read_text()))


def test_the_reader_shares_no_code_with_lucid_and_fits_on_three_screens() -> None:
    source = Path(independent_reader.__file__).read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert not imported & {"schemas", "agents", "tests", ""}
    assert len(source.splitlines()) <= 150
    erasure = Path(independent_erasure.__file__).read_text()
    assert not re.search(r"(from|import) (schemas|agents)", erasure)


@pytest.mark.parametrize("name", SESSIONS)
def test_the_vectors_verify_and_decrypt_to_their_entries(name: str) -> None:
    wanted = [entry for entries in expected(name)["chunks"] for entry in entries]
    entries = check(load(name), PROCESSOR, AUDITOR)
    assert [[kind, seq, time, data.hex()] for kind, seq, time, data in entries] == wanted


@pytest.mark.parametrize("name", SESSIONS)
def test_the_processors_identity_opens_the_vectors_as_well(name: str) -> None:
    identity = (VECTORS / "keys/processor.age").read_text().splitlines()[1]
    assert check(load(name), PROCESSOR, identity) == check(load(name), PROCESSOR, AUDITOR)


@pytest.mark.parametrize("name", SESSIONS)
def test_the_vectors_verify_without_an_identity(name: str) -> None:
    assert check(load(name), PROCESSOR) == []


def test_the_activity_of_a_session_is_read_from_its_opened_entries() -> None:
    entries = check(load("activity"), PROCESSOR, AUDITOR)
    payloads = [data for kind, _, _, data in entries if kind == "frames"]
    found = [one for data in payloads for one in independent_activity.activity(data)]
    assert [name for name, _ in found[:5]] == [
        "watching", "display", "window", "window", "clipboard",
    ]  # fmt: skip
    assert found[0][1]["policy"]["keys"] == "strict"
    assert found[3][1]["title"] == "Lohn – März 2026.ods\\x1b[2J"
    assert found[-2][1]["keys"] == ["Shift_L", "Ä", "+", "Control+c", "Return"]
    source = Path(independent_activity.__file__).read_text()
    assert not re.search(r"(from|import) (schemas|agents)", source)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("identity", ["", AUDITOR])
@pytest.mark.parametrize("name", [*CHUNKS, *DOCUMENTS])
def test_a_flipped_bit_in_any_file_is_found(name: str, identity: str) -> None:
    files = load("closed")
    step = max(1, len(files[name]) // 97)
    for at in range(0, len(files[name]), step):
        with pytest.raises(Wrong):
            check(files | {name: flipped(files[name], at)}, PROCESSOR, identity)


def _swap(files: dict[str, bytes]) -> None:
    files[CHUNKS[0]], files[CHUNKS[1]] = files[CHUNKS[1]], files[CHUNKS[0]]


def _remove_first(files: dict[str, bytes]) -> None:
    del files[CHUNKS[0]]


def _remove_last(files: dict[str, bytes]) -> None:
    del files[CHUNKS[2]]


def _repeat(files: dict[str, bytes]) -> None:
    files[CHUNKS[1]] = files[CHUNKS[0]]


def _add(files: dict[str, bytes]) -> None:
    files["chunks/00000003.chunk"] = files[CHUNKS[2]]


def _foreign(files: dict[str, bytes]) -> None:
    files[CHUNKS[1]] = load("abandoned")[CHUNKS[1]]


def _cut_off(files: dict[str, bytes]) -> None:
    files[CHUNKS[1]] = files[CHUNKS[1]][:-1]


def _trail(files: dict[str, bytes]) -> None:
    files[CHUNKS[1]] += b"\x00"


def _empty(files: dict[str, bytes]) -> None:
    files[CHUNKS[1]] = b""


def _other_manifest(files: dict[str, bytes]) -> None:
    files["manifest.json"] = load("abandoned")["manifest.json"]


def _other_key(files: dict[str, bytes]) -> None:
    files["key.age"] = load("abandoned")["key.age"]


def _reformatted(files: dict[str, bytes]) -> None:
    files["manifest.json"] = json.dumps(json.loads(files["manifest.json"])).encode()


DAMAGES: list[tuple[Callable[[dict[str, bytes]], None], str]] = [
    (_swap, "out of its place"),
    (_remove_first, "KeyError"),
    (_remove_last, "KeyError"),
    (_repeat, "out of its place"),
    (_add, "too many"),
    (_foreign, "foreign"),
    (_cut_off, "another length"),
    (_trail, "another length"),
    (_empty, "cut off"),
    (_other_manifest, "foreign"),
    (_other_key, "key.age"),
    (_reformatted, "canonical"),
]


@pytest.mark.parametrize(("damage", "what"), DAMAGES, ids=lambda one: getattr(one, "__name__", ""))
def test_every_damage_to_the_files_is_found_and_named(
    damage: Callable[[dict[str, bytes]], None], what: str
) -> None:
    files = load("closed")
    damage(files)
    with pytest.raises(Wrong, match=what):
        check(files, PROCESSOR)


def test_a_stranger_cannot_decrypt() -> None:
    with pytest.raises(Wrong):
        check(load("closed"), PROCESSOR, str(pyrage.x25519.Identity.generate()))


def test_the_recorders_signature_is_no_checkpoint() -> None:
    with pytest.raises(Wrong, match="somebody else"):
        check(load("closed"), RECORDER)


def test_a_verifier_key_whose_id_is_not_its_own_is_refused() -> None:
    name, _, encoded = PROCESSOR.split("+", 2)
    with pytest.raises(Wrong, match="no verifier key"):
        check(load("closed"), f"{name}+00000000+{encoded}")


def test_signatures_of_others_beside_the_processors_are_passed_over() -> None:
    files = load("closed")
    witness = base64.b64encode(bytes(4 + 64)).decode()
    files["checkpoint.txt"] += f"— witness.example {witness}\n".encode()
    assert check(files, PROCESSOR) == []


# Erased sessions --------------------------------------------------------------------------------

STORAGE = (VECTORS / "keys/storage.vkey").read_text().strip()
LEFT = ("erasure-content.txt", "leaves.txt", "headers.bin", "manifest.json", "checkpoint.txt")
FORGOTTEN = ("erasure-content.txt", "erasure-metadata.txt", "leaves.txt", "checkpoint.txt")


def left(names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: (VECTORS / "erased" / name).read_bytes() for name in names}


def test_what_an_erasure_leaves_is_checked_by_the_page_alone() -> None:
    (content,) = check_erased(left(LEFT), PROCESSOR, STORAGE)
    assert content["session"] == expected("closed")["session"]
    assert content["root"] == expected("closed")["root"]
    both = check_erased(left(FORGOTTEN), PROCESSOR, STORAGE)
    assert [record["stage"] for record in both] == ["content", "metadata"]


@pytest.mark.parametrize("names", [LEFT, FORGOTTEN])
def test_no_changed_byte_of_what_is_left_goes_unnoticed(names: tuple[str, ...]) -> None:
    files = left(names)
    for name, data in files.items():
        for at in range(0, len(data), max(1, len(data) // 40)):
            changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            with pytest.raises(Wrong):
                check_erased({**files, name: changed}, PROCESSOR, STORAGE)
    with pytest.raises(Wrong):
        check_erased(files, PROCESSOR, PROCESSOR)
