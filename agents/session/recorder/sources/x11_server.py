"""A connection to an X server: its size, what was drawn on, its pixels and its pointer.

Needs DAMAGE and XFIXES; takes pixels over shared memory where MIT-SHM has it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import xcffib
import xcffib.damage
import xcffib.shm
import xcffib.xfixes
import xcffib.xproto
from numpy.typing import NDArray

from agents.session.recorder.sources.base import NoDisplay
from agents.session.recorder.sources.tiles import Box
from schemas.screen import Cursor, Pointer, pack_cursor

_IPC_CREAT, _IPC_RMID, _IPC_SET, _IPC_STAT = 0o1000, 0, 1, 2
_UID_OFFSET = 4  # of struct ipc_perm, the first member of struct shmid_ds (Linux)
_Z_PIXMAP = 2
_ALL_PLANES = 0xFFFFFFFF
_NON_EMPTY = 3  # one damage event for each Subtract, not for each draw
_connecting = threading.Lock()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p
_libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
_libc.shmdt.argtypes = [ctypes.c_void_p]


def connect(display: str, xauthority: str | None) -> Any:
    """An xcffib connection; raises NoDisplay."""
    # libxcb takes the cookie file from the environment of the whole process.
    with _connecting:
        before = os.environ.get("XAUTHORITY")
        try:
            if xauthority is not None:
                os.environ["XAUTHORITY"] = xauthority
            connection: Any = xcffib.connect(display=display)  # type: ignore[no-untyped-call]
            return connection
        except xcffib.XcffibException as error:
            cookie = xauthority or before or "~/.Xauthority"
            raise NoDisplay(
                f"cannot open display {display}",
                hint="Is its X server running? If it refuses you, XAUTHORITY must name the "
                f"session's cookie file (it is {cookie})",
            ) from error
        finally:
            if xauthority is not None:
                os.environ.pop("XAUTHORITY")
                if before is not None:
                    os.environ["XAUTHORITY"] = before


class Segment:
    """Shared memory that this process and the X server see, of `size` bytes."""

    def __init__(self, connection: Any, shm: Any, size: int) -> None:
        self._connection, self._shm = connection, shm
        self.id: int = connection.generate_id()
        identifier = _libc.shmget(0, ctypes.c_size_t(size), _IPC_CREAT | 0o600)
        if identifier < 0:
            raise OSError(ctypes.get_errno(), "shmget failed")
        address = _libc.shmat(identifier, None, 0)
        try:
            _give_to(identifier, server_uid(connection))
            shm.AttachChecked(self.id, identifier, False).check()
        except xcffib.XcffibException:
            _libc.shmdt(address)
            raise
        finally:
            # Gone once both have detached, however either ends.
            _libc.shmctl(identifier, _IPC_RMID, None)
        self._address: int | None = address
        buffer = memoryview((ctypes.c_uint8 * size).from_address(address)).cast("B")
        self.bytes: NDArray[np.uint8] = np.frombuffer(buffer, np.uint8)

    def close(self) -> None:
        """Detach; nothing may look at `bytes` any more."""
        if self._address is not None:
            self.bytes = np.zeros(0, np.uint8)
            _libc.shmdt(self._address)
            self._address = None


def server_uid(connection: Any) -> int | None:
    """The X server's user; None when it is not on this machine's sockets."""
    peer = socket.socket(fileno=os.dup(connection.get_file_descriptor()))
    with peer:
        if peer.family != socket.AF_UNIX:
            return None
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("3i", raw)[1])


def _give_to(identifier: int, uid: int | None) -> None:
    """Let a server of another user attach; only its and our user may."""
    if uid is None or uid == os.geteuid():
        return
    state = ctypes.create_string_buffer(512)
    if _libc.shmctl(identifier, _IPC_STAT, state) == 0:
        struct.pack_into("I", state, _UID_OFFSET, uid)
        _libc.shmctl(identifier, _IPC_SET, state)


class Server:
    """An open display. Every method may raise xcffib.XcffibException when it is lost."""

    def __init__(self, display: str, xauthority: str | None) -> None:
        self.display = display
        self._connection = connect(display, xauthority)
        self._segment: Segment | None = None
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        connection = self._connection
        setup = connection.get_setup()
        screen = setup.roots[connection.pref_screen]
        self._root: int = screen.root
        formats = [one for one in setup.pixmap_formats if one.depth == screen.root_depth]
        plain = screen.root_depth in (24, 32) and setup.image_byte_order == 0
        if not plain or (formats[0].bits_per_pixel, formats[0].scanline_pad) != (32, 32):
            raise NoDisplay(
                f"display {self.display} has depth {screen.root_depth} in a pixel format that "
                "is not recorded", hint="Run the X server with depth 24",
            )  # fmt: skip
        self._damage = self._extension(xcffib.damage.key, (1, 1))
        self._fixes = self._extension(xcffib.xfixes.key, (4, 0))
        try:
            self._shm = self._extension(xcffib.shm.key, ())
        except NoDisplay:
            self._shm = None
        events = xcffib.xproto.EventMask.StructureNotify
        connection.core.ChangeWindowAttributes(self._root, xcffib.xproto.CW.EventMask, [events])
        self._region: int = connection.generate_id()
        self._fixes.CreateRegion(self._region, 0, [])
        self._damage_id: int = connection.generate_id()
        self._damage.Create(self._damage_id, self._root, _NON_EMPTY)
        self._fixes.SelectCursorInput(self._root, 1)
        self.resized()

    def _extension(self, key: Any, version: Sequence[int]) -> Any:
        try:
            extension = self._connection(key)
            extension.QueryVersion(*version).reply()
        except (xcffib.XcffibException, KeyError) as error:
            raise NoDisplay(
                f"display {self.display} has no {key.name}",
                hint="Lucid needs the X extensions DAMAGE and XFIXES",
            ) from error
        return extension

    def resized(self) -> tuple[int, int]:
        """Take note of the screen's size: width, height."""
        geometry = self._connection.core.GetGeometry(self._root).reply()
        self.width, self.height = int(geometry.width), int(geometry.height)
        if self._segment is not None:
            self._segment.close()
            self._shm.Detach(self._segment.id)
            self._segment = None
        if self._shm is not None:
            try:
                self._segment = Segment(self._connection, self._shm, self.width * self.height * 4)
            except (OSError, xcffib.Error):
                self._shm = None  # pixels then come through the socket
        return self.width, self.height

    def events(self) -> set[str]:
        """What happened since the last call: damage, cursor, resize."""
        found: set[str] = set()
        self._connection.flush()
        while (event := self._connection.poll_for_event()) is not None:
            if isinstance(event, xcffib.damage.NotifyEvent):
                found.add("damage")
            elif isinstance(event, xcffib.xfixes.CursorNotifyEvent):
                found.add("cursor")
            elif isinstance(event, xcffib.xproto.ConfigureNotifyEvent):
                found.add("resize")
        return found

    def damaged(self) -> list[Box]:
        """What was drawn on since the last call; drawing from now on is for the next."""
        self._damage.Subtract(self._damage_id, 0, self._region)
        reply = self._fixes.FetchRegion(self._region).reply()
        return [(one.x, one.y, one.width, one.height) for one in reply.rectangles]

    def grab(self, wanted: Sequence[Box]) -> list[NDArray[np.uint32]]:
        """The pixels of boxes inside the screen, uint32 BGRX of shape (height, width).

        Views of memory that the next call overwrites.
        """
        if self._segment is None:
            return [self._grab_over_socket(box) for box in wanted]
        offset, asked = 0, []
        for x, y, width, height in wanted:
            cookie = self._shm.GetImage(
                self._root, x, y, width, height, _ALL_PLANES, _Z_PIXMAP, self._segment.id, offset
            )
            asked.append((cookie, offset, width, height))
            offset += width * height * 4
        found = []
        for cookie, start, width, height in asked:
            cookie.reply()
            part = self._segment.bytes[start : start + width * height * 4]
            found.append(part.view(np.uint32).reshape(height, width))
        return found

    def _grab_over_socket(self, box: Box) -> NDArray[np.uint32]:
        reply = self._connection.core.GetImage(_Z_PIXMAP, self._root, *box, _ALL_PLANES).reply()
        return np.frombuffer(reply.data.buf(), np.uint32).reshape(box[3], box[2])

    def pointer(self) -> Pointer:
        """Where the pointer is."""
        reply = self._connection.core.QueryPointer(self._root).reply()
        return Pointer(reply.root_x, reply.root_y, bool(reply.same_screen), reply.mask >> 8 & 0x1F)

    def cursor(self) -> Cursor:
        """The pointer's shape."""
        reply = self._fixes.GetCursorImage().reply()
        argb = np.array(list(reply.cursor_image), np.uint32)
        pixels = argb.view(np.uint8).reshape(reply.height, reply.width, 4)
        return pack_cursor(reply.cursor_serial, reply.xhot, reply.yhot, pixels)

    def close(self) -> None:
        """Give everything back."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None
