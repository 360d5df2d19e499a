"""How many bytes the files in a folder take, found out a bounded number of entries at a time.

    walk = FolderWalk(path, most=1_000_000)
    done = walk.step(5_000)             looks at so many entries at most
    walk.size                           bytes of the last whole walk, None before

A user's home may hold millions of files, so a walk goes on from round to round. It stays on
its file system, follows no symbolic link, and counts a file with several names once. The
folder is the user's own, who may change it meanwhile: what goes away is left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BLOCK = 512  # of st_blocks, POSIX


class _Entries(Iterator[os.DirEntry[str]], Protocol):
    """What os.scandir returns."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Open:
    """A folder whose entries are being looked at, relative to its descriptor."""

    path: str
    descriptor: int
    entries: _Entries


class FolderWalk:
    """One folder's size. most: entries of a walk, after which its size is a lower bound."""

    def __init__(self, path: Path, most: int = 1_000_000) -> None:
        self.path = path
        self._most = most
        self.size: int | None = None
        self.whole = True
        """Whether the size has everything in it."""
        self._open: _Open | None = None
        self._begin()

    def _begin(self) -> None:
        self._folders = [str(self.path)]
        self._linked: set[int] = set()
        self._bytes = self._entries = self._unreadable = 0
        self._device: int | None = None

    @property
    def running(self) -> bool:
        """Whether a walk has begun and is not done."""
        return self._entries > 0

    def close(self) -> None:
        """Give back what a walk has open."""
        if self._open is not None:
            self._open.entries.close()
            os.close(self._open.descriptor)
            self._open = None

    def step(self, entries: int) -> int:
        """Look at `entries` entries at most; how many it were. A walk that is done begins anew."""
        begun = self._entries
        until = min(begun + entries, self._most)
        while self._entries < until:
            entry = self._next_entry()
            if entry is not None:
                self._count(entry)
            elif self._folders:
                self._enter(self._folders.pop())
            else:
                break
            self._entries += 1
        done = self._entries - begun
        over = self._open is None and not self._folders
        if over or self._entries >= self._most:
            self.size, self.whole = self._bytes, over and not self._unreadable
            self.close()
            self._begin()
        return done

    def _next_entry(self) -> os.DirEntry[str] | None:
        if self._open is None:
            return None
        try:
            return next(self._open.entries)
        except StopIteration:
            pass
        except OSError:
            self._unreadable += 1
        self.close()
        return None

    def _enter(self, folder: str) -> None:
        """Open a folder; a link that took its place is not followed."""
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError | NotADirectoryError)
            # The folder itself has to be there: nothing at all is no size.
            self._unreadable += not gone or self._device is None
            return
        found = os.fstat(descriptor)
        if self._device is None:
            self._device = found.st_dev
            self._bytes += found.st_blocks * BLOCK
        if found.st_dev != self._device:
            os.close(descriptor)
            return
        self._open = _Open(folder, descriptor, os.scandir(descriptor))

    def _count(self, entry: os.DirEntry[str]) -> None:
        assert self._open is not None
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            return
        folder = stat.S_ISDIR(found.st_mode)
        if found.st_dev != self._device:
            return
        if not folder and found.st_nlink > 1:
            if found.st_ino in self._linked:
                return
            self._linked.add(found.st_ino)
        self._bytes += found.st_blocks * BLOCK
        if folder:
            self._folders.append(f"{self._open.path}/{entry.name}")


class Disk:
    """The sizes of many folders, each walked anew every `every` seconds."""

    def __init__(self, *, every: float = 300.0, most: int = 1_000_000) -> None:
        self._every, self._most = every, most
        self._walks: dict[Path, FolderWalk] = {}
        self._due: dict[Path, float] = {}

    def want(self, paths: Iterable[Path]) -> None:
        """These are the folders to look at from now on."""
        wanted = set(paths)
        for path in self._walks.keys() - wanted:
            self._walks.pop(path).close()
            self._due.pop(path, None)
        for path in wanted - self._walks.keys():
            self._walks[path] = FolderWalk(path, self._most)
            self._due[path] = float("-inf")

    def close(self) -> None:
        """Give back what walks have open."""
        self.want(())

    def step(self, entries: int, clock: float) -> int:
        """Walk on, `entries` entries at most in all folders together; how many it were.

        clock: seconds. The folder that has waited longest comes first.
        """
        left = entries
        for path in sorted(self._walks, key=self._due.__getitem__):
            if left <= 0 or self._due[path] > clock:
                break
            walk = self._walks[path]
            left -= max(1, walk.step(left))
            if not walk.running:
                self._due[path] = clock + self._every
        return entries - left

    def size(self, paths: Iterable[Path]) -> tuple[int | None, bool]:
        """Bytes of these folders together, None until each was walked once; whether all is in."""
        walks = [self._walks[path] for path in set(paths) if path in self._walks]
        sizes = [walk.size for walk in walks]
        if any(size is None for size in sizes) or not walks:
            return None, False
        return sum(size or 0 for size in sizes), all(walk.whole for walk in walks)
