"""A second reader of what an erasure leaves, written from docs/formats/erasure.md alone."""

import hashlib
import re
import struct
from typing import Any

from nacl.exceptions import CryptoError

from tests.independent_reader import HEADER, Wrong, b64, canonical, need, signed_text, tree

DAY = 86_400_000_000


def check_erased(files: dict[str, bytes], processor: str, storage: str) -> list[dict[str, Any]]:
    """Checks what is left of a session; its records. Raises Wrong."""
    try:
        return _check(files, processor, storage)
    except (LookupError, ValueError, struct.error, CryptoError) as error:
        raise Wrong(f"{type(error).__name__}: {error}") from error


def _check(files: dict[str, bytes], processor: str, storage: str) -> list[dict[str, Any]]:
    need(storage.partition("+")[0].endswith("/storage"), "that is no storage's key")
    records = []
    for stage in ("content", "metadata"):
        note = files.get(f"erasure-{stage}.txt")
        if note is not None:
            first, _, text = signed_text(note.decode(), storage).partition("\n")
            need(first == "lucid/erasure/1", "that is no erasure record")
            records.append(canonical(text.encode()))
            need(records[-1]["stage"] == stage, "a record of another stage")
    need(records and records[0]["stage"] == "content", "the session was not erased")
    lines = files["leaves.txt"].decode().splitlines()
    need(all(re.fullmatch("[0-9a-f]{64}", line) for line in lines), "leaves.txt")
    root = tree([bytes.fromhex(line) for line in lines])
    for record in records:
        need(record["decided"] - record["ended"] >= record["keep_days"] * DAY, "erased too early")
        need(hashlib.sha256(files["leaves.txt"]).hexdigest() == record["leaves_hash"], "leaves")
        need((record["root"], record["chunks"]) == (root.hex(), len(lines)), "another root")
        digest = bytes.fromhex(record["manifest_hash"])
        text = f"lucid/session/{record['session']}\n{len(lines)}\n{b64(root)}"
        signed = signed_text(files["checkpoint.txt"].decode(), processor)
        need(signed == f"{text}\nmanifest {b64(digest)}", "another checkpoint")
    if len(records) == 1:
        _check_metadata(files, records[0])
    return records


def _check_metadata(files: dict[str, bytes], record: dict[str, Any]) -> None:
    """Manifest and headers, which the first stage leaves."""
    need(hashlib.sha256(files["manifest.json"]).hexdigest() == record["manifest_hash"], "manifest")
    need(hashlib.sha256(files["headers.bin"]).hexdigest() == record["headers_hash"], "headers")
    manifest, heads = (
        canonical(files["manifest.json"]),
        list(HEADER.iter_unpack(files["headers.bin"])),
    )
    need([head[9] for head in heads] == list(range(manifest["chunks"])), "a header is missing")
    need(all(head[8].hex() == record["session"].replace("-", "") for head in heads), "foreign")
    sealed = sum(HEADER.size + head[-1] for head in heads)
    need(sealed == manifest["tally"]["sealed_bytes"], "the tally does not add up")
