"""`lucid node approve|reject|list|show|maintenance|credits`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer

from agents.node.management.asking import order
from agents.node.management.keeper import States
from agents.platform.catalog import Catalog
from agents.platform.contract import load_contract
from agents.platform.output import AsJson, Rows, Why, clock, print_json, print_wide, quiet
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from schemas.errors import FormatError, LucidError
from schemas.node_credits import CreditStatement, Ledger
from schemas.node_events import WorkCounted, WorkEvent
from schemas.node_health import SLOTS_A_DAY
from schemas.node_heartbeats import SLOT
from schemas.node_pools import PoolState
from schemas.node_states import NodeState

app = typer.Typer(help="Nodes, their pools, their work.", no_args_is_help=True)
Node = Annotated[str, typer.Argument(help="The node's id.")]
Found = TypeVar("Found")
_SPAN = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class NoSuchNode(LucidError):
    """There is no node, or pool, of that name."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


class BadTime(LucidError):
    """A text is not a time or a span."""

    exit_status = 64  # EX_USAGE


def reading(call: Callable[[States], Awaitable[Found]]) -> Found:
    """What `call` reads of the manager's states."""

    async def read() -> Found:
        async with Catalog(Settings.load()) as catalog:
            return await call(States(catalog))

    return asyncio.run(read())


def when(text: str, now: datetime) -> datetime:
    """A time as RFC 3339 or, from `now` on, a span such as 90m; raises BadTime."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        return now + timedelta(seconds=int(span[1]) * _SECONDS[span[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadTime(f"{text!r} is no time", hint="Write 90m or 2026-11-25T20:00:00Z") from error
    if found.tzinfo is None:
        raise BadTime(f"{text!r} has no offset", hint="Add Z or +01:00")
    return found


def micros(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000)


@app.command()
def approve(
    node: Node,
    key: Annotated[str | None, typer.Option(help="Only if this is its verifier key.")] = None,
    reason: Why = "requested",
    as_json: AsJson = False,
) -> None:
    """Take a node in, after it has shown its key; compare the key with what its host shows."""
    tell(
        order("approve", node=node, key=key, reason=reason).id, f"Node {node} is approved", as_json
    )


@app.command()
def reject(node: Node, reason: Why = "requested", as_json: AsJson = False) -> None:
    """Do not take a node in, or put it out again."""
    tell(order("reject", node=node, reason=reason).id, f"Node {node} is rejected", as_json)


@app.command()
def maintenance(
    node: Node,
    until: Annotated[str, typer.Option(help="When it ends: 90m, or a time with offset.")] = "",
    begins: Annotated[str, typer.Option("--from", help="When it begins; now by default.")] = "",
    end: Annotated[bool, typer.Option("--end", help="End what is going on.")] = False,
    reason: Why = "requested",
    as_json: AsJson = False,
) -> None:
    """Plan maintenance of a node, or end it."""
    if end == bool(until):
        raise typer.BadParameter("give one of --until and --end")
    if end:
        tell(order("end_maintenance", node=node, reason=reason).id,
             f"Maintenance of node {node} is over", as_json)  # fmt: skip
        return
    now = datetime.now(UTC)
    start = when(begins, now) if begins else None
    last = when(until, start or now)
    sent = order("maintain", node=node, ends=micros(last), reason=reason,
                 begins=None if start is None else micros(start))  # fmt: skip
    tell(sent.id, f"Maintenance of node {node} until {last:%Y-%m-%d %H:%M:%S %Z}", as_json)


def tell(command: str, text: str, as_json: bool) -> None:
    """What a command that was done prints."""
    print_json({"command": command, "done": True}) if as_json else typer.echo(text)


@app.command("list")
def list_nodes(as_json: AsJson = False) -> None:
    """All nodes."""

    async def read(states: States) -> tuple[list[NodeState], dict[str, PoolState]]:
        return list((await states.nodes()).values()), await states.pools()

    nodes, pools = reading(read)
    homes = {node: name for name, pool in pools.items() for node in pool.members}
    if as_json:
        print_json({"nodes": [facts(one, homes) for one in nodes]})
        return
    table = Rows()
    headings = ("node", "state", "health", "pool", "kind", "host", "last heard (UTC)", "alerts")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for one in nodes:
        known = one.registration
        table.add_row(
            one.node, one.state or "", "maintenance" if one.in_maintenance else one.health,
            homes.get(one.node, ""), known.kind if known else "", known.host if known else "",
            clock(one.last_heard), ", ".join(one.alerts),
        )  # fmt: skip
    print_wide(table, 140)


def facts(state: NodeState, homes: dict[str, str]) -> dict[str, Any]:
    """A node for machines; the challenge is nobody's business."""
    found = state.model_dump(mode="json", exclude={"positions", "signature"})
    if found["registration"] is not None:
        del found["registration"]["challenge"]
    return {**found, "pool": homes.get(state.node), "active": state.active}


@app.command()
def show(node: Node, as_json: AsJson = False) -> None:
    """All that is known of a node."""

    async def read(states: States) -> tuple[NodeState, dict[str, PoolState]]:
        return await states.node(node), await states.pools()

    state, pools = reading(read)
    if state.state is None:
        raise NoSuchNode(f"there is no node {node}", hint="`lucid node list` shows all")
    homes = {name: pool.pool for pool in pools.values() for name in pool.members}
    found = facts(state, homes)
    if as_json:
        print_json(found)
        return
    for name, value in {**found, **(found.pop("registration") or {})}.items():
        shown = clock(value) if name in ("last_heard", "answer_by", "decide_by") else value
        typer.echo(f"{name:15} {shown if shown is not None else ''}")


@app.command()
def credits(
    node: Annotated[str | None, typer.Argument(help="One node; all of them by default.")] = None,
    as_of: Annotated[str, typer.Option(help="A time with offset; now by default.")] = "",
    as_json: AsJson = False,
) -> None:
    """Work credits of the 7 days before a time, counted anew from the events."""
    quiet()
    time = when(as_of, datetime.now(UTC)) if as_of else datetime.now(UTC)
    found = asyncio.run(count(Settings.load(), micros(time), node))
    if as_json:
        print_json({"credits": [one.model_dump(mode="json") for one in found]})
        return
    table = Rows()
    for heading in ("node", "credits", "relayed", "proofs", "signatures", "minutes", "rows"):
        table.add_column(heading, no_wrap=True)
    for one in found:
        table.add_row(one.node, one.credits, str(one.relay_bytes), str(one.storage_proofs),
                      str(one.signatures), str(one.beats), one.rows[:16])  # fmt: skip
    print_wide(table, 120)


async def count(settings: Settings, as_of: int, node: str | None) -> list[CreditStatement]:
    """The statements of one node or all, by replay of `node.work`."""
    topic = load_contract(settings).topic("node.work").full_name
    ledger, oldest = Ledger(), as_of // SLOT // SLOTS_A_DAY - 7
    async for record in read_topic(settings, topic):
        try:
            data = WorkEvent.from_kafka(record.key, record.headers, record.value).data
        except FormatError:
            continue  # a dead letter of its reader's
        if isinstance(data, WorkCounted) and data.day >= oldest and node in (None, data.node):
            ledger.take(data)
    names = ledger.nodes if node is None else [node]
    return [ledger.statement(name, as_of) for name in names]
