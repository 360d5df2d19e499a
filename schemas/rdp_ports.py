"""Which server has which port: CloudEvents of `rdp.port.events`, and the rules. Pure.

The key is the port. A port that nothing is known of is available.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from schemas.canonical import Count, Strict
from schemas.envelope import AnsweringEvent
from schemas.rdp_config import Host, Port, ServerId
from schemas.rdp_processes import Why
from schemas.rdp_states import PortState


class PortChanged(Strict):
    """A port of a host is in this state.

    server: whose it is or was. until: when its reservation ends, microseconds since 1970;
    0 unless it is reserved.
    """

    port: Port
    host: Host
    state: PortState
    server: ServerId | None
    until: Count
    reason: Why


PORT_TYPES: dict[str, type[Strict]] = {"lucid.rdp.port.changed.v1": PortChanged}


@dataclass(frozen=True, slots=True)
class PortEvent(AnsweringEvent):
    """An event of `rdp.port.events`."""

    types: ClassVar[Mapping[str, type[Strict]]] = PORT_TYPES
    strays_to: ClassVar[str] = "another port"

    @property
    def change(self) -> PortChanged:
        assert isinstance(self.data, PortChanged)
        return self.data

    @classmethod
    def subject_of(cls, data: Strict) -> str:
        return str(dict(data)["port"])


def candidates(first: int, last: int, taken: Mapping[int, int], now: int) -> Iterator[int]:
    """The ports that may be claimed, lowest first.

    taken: until when each is not to be had, microseconds since 1970; -1 for ever. now: the
    same measure.
    """
    for port in range(first, last + 1):
        until = taken.get(port)
        if until is None or 0 <= until <= now:
            yield port
