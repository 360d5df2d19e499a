"""What Lucid changes in aiokafka 0.14, for all clients of the process, Faust's too.

    change_aiokafka()      done by kafka_options (agents/platform/tls.py), which every client of
                           Lucid's is made with, and by nobody else

fetched_records     header names that are no UTF-8 are read, with escapes; checksums of batches are
                    checked by the CPU's instruction
response_buffer     a connection receives into one buffer, which is used again
request_encoding    the pieces of a request are joined once

The first keeps consumers alive; the rest is for speed (docs/performance.md). What goes over the
wire is the same. They reach into what aiokafka does not publish, so that it is pinned to 0.14 in
pyproject.toml; each has tests that a release which does these things otherwise fails.
"""

from __future__ import annotations

from agents.platform.aiokafka_changes import fetched_records, request_encoding, response_buffer


def change_aiokafka() -> None:
    """Make the changes; those that are made already stay as they are."""
    fetched_records.use()
    response_buffer.use()
    request_encoding.use()
