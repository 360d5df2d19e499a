"""Loss and duplication, against a count that looks at every single number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.load.counting import Span, Stored, count
from agents.load.limit import CLOSE_ENOUGH, Search
from schemas.manifests import Missing

numbers = st.sets(st.integers(0, 79))


def _spans(found: list[int]) -> list[Span]:
    spans: list[Span] = []
    for number in sorted(found):
        if spans and spans[-1].end == number:
            spans[-1] = Span(spans[-1].first, number + 1)
        else:
            spans.append(Span(number, number + 1))
    return spans


@given(st.integers(0, 80), numbers, numbers, st.lists(st.tuples(st.integers(0, 79),
       st.integers(1, 9)), max_size=4))  # fmt: skip
def test_the_count_is_that_of_single_numbers(
    sent: int, absent: set[int], missing: set[int], again: list[tuple[int, int]]
) -> None:
    kept = [number for number in range(sent) if number not in absent]
    covered = _spans(kept)
    missing = missing & set(kept)
    more = [Span(first, min(first + size, sent)) for first, size in again if first < sent]
    times = [sum(one.first <= n < one.end for one in [*covered, *more]) for n in range(sent)]
    stored = Stored([*covered, *more], _spans(list(missing)), len(missing), sent)
    found = count("s", sent, stored)
    lost = {n for n in range(sent) if times[n] == 0} | missing
    assert found.lost == len(lost)
    assert found.duplicated == sum(max(0, one - 1) for one in times)
    assert found.unknown == 0
    listed = {n for span in found.ranges for n in range(span.first, span.end)}
    assert listed <= lost
    assert listed == lost or len(found.ranges) == 20
    assert found.good == (not lost and not found.duplicated)


def test_nothing_stored_is_all_lost() -> None:
    found = count("s", 7, Stored())
    assert (found.lost, found.ended, found.good) == (7, False, False)
    assert found.ranges == (Span(0, 7),)


def test_what_was_never_sent_is_told() -> None:
    found = count("s", 5, Stored([Span(0, 8)], next_seq=8))
    assert (found.lost, found.unknown, found.good) == (0, 3, False)


def test_losses_that_no_manifest_lists_count() -> None:
    """A session that is open has no manifest, and a manifest lists no more than a thousand."""
    chunks = [{"first_seq": 0, "next_seq": 10, "missing": 3}]
    found = count("s", 10, Stored.of(chunks, None, conflicts=1))
    assert (found.lost, found.ranges, found.conflicts) == (3, (), 1)
    assert Missing(first_seq=1, count=2).count == 2


@given(st.integers(1, 50), st.integers(1, 2000), st.integers(0, 3000))
def test_the_search_finds_the_limit(first: int, most: int, limit: int) -> None:
    search = Search(min(first, most), most)
    tries = 0
    while (sessions := search.next()) is not None:
        assert 1 <= sessions <= most
        search.tell(sessions, sessions <= limit)
        tries += 1
        assert tries < 40
    assert search.passed <= limit
    if search.broke is None:
        assert search.passed == most
    else:
        assert search.broke > limit
        near = search.broke <= search.passed * CLOSE_ENOUGH
        assert near or search.broke - search.passed <= 1
