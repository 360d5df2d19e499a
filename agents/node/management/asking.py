"""A command to node management, and its answer.

LucidError
├── Refused     agents/platform/command_topic.py: the manager did not do it, and says why
└── NoAnswer    no manager answered within the time; it may still do it
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from agents.platform.answers import NoAnswer
from agents.platform.command_topic import CommandTopic
from agents.platform.settings import Settings
from schemas.audit import NodeOrdered
from schemas.node_commands import NodeCommand
from schemas.node_events import LifecycleEvent, NodeCommandDone, NodeCommandRefused
from schemas.node_states import NodeRefused

WAIT = 15.0
COMMANDS = CommandTopic("node.commands", "node.lifecycle", LifecycleEvent,
                        NodeCommandDone, NodeCommandRefused)  # fmt: skip


def make_command(action: str, **fields: Any) -> NodeCommand:
    """A command of its own id; raises InvalidModel or a ValidationError."""
    return NodeCommand.model_validate({"id": str(uuid4()), "action": action, **fields})


async def ask(settings: Settings, command: NodeCommand, seconds: float = WAIT) -> None:
    """Send a command and wait until it is done. Raises Refused, NoAnswer, Transient."""
    act = NodeOrdered(command=command)
    try:
        await COMMANDS.send(settings, command, act, command.about, seconds=seconds)
    except NoAnswer as error:
        raise NoAnswer(
            f"no manager answered {command.action} of {command.about} within {seconds:g} s",
            hint="Start one with `lucid run node-management`; it does then what is in the topic",
        ) from error


def order(action: str, **fields: Any) -> NodeCommand:
    """Make a command, have it carried out, and return it."""
    try:
        command = make_command(action, **fields)
    except ValueError as error:
        raise NodeRefused("BadCommand", f"the command {action} is not valid: {error}") from error
    asyncio.run(ask(Settings.load(), command))
    return command
