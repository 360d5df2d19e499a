"""What the events of `rdp.session.events` say of sessions and connections now. Pure.

Each event holds its session or connection whole, with a number that counts its changes: the
one with the highest number is what it is now, however often and in whatever order they come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.rdp_session_events import (
    RdpConnectionChanged,
    RdpNoticeAnswered,
    RdpRecordingChanged,
    RdpSessionChanged,
    RdpSessionEvent,
)


@dataclass
class Story:
    """A session and what happened to it, by event id."""

    session: RdpSessionChanged
    events: dict[str, RdpSessionEvent] = field(default_factory=dict)
    connections: dict[str, RdpConnectionChanged] = field(default_factory=dict)


@dataclass
class Listing:
    """Sessions and connections by id."""

    stories: dict[str, Story] = field(default_factory=dict)
    _early: dict[str, list[RdpSessionEvent]] = field(default_factory=dict)

    def take(self, event: RdpSessionEvent) -> None:
        """One event more."""
        data = event.data
        if isinstance(data, RdpSessionChanged):
            self._session(data)
        session = getattr(data, "session", None)
        if session is None:
            return
        if session not in self.stories:
            self._early.setdefault(session, []).append(event)
            return
        self._tell(self.stories[session], event)

    def _session(self, data: RdpSessionChanged) -> None:
        story = self.stories.get(data.session)
        if story is None:
            story = self.stories[data.session] = Story(data)
            for event in self._early.pop(data.session, []):
                self._tell(story, event)
        elif data.seq > story.session.seq:
            story.session = data

    @staticmethod
    def _tell(story: Story, event: RdpSessionEvent) -> None:
        data = event.data
        if isinstance(data, RdpConnectionChanged):
            known = story.connections.get(data.connection)
            if known is None or known.seq < data.seq:
                story.connections[data.connection] = data
        kinds = RdpSessionChanged | RdpRecordingChanged | RdpConnectionChanged | RdpNoticeAnswered
        if isinstance(data, kinds):
            story.events.setdefault(event.id, event)
