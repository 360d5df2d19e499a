"""What is captured, as data: a recorder that starts again finds it in the spool's head."""

from __future__ import annotations

from typing import Literal

from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.base import Source
from agents.session.recorder.sources.file import FileSource
from agents.session.recorder.sources.synthetic import SyntheticSource
from schemas.canonical import Strict
from schemas.manifests import Count


class Capture(Strict):
    """A display (name such as `:0`), a file (name: its path, or -), or made-up frames."""

    kind: Literal["display", "file", "synthetic"]
    name: str = ""
    xauthority: str | None = None
    frames: Count = 0
    size: Count = 0
    rate: float = 0.0
    seed: int = 0

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
    from agents.session.recorder.sources.x11 import X11Source

    return X11Source(
        capture.name, fps=section.fps, keyframe_every=section.keyframe_every,
        xauthority=capture.xauthority,
    )  # fmt: skip
