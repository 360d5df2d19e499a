"""Commands to node management: records of `node.commands`, canonical JSON.

The key is the node's or, for those of pools, the pool's id. The answer is an event of
`node.lifecycle` with the command's id as correlation id. A command that comes again is
answered again, and changes nothing twice.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from schemas.canonical import InvalidModel, Strict, decode
from schemas.controls import Reason
from schemas.node_base import Id, Micros, NodeId, PoolId, VerifierKey

Action = Literal[
    "approve", "reject", "maintain", "end_maintenance",
    "pool_create", "pool_add", "pool_remove", "pool_disband", "pool_maintain", "pool_resume",
    "payout_request", "payout_process", "payout_complete", "payout_fail", "payout_cancel",
    "payout_retry",
]  # fmt: skip
LEAST, MOST = Decimal("0.000001"), Decimal(1_000_000)
_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,6})(\.[0-9]{0,5}[1-9])?")


def check_amount(text: str) -> str:
    """An amount in its one spelling, 0.000001 to 1000000; raises ValueError."""
    if not _AMOUNT.fullmatch(text) or not LEAST <= Decimal(text) <= MOST:
        raise ValueError("an amount is 0.000001 to 1000000, without zeros at either end")
    return text


AmountText = Annotated[str, Field(max_length=20), AfterValidator(check_amount)]
_NEEDS = {
    "pool_add": ("pool", "node"), "pool_remove": ("pool", "node"), "maintain": ("node", "ends"),
    "payout_request": ("node", "amount"),
}  # fmt: skip


class NodeCommand(Strict):
    """One command. begins, ends: of maintenance, microseconds; begins null is at once.

    key: on `approve` the verifier key that the operator has compared, null if none was.
    payout: on all but `payout_request` the payout that is meant.
    """

    version: Literal[1] = 1
    id: Id
    action: Action
    node: NodeId | None = None
    pool: PoolId | None = None
    key: VerifierKey | None = None
    begins: Micros | None = None
    ends: Micros | None = None
    payout: Id | None = None
    amount: AmountText | None = None
    reason: Reason = "requested"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        action = self.action
        if action.startswith("payout_") and action != "payout_request":
            needs: tuple[str, ...] = ("node", "payout")
        else:
            needs = _NEEDS.get(action, ("pool",) if action.startswith("pool_") else ("node",))
        missing = [name for name in needs if getattr(self, name) is None]
        if missing:
            raise InvalidModel(f"command {self.action} names no {missing[0]}")
        return self

    @property
    def about(self) -> str:
        """What the record's key names."""
        return str(self.pool if self.action.startswith("pool_") else self.node)


def read_node_command(key: bytes | None, data: bytes) -> NodeCommand:
    """Read a command's canonical bytes; raises FormatError, also for another's key."""
    command = decode(NodeCommand, data)
    if key != command.about.encode():
        raise InvalidModel(f"command {command.id} is about {command.about}, its key is another")
    return command
