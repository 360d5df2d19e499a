"""`lucid token issue|revoke|revoked` and `lucid token keys rotate|list|retire`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.platform.audit import Audit
from agents.platform.contract import load_contract
from agents.platform.output import AsJson, Rows, print_json, print_wide, quiet, say
from agents.platform.producer import Producer
from agents.platform.redis_client import RedisClient, RedisUnreachable
from agents.platform.retry import Transient, Unreachable
from agents.platform.revocation import Revocation, open_revocations
from agents.platform.settings import Settings
from agents.platform.token_keys import LAST_TOKENS, TokenKey, list_keys, retire, rotate
from agents.platform.tokens import (
    Issued,
    TokenFileUnwritable,
    TokenVerifier,
    header_of,
    issue,
    read_token,
    write_token,
)
from schemas.access import MAX_LIFETIME, Role
from schemas.audit import TokenIssued, TokenRevoked
from schemas.errors import FormatError
from schemas.sessions import parse_session_id

app = typer.Typer(help="Access tokens of the read API.", no_args_is_help=True)
keys_app = typer.Typer(help="The keys that sign tokens.", no_args_is_help=True)
app.add_typer(keys_app, name="keys", help="Make, list and take away the keys that sign tokens")

Minutes = Annotated[
    float, typer.Option(min=1 / 60, help=f"How long it is valid, at most {MAX_LIFETIME // 60}.")
]


def moment(seconds: int | None) -> str:
    """A time of whole seconds since 1970 for people."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Tokens ---------------------------------------------------------------------------------------


async def _tell_issued(settings: Settings, issued: Issued) -> None:
    contract = load_contract(settings)
    claims = issued.claims
    act = TokenIssued(
        jti=claims.jti, subject=claims.subject, roles=[str(role) for role in claims.roles],
        expires=claims.expires,
    )  # fmt: skip
    async with Producer(settings, contract.limits) as producer:
        await Audit(producer, contract, host=settings.host).record(act, claims.jti)


@app.command("issue")
def issue_command(
    subject: Annotated[str, typer.Option(help="Who will hold it.")],
    role: Annotated[list[Role], typer.Option(help="What the holder is; may be repeated.")],
    owner: Annotated[
        list[str] | None, typer.Option(help="Whose sessions it sees; repeat, or * for all.")
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option(help="Of which projects; repeat, or * for all.")
    ] = None,
    minutes: Minutes = 15.0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write it to this new file, mode 0600.")
    ] = None,
    header: Annotated[
        bool, typer.Option("--header", help="As the header's line, for `curl -H @FILE`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Issue a token: on standard output, and nowhere else, or in a private file.

    It is given out once `audit.events` has it. It sees sessions of an owner AND a project
    that it names; without either it sees none.
    """
    quiet()
    settings = Settings.load()
    if output is not None and output.exists():
        raise TokenFileUnwritable(f"{output} exists already", hint="Name another file")
    issued = issue(
        settings, subject=subject, roles=role, owners=owner or [], projects=project or [],
        seconds=round(minutes * 60),
    )  # fmt: skip
    asyncio.run(_tell_issued(settings, issued))
    if output is not None:
        write_token(output, _text_of(issued, header))
    _show_issued(issued, output, header, as_json)


def _text_of(issued: Issued, header: bool) -> str:
    return header_of(issued.token) if header else issued.token


def _show_issued(issued: Issued, output: Path | None, header: bool, as_json: bool) -> None:
    claims = issued.claims
    place: dict[str, Any] = {"token": issued.token} if output is None else {"file": str(output)}
    if as_json:
        print_json({
            **place, "jti": claims.jti, "kid": issued.kid, "subject": claims.subject,
            "roles": list(claims.roles), "owners": list(claims.owners),
            "projects": list(claims.projects), "expires": claims.expires,
        })  # fmt: skip
        return
    say(f"Token {claims.jti} of {claims.subject}, valid until {moment(claims.expires)}")
    if not claims.owners or not claims.projects:
        say("It sees no session: give --owner and --project, or '*' for all")
    typer.echo(_text_of(issued, header) if output is None else f"Written to {output}")


# Revoking -------------------------------------------------------------------------------------


class RevocationIncomplete(Unreachable):
    """A revocation stands in one of its two places only."""


def _jti_of(settings: Settings, jti: str | None, token_file: Path | None) -> str:
    """The token that is meant, by its id or by the token itself."""
    if (jti is None) == (token_file is None):
        raise typer.BadParameter("name the token by its JTI, or by --token-file")
    if token_file is not None:
        return TokenVerifier(settings).verify(read_token(token_file)).jti
    try:
        return str(parse_session_id(jti))
    except FormatError:
        raise typer.BadParameter("a JTI is a UUID in lower-case text") from None


async def revoke_token(settings: Settings, jti: str, reason: str) -> Revocation:
    """Write it to audit.events, then to Redis; raises RevocationIncomplete if one is away."""
    contract = load_contract(settings)
    durable: Transient | None = None
    async with RedisClient(settings) as client:
        try:
            async with Producer(settings, contract.limits) as producer:
                act = TokenRevoked(jti=jti, reason=reason)
                await Audit(producer, contract, host=settings.host).record(act, jti)
        except Transient as error:
            durable = error
        revocations = open_revocations(settings, contract, client)
        try:
            entry = await revocations.revoke(jti, reason)
        except RedisUnreachable as error:
            if durable is not None:
                raise durable from error
            raise RevocationIncomplete(
                f"token {jti} is revoked on audit.events, but not in Redis: {error.what}",
                hint="It is still taken: run the command again, or `lucid token keys retire`",
            ) from error
    if durable is not None:
        raise RevocationIncomplete(
            f"token {jti} is revoked in Redis, but not on audit.events: {durable.what}",
            hint="It is refused until Redis is restarted: run the command again",
        ) from durable
    return entry


@app.command("revoke")
def revoke_command(
    jti: Annotated[str | None, typer.Argument(help="The token's id.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="The token itself, in a file; - is standard input.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it stands in the audit event.")] = "revoked",
    as_json: AsJson = False,
) -> None:
    """Revoke a token: within a second no API takes it any more."""
    quiet()
    settings = Settings.load()
    entry = asyncio.run(revoke_token(settings, _jti_of(settings, jti, token_file), reason))
    if as_json:
        print_json(entry.model_dump())
        return
    typer.echo(f"Token {entry.jti} is revoked")


async def _revoked(settings: Settings) -> list[Revocation]:
    contract = load_contract(settings)
    async with (
        RedisClient(settings) as client,
        open_revocations(settings, contract, client) as revocations,
    ):
        await revocations.healthy()
        return await revocations.listing()


@app.command("revoked")
def revoked_command(as_json: AsJson = False) -> None:
    """List the revoked tokens that have not surely ended."""
    quiet()
    found = asyncio.run(_revoked(Settings.load()))
    if as_json:
        print_json({"revoked": [entry.model_dump() for entry in found]})
        return
    table = Rows()
    for heading in ("token", "revoked at", "listed until", "reason"):
        table.add_column(heading, no_wrap=heading != "reason", overflow="fold")
    for entry in found:
        table.add_row(entry.jti, moment(entry.at), moment(entry.until), entry.reason)
    print_wide(table, 120)
    typer.echo(f"{len(found)} revoked tokens")


# Keys -----------------------------------------------------------------------------------------


def _fields(key: TokenKey) -> dict[str, Any]:
    return asdict(key)


@keys_app.command("rotate")
def rotate_command(as_json: AsJson = False) -> None:
    """Make a key that signs from now on; what others signed stays valid until it ends."""
    key = rotate(Settings.load())
    if as_json:
        print_json(_fields(key))
        return
    typer.echo(f"Key {key.kid} signs from now on")
    say(f"Copy its .pub.jwk to other hosts that verify; older keys end in {LAST_TOKENS} s")


@keys_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the keys: which one signs, and until when the others verify."""
    found = list_keys(Settings.load())
    if as_json:
        print_json({"keys": [_fields(key) for key in found]})
        return
    table = Rows()
    for heading in ("key", "made", "signs", "verifies until"):
        table.add_column(heading, no_wrap=True)
    for key in found:
        table.add_row(key.kid, moment(key.made), "yes" if key.signs else "", moment(key.until))
    print_wide(table, 100)
    typer.echo(f"{len(found)} keys" if found else "No keys: `lucid token keys rotate` makes one")


@keys_app.command("retire")
def retire_command(
    kid: Annotated[str, typer.Argument(help="The key, as `list` has it.")],
    force: Annotated[
        bool, typer.Option("--force", help="Even if tokens of it may be valid: they end now.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a key: nothing that it signed is taken any more."""
    retire(Settings.load(), kid, force=force)
    if as_json:
        print_json({"retired": kid})
        return
    typer.echo(f"Key {kid} is gone")
