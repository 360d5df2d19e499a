"""`lucid rdp create|start|stop|restart|maintain|delete|list|show|block-port|unblock-port|ports`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from uuid import UUID

import typer
from pydantic import ValidationError

from agents.platform.catalog import Catalog, Document
from agents.platform.command_topic import CommandTopic
from agents.platform.output import (
    AsJson,
    Rows,
    Wait,
    Why,
    clock_utc,
    print_json,
    print_wide,
    quiet,
)
from agents.platform.settings import Settings
from agents.rdp.server_manager.keeper import SERVERS
from agents.rdp.server_manager.ports import PORTS
from schemas.audit import RdpServerOrdered
from schemas.errors import LucidError
from schemas.rdp_commands import PortAction, ServerAction, ServerCommand
from schemas.rdp_servers import ServerCommandDone, ServerCommandRefused, ServerEvent
from schemas.sessions import new_session_id

PORT_RESULTS = {"block_port": "blocked", "unblock_port": "not blocked"}
app = typer.Typer(help="RDP servers: desktops that are recorded.", no_args_is_help=True)
COMMANDS = CommandTopic("rdp.server.commands", "rdp.server.events", ServerEvent,
                        ServerCommandDone, ServerCommandRefused)  # fmt: skip
Name = Annotated[str, typer.Argument(help="The server's name or id.")]
Host = Annotated[str, typer.Option(help="Whose; the manager's own host by default.")]


class NoSuchServer(LucidError):
    """No server has this name or id."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


class InvalidServer(LucidError):
    """A server cannot be like this."""

    exit_status = 64  # EX_USAGE of sysexits.h


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens.")],
    width: Annotated[int, typer.Option(help="Of the largest desktop, 320 to 7680.")] = 1920,
    height: Annotated[int, typer.Option(help="Of the largest desktop, 240 to 4320.")] = 1080,
    colour_depth: Annotated[int, typer.Option(help="16, 24 or 32 bits.")] = 24,
    security: Annotated[str, typer.Option(help="low, medium, high or maximum.")] = "high",
    cpu: Annotated[float, typer.Option(help="Processors, 0.1 to 8.")] = 2.0,
    memory_mb: Annotated[int, typer.Option(help="MiB, 512 to 16384.")] = 2048,
    disk_gb: Annotated[int, typer.Option(help="GiB, 1 to 100.")] = 10,
    clipboard: Annotated[bool, typer.Option("--clipboard", help="Allow it.")] = False,
    drive: Annotated[bool, typer.Option("--drive", help="Allow it.")] = False,
    printer: Annotated[bool, typer.Option("--printer", help="Allow it.")] = False,
    audio: Annotated[bool, typer.Option("--audio", help="Allow it.")] = False,
    max_sessions: Annotated[int, typer.Option(help="Desktops at once, 1 to 20.")] = 10,
    log_level: Annotated[str, typer.Option(help="error, warning, info or debug.")] = "info",
    port: Annotated[int | None, typer.Option(help="This port; the next free one if not.")] = None,
    owner: Annotated[str, typer.Option(help="Whose server it is.")] = "",
    host: Host = "",
    wait: Wait = 60.0,
    as_json: AsJson = False,
) -> None:
    """Create a server and wait until it is ready for clients."""
    config = {
        "width": width, "height": height, "colour_depth": colour_depth, "security": security,
        "devices": {"clipboard": clipboard, "drive": drive, "printer": printer, "audio": audio},
        "limits": {"cpu": cpu, "memory_mb": memory_mb, "disk_gb": disk_gb},
        "max_sessions": max_sessions, "log_level": log_level,
    }  # fmt: skip
    command = _command(
        action="create", server=str(new_session_id()), name=name, owner=owner, host=host,
        port=port, config=config,
    )  # fmt: skip
    _send_and_tell(command, name, wait, as_json)


def _add(action: ServerAction, about: str) -> None:
    @app.command(action, help=about)
    def run(
        name: Name, reason: Why = "requested", wait: Wait = 60.0, as_json: AsJson = False
    ) -> None:
        server = asyncio.run(_find(Settings.load(), name))["_id"]
        command = _command(action=action, server=server, reason=reason)
        _send_and_tell(command, name, wait, as_json)


def _add_of_ports(action: PortAction, about: str) -> None:
    @app.command(action.replace("_", "-"), help=about)
    def run(
        port: int, host: Host = "", reason: Why = "requested", wait: Wait = 60.0,
        as_json: AsJson = False,
    ) -> None:  # fmt: skip
        command = _command(action=action, port=port, host=host, reason=reason)
        _send_and_tell(command, f"port {port}", wait, as_json)


_add("start", "Start a server that is stopped, has failed or is under maintenance.")
_add("stop", "Stop a server; its desktops end, its port stays its own.")
_add("restart", "Stop and start a server; its desktops end.")
_add("maintain", "Stop a server for maintenance; `start` ends that.")
_add("delete", "Delete a server: its processes, its files and its desired state. Recordings stay.")
_add_of_ports("block_port", "Give a port to no server.")
_add_of_ports("unblock_port", "Let a blocked port be given to servers again.")


@app.command("list")
def list_servers(
    deleted: Annotated[bool, typer.Option("--deleted", help="Those, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """All servers."""
    found = asyncio.run(_documents(Settings.load(), SERVERS))
    shown = [one for one in found if deleted or one["state"] != "deleted"]
    if as_json:
        print_json({"servers": [_public(one) for one in shown]})
        return
    table = Rows()
    for title in ("name", "state", "host", "port", "size", "security", "owner", "id", "reason"):
        table.add_column(title)
    for one in shown:
        config = one["config"]
        table.add_row(
            one["name"], one["state"], one["host"], str(one["port"] or "-"),
            f"{config['width']}x{config['height']}x{config['colour_depth']}",
            config["security"], one["owner"] or "-", one["server"], one["reason"],
        )  # fmt: skip
    print_wide(table, 120)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """One server, whole."""
    found = _public(asyncio.run(_find(Settings.load(), name)))
    if as_json:
        print_json(found)
        return
    table = Rows(header=False)
    for title, value in _flat(found):
        table.add_row(title, value)
    print_wide(table, 100)


@app.command()
def ports(as_json: AsJson = False) -> None:
    """All ports that are not simply available."""
    found = asyncio.run(_documents(Settings.load(), PORTS))
    shown = [one for one in found if one["state"] != "available"]
    if as_json:
        print_json({"ports": [{k: v for k, v in one.items() if k != "_id"} for one in shown]})
        return
    table = Rows()
    for title in ("host", "port", "state", "server", "until", "reason"):
        table.add_column(title)
    for one in shown:
        until = clock_utc(one["until"]) if one["until"] else "-"
        table.add_row(one["host"], str(one["port"]), one["state"], one["server"] or "-", until,
                      one["reason"])  # fmt: skip
    print_wide(table, 120)


# -- underneath ------------------------------------------------------------------------------


def _command(**fields: Any) -> ServerCommand:
    """A command; raises InvalidServer that names what is wrong."""
    try:
        return ServerCommand.model_validate({"id": str(new_session_id()), **fields})
    except ValidationError as error:
        first = error.errors()[0]
        place = str(first["loc"][-1]).replace("_", "-") if first["loc"] else "the server"
        raise InvalidServer(
            f"{place}: {first['msg']} (got {first['input']!r})",
            hint="`lucid rdp create --help` has all limits",
        ) from error


def _send_and_tell(command: ServerCommand, name: str, wait: float, as_json: bool) -> None:
    quiet()
    act = RdpServerOrdered(command=command)
    answer = asyncio.run(COMMANDS.send(Settings.load(), command, act, command.key, seconds=wait))
    if answer is None:
        if as_json:
            print_json({"command": command.id, "action": command.action, "server": command.server})
        else:
            typer.echo(f"Sent {command.action} of {name}, command {command.id}")
        return
    if as_json:
        print_json({
            "command": command.id, "action": command.action, "server": answer.server,
            "state": answer.state, "port": answer.port,
        })  # fmt: skip
        return
    where = f", port {answer.port}" if answer.port and answer.server else ""
    what = answer.state or PORT_RESULTS[command.action]
    typer.echo(f"{name} is {what}{where}")


async def _documents(settings: Settings, collection: str) -> list[Document]:
    async with Catalog(settings) as catalog:
        return await catalog.find(collection)


async def _find(settings: Settings, name: str) -> Document:
    """The server of an id, else the one of a name that is not deleted. Raises NoSuchServer."""
    found = await _documents(settings, SERVERS)
    for one in found:
        if one["server"] == name or (one["name"] == name and one["state"] != "deleted"):
            return one
    try:
        # By its id alone it may be on its way: the manager knows.
        return {"_id": str(UUID(name))}
    except ValueError:
        raise NoSuchServer(
            f"no server is called {name}", hint="`lucid rdp list` shows all"
        ) from None


def _public(document: Document) -> dict[str, Any]:
    """A server without what only the manager needs."""
    if "server" not in document:
        raise NoSuchServer(f"there is no server {document['_id']}")
    names = (
        "server", "name", "owner", "host", "state", "goal", "port", "config", "config_version",
        "restarts", "code", "reason", "created", "changed",
    )  # fmt: skip
    return {name: document[name] for name in names}


def _flat(fields: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in fields.items():
        title = f"{before}{name}".replace("_", " ")
        if isinstance(value, dict):
            rows += _flat(value, f"{title} ")
        elif name in ("created", "changed"):
            rows.append((title, clock_utc(value)))
        else:
            rows.append((title, "-" if value in (None, "") else str(value)))
    return rows
