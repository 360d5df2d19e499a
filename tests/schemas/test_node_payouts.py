"""Requests to pay: amounts as exact decimals, states, five retries, commands that come again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.canonical import encode
from schemas.errors import FormatError
from schemas.node_commands import NodeCommand, check_amount, read_node_command
from schemas.node_payouts import PayoutState, command_payout
from schemas.node_states import NodeRefused
from tests.node.factories import command, ids


def request(amount: str = "12.5") -> PayoutState:
    made, event = command_payout(None, command("payout_request", 1, node="desk7", amount=amount))
    assert event is not None
    assert (event.payout, event.amount, event.state) == (ids(1), amount, "pending")
    return made


def move(payout: PayoutState, action: str, number: int) -> PayoutState:
    order = command(f"payout_{action}", number, node="desk7", payout=payout.payout)
    after, event = command_payout(payout, order)
    assert event is not None
    assert event.state == after.state
    again, nothing = command_payout(after, order)
    assert (again, nothing) == (after, None)
    return after


@pytest.mark.parametrize("amount", ["0.000001", "1", "1000000", "999999.999999", "0.1", "10.05"])
def test_amounts_in_their_one_spelling(amount: str) -> None:
    assert request(amount).amount == amount


@pytest.mark.parametrize(
    "amount",
    ["0", "0.0000001", "1000000.000001", "1000001", "01", "1.", ".5", "1.50", "1e3", "-1", "+1",
     " 1", "1 ", "1,5", "١", "NaN", "", "1.0", "1" * 30],
)  # fmt: skip
def test_amounts_that_are_none(amount: str) -> None:
    with pytest.raises(ValueError):
        command("payout_request", node="desk7", amount=amount)


@given(st.integers(1, 10**12))
def test_every_millionth_up_to_a_million_has_one_spelling(millionths: int) -> None:
    whole, rest = divmod(millionths, 10**6)
    text = f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
    assert check_amount(text) == text


def test_the_way_of_a_payout_and_what_is_no_way() -> None:
    pending = request()
    processing = move(pending, "process", 2)
    done = move(processing, "complete", 3)
    failed = move(processing, "fail", 4)
    gone = move(failed, "cancel", 5)
    for state, wrong in (
        (pending, ["complete", "fail", "retry"]),
        (processing, ["process", "cancel", "retry"]),
        (done, ["process", "complete", "fail", "cancel", "retry"]),
        (gone, ["process", "complete", "fail", "cancel", "retry"]),
        (failed, ["process", "complete", "fail"]),
    ):
        for action in wrong:
            with pytest.raises(NodeRefused) as caught:
                move(state, action, 9)
            assert caught.value.cause == "BadTransition"


def test_at_most_five_retries() -> None:
    payout, number = request(), 10
    for expected in range(1, 6):
        payout = move(move(move(payout, "process", number), "fail", number + 1), "retry",
                      number + 2)  # fmt: skip
        number += 3
        assert (payout.retries, payout.state) == (expected, "pending")
    failed = move(move(payout, "process", 90), "fail", 91)
    with pytest.raises(NodeRefused) as caught:
        move(failed, "retry", 92)
    assert caught.value.cause == "TooManyRetries"
    assert move(failed, "cancel", 93).state == "cancelled"


def test_a_payout_belongs_to_its_node() -> None:
    order = command("payout_process", 2, node="desk8", payout=ids(1))
    for payout in (request(), None):
        with pytest.raises(NodeRefused, match="no payout"):
            command_payout(payout, order)


@pytest.mark.parametrize(
    ("action", "missing"),
    [("approve", "node"), ("pool_create", "pool"), ("pool_add", "pool"), ("maintain", "node"),
     ("payout_request", "node"), ("payout_retry", "node")],
)  # fmt: skip
def test_a_command_names_what_it_is_about(action: str, missing: str) -> None:
    with pytest.raises(FormatError, match=f"names no {missing}"):
        command(action)


def test_a_command_is_read_under_its_own_key_only() -> None:
    made = command("pool_add", pool="p", node="desk7")
    assert read_node_command(b"p", encode(made)) == made
    for key, data in ((b"desk7", encode(made)), (None, encode(made)), (b"p", b"{}"), (b"p", b"")):
        with pytest.raises(FormatError):
            read_node_command(key, data)
    assert isinstance(made, NodeCommand)
