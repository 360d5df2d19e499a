"""Bundles as files.

LucidError
└── BundleUnreadable      the file cannot be opened
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.auditor.files import whole_file
from agents.platform.verification import Step
from schemas.bundle import Bundle, Written, write_bundle
from schemas.errors import LucidError
from schemas.verify_source import SessionSource


class BundleUnreadable(LucidError):
    """A bundle file cannot be opened or read."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """The bundle in a file; raises BundleUnreadable or BundleError."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise BundleUnreadable(
            f"cannot open {path}: {error.strerror or error}", hint="Check its name and permissions"
        ) from error
    with stream:
        try:
            bundle = Bundle(stream)
        except OSError as error:
            raise BundleUnreadable(f"cannot read {path}: {error.strerror or error}") from error
        yield bundle


def save_bundle(
    source: SessionSource, path: Path, *, force: bool, step: Step = lambda *_: None,
    whole: Callable[[Written], None] = lambda _: None,
) -> Written:  # fmt: skip
    """Write a session's bundle to a file; raises FileProblem and NothingToBundle.

    whole: called before the file gets its name; what it raises leaves no file.
    """
    with whole_file(path, force=force) as temporary:
        with temporary.open("wb") as out:
            written = write_bundle(out, source, step)
        whole(written)
    return written
