"""A second reader of recordings, written from the words of docs/formats/ alone: nothing of
Lucid is imported. `check` takes a session's files, named as in an unpacked bundle."""

import base64
import hashlib
import hmac
import json
import re
import struct
from typing import Any
from uuid import UUID

import nacl.bindings as sodium
import pyrage
import zstandard
from nacl.exceptions import CryptoError

HEADER = struct.Struct(">8sHBBbBHI16sQQQQIIqq32s32s32s24sI")
FIELDS = re.findall(r"\w+", "magic version cipher compressor level window flags zstd session index"
    " first next missing records raw start end before after commitment nonce size")  # fmt: skip
ENTRY = struct.Struct(">BQqI")
KINDS = re.findall(r"\S+", "- open frames keepalive gap pause resume close abandon missing")
Entry = tuple[str, int, int, bytes]  # kind, sequence number, event time, payload


class Wrong(Exception):
    """What is wrong, in a few words."""


def need(holds: object, what: str) -> None:
    if not holds:
        raise Wrong(what)


def canonical(data: bytes) -> Any:
    """JSON whose member names are ASCII, in the form of RFC 8785."""
    value = json.loads(data)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    need(text.encode() == data, "the JSON is not canonical")
    return value


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(parts), "sha256")


def signed_text(note: str, verifier: str) -> str:
    """The text of a note, without its last newline, that the verifier key has signed."""
    name, key_id, encoded = verifier.split("+", 2)
    key = base64.b64decode(encoded)
    digest = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    need(len(key) == 33 and key[0] == 1 and digest.hex() == key_id, "that is no verifier key")
    body, _, tail = note.rpartition("\n\n")
    need(body and re.fullmatch(r"(— [^\s+]+ [\w+/]+=*\n)+", tail, re.A), "that is no note")
    for _, signer, blob in (line.split(" ") for line in tail.splitlines()):
        data = base64.b64decode(blob)
        if signer == name and data[:4] == digest and b64(data) == blob:
            sodium.crypto_sign_open(data[4:] + f"{body}\n".encode(), key[1:])
            return body
    raise Wrong("the note is signed by somebody else")


def tree(leaves: list[bytes]) -> bytes:
    """The root of RFC 6962 over leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + tree(leaves[:k]) + tree(leaves[k:])).digest()


def check(files: dict[str, bytes], processor: str, identity: str = "") -> list[Entry]:
    """Checks a session; its entries if an age identity is given. Raises Wrong."""
    try:
        return _check(files, processor, identity)
    except (LookupError, ValueError, struct.error, CryptoError, pyrage.DecryptError) as error:
        raise Wrong(f"{type(error).__name__}: {error}") from error


def _check(files: dict[str, bytes], processor: str, identity: str) -> list[Entry]:
    manifest = canonical(files["manifest.json"])
    tally, count = manifest["tally"], manifest["chunks"]
    heads: list[dict[str, Any]] = []
    chunks = [files[f"chunks/{index:08d}.chunk"] for index in range(count)]
    need(sum(name.endswith(".chunk") for name in files) == count, "there are too many chunks")
    for index, data in enumerate(chunks):
        need(len(data) > HEADER.size, "a chunk is cut off")
        head = dict(zip(FIELDS, HEADER.unpack_from(data), strict=True))
        need(list(head.values())[:4] == [b"LUCIDCHK", 1, 1, 1], "that is no chunk of version 1")
        need(len(data) == HEADER.size + head["size"], "a chunk has another length than it says")
        need(str(UUID(bytes=head["session"])) == manifest["session"], "a chunk is foreign")
        need(head["index"] == index, "a chunk is out of its place")
        need(head["flags"] == (index == count - 1), "the end is out of its place")
        need(head["next"] - head["first"] == head["records"] + head["missing"], "a count")
        start = hashlib.sha256(b"lucid/chain/1" + head["session"]).digest()
        before = (heads[-1]["next"], heads[-1]["after"]) if heads else (0, start)
        need((head["first"], head["before"]) == before, "a chunk does not go on")
        need(head["commitment"].hex() == manifest["key_commitment"], "a chunk has another key")
        heads.append(head)
    root = tree([hashlib.sha256(b"\x00" + data).digest() for data in chunks])
    digest = hashlib.sha256(files["manifest.json"]).digest()
    text = f"lucid/session/{manifest['session']}\n{count}\n{b64(root)}\nmanifest {b64(digest)}"
    need(signed_text(files["checkpoint.txt"].decode(), processor) == text, "another checkpoint")
    need(root.hex() == manifest["root"] and manifest["version"] == 1, "another root or version")
    sums = [sum(head[name] for head in heads) for name in ("missing", "raw", "size")]
    told = [tally["missing"], tally["raw_bytes"], tally["sealed_bytes"] - count * HEADER.size]
    need([*sums, heads[-1]["next"]] == [*told, manifest["next_seq"]], "the tally does not add up")
    need(hashlib.sha256(files["key.age"]).hexdigest() == manifest["wrapped_key_hash"], "key.age")
    if not identity:
        return []
    data_key = pyrage.decrypt(files["key.age"], [pyrage.x25519.Identity.from_str(identity)])
    prk = mac(heads[0]["session"], data_key)
    keys = {name: mac(prk, f"lucid/1 {name}\x01".encode()) for name in ("seal", "nonce", "chain")}
    need(mac(prk, b"lucid/1 commitment\x01") == heads[0]["commitment"], "key.age: another key")
    return [entry for data, head in zip(chunks, heads, strict=True)
            for entry in _open(data, head, keys, manifest)]  # fmt: skip


def _open(data: bytes, head: dict[str, Any], keys: dict[str, bytes], manifest: Any) -> list[Entry]:
    packed, nonce = data[: HEADER.size], head["nonce"]
    zipped = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
        data[HEADER.size :], packed, nonce, keys["seal"]
    )
    need(mac(keys["nonce"], packed[:188], bytes(24), packed[212:], zipped)[:24] == nonce, "nonce")
    need(zstandard.frame_content_size(zipped) == head["raw"] <= 2**24, "the size of a chunk")
    plain = zstandard.ZstdDecompressor().decompress(zipped, allow_extra_data=False)
    chain, seq, at, entries = head["before"], head["first"], 0, []
    while at < len(plain):
        kind, number, time, length = ENTRY.unpack_from(plain, at)
        entry, payload = plain[at : at + 21], plain[at + 21 : at + 21 + length]
        need(number == seq and len(payload) == length and 0 < kind < 10, "an entry is wrong")
        if KINDS[kind] in ("keepalive", "close"):
            said = canonical(payload)
            wanted = f"lucid/capture/1\n{manifest['session']}\n{seq}\n{b64(chain)}"
            wanted += f"\nclosed {said['reason']}" if KINDS[kind] == "close" else ""
            need(signed_text(said["note"], manifest["recorder"]) == wanted, "a commitment")
        if KINDS[kind] == "missing":
            seq, chain = seq + int.from_bytes(payload[:8], "big"), payload[8:]
        elif KINDS[kind] != "abandon":
            inner = mac(keys["chain"], entry, payload)
            seq, chain = seq + 1, hashlib.sha256(b"\x02" + chain + inner).digest()
        entries.append((KINDS[kind], number, time, payload))
        at += 21 + length
    need((seq, chain) == (head["next"], head["after"]), "a chunk holds something else")
    return entries
