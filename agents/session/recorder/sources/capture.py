"""What is captured, as data: a recorder that starts again finds it in the spool's head.

LucidError
└── ActivityRefused     more activity was asked for than the host's settings allow
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.base import Source
from agents.session.recorder.sources.file import FileSource
from agents.session.recorder.sources.synthetic import SyntheticSource
from schemas.activity import Policy
from schemas.canonical import Count, Strict
from schemas.errors import LucidError


class ActivityRefused(LucidError):
    """A recording was asked for that is to hold more than this host allows."""


class Capture(Strict):
    """A display (name such as `:0`), a file (name: its path, or -), or made-up frames.

    activity: what is recorded beside the pictures of a display; None: nothing. It is kept, for
    it decides what the session's payloads are.
    """

    kind: Literal["display", "file", "synthetic"]
    name: str = ""
    xauthority: str | None = None
    frames: Count = 0
    size: Count = 0
    rate: float = 0.0
    seed: int = 0
    activity: Policy | None = None

    @model_serializer(mode="wrap")
    def _members(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Left out where it says nothing, so that spools of older recorders are read.
        fields: dict[str, Any] = write(self)
        if self.activity is None:
            fields.pop("activity")
        return fields

    @property
    def again(self) -> bool:
        """Whether it can be captured again by another process; what came from a pipe is gone."""
        return (self.kind, self.name) != ("file", "-")


def source_of(capture: Capture, section: RecorderSettings) -> Source:
    """The source, not opened."""
    if capture.kind == "file":
        return FileSource(capture.name)
    if capture.kind == "synthetic":
        return SyntheticSource(
            frames=capture.frames, size=capture.size, rate=capture.rate, seed=capture.seed
        )
    # Imported here: recording a file needs no X11 libraries.
    from agents.session.recorder.sources.patterns import Patterns
    from agents.session.recorder.sources.x11 import X11Source
    from agents.session.recorder.sources.x11_activity import ActivityOrder

    activity = None
    if capture.activity is not None and not capture.activity.nothing:
        patterns = Patterns(section.protected_programs, section.protected_titles)
        activity = ActivityOrder(capture.activity, patterns, section.keys_every)
    return X11Source(
        capture.name, fps=section.fps, keyframe_every=section.keyframe_every,
        xauthority=capture.xauthority, activity=activity,
    )  # fmt: skip


def display_capture(
    section: RecorderSettings, name: str, xauthority: str | None, asked: Policy | None
) -> Capture:
    """A display with the activity that somebody asked for, else that of the settings.

    Raises ActivityRefused for more than the settings allow.
    """
    if asked is not None and (beyond := asked.beyond(section.activity_most)):
        raise ActivityRefused(
            f"the recording of {', '.join(beyond)} was asked for, which this host does not allow",
            hint="Ask for less, or let LUCID_RECORDER_ACTIVITY_MOST on that host allow it",
        )
    policy = asked if asked is not None else section.activity
    return Capture(kind="display", name=name, xauthority=xauthority, activity=policy)
