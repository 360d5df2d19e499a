"""README.txt of every bundle: how to check one without Lucid. Fixed for a bundle's version."""

from __future__ import annotations

VERSION = 1
ERASED_VERSION = 2
"""Of the bundle of an erased session, which has records and headers in the place of content."""

README = rf"""Lucid bundle {VERSION}

This archive holds one recorded remote-desktop session and its proof.

  manifest.json      what the session turned out to be (canonical JSON, RFC 8785)
  checkpoint.txt     the processor's signature over it (C2SP signed note, tlog-checkpoint)
  leaves.txt         one line for each chunk: its leaf hash (RFC 6962), in hex
  key.age            the session's key, encrypted to the recipients in the manifest (age)
  recorder.vkey      verifier key of the recorder
  processor.vkey     verifier key of the processor; to trust it is your own decision
  chunks/            the recording: compressed, encrypted, in order

key.age and processor.vkey may be absent.


With Lucid: no server, no settings and no network are needed.

  lucid verify FILE                              what can be checked without any key
  lucid verify FILE --identity KEY --trust VKEY  everything; KEY is an age identity file
  lucid export FILE out.mp4 --identity KEY       look at it


Without Lucid: unpack with tar, then, in that folder,

1. The manifest is the one that was signed. These two lines are equal:

  sha256sum manifest.json | cut -c1-64
  sed -n 's/^manifest //p' checkpoint.txt | base64 -d | od -An -v -tx1 | tr -d ' \n'; echo

2. The chunks are those of leaves.txt. This prints nothing:

  for f in chunks/*.chunk; do
    {{ printf '\000'; cat "$f"; }} | sha256sum | cut -c1-64
  done | cmp - leaves.txt

3. The leaves are those that were signed. This prints True:

python3 -c '
import base64, hashlib
def root(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:k]) + root(leaves[k:])).digest()
leaves = [bytes.fromhex(line) for line in open("leaves.txt")]
note = open("checkpoint.txt", encoding="utf-8").read().split("\n")
print(int(note[1]) == len(leaves) and base64.b64decode(note[2]) == root(leaves))
'

4. The checkpoint is signed by a processor that you trust. Any verifier of C2SP signed notes
   (c2sp.org/signed-note) checks checkpoint.txt against the verifier key that you were given
   by someone you trust; the one in this archive proves nothing by itself.

5. You can read it. sha256sum key.age is wrapped_key_hash in the manifest, and

  age -d -i KEY key.age | wc -c

   says 32. How chunks are encrypted: docs/formats/chunk.md of Lucid.
""".encode()

ERASED_README = rf"""Lucid bundle {ERASED_VERSION}

This archive holds the proof of a recorded remote-desktop session whose content was erased.

  manifest.json         what the session turned out to be (canonical JSON, RFC 8785)
  checkpoint.txt        the processor's signature over it (C2SP signed note, tlog-checkpoint)
  leaves.txt            one line for each chunk that there was: its leaf hash (RFC 6962), in hex
  recorder.vkey         verifier key of the recorder
  processor.vkey        verifier key of the processor; to trust it is your own decision
  erasure-content.txt   who erased it, when and under which policy (C2SP signed note)
  headers.bin           the headers of the chunks, 216 bytes each

processor.vkey may be absent. The session's key was destroyed: nobody can read the content.


With Lucid: no server, no settings and no network are needed.

  lucid verify FILE --trust VKEY


Without Lucid: unpack with tar, then, in that folder,

1. The manifest is the one that was signed. These two lines are equal:

  sha256sum manifest.json | cut -c1-64
  sed -n 's/^manifest //p' checkpoint.txt | base64 -d | od -An -v -tx1 | tr -d ' \n'; echo

2. The leaves are those that were signed. This prints True:

python3 -c '
import base64, hashlib
def root(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:k]) + root(leaves[k:])).digest()
leaves = [bytes.fromhex(line) for line in open("leaves.txt")]
note = open("checkpoint.txt", encoding="utf-8").read().split("\n")
print(int(note[1]) == len(leaves) and base64.b64decode(note[2]) == root(leaves))
'

3. The record names what is left. sha256sum of leaves.txt and of headers.bin are leaves_hash and
   headers_hash in the second line of erasure-content.txt, that of manifest.json is manifest_hash.

4. Checkpoint and record are signed by a processor and a storage that you trust. Any verifier of
   C2SP signed notes (c2sp.org/signed-note) checks both against the verifier keys that you were
   given by someone you trust.
""".encode()
