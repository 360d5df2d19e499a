"""`lucid init` and `lucid setup`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from agents.deployment.broker_admin import set_passwords, set_rights
from agents.deployment.initialise import OUTSIDE, initialise
from agents.deployment.rights import rights
from agents.deployment.services import USER
from agents.platform.contract import apply_contract, load_contract
from agents.platform.keys import read_key_file
from agents.platform.output import AsJson, print_json, quiet
from agents.platform.service import version
from agents.platform.settings import Settings


def init(
    folder: Annotated[Path | None, typer.Option(help="Where; HOME/deploy if not given.")] = None,
    user: Annotated[int, typer.Option(min=0, help="The containers' user.")] = USER,
    image_version: Annotated[str, typer.Option(help="Tag of the images.")] = "",
    secure: Annotated[
        bool, typer.Option("--secure", help="Say how to start it with TLS and passwords.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make all secrets of a deployment in containers; what is there already stays."""
    settings = Settings.load()
    place = folder or settings.home / "deploy"
    found = initialise(settings, place, image_version or version(), user)
    if as_json:
        print_json({"folder": str(found.folder), "made": list(found.made), "user": found.user})
        return
    typer.echo(f"Made {len(found.made)} files" if found.made else "Nothing to make: all is there")
    override = " -f compose/phase3.secure.yml" if secure else ""
    typer.echo(
        f"docker compose --env-file {found.folder}/.env -f compose/phase3.yml{override} up -d"
    )


async def _setup(settings: Settings, users: dict[str, str]) -> dict[str, int]:
    contract = load_contract(settings)
    changed = await apply_contract(settings, contract)
    done = {"topics": len({one.topic for one in changed}), "users": 0, "given": 0, "taken": 0}
    if users:
        await set_passwords(settings, users)
        wanted = rights(contract, users, OUTSIDE, settings.topic_prefix)
        given, taken = await set_rights(settings, wanted)
        done |= {"users": len(users), "given": len(given), "taken": len(taken)}
    return done


def setup(
    users: Annotated[
        Path | None, typer.Option(help="Folder of NAME.password files: make users and rights.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a broker what topics.yaml says: topics, and with --users its users and rights."""
    quiet()
    passwords = {
        path.name.removesuffix(".password"): read_key_file(path, private=True).strip()
        for path in sorted(users.glob("*.password") if users else ())
    }
    done = asyncio.run(_setup(Settings.load(), passwords))
    if as_json:
        print_json(done)
        return
    typer.echo(
        f"Changed {done['topics']} topics, set {done['users']} users, "
        f"gave {done['given']} rights, took {done['taken']}"
    )
