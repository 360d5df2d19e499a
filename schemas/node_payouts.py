"""Requests to pay: their states, and nothing else. Pure. Nothing in Lucid pays.

    pending ─▶ processing ─▶ completed
       │            └─▶ failed ─▶ pending       by retry, at most 5 times
       └─▶ cancelled ◀─┘

A payment system outside reads `lucid.node.payout_changed` and tells by commands how far it is.
"""

from __future__ import annotations

from pydantic import Field

from schemas.canonical import Strict
from schemas.node_base import Amount, Id, NodeId
from schemas.node_commands import Action, AmountText, NodeCommand
from schemas.node_events import PayoutChanged, PayoutStatus
from schemas.node_states import NodeRefused

MAX_RETRIES = 5
MOVES: dict[Action, tuple[frozenset[PayoutStatus], PayoutStatus]] = {
    "payout_process": (frozenset({"pending"}), "processing"),
    "payout_complete": (frozenset({"processing"}), "completed"),
    "payout_fail": (frozenset({"processing"}), "failed"),
    "payout_cancel": (frozenset({"pending", "failed"}), "cancelled"),
    "payout_retry": (frozenset({"failed"}), "pending"),
}
"""From which states a command leads to which."""


class PayoutState(Strict):
    """A request to pay. done: the ids of the commands that are in it."""

    payout: Id
    node: NodeId
    amount: AmountText
    version: Amount = 0
    state: PayoutStatus = "pending"
    retries: Amount = 0
    reason: str
    done: list[Id] = Field(default_factory=list)


def command_payout(
    payout: PayoutState | None, command: NodeCommand
) -> tuple[PayoutState, PayoutChanged | None]:
    """The request after a command; None when the command is in it already. Raises NodeRefused."""
    if payout is not None and command.id in payout.done:
        return payout, None
    if command.action == "payout_request":
        assert command.node is not None
        assert command.amount is not None
        fresh = PayoutState(
            payout=command.id, node=command.node, amount=command.amount, reason=command.reason,
            done=[command.id],
        )  # fmt: skip
        return fresh, changed(fresh)
    if payout is None or payout.node != command.node:
        raise NodeRefused("NoSuchPayout", f"node {command.node} has no payout {command.payout}")
    allowed, to = MOVES[command.action]
    if payout.state not in allowed:
        raise NodeRefused("BadTransition", f"payout {payout.payout} is {payout.state}")
    retries = payout.retries + (command.action == "payout_retry")
    if retries > MAX_RETRIES:
        raise NodeRefused("TooManyRetries", f"payout {payout.payout} was tried again 5 times")
    after = payout.model_copy(update={
        "state": to, "retries": retries, "reason": command.reason,
        "done": [*payout.done, command.id],
    })  # fmt: skip
    return after, changed(after)


def changed(payout: PayoutState) -> PayoutChanged:
    """What is told of a request."""
    return PayoutChanged(
        node=payout.node, payout=payout.payout, amount=payout.amount, state=payout.state,
        retries=payout.retries, reason=payout.reason,
    )  # fmt: skip
