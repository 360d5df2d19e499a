"""The root of every error that Lucid raises on purpose.

LucidError
├── FormatError           bytes that are not what they claim to be
│   ├── UnknownVersion    a version this reader does not know
│   └── Truncated         fewer bytes than the format says
├── ContractError         topics.yaml, or a broker that differs from it
└── …                     each module opens with its own subtree

An error says what happened, to which session, partition or file, and what to do.
"""

from __future__ import annotations

import re
from typing import ClassVar

_SECRET = re.compile(r"AGE-SECRET-KEY-|PRIVATE\+KEY\+|PRIVATE KEY", re.IGNORECASE)


def quoted(text: str, most: int = 80) -> str:
    """The first characters of `text` for an error; of a private key not one.

    Who names the wrong file of two must not find a secret in a terminal or a log.
    """
    return "a private key" if _SECRET.search(text) else repr(text[:most])


class LucidError(Exception):
    """Base of all typed errors; `exit_status` is what the command line returns.

    `hint` is one sentence that says what to do about it. once_per_key: one cause refuses
    every record of a key, so that all of them count as one towards the dead-letter limit.
    """

    exit_status: ClassVar[int] = 1
    once_per_key: ClassVar[bool] = False

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}. {self.hint}" if self.hint else self.what

    @property
    def code(self) -> str:
        """The stable name of this error in logs, dead letters and `--json`."""
        return type(self).__name__


class FormatError(LucidError):
    """Bytes do not follow their format page under docs/formats/."""

    exit_status = 65  # EX_DATAERR of sysexits.h


class UnknownVersion(FormatError):
    """A format version that this reader does not know."""


class Truncated(FormatError):
    """The bytes end before the format says they may."""


class ContractError(LucidError):
    """topics.yaml is wrong, or a broker differs from it."""

    exit_status = 78  # EX_CONFIG of sysexits.h
