"""Redirected drives of an RDP client: where they are mounted, and which files are open there.

xrdp's channel server (xrdp-chansrv) mounts a folder through FUSE; only its own user may look
into it, and whoever does waits for the client. So nothing here touches it: the kernel's table
of mounts names the folder, and /proc names the files that the user's programs have open.
A file that is open for less time than lies between two looks is not seen.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.activity import MAX_NAME, Drive, File, fit

PROGRAM = "xrdp-chansrv"
EVERY_SECONDS = 2.0
MOST_FILES = 20  # entries of one look
MOST_PROCESSES = 4_000
Access = Literal["read", "write", "both"]
_ACCESS: dict[int, Access] = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "both"}


@dataclass(frozen=True, slots=True, order=True)
class _Open:
    place: str
    program: str
    access: Access


class Drives:
    """Looks after a user's drives; uid: whose session it is, None for all."""

    def __init__(self, uid: int | None, proc: Path = Path("/proc")) -> None:
        self._uid, self._proc = uid, proc
        self._places: set[str] = set()
        self._files: set[_Open] = set()
        self._next = float("-inf")

    def look(self, clock: float) -> list[Drive | File]:
        """What is new; clock: monotonic seconds."""
        if clock < self._next:
            return []
        self._next = clock + EVERY_SECONDS
        places = set(self._mounted())
        changes: list[Drive | File] = [
            Drive(place=fit(one), mounted=one in places) for one in sorted(places ^ self._places)
        ]
        self._places = places
        files = set(self._open_files()) if places else set()
        new = sorted(files - self._files)
        self._files = files
        for number, one in enumerate(new[:MOST_FILES]):
            left_out = len(new) - MOST_FILES if number == MOST_FILES - 1 else 0
            changes.append(File(
                place=fit(one.place), program=one.program, access=one.access,
                left_out=max(0, left_out),
            ))  # fmt: skip
        return changes

    def _mounted(self) -> Iterator[str]:
        try:
            text = (self._proc / "self/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return
        for line in text.splitlines():
            fields, _, rest = line.partition(" - ")
            kind, source, options = [*rest.split(" "), "", "", ""][:3]
            ours = kind.startswith("fuse") and PROGRAM in (kind.partition(".")[2], source)
            if ours and (self._uid is None or f"user_id={self._uid}" in options.split(",")):
                yield _unescaped(fields.split(" ")[4])

    def _open_files(self) -> Iterator[_Open]:
        heads = tuple(f"{place}/" for place in self._places)
        with contextlib.suppress(OSError), os.scandir(self._proc) as processes:
            looked = 0
            for process in processes:
                if not process.name.isdigit() or looked > MOST_PROCESSES:
                    continue
                with contextlib.suppress(OSError):  # it has ended, or is not ours to see
                    if self._uid in (None, process.stat().st_uid):
                        looked += 1
                        yield from self._opened_by(Path(process.path), heads)

    def _opened_by(self, process: Path, heads: tuple[str, ...]) -> Iterator[_Open]:
        program = ""
        for number in os.listdir(process / "fd"):
            with contextlib.suppress(OSError):
                place = os.readlink(process / "fd" / number)
                if not place.startswith(heads):
                    continue
                program = program or (process / "comm").read_text(errors="replace").rstrip("\n")
                if program != PROGRAM:
                    yield _Open(place, fit(program, MAX_NAME), self._access(process, number))

    @staticmethod
    def _access(process: Path, number: str) -> Access:
        for line in (process / "fdinfo" / number).read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "flags":
                return _ACCESS.get(int(value, 8) & os.O_ACCMODE, "read")
        return "read"


def _unescaped(path: str) -> str:
    """A path of mountinfo: space, tab, newline and backslash stand there in octal."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(octal, character)
    return path
