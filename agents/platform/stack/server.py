"""What the stack needs to know about one kind of server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from agents.platform.stack.cache import Progress


class NotReady(Exception):
    """A probe found no working server; the text says what it found instead."""


@dataclass(frozen=True)
class Command:
    """How to start a server: argument list and additions to the environment."""

    argv: list[str]
    env: Mapping[str, str] = field(default_factory=dict)


class Server(ABC):
    """One kind of server, without state: everything it is told comes as an argument."""

    name: ClassVar[str]
    """Also its key in endpoints.json and its setting."""
    title: ClassVar[str]
    data: ClassVar[str]
    """Its folder within the stack folder."""
    start_seconds: ClassVar[float] = 60.0
    stop_seconds: ClassVar[float] = 10.0
    extra_ports: ClassVar[int] = 0
    """How many ports it needs besides the one that clients use."""

    @abstractmethod
    def install(self, cache: Path, progress: Progress) -> Path:
        """Get the program, from `cache` if it is there; raises BuildFailed, MissingTool."""

    @abstractmethod
    def version(self, program: Path) -> str:
        """The version of what `install` returned."""

    @abstractmethod
    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        """Write configuration and empty stores into `folder`; the client port comes first."""

    @abstractmethod
    def probe(self, port: int, *, seconds: float) -> None:
        """Ask the server for a real answer; raises NotReady."""

    @abstractmethod
    def url(self, port: int) -> str:
        """The address as clients want it."""
