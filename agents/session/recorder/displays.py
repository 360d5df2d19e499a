"""The source of an X11 display; the one place that loads X11 libraries."""

from __future__ import annotations

from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.base import Source


def display_source(
    display: str, section: RecorderSettings, xauthority: str | None = None
) -> Source:
    """A source of `display`, such as `:0`, not opened."""
    # Imported here: recording a file needs no X11 libraries.
    from agents.session.recorder.sources.x11 import X11Source

    return X11Source(
        display, fps=section.fps, keyframe_every=section.keyframe_every, xauthority=xauthority
    )
