"""A command of the shell to a service: noted for the audit, sent, and its answer waited for.

COMMANDS = CommandTopic("rdp.server.commands", "rdp.server.events", ServerEvent,
                        ServerCommandDone, ServerCommandRefused)
done = await COMMANDS.send(settings, command, act, key, seconds=60)

LucidError
├── Refused     the service did not carry the command out, and says why
└── NoAnswer    agents/platform/answers.py: it may still do it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from agents.platform.answers import Answers
from agents.platform.audit import Audit
from agents.platform.contract import ensure_contract
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from schemas.canonical import Strict, encode
from schemas.commands import RecorderCommand
from schemas.envelope import AnsweringEvent
from schemas.errors import LucidError
from schemas.node_commands import NodeCommand
from schemas.rdp_commands import ServerCommand
from schemas.rdp_session_commands import RdpSessionCommand

Command: TypeAlias = NodeCommand | ServerCommand | RdpSessionCommand | RecorderCommand
Done = TypeVar("Done", bound=Strict)


class Refusal(Protocol):
    """What answers of refusal have in common."""

    @property
    def action(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def reason(self) -> str: ...


class Refused(LucidError):
    """A service refused a command; the code is the answer's."""

    def __init__(self, answer: Refusal) -> None:
        super().__init__(f"{answer.action} refused, {answer.code}: {answer.reason}")


@dataclass(frozen=True)
class CommandTopic(Generic[Done]):
    """A topic of commands, the topic that answers them, and the data of both answers there."""

    commands: str
    events: str
    kind: type[AnsweringEvent]
    done: type[Done]
    refused: type[Refusal]

    async def send(
        self, settings: Settings, command: Command, act: Strict | None, about: str, *,
        seconds: float,
    ) -> Done | None:  # fmt: skip
        """The answer's data, or None for 0 seconds.

        act: what the audit keeps, if anything. about: its subject, and the command's key.
        Raises Refused, NoAnswer, TopicDrift, Transient.
        """
        contract = await ensure_contract(settings)
        topic = contract.topic(self.commands).full_name
        async with Producer(settings, contract.limits) as producer:
            if act is not None:
                await Audit(producer, contract, host=settings.host).record(act, about)
            if not seconds:
                await producer.send(topic, encode(command), key=about.encode())
                return None
            async with Answers(settings, contract, self.events, self.kind) as answers:
                await producer.send(topic, encode(command), key=about.encode())
                types = (self.done, self.refused)
                answer = (await answers.wait(command.id, seconds, types=types)).data
        if isinstance(answer, self.refused):
            raise Refused(answer)
        assert isinstance(answer, self.done)
        return answer
