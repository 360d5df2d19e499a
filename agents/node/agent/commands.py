"""`lucid node register`: this machine asks to be taken in as a node."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from agents.node.agent.registering import Node, register
from agents.node.agent.settings import NodeAgentSettings
from agents.platform.contract import ensure_contract, load_contract
from agents.platform.keys import init_keys
from agents.platform.output import AsJson, print_json, quiet
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from schemas.node_events import RegistrationChanged


async def _register(
    settings: Settings, section: NodeAgentSettings, seconds: float
) -> RegistrationChanged:
    await ensure_contract(settings)
    contract = load_contract(settings)
    async with Producer(settings, contract.limits) as producer:
        return await register(Node.load(settings, section, contract, producer), seconds)


def register_node(
    node: Annotated[str | None, typer.Option("--id", help="The node's id.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the manager.", min=1)] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Ask to be taken in, and show that this machine holds its key; makes the key if needed."""
    settings = Settings.load()
    section = NodeAgentSettings.load(**({} if node is None else {"id": node}))
    quiet()
    init_keys(settings, ["node"])
    found = asyncio.run(_register(settings, section, wait))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    typer.echo(f"Node {found.node} is {found.state}; its key is {found.key}")
    if found.state == "verified":
        typer.echo(f"`lucid node approve {found.node}` takes it in, within 300 s")
