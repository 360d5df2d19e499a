"""With which keys a session is checked and read.

LucidError
└── InvalidTrust      neither a verifier key nor a file of them
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.platform.keys import KeyProblem, load_identities, load_trusted, load_verifiers
from agents.platform.settings import Settings
from schemas.errors import LucidError, quoted
from schemas.notes import InvalidKey, Verifier
from schemas.verify_documents import Access

DEFAULT_IDENTITIES = ("processor.age", "auditor.age")


class InvalidTrust(LucidError):
    """What `--trust` names is neither a verifier key nor a file of them."""

    exit_status = 65


def load_access(
    identities: Sequence[Path], trust: Sequence[str], settings: Settings | None
) -> Access:
    """The keys that are named; where none are, those of the keys folder of `settings`.

    Raises KeyProblem and InvalidTrust for what was named; of the folder, only what can be
    read is taken.
    """
    secrets = [secret for path in identities for secret in load_identities(path)]
    trusted = [verifier for text in trust for verifier in _verifiers(text)]
    if settings is not None and not identities:
        secrets = _default_identities(settings)
    if settings is not None and not trust:
        trusted = load_trusted(settings)
    return Access(tuple(trusted), tuple(secrets), demanded=bool(identities))


def _verifiers(text: str) -> list[Verifier]:
    """A verifier key, else the keys of the file of that name."""
    try:
        return [Verifier.parse(text)]
    except InvalidKey as error:
        if Path(text).exists():
            return load_verifiers(Path(text))
        if text.startswith(("PRIVATE+KEY+", "AGE-SECRET-KEY-")):
            raise InvalidTrust(
                "--trust was given a private key", hint="Give the .vkey; now replace that key"
            ) from None
        raise InvalidTrust(
            f"--trust {quoted(text, 120)} is neither a verifier key nor a file",
            hint="Give name+hash+base64 or a file with one such key a line, as trusted.txt",
        ) from error


def _default_identities(settings: Settings) -> list[str]:
    found = []
    for name in DEFAULT_IDENTITIES:
        try:
            found += load_identities(settings.keys_dir / name)
        except KeyProblem:
            continue  # nobody asked for it; the report says what stayed unchecked
    return found
