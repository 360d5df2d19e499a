"""What a stack folder remembers between two commands.

endpoints.json   addresses, for Settings: {"kafka": …, "mongo": …, "redis": …}
state.json       processes and ports, for the stack itself
logs/            one log for each server, and that of the start before
kafka/ ferretdb/ redis/   the servers' own files
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.platform.stack.cache import Progress
from agents.platform.stack.errors import StackError
from agents.platform.stack.locks import file_lock
from agents.platform.stack.processes import Identity

_LOCK_SECONDS = 1800.0


class Record(BaseModel):
    """One server that was started: it keeps its ports when it is started again."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    process: Identity | None
    ports: list[int] = Field(min_length=1)
    version: str


class State(BaseModel):
    """Contents of state.json."""

    model_config = ConfigDict(extra="forbid")
    v: int = Field(1, ge=1, le=1)
    servers: dict[str, Record] = Field(default_factory=dict)


class StackFolder:
    """Paths and small files of one stack."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def endpoints_file(self) -> Path:
        return self.root / "endpoints.json"

    @property
    def state_file(self) -> Path:
        return self.root / "state.json"

    def log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    @contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Keep other commands from changing this stack; raises StackBusy."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

        def waiting() -> None:
            progress("another `lucid stack` command is at work, waiting")

        with file_lock(self.root / "lock", wait_seconds=_LOCK_SECONDS, waiting=waiting):
            yield

    def read(self) -> State:
        """The state, empty for a folder without one; raises StackError if it is unreadable."""
        try:
            return State.model_validate_json(self.state_file.read_bytes())
        except FileNotFoundError:
            return State()
        except (OSError, ValidationError) as error:
            raise StackError(
                f"cannot read {self.state_file}: {type(error).__name__}",
                hint="End the servers it was written for by hand, then delete it",
            ) from error

    def write(self, state: State) -> None:
        write_json(self.state_file, state.model_dump(mode="json"))

    def write_endpoints(self, endpoints: dict[str, str]) -> None:
        """Write, or with nothing to say remove, the file that Settings reads."""
        if endpoints:
            write_json(self.endpoints_file, endpoints)
        else:
            self.endpoints_file.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a private file that is seen either whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(value, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
