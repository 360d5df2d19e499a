"""`lucid node payout request|process|complete|fail|cancel|retry|list`: requests, no payments."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.node.management.asking import order
from agents.node.management.commands import Node, reading, tell
from agents.node.management.keeper import States
from agents.platform.output import AsJson, Rows, Why, print_json, print_wide
from schemas.node_payouts import PayoutState

app = typer.Typer(help="Requests to pay for work; nothing here pays.", no_args_is_help=True)
Payout = Annotated[str, typer.Argument(help="The payout's id.")]


@app.command()
def request(
    node: Node,
    amount: Annotated[str, typer.Argument(help="0.000001 to 1000000, as a decimal number.")],
    reason: Why = "requested",
    as_json: AsJson = False,
) -> None:
    """Ask the payment system for a payout."""
    sent = order("payout_request", node=node, amount=amount, reason=reason)
    if as_json:
        print_json({"payout": sent.id, "node": node, "amount": amount, "state": "pending"})
    else:
        typer.echo(f"Payout {sent.id} of {amount} to node {node} is pending")


def _move(action: str, node: str, payout: str, reason: str, as_json: bool, text: str) -> None:
    sent = order(f"payout_{action}", node=node, payout=payout, reason=reason)
    tell(sent.id, f"Payout {payout} is {text}", as_json)


@app.command()
def process(node: Node, payout: Payout, reason: Why = "requested", as_json: AsJson = False) -> None:
    """The payment system has begun."""
    _move("process", node, payout, reason, as_json, "processing")


@app.command()
def complete(
    node: Node, payout: Payout, reason: Why = "requested", as_json: AsJson = False
) -> None:
    """The payment system has paid."""
    _move("complete", node, payout, reason, as_json, "completed")


@app.command()
def fail(node: Node, payout: Payout, reason: Why = "requested", as_json: AsJson = False) -> None:
    """The payment system could not pay."""
    _move("fail", node, payout, reason, as_json, "failed")


@app.command()
def cancel(node: Node, payout: Payout, reason: Why = "requested", as_json: AsJson = False) -> None:
    """Nobody shall pay it."""
    _move("cancel", node, payout, reason, as_json, "cancelled")


@app.command()
def retry(node: Node, payout: Payout, reason: Why = "requested", as_json: AsJson = False) -> None:
    """Ask again for one that failed; at most five times."""
    _move("retry", node, payout, reason, as_json, "pending again")


@app.command("list")
def list_payouts(
    node: Annotated[str | None, typer.Argument(help="One node; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """All requests to pay."""

    async def read(states: States) -> list[PayoutState]:
        return [one for one in await states.payouts() if node in (None, one.node)]

    found = reading(read)
    if as_json:
        names = {"version", "done"}
        print_json({"payouts": [one.model_dump(mode="json", exclude=names) for one in found]})
        return
    table = Rows()
    for heading in ("payout", "node", "amount", "state", "retries", "reason"):
        table.add_column(heading, no_wrap=True)
    for one in found:
        table.add_row(one.payout, one.node, one.amount, one.state, str(one.retries), one.reason)
    print_wide(table, 120)
