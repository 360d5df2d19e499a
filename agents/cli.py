"""The `lucid` command: every room's commands, and how errors reach the user."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from agents.auditor import activity_commands, audit_commands
from agents.auditor import commands as auditor
from agents.deployment import commands as deployment
from agents.deployment.validate import commands as validating
from agents.entry import INTERRUPTED
from agents.load.commands import load
from agents.node.agent.commands import register_node
from agents.node.management import commands as nodes
from agents.node.management import payout_commands, pool_commands
from agents.platform import (
    key_commands,
    letter_commands,
    points,
    projection_commands,
    token_commands,
    topic_commands,
)
from agents.platform.output import shown
from agents.platform.service import version as installed_version
from agents.platform.stack import commands as stack
from agents.rdp.controller import commands as rdp_sessions
from agents.rdp.server_manager import commands as rdp
from agents.run import run
from agents.session.processor import commands as processor
from agents.session.recorder import commands as recorder
from agents.session.recorder import remote_commands
from agents.session.storage import commands as storage
from agents.session.storage import hold_commands, retention_commands
from schemas.errors import LucidError

IO_ERROR = 74  # EX_IOERR of sysexits.h
NO_READER = 141  # as shells count a program that SIGPIPE ended
OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

app = typer.Typer(
    name="lucid",
    help="Records remote-desktop sessions as evidence that anyone can check.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(stack.app, name="stack", help="Run Kafka, the catalog and Redis on this machine")
app.add_typer(topic_commands.app, name="topics", help="Compare a broker with topics.yaml")
app.add_typer(key_commands.app, name="keys", help="Make and show identities")
app.add_typer(letter_commands.app, name="dead-letters", help="Look at refused records, replay them")
app.add_typer(remote_commands.app, name="recorder", help="Tell recorders what to do")
app.add_typer(auditor.sessions_app, name="sessions", help="List and show recorded sessions")
app.add_typer(audit_commands.app, name="audit", help="Who did what with recordings")
app.add_typer(projection_commands.app, name="projections", help="Rebuild views from their events")
app.add_typer(token_commands.app, name="token", help="Issue and revoke access to the read API")
app.add_typer(retention_commands.app, name="retention", help="Delete what policies do not keep")
app.add_typer(hold_commands.app, name="hold", help="Forbid deleting, whatever policies say")
nodes.app.command("register")(register_node)
nodes.app.add_typer(pool_commands.app, name="pool", help="Pools of nodes")
nodes.app.add_typer(payout_commands.app, name="payout", help="Requests to pay for work")
app.add_typer(nodes.app, name="node", help="Nodes, their pools, their work")
app.add_typer(rdp.app, name="rdp", help="Desktops that are recorded: RDP servers")
app.add_typer(rdp_sessions.app, name="rdp-sessions", help="Desktop sessions: list, end them")
app.command("record")(recorder.record)
app.command("load")(load)
app.command("run")(run)
app.command("init")(deployment.init)
app.add_typer(validating.app, name="validate", help="Check what runs in containers")
app.command("setup")(deployment.setup)
app.command("scrub")(storage.scrub)
app.command("verify")(auditor.verify)
app.command("bundle")(auditor.bundle)
app.command("export")(auditor.export)
app.command("activity")(activity_commands.activity)
app.command("replay")(processor.replay)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lucid {installed_version()}")
        raise typer.Exit


@app.callback()
def lucid(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Records remote-desktop sessions as evidence that anyone can check."""


def main() -> int:
    """Run the command; an error of Lucid's own is one line that says what to do.

    So is one of the disk: results go to standard output, which may be a file on a full one.
    """
    try:
        points.arm()
        app()
    except LucidError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        if error.filename is None and error.errno not in OF_OUTPUT:
            raise
        what = error.filename or "the output cannot be written"
        print(f"error: {shown(str(what))}: {error.strerror}", file=sys.stderr)
        return IO_ERROR
    except SystemExit as ended:
        return _unfinished(ended)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _unfinished(ended: SystemExit) -> int:
    """The status of a command that somebody ended, else raise `ended` again.

    A verification that was interrupted, or whose reader is gone, has found nothing wrong.
    """
    cause = ended.__context__
    if isinstance(cause, OSError) and cause.errno == errno.EPIPE:
        return NO_READER
    if cause is not None and isinstance(cause.__cause__, KeyboardInterrupt):
        return INTERRUPTED
    raise ended


if __name__ == "__main__":
    sys.exit(main())
