"""Chains of audit entries: whatever is done to a topic that has some is found, and named."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.audit import (
    AuditEvent,
    ChainStarted,
    KafkaRecord,
    put_in_chain,
)
from schemas.audit_chain import (
    MOST,
    NOTHING,
    ChainCheck,
    Fault,
    Place,
    chain_started,
    entry_hash,
    new_chain,
    read_link,
)
from schemas.audit_trail import Expiry, Known
from schemas.envelope import InvalidEvent
from tests.schemas.audit_chain_scene import (
    CHAIN,
    OTHER,
    SOURCE,
    YEAR,
    altered,
    chain,
    check,
    event,
    faults,
    hash_of,
    state_of,
)
from tests.schemas.test_audit_vectors import FOLDER, records

# The hash -------------------------------------------------------------------------------------


def test_the_hash_is_that_of_the_event_in_the_json_format_of_cloudevents() -> None:
    expected = (FOLDER / "hashes.txt").read_text().split()
    previous = "0" * 64
    for number, (_, headers, value) in enumerate(records("chain.jsonl")):
        texts = {name.removeprefix("ce_"): text.decode() for name, text in headers}
        texts["datacontenttype"] = texts.pop("content-type")
        document = {**texts, "data": json.loads(value)}
        # The members are ASCII and the numbers integers: sorted like this is RFC 8785.
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == expected[number]
        assert (texts["chainseq"], texts["chainprev"]) == (str(number), previous)
        previous = expected[number]
    assert number == len(expected) - 1 == 10


NAMES = st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True)
LEAVES = st.none() | st.text() | st.integers(-(2**53) + 1, 2**53 - 1)


@given(st.dictionaries(NAMES, st.text(), max_size=9), st.recursive(LEAVES, st.lists))
def test_the_hash_is_over_the_canonical_form_whatever_the_texts_are(
    attributes: dict[str, str], data: object
) -> None:
    attributes.pop("data", None)
    whole = rfc8785.dumps({**attributes, "data": data})  # type: ignore[dict-item]
    found = entry_hash(attributes, rfc8785.dumps(data))  # type: ignore[arg-type]
    assert found == hashlib.sha256(whole).digest()


def test_the_hash_does_not_depend_on_how_kafka_packs_a_record() -> None:
    _, headers, value = chain(2)[1]
    link = read_link(headers, value)
    assert link == read_link([*reversed(headers), ("lucid-mirror", b"x")], value)
    assert link is not None
    assert (link.place.number, link.source) == (1, SOURCE)


def test_a_type_that_nobody_knows_here_has_its_place_all_the_same() -> None:
    record = altered(chain(2)[1], "ce_type", b"lucid.audit.of_the_future.v9")
    with pytest.raises(InvalidEvent, match="not known here"):
        AuditEvent.from_kafka(*record)
    link = read_link(record[1], record[2])
    assert link is not None
    assert link.type == "lucid.audit.of_the_future.v9"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ce_chainid", None), ("ce_chainseq", None), ("ce_chainprev", None),
        ("ce_chainid", b"cli"), ("ce_chainid", b"cli/1"), ("ce_chainid", b"CLI/" + b"0" * 36),
        ("ce_chainseq", b"01"), ("ce_chainseq", b"-1"), ("ce_chainseq", b"1" * 17),
        ("ce_chainprev", b"0" * 63), ("ce_chainprev", b"0" * 62 + b"AA"),
        ("ce_source", None), ("ce_id", b"\xff"),
    ],
)  # fmt: skip
def test_half_a_place_or_one_in_another_form_is_refused(header: str, value: bytes | None) -> None:
    _, headers, data = altered(chain(2)[1], header, value)
    with pytest.raises(InvalidEvent):
        read_link(headers, data)


@pytest.mark.parametrize(
    "value", [None, b"", b"{ }", b'{"a":1,"a":1}', b'{"a":1e99}', b"\xff", b"[" * 100_000]
)
def test_data_that_is_not_canonical_has_no_hash(value: bytes | None) -> None:
    with pytest.raises(InvalidEvent, match="canonical"):
        read_link(chain(1)[0][1], value)


@pytest.mark.parametrize("header", [("ce_data", b"1"), ("ce_id", b"2"), ("ce_Type", b"t")])
def test_headers_that_could_mean_two_things_are_refused(header: tuple[str, bytes]) -> None:
    _, headers, value = chain(1)[0]
    with pytest.raises(InvalidEvent, match="repeats"):
        read_link([*headers, header], value)


def test_the_id_of_a_chain_says_whose_it_is_and_when_it_began() -> None:
    made = new_chain("cli")
    assert made.startswith("cli/")
    now = datetime.now(UTC).timestamp() * 1e6
    assert abs(chain_started(made) - now) < 60e6
    with pytest.raises(InvalidEvent, match="service"):
        new_chain("No Service")


# What is done to a chain ------------------------------------------------------------------------


def test_a_whole_chain_is_in_order_and_confirmed() -> None:
    entries = chain(5)
    report = check(entries, state_of(entries))
    assert report.ok
    [found] = report.chains
    assert (found.entries, found.first, found.last, found.confirmed) == (5, 0, 4, ["the state"])
    assert (found.from_time, found.to_time) == ("2026-01-01T00:00:00Z", "2026-01-01T00:00:04Z")


def both(first: int, second: int) -> list[KafkaRecord]:
    """Two writers' chains, one entry of each in turn as long as there are."""
    one, other = chain(first), chain(second, OTHER)
    mixed = [record for pair in zip(one, other, strict=False) for record in pair]
    return [*mixed, *one[second:], *other[first:]]


lengths = st.integers(1, 12)


@given(lengths, lengths, st.data())
@settings(deadline=None, max_examples=150)
def test_any_removal_is_found(first: int, second: int, data: st.DataObject) -> None:
    topic = both(first, second)
    known = state_of(chain(first)), state_of(chain(second, OTHER), OTHER)
    assert check(topic, *known).ok
    gone = data.draw(st.sets(st.integers(0, len(topic) - 1), min_size=1))
    left = [record for offset, record in enumerate(topic) if offset not in gone]
    assert faults(check(left, *known)) & {Fault.MISSING, Fault.TAIL}


@given(st.integers(2, 12), st.data())
@settings(deadline=None, max_examples=150)
def test_without_a_state_all_but_a_removed_end_is_found(length: int, data: st.DataObject) -> None:
    entries = chain(length)
    gone = data.draw(st.sets(st.integers(0, length - 1), min_size=1))
    left = [record for number, record in enumerate(entries) if number not in gone]
    at_the_end = gone == set(range(length - len(gone), length))
    assert faults(check(left)) == (set() if at_the_end else {Fault.MISSING})


@given(st.integers(2, 12), lengths, st.data())
@settings(deadline=None, max_examples=150)
def test_any_swap_within_a_chain_is_found(first: int, second: int, data: st.DataObject) -> None:
    topic = both(first, second)
    mine = [offset for offset, record in enumerate(topic) if record in chain(first)]
    low, high = sorted(data.draw(st.sets(st.sampled_from(mine), min_size=2, max_size=2)))
    topic[low], topic[high] = topic[high], topic[low]
    assert Fault.REORDERED in faults(check(topic))


@given(lengths, st.data())
@settings(deadline=None, max_examples=200)
def test_any_change_is_found(length: int, data: st.DataObject) -> None:
    entries = chain(length)
    at = data.draw(st.integers(0, length - 1))
    key, headers, value = entries[at]
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from([name for name, _ in headers]))
        old = dict(headers)[name]
        texts = st.text(max_size=70).map(str.encode).filter(lambda text: text != old)
        changed = altered(entries[at], name, data.draw(st.none() | texts))
    else:
        new = data.draw(st.sampled_from([b"{}", b"null", b'{"events":7}', value + b" "]))
        changed = key, headers, new
    topic = [*entries[:at], changed, *entries[at + 1 :]]
    assert not check(topic, state_of(entries)).ok


@given(st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=150)
def test_any_insertion_is_found(length: int, data: st.DataObject) -> None:
    entries = chain(length)
    after = data.draw(st.integers(0, length - 1))
    number = data.draw(st.integers(0, length + 2))
    previous = hash_of(entries[number - 1]) if 0 < number <= length else NOTHING
    forged, _ = next(put_in_chain([event(77)], Place(CHAIN, number, previous)))
    topic = [*entries[: after + 1], forged, *entries[after + 1 :]]
    assert not check(topic, state_of(entries)).ok


@given(st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=150)
def test_the_same_entries_again_are_one_act(length: int, data: st.DataObject) -> None:
    """As a writer sends them that does not know what of its last entries has arrived."""
    entries = chain(length)
    batch = data.draw(st.integers(0, length - 1))
    arrived = sorted(data.draw(st.sets(st.integers(batch, length - 1))))
    topic = [*entries[:batch], *(entries[number] for number in arrived), *entries[batch:]]
    report = check(topic, state_of(entries))
    assert report.ok, faults(report)
    assert report.chains[0].entries == length
    assert report.chains[0].repeated == len(arrived)


def test_an_entry_that_comes_late_is_out_of_order_unless_all_behind_it_come_again() -> None:
    entries = chain(5)
    late = [*entries[:2], entries[3], entries[4], entries[2]]
    assert faults(check(late)) == {Fault.REORDERED}
    assert faults(check([*late, entries[3]])) == {Fault.REORDERED}
    assert check([*late, entries[3], entries[4]]).ok


def test_what_was_removed_is_named_and_what_follows_is_still_checked() -> None:
    entries = chain(8)
    topic = [*entries[:2], *entries[4:6], altered(entries[6], "ce_authid", b"eve"), entries[7]]
    [found] = check(topic).chains
    assert {(one.fault, one.first, one.last) for one in found.findings} == {
        (Fault.MISSING, 2, 3), (Fault.BROKEN, 7, 7),
    }  # fmt: skip


def test_a_gap_that_is_filled_by_another_entry_is_a_broken_link() -> None:
    entries = chain(6)
    forged, _ = next(put_in_chain([event(77)], Place(CHAIN, 3, hash_of(entries[2]))))
    topic = [*entries[:3], entries[4], entries[5], forged]
    assert faults(check(topic)) == {Fault.BROKEN, Fault.REORDERED}


def test_a_chain_begins_with_its_start_and_only_there() -> None:
    act, started = event(0), event(1, ChainStarted(reason="lost", former=CHAIN))
    [(first, hashed)] = put_in_chain([act], Place(CHAIN, 0))
    [(second, _)] = put_in_chain([started], Place(CHAIN, 1, hashed))
    [found] = check([first, second]).chains
    assert [(one.fault, one.first) for one in found.findings] == [
        (Fault.START, 0), (Fault.START, 1),
    ]  # fmt: skip
    [(odd, _)] = put_in_chain([started], Place(CHAIN, 0, b"\x01" * 32))
    assert faults(check([odd])) == {Fault.START}


def test_a_rewritten_chain_is_seen_by_who_knows_its_head_and_by_nobody_else() -> None:
    entries = chain(4)
    acts = [event(0, ChainStarted(reason="first", former=None)), event(7), event(8), event(9)]
    topic = [record for record, _ in put_in_chain(acts, Place(CHAIN, 0))]
    assert check(topic).ok
    assert faults(check(topic, state_of(entries))) == {Fault.HEAD}
    assert check(topic, state_of(entries)).chains[0].confirmed == []


def test_an_entry_more_than_was_written_is_seen_by_the_state() -> None:
    entries = chain(4)
    assert faults(check(entries, state_of(entries[:3]))) == {Fault.AHEAD}


def test_entries_on_their_way_may_be_there_or_not_but_not_be_others() -> None:
    entries = chain(4)
    known = Known(CHAIN, "the state", {1: hash_of(entries[1])},
                  {2: hash_of(entries[2]), 3: hash_of(entries[3])}, most=4)  # fmt: skip
    for there in (2, 3, 4):
        assert check(entries[:there], known).ok
    assert faults(check(entries[:1], known)) == {Fault.TAIL}
    forged, _ = next(put_in_chain([event(77)], Place(CHAIN, 2, hash_of(entries[1]))))
    assert faults(check([*entries[:2], forged], known)) == {Fault.HEAD}


# Expiry and what is in no chain ----------------------------------------------------------------


def test_what_retention_may_have_taken_is_stated_and_no_error() -> None:
    entries = chain(6)
    late = chain_started(CHAIN) + YEAR
    report = check(entries[2:], state_of(entries), expiry=Expiry(late, trimmed=True))
    assert report.ok
    [found] = report.chains
    assert (found.expired, found.first, found.last, found.entries) == (2, 2, 5, 4)


@pytest.mark.parametrize(
    "expiry",
    [None, Expiry(chain_started(CHAIN) + YEAR, trimmed=False), Expiry(0, trimmed=True)],
    ids=["kept forever", "the topic still has its first record", "the chain is too young"],
)
def test_a_start_that_cannot_have_expired_is_missing(expiry: Expiry | None) -> None:
    [found] = check(chain(6)[2:], expiry=expiry).chains
    assert [(one.fault, one.first, one.last) for one in found.findings] == [(Fault.MISSING, 0, 1)]


def test_a_chain_of_which_nothing_is_left_is_expired_only_if_its_newest_entry_is() -> None:
    entries, late = chain(3), chain_started(CHAIN) + YEAR
    state = state_of(entries)
    for written, expected in ((late - 1, set()), (late + 1, {Fault.TAIL}), (None, {Fault.TAIL})):
        known = Known(CHAIN, state.by, state.hashes, most=3, written=written)
        assert faults(check([], known, expiry=Expiry(late, trimmed=True))) == expected


def test_entries_from_before_the_chain_are_counted_and_are_no_error() -> None:
    old = [event(number).to_kafka() for number in range(3)]
    report = check([*old, *chain(2)])
    assert report.ok
    assert (report.unchained, report.records) == (3, 5)


def test_an_entry_without_a_chain_whose_source_has_one_is_an_error() -> None:
    others = event(8, source="lucid/cli/elsewhere").to_kafka()
    report = check([*chain(2), others, event(9).to_kafka()])
    assert [(one.fault, one.first) for one in report.findings] == [(Fault.UNCHAINED, 3)]
    stripped = event(1).to_kafka()
    assert faults(check([chain(3)[0], stripped, chain(3)[2]])) == {Fault.MISSING, Fault.UNCHAINED}


def test_a_record_that_is_no_event_is_named_by_its_offset() -> None:
    report = check([*chain(2), (b"k", [], b"noise")])
    assert [(one.fault, one.first) for one in report.findings] == [(Fault.UNREADABLE, 2)]


def test_findings_are_bounded_whatever_is_on_the_topic() -> None:
    noise: KafkaRecord = (b"k", [], b"noise")
    assert len(check([noise] * (MOST + 5)).findings) == MOST
    backwards = ChainCheck(CHAIN)
    for _, headers, value in reversed(chain(MOST + 50)):
        link = read_link(headers, value)
        assert link is not None
        backwards.add(link)
    assert len(backwards.findings()) == MOST + 49
    assert backwards.gaps() == []
    unordered = ChainCheck(CHAIN, ordered=False)
    for _, headers, value in reversed(chain(5)):
        link = read_link(headers, value)
        assert link is not None
        unordered.add(link)
    assert unordered.findings() == []
    assert [unordered.hash_of(number) for number in (4, 5)] == [hash_of(chain(5)[4]), None]


def test_a_forged_number_far_ahead_takes_no_memory() -> None:
    far, _ = next(put_in_chain([event(77)], Place(CHAIN, 10**15)))
    [found] = check([*chain(2), far]).chains
    assert [(one.fault, one.first, one.last) for one in found.findings] == [
        (Fault.MISSING, 2, 10**15 - 1)
    ]
