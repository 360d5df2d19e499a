"""Who vouches for a recording: its signatures are checked before anything of it is handed out.

LucidError
└── NotVerified       it is not what the trusted keys signed, or nothing signed it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agents.auditor.reading import OpenedSession, open_session
from agents.platform.output import say
from agents.platform.verification import Step, run_verification
from schemas.errors import LucidError
from schemas.verdicts import Area, Report, Severity
from schemas.verify_documents import Access

NO_KEY = (
    "no key is trusted, so anybody may have made this recording: name the keys that you trust "
    "with --trust, as for `lucid verify`"
)


class NotVerified(LucidError):
    """A recording does not verify with the keys that are trusted."""


@dataclass(frozen=True, slots=True)
class Signatures:
    """`signatures` of the JSON: what is known of those of a recording that was handed out.

    checked: a trusted key signed what was read. outcome: that of `lucid verify`, null when
    nothing was verified. signers: trusted keys under the checkpoint. why: why not checked.
    """

    checked: bool
    outcome: str | None
    signers: list[str]
    why: str | None


def vouch(
    session: OpenedSession, access: Access, *, demanded: bool, refused: Callable[[Report], None],
    step: Step = lambda *_: None,
) -> tuple[OpenedSession, Signatures]:  # fmt: skip
    """The session, which from here on gives only bytes that were verified; and by whose word.

    demanded: the reader named the keys, so that one of them must have signed. refused: told
    of the report before it raises NotVerified. Says on standard error what was not checked.
    """
    if not access.trusted:
        say(f"warning: signatures were not checked: {NO_KEY}")
        return session, Signatures(False, None, [], NO_KEY)
    report = run_verification(session.source, access, step)
    why = None if report.signers else _unsigned(report)
    if report.outcome is Severity.FAILED or (demanded and why is not None):
        refused(report)
        raise NotVerified(
            f"session {report.session} does not verify with the keys that you trust: "
            f"{_wrong(report) or why}",
            hint="Nothing of it was given out; `lucid verify` lists all that it found",
        )
    if why is not None:
        say(f"warning: signatures were not checked: {why}")
    leaves = {row.index: row.leaf for row in report.chunks if row.leaf is not None}
    # Read again, since the file may have changed under the name meanwhile.
    session = open_session(session.source, access.identities, leaves)
    return session, Signatures(why is None, report.outcome.value, report.signers, why)


def _unsigned(report: Report) -> str:
    """Why no trusted key stands under the session, where no finding says it."""
    whys = (one.why for one in report.unchecked if one.area is Area.CHECKPOINT)
    return next(whys, "no trusted key signed it")


def _wrong(report: Report) -> str:
    """The first finding that fails, and how many more there are."""
    failed = [one for one in report.findings if one.severity is Severity.FAILED]
    if not failed:
        return ""
    more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
    return f"{failed[0].verdict.value}: {failed[0].detail}{more}"
