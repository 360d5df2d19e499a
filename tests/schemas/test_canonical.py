"""Canonical JSON is that of RFC 8785, whichever encoder writes it."""

from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from schemas.canonical import InvalidModel, _same, dumps, encode

TEXT = st.text(st.characters(exclude_categories=()))
LEAVES = st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.floats() | TEXT
VALUES = st.recursive(
    LEAVES, lambda one: st.lists(one) | st.dictionaries(TEXT, one), max_leaves=12
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(VALUES)
@example("".join(map(chr, range(0x100))) + "\u2028\u2029\ufeff\uffff\U0001f600")
@example({"\U0001f600": 1, "\ufb01": 2})  # by UTF-16 the first comes first
@example({"b": [], "a": {}, "": [True, None, -1, 0]})
@example([2**53 - 1, 1 - 2**53])
@example([2**53])
@example(["\ud800"])
@example({"\ud800": 1})
@example([1e21, 1.0, -0.0, float("nan")])
def test_it_is_what_the_library_writes(value: Any) -> None:
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        with pytest.raises(type(error)):
            dumps(value)
    else:
        assert dumps(value) == expected


def test_what_manifests_and_events_consist_of_takes_the_short_way() -> None:
    assert _same(
        {"session": "é", "chunks": 3, "gaps": [{"first": 0}], "abandoned": False, "x": None}
    )
    for other in (1.5, 2**53, {"é": 1}, {1: 2}, (1,), b"", [{"a": [0.5]}]):
        assert not _same(other)


class Number(BaseModel):
    value: int


def test_a_number_without_a_canonical_form_is_an_error() -> None:
    assert encode(Number(value=2**53 - 1)) == b'{"value":9007199254740991}'
    with pytest.raises(InvalidModel, match="Number has no canonical JSON"):
        encode(Number(value=2**53))
