"""A server as the catalog has it: what it is, what was asked of it, and what is yet to be told.

    rdp_server_records   {_id: server id, version, …ServerRecord}     replaced by version

The outbox is written with the change that it follows from, in one document: a manager that is
killed in between tells the rest when it is back.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5

from pydantic import Field, ValidationError

from schemas.canonical import Count, InvalidModel, Strict
from schemas.rdp_commands import ServerAction
from schemas.rdp_config import DesiredServer, Host, Owner, Port, ServerConfig, ServerId, ServerName
from schemas.rdp_processes import Code, Why
from schemas.rdp_servers import ServerChanged, ServerCommandDone, ServerCommandRefused
from schemas.rdp_states import SERVER_STEPS, SETTLED, ServerState, check_step

Goal = Literal["running", "stopped", "maintenance", "deleted"]
Kind = Literal["changed", "done", "refused", "config", "tombstone", "release", "forget"]
REMEMBERED = 32


class Waiting(Strict):
    """A command that is answered once the server has reached its goal, or has not."""

    command: str
    action: ServerAction
    goal: Goal
    since: Count


class Handled(Strict):
    """A command that was answered; code is empty if it was carried out."""

    command: str
    code: Code
    reason: Why


class Outgoing(Strict):
    """Something that is yet to be told or done. data: of the event, or of a port's release."""

    kind: Kind
    id: str
    time: Count
    correlation: str
    data: dict[str, Any]


class ServerRecord(Strict):
    """goal: the state that it is to reach. seq: of the newest process event that it knows.

    config_version: of the desired state last written. last_port: the one that it had before
    it gave it back. tried: ports that turned out to be occupied, since it last ran.
    """

    server: ServerId
    name: ServerName
    owner: Owner
    host: Host
    config: ServerConfig
    fixed_port: Port | None
    state: ServerState = "creating"
    goal: Goal = "running"
    port: Port | None = None
    last_port: Port | None = None
    tried: list[Port] = Field(default_factory=list)
    config_version: Count = 0
    restarts: Count = 0
    seq: Count = 0
    revision: Count = 0
    created: Count
    changed: Count
    code: Code = ""
    reason: Why = ""
    waiting: list[Waiting] = Field(default_factory=list)
    handled: list[Handled] = Field(default_factory=list)
    outbox: list[Outgoing] = Field(default_factory=list)

    @property
    def needs_port(self) -> bool:
        """Whether it goes on as soon as it has a port."""
        return self.state in ("creating", "configuring") and self.port is None

    def answer_of(self, command: str) -> Handled | None:
        """How a command was answered, if it was."""
        return next((one for one in self.handled if one.command == command), None)


def read_record(document: dict[str, Any]) -> ServerRecord:
    """A record from its document; raises InvalidModel."""
    fields = {name: value for name, value in document.items() if name not in ("_id", "version")}
    try:
        return ServerRecord.model_validate(fields)
    except ValidationError as error:
        raise InvalidModel(f"server {document.get('_id')} of the catalog: {error}") from error


class Edit:
    """A record being changed; `record` is what comes of it."""

    def __init__(self, record: ServerRecord, now: int) -> None:
        self.record = record
        self.now = now

    def put(self, **changes: Any) -> None:
        """Change fields that nobody is told of by themselves."""
        self.record = self.record.model_copy(update=changes)

    def to(self, state: ServerState, *, code: str = "", reason: str = "") -> None:
        """Enter a state; the commands that waited for it, or now wait in vain, are answered.

        Raises ForbiddenTransition.
        """
        check_step(SERVER_STEPS, self.record.state, state, f"server {self.record.name}")
        self.put(state=state, code=code, reason=reason[:500], revision=self.record.revision + 1)
        self._tell("changed", changed_of(self.record))
        if state in SETTLED:
            waiting = self.record.waiting
            self.put(waiting=[])
            for one in waiting:
                self._settle(one)

    def _settle(self, one: Waiting) -> None:
        state = self.record.state
        if one.goal == state or (one.goal == "stopped" and state == "maintenance"):
            self.done(one.command, one.action)
        elif state == "failed":
            self.refuse(one.command, one.action, self.record.code, self.record.reason)
        else:
            self.refuse(one.command, one.action, "Superseded",
                        f"another command came in between; the server is {state}")  # fmt: skip

    def wait(self, command: str, action: ServerAction, goal: Goal) -> None:
        """Answer a command later."""
        one = Waiting(command=command, action=action, goal=goal, since=self.now)
        self.put(waiting=[*self.record.waiting, one])

    def done(self, command: str, action: ServerAction) -> None:
        """Answer that a command is carried out."""
        record = self.record
        self._answered(command, "", "")
        data = ServerCommandDone(
            action=action, server=record.server, state=record.state, port=record.port
        )
        self._tell("done", data, command)

    def refuse(self, command: str, action: ServerAction, code: str, reason: str) -> None:
        """Answer that a command is not carried out."""
        self._answered(command, code, reason[:500])
        data = ServerCommandRefused(
            action=action, server=self.record.server, port=None, code=code, reason=reason[:500]
        )
        self._tell("refused", data, command)

    def _answered(self, command: str, code: str, reason: str) -> None:
        one = Handled(command=command, code=code, reason=reason)
        self.put(handled=[*self.record.handled, one][-REMEMBERED:])

    def wish(self, desired: Literal["running", "stopped", "deleted"], correlation: str) -> None:
        """Tell the xrdp room what the server shall be from now on."""
        record = self.record
        port = record.port or record.last_port
        if port is None:
            return  # no room has ever heard of it
        self.put(config_version=record.config_version + 1)
        data = DesiredServer(
            server=record.server, name=record.name, host=record.host,
            version=self.record.config_version, desired=desired, restarts=record.restarts,
            port=port, config=record.config,
        )  # fmt: skip
        self._tell("config", data, correlation)

    def give_back(self, reason: str) -> None:
        """Give the port back."""
        if self.record.port is not None:
            data = {"port": self.record.port, "reason": reason}
            self.put(last_port=self.record.port, port=None)
            self._add("release", data, "")

    def forget(self) -> None:
        """Nothing is left of the server: its name is free, its desired state may go."""
        self._add("tombstone", {}, "")
        self._add("forget", {}, "")

    def _tell(self, kind: Kind, data: Strict, correlation: str = "") -> None:
        self._add(kind, data.model_dump(mode="json"), correlation)

    def _add(self, kind: Kind, data: dict[str, Any], correlation: str) -> None:
        record = self.record
        # The same change made twice tells the same event twice, with one id.
        number = f"{record.server}/{record.revision}/{record.seq}/{self.now}/{len(record.outbox)}"
        one = Outgoing(
            kind=kind, id=str(uuid5(NAMESPACE_URL, number)), time=self.now,
            correlation=correlation, data=data,
        )  # fmt: skip
        self.put(outbox=[*record.outbox, one], changed=self.now)


def changed_of(record: ServerRecord) -> ServerChanged:
    """The event that tells of a server as it is now."""
    return ServerChanged(
        server=record.server, version=record.revision, state=record.state, name=record.name,
        owner=record.owner, host=record.host, port=record.port, config=record.config,
        config_version=record.config_version, created=record.created, code=record.code,
        reason=record.reason,
    )  # fmt: skip
