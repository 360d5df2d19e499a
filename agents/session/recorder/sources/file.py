"""A file or standard input as a source: its bytes in blocks, as fast as the broker takes them."""

from __future__ import annotations

import os
import select
import stat
import sys
from pathlib import Path

from agents.session.recorder.sources.base import (
    CODEC_BYTES,
    Control,
    Emit,
    NoInput,
    SourceInfo,
    now,
)

BLOCK = 256 * 1024
LOOK_SECONDS = 0.2  # between looks at a stop while a pipe is silent


class FileSource:
    """Records PATH, or standard input for `-`; a pipe's bytes as they come."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def open(self) -> SourceInfo:
        """Open the file; raises NoInput."""
        try:
            if self._path == "-":
                self._descriptor = os.dup(sys.stdin.fileno())
            else:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            if stat.S_ISDIR(os.fstat(self._descriptor).st_mode):
                raise IsADirectoryError("it is a folder")
        except (OSError, ValueError) as error:
            self.close()
            reason = getattr(error, "strerror", None) or error
            raise NoInput(
                f"cannot read {self._path}: {reason}", hint="Name a file that you may read, or -"
            ) from error
        name = "standard input" if self._path == "-" else Path(self._path).name
        return SourceInfo("file", CODEC_BYTES, {"name": name[:200]})

    def skip(self, frames: int, raw_bytes: int) -> None:
        """Begin at byte `raw_bytes`; raises NoInput when the file is shorter, or a pipe."""
        try:
            size = os.lseek(self._descriptor, 0, os.SEEK_END)
            os.lseek(self._descriptor, raw_bytes, os.SEEK_SET)
        except OSError as error:
            raise NoInput(f"cannot go on in {self._path}: {error.strerror}") from error
        if size < raw_bytes:
            raise NoInput(
                f"{self._path} has {size} bytes, and {raw_bytes} were recorded already",
                hint="It was replaced or cut since then; record it anew",
            )

    def run(self, emit: Emit, control: Control) -> None:
        """Hand over blocks until the file ends."""
        while True:
            control.wait_while_paused()
            control.check()
            if not select.select([self._descriptor], [], [], LOOK_SECONDS)[0]:
                continue
            try:
                block = os.read(self._descriptor, BLOCK)
            except OSError as error:
                raise NoInput(f"cannot read on in {self._path}: {error.strerror}") from error
            if not block:
                return
            emit(block, now())

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
