"""Identities on disk: who signs, who can open session keys, whom a recorder wraps for.

    KEYS/recorder.key, .vkey          signs commitments (Ed25519, C2SP note keys)
    KEYS/processor.key, .vkey         signs checkpoints
    KEYS/processor.age, .age.pub      opens session keys (age X25519)
    KEYS/auditor.age, .age.pub        opens session keys
    KEYS/storage.key, .vkey           signs erasure records
    KEYS/node.key, .vkey              is the node: signs its registration and its heartbeats
    KEYS/recipients.txt               age recipients a recorder wraps for, a line each
    KEYS/trusted.txt                  verifier keys that `lucid verify` trusts, a line each

KeyProblem
├── KeyMissing          no such file
├── KeyUnreadable       cannot be read, or is not what it should be
└── KeyPermissions      a private file that others may read
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pyrage

from agents.platform.settings import Settings
from schemas.datakey import check_recipient
from schemas.errors import FormatError, LucidError
from schemas.notes import Signer, Verifier

Role = Literal["recorder", "processor", "auditor", "storage", "node"]
ROLES: tuple[Role, ...] = get_args(Role)
OPENING: frozenset[Role] = frozenset({"processor", "auditor"})
"""Roles that have an age identity."""
PROVING: frozenset[Role] = frozenset({"recorder", "processor", "storage"})
"""Roles whose signatures are part of the evidence, so that `lucid verify` has to trust them."""
MAX_KEY_FILE = 1024 * 1024
RECIPIENTS = "recipients.txt"
TRUSTED = "trusted.txt"


class KeyProblem(LucidError):
    """A key file cannot be used."""

    exit_status = 78


class KeyMissing(KeyProblem):
    """A key file does not exist."""


class KeyUnreadable(KeyProblem):
    """A key file cannot be read, or holds something else."""


class KeyPermissions(KeyProblem):
    """A private key file that others than its owner may read."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One line of `lucid keys show`; `public` is what may be given to others."""

    name: str
    role: str
    kind: str
    public: str
    path: Path
    mode: str


# Reading --------------------------------------------------------------------------------------


def read_key_file(path: Path, *, private: bool, hint: str = "`lucid keys init` makes keys") -> str:
    """The text of a key file; raises KeyProblem, for a missing one with `hint`."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if private and mode & 0o077:
                raise KeyPermissions(
                    f"{path} is a private key with mode {mode:04o}", hint=f"chmod 600 {path}"
                )
            return file.read(MAX_KEY_FILE).decode("utf-8")
    except FileNotFoundError as error:
        raise KeyMissing(f"there is no key file {path}", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise KeyUnreadable(f"cannot read the key file {path}: {error}") from error


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def load_signer(settings: Settings, role: Role) -> Signer:
    """The signing key of any role but the auditor; raises KeyProblem."""
    return _parse_signer(settings.keys_dir / f"{role}.key")


def _parse_signer(path: Path) -> Signer:
    text = read_key_file(path, private=True)
    try:
        return Signer.parse(text)
    except FormatError as error:
        # A machine that stops while a key is made leaves a file without one.
        hint = "" if text.strip() else "It is empty: remove it, then run `lucid keys init`"
        raise KeyUnreadable(f"{path}: {error}", hint=hint) from error


def load_identities(path: Path) -> list[str]:
    """The age identities of a file, `#` lines left out; raises KeyProblem. The result is secret."""
    try:
        found = _lines(read_key_file(path, private=True))
    except KeyPermissions:
        if "AGE-SECRET-KEY-" in read_key_file(path, private=False).upper():
            raise
        found = []  # a public file: that it holds no identity says more than its mode
    try:
        for line in found:
            pyrage.x25519.Identity.from_str(line)
    except pyrage.IdentityError:
        found = []
    if not found:
        raise KeyUnreadable(
            f"{path} holds no age X25519 identity", hint="Identities start with AGE-SECRET-KEY-1"
        )
    return found


def load_recipients(settings: Settings) -> list[str]:
    """Whom session keys are wrapped for, without repetition; raises KeyProblem."""
    path = settings.keys_dir / RECIPIENTS
    found = list(dict.fromkeys(_lines(read_key_file(path, private=False))))
    try:
        for line in found:
            check_recipient(line)
    except FormatError as error:
        raise KeyUnreadable(f"{path}: {error}") from error
    if not found:
        raise KeyUnreadable(f"{path} names no recipient", hint="Add the processor's age1… line")
    return found


def load_verifiers(path: Path) -> list[Verifier]:
    """The verifier keys of a file; raises KeyProblem."""
    try:
        return [Verifier.parse(line) for line in _lines(read_key_file(path, private=False))]
    except FormatError as error:
        raise KeyUnreadable(f"{path}: {error}") from error


def load_trusted(settings: Settings) -> list[Verifier]:
    """The verifier keys that this installation trusts, none without a file."""
    try:
        return load_verifiers(settings.keys_dir / TRUSTED)
    except KeyMissing:
        return []


# Making ---------------------------------------------------------------------------------------


def init_keys(settings: Settings, roles: Sequence[Role] = ROLES) -> list[KeyFile]:
    """Make what does not exist yet for the roles; never replaces a key. Returns all keys."""
    folder = settings.keys_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise KeyUnreadable(
            f"cannot make the folder {folder}: {error.strerror}",
            hint="LUCID_HOME or LUCID_KEYS must name a folder that you may write to",
        ) from error
    for role in roles:
        if role != "auditor":
            _make_signer(folder, role, settings.host)
        if role in OPENING:
            _make_identity(folder, role)
    return show_keys(settings)


def _make_signer(folder: Path, role: Role, host: str) -> None:
    name = "".join(char if char.isalnum() or char in "-._" else "-" for char in host) or "host"

    def make() -> str:
        return Signer(f"{name}/{role}", os.urandom(32)).to_text()

    path = folder / f"{role}.key"
    create_key_file(path, make)
    verifier = _parse_signer(path).verifier
    create_key_file(folder / f"{role}.vkey", lambda: str(verifier), mode=0o644)
    if role in PROVING:
        _append(folder / TRUSTED, str(verifier))


def _make_identity(folder: Path, role: Role) -> None:
    path = folder / f"{role}.age"
    create_key_file(path, lambda: str(pyrage.x25519.Identity.generate()))
    identity = pyrage.x25519.Identity.from_str(load_identities(path)[0])
    public = str(identity.to_public())
    create_key_file(folder / f"{role}.age.pub", lambda: public, mode=0o644)
    _append(folder / RECIPIENTS, public)


def create_key_file(path: Path, make: Callable[[], str], mode: int = 0o600) -> None:
    """Write a new file, with its mode from the first moment on; leave an existing one alone.

    Raises KeyUnreadable; what could not be written whole is not left behind.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return
    except OSError as error:
        raise KeyUnreadable(f"cannot write the key file {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(make() + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyUnreadable(f"cannot write the key file {path}: {error.strerror}") from error


def _append(path: Path, line: str) -> None:
    text = read_key_file(path, private=False) if path.exists() else ""
    if line not in _lines(text):
        # People edit these files: a last line without its end must not run into the new one.
        start = "" if not text or text.endswith("\n") else "\n"
        try:
            with path.open("a") as file:
                file.write(f"{start}{line}\n")
        except OSError as error:
            raise KeyUnreadable(f"cannot write {path}: {error.strerror}") from error


def show_keys(settings: Settings) -> list[KeyFile]:
    """All keys of the folder, public parts only; raises KeyMissing when there are none."""
    folder = settings.keys_dir
    found = []
    for role in ROLES:
        for private, public, kind in (
            (f"{role}.key", f"{role}.vkey", "Ed25519, signs"),
            (f"{role}.age", f"{role}.age.pub", "age X25519, opens session keys"),
        ):
            path = folder / (private if (folder / private).exists() else public)
            if path.exists():
                mode = f"{stat.S_IMODE(path.stat().st_mode):04o}"
                shown = read_key_file(folder / public, private=False).strip()
                found.append(KeyFile(path.name, role, kind, shown, path, mode))
    if not found:
        raise KeyMissing(f"there are no keys in {folder}", hint="`lucid keys init` makes them")
    return found
