"""What goes wrong between a desktop, its recorder and those who command it.

LucidError
├── GateRefused           something asked for a desktop that it may not have
│   ├── Nonsense          it does not speak as a gate does
│   ├── UnknownServer     no running server has this id here
│   ├── ForeignUser       it is not the user that it names
│   ├── NotOfTheServer    it is no session of that server
│   ├── NoSuchDisplay     the display is not the session's
│   └── DisplayTaken      the display has a session already
├── NotRecorded           a desktop cannot be recorded
│   ├── RecorderRefused   the recorder says why
│   ├── RecorderSilent    no answer, or no heartbeat
│   └── RecordingEnded    it has ended although nobody asked it to
├── NoSuchSession         a command for a session that is not here
├── WrongState            a command that the session's state does not allow
├── NotCarriedOut         the session did not do what it was told in time
└── ControllerBusy        another controller has this host's sessions
"""

from __future__ import annotations

from schemas.errors import LucidError


class GateRefused(LucidError):
    """Something asked for a desktop that it may not have."""


class Nonsense(GateRefused):
    """It does not speak as a gate does."""


class UnknownServer(GateRefused):
    """No running server has this id here."""


class ForeignUser(GateRefused):
    """It is not the user that it names."""


class NotOfTheServer(GateRefused):
    """It is no session of that server."""


class NoSuchDisplay(GateRefused):
    """The display is not the session's."""


class DisplayTaken(GateRefused):
    """The display has a session already."""


class NotRecorded(LucidError):
    """A desktop cannot be recorded."""


class RecorderRefused(NotRecorded):
    """The recorder says why not."""


class RecorderSilent(NotRecorded):
    """The recorder gives no answer, or no sign of life."""


class RecordingEnded(NotRecorded):
    """A recording has ended although nobody asked it to."""


class NoSuchSession(LucidError):
    """A command for a session that is not here."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


class WrongState(LucidError):
    """A command that the session's state does not allow."""


class NotCarriedOut(LucidError):
    """A session did not do what it was told in time."""


class ControllerBusy(LucidError):
    """Another controller has this host's sessions."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h
