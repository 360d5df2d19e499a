"""`lucid init`: everything secret that a deployment needs, made once, never replaced.

    DEPLOY/.env                     for `docker compose --env-file`: where this folder is
    DEPLOY/keys/                    all identities, as `lucid keys init` makes them
    DEPLOY/authority/               ca.pem, ca.key: of the broker's certificate
    DEPLOY/passwords/NAME           one for each user of the broker, the catalog and Redis
    DEPLOY/services/NAME/           what that service sees as /run/lucid, and nothing else
    DEPLOY/kafka|mongodb|redis/     what the servers see
    DEPLOY/kubernetes/NAME.yaml     the same secrets for `kubectl apply`

The first three are what is made; the others are copied from them each time, so that what
was rotated there arrives. Files are 0600 of the containers' user, folders 0700.

LucidError
└── InitRefused       the folder cannot be made, or the files not be given to the user
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from agents.deployment import certificates, servers
from agents.deployment.services import SECRETS, SERVICES, USER, Service
from agents.platform.keys import create_key_file, init_keys
from agents.platform.settings import Settings
from agents.platform.token_keys import list_keys, rotate
from schemas.errors import LucidError

CLI_KEYS = (
    "recorder.key", "recorder.vkey", "recipients.txt", "auditor.age", "trusted.txt",
    "storage.key", "storage.vkey", "tokens",
)  # fmt: skip
OUTSIDE = "anchors"
"""The broker's user for a client of Lucid's topics that is none of Lucid's."""
KAFKA_HOSTS = ("lucid-kafka", "localhost", "127.0.0.1")


class InitRefused(LucidError):
    """A deployment's folder cannot be made."""

    exit_status = 73


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where it is, and what was made this time."""

    folder: Path
    made: tuple[str, ...]
    user: int


def users() -> list[str]:
    """Everyone who logs in to the broker, the administrator left out."""
    return [*(one.principal for one in SERVICES), "node-agent", "cli", OUTSIDE]


def initialise(settings: Settings, folder: Path, version: str, user: int = USER) -> Deployment:
    """Make what is missing and hand it out; raises InitRefused, KeyProblem."""
    folder = folder.absolute()
    mask = os.umask(0o077)
    try:
        before = set(_files(folder))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_keys(settings, folder)
        _make_authority(folder / "authority")
        for name in (*users(), servers.ADMIN, "mongodb", "redis"):
            _make_password(folder / "passwords" / name)
        _hand_out(folder)
        _write(folder / ".env", f"LUCID_DEPLOY={folder}\nLUCID_VERSION={version}\n")
        made = sorted(str(path.relative_to(folder)) for path in set(_files(folder)) - before)
        _give(folder, user)
    except OSError as error:
        raise InitRefused(
            f"cannot make the deployment in {folder}: {error.filename or ''} ({error.strerror})",
            hint="Run it as root, as Docker runs, or give --user with your own number",
        ) from error
    finally:
        os.umask(mask)
    return Deployment(folder, tuple(made), user)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file()) if folder.exists() else iter(())


def _give(folder: Path, user: int) -> None:
    """Everything that containers see belongs to their user."""
    os.chmod(folder, 0o711)
    (folder / "services").chmod(0o711)
    for name in ("services", "kafka", "mongodb", "redis"):
        for path in [folder / name, *(folder / name).rglob("*")]:
            os.chown(path, user, user)


# Making -------------------------------------------------------------------------------------------


def _make_keys(settings: Settings, folder: Path) -> None:
    own = settings.model_copy(update={"keys": folder / "keys"})
    init_keys(own)
    if not list_keys(own):
        rotate(own)
    create_key_file(folder / "keys/node-management.secret", lambda: secrets.token_hex(32))


def _make_authority(folder: Path) -> None:
    folder.mkdir(exist_ok=True, mode=0o700)
    cert, key, server = folder / "ca.pem", folder / "ca.key", folder / "kafka.pem"
    if not (cert.exists() and key.exists()):
        pair = certificates.new_authority("Lucid deployment")
        _write(cert, pair[0].decode())
        _write(key, pair[1].decode())
        server.unlink(missing_ok=True)
    if not server.exists():
        pem = certificates.issue(cert.read_bytes(), key.read_bytes(), KAFKA_HOSTS)
        _write(server, pem.decode())


def _make_password(path: Path) -> None:
    path.parent.mkdir(exist_ok=True, mode=0o700)
    if not path.exists():
        # Letters and digits only: it stands in a URL and in a Java properties file.
        _write(path, secrets.token_hex(24) + "\n")


def _write(path: Path, text: str) -> None:
    """A whole new file, 0600 from its first moment on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


# Handing out --------------------------------------------------------------------------------------


def _hand_out(folder: Path) -> None:
    password = {path.name: path.read_text().strip() for path in (folder / "passwords").iterdir()}
    authority = (folder / "authority" / "ca.pem").read_text()
    for one in SERVICES:
        place = folder / "services" / one.name
        _copy_keys(folder / "keys", place / "keys", one.keys, private=False)
        _login(place, one.principal, password, authority, one)
    cli = folder / "services" / "cli"
    _copy_keys(folder / "keys", cli / "keys", CLI_KEYS, private=True)
    _login(cli, "cli", password, authority, None)
    setup = folder / "services" / "setup"
    _login(setup, servers.ADMIN, password, authority, None, mechanism="PLAIN")
    for name in users():
        _write(setup / "users" / f"{name}.password", password[name] + "\n")
    _hand_to_servers(folder, password, authority)
    for place in sorted((folder / "services").iterdir()):
        _write(folder / "kubernetes" / f"{place.name}.yaml", _secret(place))


def _secret(place: Path) -> str:
    """A Secret with a folder's files, `/` in their names written as `__`."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    data = {
        "__".join(path.relative_to(place).parts): base64.b64encode(path.read_bytes()).decode()
        for path in files
    }
    return yaml.safe_dump({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": f"lucid-{place.name}", "namespace": "lucid"}, "data": data,
    })  # fmt: skip


def _hand_to_servers(folder: Path, password: dict[str, str], authority: str) -> None:
    _write(folder / "kafka/plain/server.properties", servers.kafka_plain())
    secure = folder / "kafka/secure"
    _write(secure / "server.properties", servers.kafka_secure(password[servers.ADMIN]))
    _write(secure / "server.pem", (folder / "authority" / "kafka.pem").read_text())
    _write(secure / "ca.pem", authority)
    _write(folder / "mongodb/password", password["mongodb"] + "\n")
    _write(folder / "redis/plain/redis.conf", servers.redis())
    _write(folder / "redis/secure/redis.conf", servers.redis(password["redis"]))


def _copy_keys(source: Path, target: Path, names: tuple[str, ...], *, private: bool) -> None:
    """Exactly these files; of the token keys the public ones, unless `private`."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True, mode=0o700)
    for name in names:
        if name != "tokens":
            _write(target / name, (source / name).read_text())
            continue
        for path in (source / name).glob("*.jwk"):
            if private or path.name.endswith(".pub.jwk"):
                _write(target / name / path.name, path.read_text())


def _login(
    place: Path, user: str, password: dict[str, str], authority: str, one: Service | None,
    mechanism: str = "SCRAM-SHA-512",
) -> None:  # fmt: skip
    """lucid.toml of a secure deployment, and the files it names. one: None for the commands."""
    # Without a line's end: KEDA takes both as they are.
    _write(place / "kafka.user", user)
    _write(place / "kafka.password", password[user])
    _write(place / "ca.pem", authority)
    lines = [
        "# Written by `lucid init`; used by the secure override only.",
        'kafka = "lucid-kafka:9092"', 'kafka_security = "SASL_SSL"', f'kafka_sasl = "{mechanism}"',
        f'kafka_user = "{user}"', f'kafka_password_file = "{SECRETS}/kafka.password"',
        f'tls_ca = "{SECRETS}/ca.pem"',
    ]  # fmt: skip
    if one is None or one.catalog:
        login = f"lucid:{password['mongodb']}"
        lines.append(f'mongo = "mongodb://{login}@lucid-mongodb:27017/?authSource=admin"')
    if one is None or one.redis:
        lines.append(f'redis = "redis://:{password["redis"]}@lucid-redis:6379/0"')
    _write(place / "lucid.toml", "\n".join(lines) + "\n")
