"""`lucid node pool create|add|remove|list|show|maintenance|disband`."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.node.management.asking import order
from agents.node.management.commands import Node, NoSuchNode, reading, tell
from agents.node.management.keeper import States
from agents.platform.output import AsJson, Rows, Why, clock, print_json, print_wide
from schemas.node_pools import PoolState

app = typer.Typer(help="Pools of nodes.", no_args_is_help=True)
Pool = Annotated[str, typer.Argument(help="The pool's id.")]


@app.command()
def create(pool: Pool, reason: Why = "requested", as_json: AsJson = False) -> None:
    """Make a pool; it is active once three of its nodes are."""
    tell(order("pool_create", pool=pool, reason=reason).id, f"Pool {pool} is made", as_json)


@app.command()
def add(pool: Pool, node: Node, reason: Why = "requested", as_json: AsJson = False) -> None:
    """Put an approved node into a pool."""
    sent = order("pool_add", pool=pool, node=node, reason=reason)
    tell(sent.id, f"Node {node} is in pool {pool}", as_json)


@app.command()
def remove(pool: Pool, node: Node, reason: Why = "requested", as_json: AsJson = False) -> None:
    """Take a node out of its pool."""
    sent = order("pool_remove", pool=pool, node=node, reason=reason)
    tell(sent.id, f"Node {node} is not in pool {pool} any more", as_json)


@app.command()
def maintenance(
    pool: Pool,
    end: Annotated[bool, typer.Option("--end", help="End it.")] = False,
    reason: Why = "requested",
    as_json: AsJson = False,
) -> None:
    """Put a whole pool into maintenance, or end that."""
    sent = order("pool_resume" if end else "pool_maintain", pool=pool, reason=reason)
    tell(sent.id, f"Pool {pool} is {'back' if end else 'in maintenance'}", as_json)


@app.command()
def disband(pool: Pool, reason: Why = "requested", as_json: AsJson = False) -> None:
    """End a pool; its nodes are free."""
    tell(order("pool_disband", pool=pool, reason=reason).id, f"Pool {pool} is disbanded", as_json)


def _facts(pool: PoolState) -> dict[str, object]:
    fields = {"positions", "version", "created", "seen"}
    return pool.model_dump(mode="json", exclude=fields)


@app.command("list")
def list_pools(as_json: AsJson = False) -> None:
    """All pools."""

    async def read(states: States) -> list[PoolState]:
        return list((await states.pools()).values())

    found = reading(read)
    if as_json:
        print_json({"pools": [_facts(one) for one in found]})
        return
    table = Rows()
    for heading in ("pool", "state", "active", "members", "last hint (UTC)"):
        table.add_column(heading, no_wrap=True)
    for one in found:
        table.add_row(one.pool, one.state, str(len(one.active)), str(len(one.members)),
                      clock(one.hinted_at))  # fmt: skip
    print_wide(table, 100)


@app.command()
def show(pool: Pool, as_json: AsJson = False) -> None:
    """A pool and its nodes."""

    async def read(states: States) -> PoolState | None:
        return await states.pool(pool)

    found = reading(read)
    if found is None:
        raise NoSuchNode(f"there is no pool {pool}", hint="`lucid node pool list` shows all")
    if as_json:
        print_json(_facts(found))
        return
    for name, value in _facts(found).items():
        typer.echo(f"{name:12} {value if value is not None else ''}")
