"""The format pages name what the code has: no field, kind, type or header more or less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas import chunks, deadletters
from schemas.access import MAX_LIFETIME, MAX_SCOPE, Claims
from schemas.anchors import Anchor
from schemas.audit import AUDIT_TYPES
from schemas.canonical import Strict
from schemas.chunks import HEADER_SIZE, MAX_CIPHERTEXT, MAX_RAW, Sealing
from schemas.commands import RecorderCommand
from schemas.controls import Open
from schemas.erasure import Erasure
from schemas.events import EVENT_TYPES
from schemas.frames import MAX_PAYLOAD, Kind
from schemas.live import LiveState
from schemas.manifests import MAX_INTERRUPTIONS, MAX_RANGES, Manifest, Tally
from schemas.node_commands import NodeCommand
from schemas.node_credits import CreditStatement
from schemas.node_heartbeats import Beat, SlotWork
from schemas.node_registration import Answer
from schemas.node_signing import Purpose
from schemas.progress import SessionProgress
from schemas.receipts import RECEIPT_TYPES, AnchorReceipt
from schemas.retention import Hold

DOCS = Path(__file__).parents[2] / "docs"
WRITTEN_HERE = sorted(path.name for path in (DOCS / "formats").glob("*.md"))


def page(name: str) -> str:
    return (DOCS / "formats" / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """The part of a page under a heading, up to the next one of any level."""
    text = page(name)
    start = re.search(rf"^#+ {re.escape(heading)}.*\n", text, re.M)
    assert start is not None, f"{name} has no heading {heading}"
    return re.split(r"^#+ ", text[start.end() :], maxsplit=1, flags=re.M)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows, heads and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = {at for at, row in enumerate(cells) if set("".join(row)) <= {"-"}}
    return [row for at, row in enumerate(cells) if not {at, at + 1} & rules]


def members(text: str) -> set[str]:
    """What stands in backquotes in the first cells."""
    return {name for row in rows(text) for name in re.findall(r"`([a-z_]+)`", row[0])}


def test_the_header_table_adds_up_to_the_headers_layout() -> None:
    table = [(int(offset), int(size)) for offset, size, *_ in rows(section("chunk.md", "Header"))]
    sizes = re.findall(r"(\d*)([a-zA-Z])", chunks._LAYOUT.format)
    width = {"s": 1, "H": 2, "B": 1, "b": 1, "I": 4, "Q": 8, "q": 8}
    assert [size for _, size in table] == [int(n or 1) * width[code] for n, code in sizes]
    assert [offset for offset, _ in table] == [
        sum(size for _, size in table[:at]) for at in range(len(table))
    ]
    assert sum(table[-1]) == HEADER_SIZE
    assert f"header, {HEADER_SIZE} bytes" in page("chunk.md")


def test_the_limits_of_a_chunk_are_those_of_the_code() -> None:
    header = section("chunk.md", "Header")
    assert f"17 to {MAX_CIPHERTEXT:,}" in header
    assert f"1 to {MAX_RAW:,}" in header


def test_every_kind_stands_in_the_table_with_its_byte() -> None:
    table = {row[0].strip("`"): int(row[1]) for row in rows(section("frame-record.md", "Kinds"))}
    assert table == {kind.label: kind.value for kind in Kind}
    assert f"0 to {MAX_PAYLOAD:,} bytes" in page("frame-record.md")


def test_the_open_record_and_its_sealing_are_described() -> None:
    text = section("frame-record.md", "`open`, at most 256 KiB")
    assert members(text) == Open.model_fields.keys() | Sealing.model_fields.keys()


def test_the_manifest_and_its_tally_are_described() -> None:
    text = section("manifest.md", "Members")
    assert members(text) == Manifest.model_fields.keys() | Tally.model_fields.keys()
    assert f"at most {MAX_RANGES}" in text
    assert f"at most {MAX_INTERRUPTIONS}" in text


@pytest.mark.parametrize(
    ("name", "heading", "model"),
    [
        ("progress.md", "Progress, version 1", SessionProgress),
        ("events.md", "Commands: topic", RecorderCommand),
        ("events.md", "Anchors: topic", Anchor),
        ("erasure.md", "Record", Erasure),
        ("holds.md", "Legal hold, version 1", Hold),
        ("events.md", "Receipts: topic", AnchorReceipt),
        ("node-signing.md", "Answer", Answer),
        ("node-signing.md", "Heartbeat", Beat),
        ("node-signing.md", "Slot", SlotWork),
        ("node-signing.md", "Credit statement", CreditStatement),
        ("node-signing.md", "Commands: topic", NodeCommand),
    ],
)
def test_a_documents_members_are_described(name: str, heading: str, model: type[Strict]) -> None:
    assert members(section(name, heading)) == model.model_fields.keys()


def test_the_live_state_is_described() -> None:
    assert members(page("live.md")) == LiveState.model_fields.keys()


def test_the_claims_of_a_token_are_described() -> None:
    text = section("token.md", "Claims")
    assert members(text) == {field.alias or name for name, field in Claims.model_fields.items()}
    assert f"at most {MAX_LIFETIME:,} s" in text
    assert f"0 to {MAX_SCOPE} strings" in text


def test_the_type_of_receipts_is_named() -> None:
    assert [name for name in RECEIPT_TYPES if f"`{name}`" in page("events.md")] == [*RECEIPT_TYPES]


def test_every_purpose_of_a_nodes_signature_is_described() -> None:
    table = rows(section("node-signing.md", "Signed bytes"))
    assert [row[0].strip("`") for row in table] == [one.value for one in Purpose]


def test_every_event_type_is_described_with_its_members() -> None:
    table = {row[0].strip("`"): row for row in rows(section("events.md", "Types"))}
    assert table.keys() == EVENT_TYPES.keys()
    for name, model in EVENT_TYPES.items():
        described = set(re.findall(r"`([a-z_]+)`", table[name][3])) | {"session"}
        assert described == model.model_fields.keys(), name


def test_every_audit_type_is_described_with_its_members() -> None:
    table = {row[0].strip("`"): row for row in rows(section("audit.md", "Types"))}
    assert table.keys() == AUDIT_TYPES.keys()
    for name, model in AUDIT_TYPES.items():
        assert set(re.findall(r"`([a-z_]+)`", table[name][2])) == model.model_fields.keys(), name


def test_every_header_of_a_dead_letter_is_described_in_its_order() -> None:
    letter = deadletters.DeadLetter(
        service="storage", topic="t", partition=0, offset=0, code="C", reason="r", key=b"k",
        value=None, headers=(("x", b""),), timestamp=0, left_out=1, value_size=1,
        tries=2, first="t/0/0",
    )  # fmt: skip
    written = [name for name, _ in deadletters.to_kafka(letter)[1]]
    described = [row[0].strip("`") for row in rows(page("dead-letter.md"))]
    assert described == [*written[:-1], "h_NAME"]


@pytest.mark.parametrize("name", [*WRITTEN_HERE, "../security.md"])
def test_links_between_pages_lead_somewhere(name: str) -> None:
    missing = []
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page(name)):
        path = (DOCS / "formats" / name).parent / target if target else DOCS / "formats" / name
        others = path.name in ("frame-payload.md", "bundle.md")
        if not path.exists():
            missing += [] if others else [target]
        elif anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
            missing.append(f"{target}#{anchor}")
    assert missing == []


def anchors(text: str) -> set[str]:
    """The anchors that a heading gets on the usual forges."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
