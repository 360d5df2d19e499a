"""A command of the shell to a service: noted for the audit, sent, and its answer waited for.

ORDERS = Orders("rdp.server.commands", "rdp.server.events", ServerEvent,
                (ServerCommandDone, ServerCommandRefused))
answer = await ORDERS.send(settings, command, act, key, seconds=60)
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.platform.answers import Answers
from agents.platform.audit import Audit
from agents.platform.contract import ensure_contract
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from schemas.canonical import Strict, encode
from schemas.envelope import AnsweringEvent
from schemas.node_commands import NodeCommand
from schemas.rdp_commands import ServerCommand
from schemas.rdp_session_commands import RdpSessionCommand


@dataclass(frozen=True)
class Orders:
    """A topic of commands, the topic that answers them, and the data of answers there."""

    commands: str
    events: str
    kind: type[AnsweringEvent]
    answers: tuple[type[Strict], ...]

    async def send(
        self, settings: Settings, command: NodeCommand | ServerCommand | RdpSessionCommand,
        act: Strict, about: str, *, seconds: float,
    ) -> Strict | None:  # fmt: skip
        """The answer's data, or None for 0 seconds.

        act: what the audit keeps. about: its subject, and the command's key.
        Raises NoAnswer, TopicDrift, Transient.
        """
        contract = await ensure_contract(settings)
        topic = contract.topic(self.commands).full_name
        async with Producer(settings, contract.limits) as producer:
            await Audit(producer, contract, host=settings.host).record(act, about)
            if not seconds:
                await producer.send(topic, encode(command), key=about.encode())
                return None
            async with Answers(settings, contract, self.events, self.kind) as answers:
                await producer.send(topic, encode(command), key=about.encode())
                return (await answers.wait(command.id, seconds, types=self.answers)).data
