"""What commands, process events and time make of a server. Pure: records in, records out.

    created(command, host, now)          a new server, that needs a port
    configured(record, port, now)        it has one: the xrdp room may start it
    ordered(record, command, now)        a command for a server that is there
    followed(record, change, limit, now) what the xrdp room says
    overdue(record, limit, now)          answers that did not come

LucidError
└── CommandProblem            a command cannot be carried out; its class is the answer's code
    ├── ServerDeleted
    └── ServerBusy
"""

from __future__ import annotations

from agents.rdp.server_manager.record import Edit, Goal, ServerRecord
from schemas.errors import LucidError
from schemas.rdp_commands import ServerAction, ServerCommand
from schemas.rdp_processes import ProcessChanged
from schemas.rdp_states import ServerState

GOALS: dict[ServerAction, Goal] = {
    "create": "running", "start": "running", "restart": "running", "stop": "stopped",
    "maintain": "maintenance", "delete": "deleted",
}  # fmt: skip


class CommandProblem(LucidError):
    """A command cannot be carried out."""


class ServerDeleted(CommandProblem):
    """The server is deleted, or is being deleted."""


class ServerBusy(CommandProblem):
    """The server is being created."""


def created(command: ServerCommand, host: str, now: int) -> ServerRecord:
    """The record of a server that is to be made; its command is answered when it runs."""
    assert command.server is not None
    assert command.name is not None
    assert command.config is not None
    record = ServerRecord(
        server=command.server, name=command.name, owner=command.owner,
        host=command.host or host, config=command.config, fixed_port=command.port,
        created=now, changed=now,
    )  # fmt: skip
    edit = Edit(record, now)
    edit.wait(command.id, "create", "running")
    edit.to("creating")
    return edit.record


def configured(record: ServerRecord, port: int, now: int) -> ServerRecord:
    """The server has a port, and its configuration goes to the xrdp room."""
    edit = Edit(record, now)
    edit.put(port=port)
    if record.state == "creating":
        edit.to("configuring")
    edit.wish("running", _correlation(record))
    edit.to("starting")
    return edit.record


def without_port(record: ServerRecord, error: LucidError, now: int) -> ServerRecord:
    """No port can be had: the server has failed."""
    edit = Edit(record, now)
    _fail(edit, error.code, str(error))
    return edit.record


def ordered(record: ServerRecord, command: ServerCommand, now: int) -> ServerRecord:
    """The record after a command; raises CommandProblem.

    A command that was answered is answered again, one that waits goes on waiting.
    """
    edit, action = Edit(record, now), command.action
    assert action != "block_port"
    assert action != "unblock_port"
    answered = record.answer_of(command.id)
    if answered is not None:
        if answered.code:
            edit.refuse(command.id, action, answered.code, answered.reason)
        else:
            edit.done(command.id, action)
        return edit.record
    if any(one.command == command.id for one in record.waiting):
        return record
    if action == "delete":
        _delete(edit, command.id)
        return edit.record
    if record.state == "deleted" or record.goal == "deleted":
        raise ServerDeleted(f"server {record.name} is deleted", hint="Create another one")
    if record.needs_port:
        raise ServerBusy(f"server {record.name} is {record.state}", hint="Try again in a moment")
    if action in ("start", "restart"):
        _start(edit, command.id, action, again=action == "restart")
    else:
        _stop(edit, command.id, action, GOALS[action])
    return edit.record


def _start(edit: Edit, command: str, action: ServerAction, *, again: bool) -> None:
    state = edit.record.state
    edit.put(goal="running")
    if state == "running" and not again:
        edit.done(command, action)
        return
    edit.wait(command, action, "running")
    if state == "starting" and not again:
        return
    edit.put(tried=[])
    if edit.record.port is None:
        edit.to("configuring")  # the manager claims a port next
        return
    if again and state in ("running", "starting"):
        edit.put(restarts=edit.record.restarts + 1)
    edit.wish("running", command)
    edit.to("starting", reason="restarted on request" if again else "")


def _stop(edit: Edit, command: str, action: ServerAction, goal: Goal) -> None:
    state = edit.record.state
    rests: tuple[ServerState, ...] = ("stopped", "failed", "maintenance")
    if state in rests:
        if goal == "maintenance" or state == "maintenance":
            edit.to("maintenance" if goal == "maintenance" else "stopped")
        edit.put(goal=goal)
        edit.done(command, action)
        return
    edit.put(goal=goal)
    edit.wait(command, action, goal)
    if state != "stopping":
        edit.wish("stopped", command)
        edit.to("stopping")


def _delete(edit: Edit, command: str) -> None:
    record = edit.record
    if record.state == "deleted":
        edit.done(command, "delete")
        return
    waits = record.goal == "deleted" and record.state == "stopping"
    edit.put(goal="deleted")
    edit.wait(command, "delete", "deleted")
    if waits:
        return
    edit.wish("deleted", command)
    if edit.record.config_version:
        edit.to("stopping")
    else:
        _deleted(edit)


def _deleted(edit: Edit) -> None:
    edit.give_back("the server is deleted")
    edit.to("deleted")
    edit.forget()


def _fail(edit: Edit, code: str, reason: str) -> None:
    """The server has failed: it gives its port back, and nobody starts it by himself."""
    edit.put(goal="stopped")
    edit.give_back(f"the server has failed: {code}")
    edit.wish("stopped", "")
    edit.to("failed", code=code, reason=reason)


def followed(
    record: ServerRecord, change: ProcessChanged, port_tries: int, now: int
) -> ServerRecord:
    """The record after a process event; the same object if it says nothing new.

    An event that is older than one before it, that follows an older desired state, or that
    comes from another host, changes no state.
    """
    if change.seq <= record.seq or change.host != record.host:
        return record
    edit = Edit(record, now)
    edit.put(seq=change.seq)
    if change.version < record.config_version:
        return edit.record
    if record.state == "stopping":
        if change.state == "stopped":
            _stopped(edit)
        elif change.state == "failed":
            _fail(edit, change.code, change.reason)
    elif record.goal == "running" and record.state in ("configuring", "starting", "running"):
        _ran(edit, change, port_tries)
    return edit.record


def _stopped(edit: Edit) -> None:
    goal = edit.record.goal
    if goal == "deleted":
        _deleted(edit)
    elif goal != "running":
        edit.to(goal)


def _ran(edit: Edit, change: ProcessChanged, port_tries: int) -> None:
    record = edit.record
    if change.state == "running":
        if record.state == "starting":
            edit.put(tried=[])
            edit.to("running")
    elif change.state in ("starting", "restarting"):
        if record.state == "running":
            edit.to("starting", code=change.code, reason=change.reason)
    elif change.state == "failed":
        if change.code == "PortInUse" and record.fixed_port is None and record.port is not None:
            edit.put(tried=[*record.tried, record.port])
            if len(edit.record.tried) < port_tries:
                edit.give_back("somebody else listens on it")
                edit.to("configuring", code=change.code, reason=change.reason)
                return
        _fail(edit, change.code, change.reason)


def overdue(record: ServerRecord, limit: int, now: int) -> ServerRecord:
    """Commands that wait for longer than `limit`, in microseconds, are refused.

    The server is still to become what they asked for: the room does it when it is back.
    """
    late = [one for one in record.waiting if now - one.since > limit]
    if not late:
        return record
    edit = Edit(record, now)
    edit.put(waiting=[one for one in record.waiting if one not in late])
    for one in late:
        edit.refuse(
            one.command, one.action, "NoAnswer",
            f"no answer from the xrdp room of {record.host} within {limit // 1_000_000} s; "
            f"the server is {record.state}",
        )  # fmt: skip
    return edit.record


def _correlation(record: ServerRecord) -> str:
    return record.waiting[-1].command if record.waiting else ""
