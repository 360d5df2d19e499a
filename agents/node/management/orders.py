"""`node.commands`: what operators want, done or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agents.node.management.keeper import PAYOUTS, POOLS, Keeper
from agents.node.management.outlet import Cause, tell
from agents.platform.lanes import Record
from schemas.canonical import Strict
from schemas.node_commands import NodeCommand, read_node_command
from schemas.node_events import NodeCommandDone, NodeCommandRefused
from schemas.node_payouts import command_payout
from schemas.node_pools import PoolState, Scaling, command_pool, refreshed
from schemas.node_states import (
    NodeRefused,
    NodeState,
    Step,
    approve,
    end_maintenance,
    plan,
    reject,
)

TOPIC = "commands"


def parse(record: Record) -> NodeCommand:
    """A command; raises FormatError."""
    return read_node_command(record.key, record.value or b"")


@dataclass(frozen=True, slots=True)
class Orders:
    """The handler of the topic."""

    keeper: Keeper
    scaling: Scaling

    async def handle(self, command: NodeCommand, record: Record) -> None:
        """Carry a command out and answer it. Raises Transient."""
        async with self.keeper.working:
            await self._handle(command, Cause.of(record, command.id))

    async def _handle(self, command: NodeCommand, cause: Cause) -> None:
        try:
            if command.action.startswith("pool_"):
                await self._pool(command, cause)
            elif command.action.startswith("payout_"):
                await self._payout(command, cause)
            else:
                await self._node(command, cause)
        except NodeRefused as error:
            refused = NodeCommandRefused(
                about=command.about, action=command.action, code=error.cause,
                reason=str(error)[:500],
            )  # fmt: skip
            await self.keeper.outlet.send(tell([refused], cause))

    async def _answer(self, command: NodeCommand, cause: Cause, *events: Strict) -> None:
        """What the command did, and behind it that it was done."""
        done = NodeCommandDone(about=command.about, action=command.action)
        # Numbered by itself: it is the same event when nothing is left to be told before it.
        await self.keeper.outlet.send([*tell(events, cause), *tell([done], cause)])

    async def _node(self, command: NodeCommand, cause: Cause) -> None:
        shelves = await self.keeper.shelves([str(command.node)])
        before = shelves.node(str(command.node))
        changes: dict[str, Callable[[NodeState], Step]] = {
            "approve": lambda state: approve(state, command, cause.at),
            "reject": lambda state: reject(state, command),
            "maintain": lambda state: plan(state, command, cause.at),
            "end_maintenance": lambda state: end_maintenance(state, cause.at),
        }
        step = Step(before)
        if not before.has(TOPIC, cause.offset):
            step = changes[command.action](before)
        await self._answer(command, cause, *step.events)
        if step.state != before:
            await self.keeper.write_nodes(shelves, [step.state.at(TOPIC, cause.offset)])

    async def _pool(self, command: NodeCommand, cause: Cause) -> None:
        name = str(command.pool)
        pools, nodes = await self.keeper.pools(), await self.keeper.nodes()
        before = pools.get(name)
        homes = {
            node: other for other, pool in pools.items() if other != name for node in pool.members
        }
        if before is not None and before.has(TOPIC, cause.offset):
            await self._answer(command, cause)
            return
        wanted = command_pool(before, command, nodes, homes)
        if wanted == before:
            await self._answer(command, cause)
            return
        step = refreshed(wanted, nodes, cause.at, self.scaling, reason=command.reason, told=True)
        await self._answer(command, cause, *step.events)
        state: PoolState = step.state.at(TOPIC, cause.offset)
        await self.keeper.write(POOLS, name, state)

    async def _payout(self, command: NodeCommand, cause: Cause) -> None:
        node = await self.keeper.node(str(command.node))
        payout = command.payout or command.id
        before = await self.keeper.payout(payout)
        if before is None and node.state != "approved":
            raise NodeRefused("NotApproved", f"node {node.node} is not approved")
        after, event = command_payout(before, command)
        await self._answer(command, cause, *([] if event is None else [event]))
        if event is not None:
            await self.keeper.write(PAYOUTS, payout, after)
