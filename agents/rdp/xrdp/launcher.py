"""Starting and ending the processes of a server, and finding what is left of them.

LucidError
└── CannotStart
    ├── PortInUse           somebody else listens on a port that the server needs
    ├── FolderUnreachable   a desktop's user could not enter the server's public folder
    ├── NotReady            a process ended at once, or did not answer in time
    └── NoNamespace         the room may not give a server its own session manager's settings
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from agents.platform.ports import is_free
from agents.platform.process_table import (
    command_of,
    end_processes,
    is_alive,
    marked,
    process_ref,
)
from agents.platform.rdp_gate import install, unreachable
from agents.platform.retry import Deadline
from agents.platform.tools import require_tool
from agents.rdp.xrdp import rendering
from agents.rdp.xrdp.certificate import ensure_certificate, fingerprint
from agents.rdp.xrdp.files import READABLE, SCRIPT, make_folder, write_private
from agents.rdp.xrdp.probe import NotAlive, look
from agents.rdp.xrdp.rendering import MARK, Layout
from agents.rdp.xrdp.settings import XrdpSettings
from agents.rdp.xrdp.sockets import holders, listeners
from schemas.errors import LucidError
from schemas.rdp_config import DesiredServer
from schemas.rdp_processes import ProcessRef, ServerPids

log = structlog.get_logger(__name__)

# xrdp reads the session manager's port from /etc/xrdp/sesman.ini, whatever its own file says,
# and so does the channel server with its limits: each server has a file of its own there.
SYSTEM_SESMAN = Path("/etc/xrdp/sesman.ini")
BIND = 'mount --bind "$1" "$2" && shift 2 && exec "$@" >/dev/null 2>&1'
PLAIN = 'shift 2 && exec "$@" >/dev/null 2>&1'
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOG_LIMIT = 16 * 1024**2
POLL_SECONDS = 0.05
DISPLAYS = 20  # of each port: no server has more sessions
SOCKETS = Path("/run/xrdp/sockdir")
SOCKET_NAMES = (
    "xrdp_display_{}", "xrdp_disconnect_display_{}", "xrdp_chansrv_socket_{}", "xrdpapi_{}",
    "xrdp_chansrv_audio_out_socket_{}", "xrdp_chansrv_audio_in_socket_{}",
)  # fmt: skip


class CannotStart(LucidError):
    """A server's processes cannot be started. final: another try would not help."""

    final = False


class PortInUse(CannotStart):
    """Somebody else listens on a port that the server needs."""

    final = True


class FolderUnreachable(CannotStart):
    """A desktop's user could not enter the server's public folder."""

    final = True


class NoNamespace(CannotStart):
    """The room may not give a server its own settings of the session manager."""

    final = True


class NotReady(CannotStart):
    """A process ended at once, or did not answer in time."""


@dataclass(frozen=True)
class Gate:
    """Where desktops ask whether they may begin, and what if nobody answers."""

    socket: Path
    require_recording: bool


@dataclass
class Launcher:
    """Starts and ends processes. folder: of all servers. first_port: gets the first display.

    gate: None lets every desktop begin unasked.
    """

    section: XrdpSettings
    folder: Path
    gate: Gate | None = None
    first_port: int = 13389
    _children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def layout(self, wanted: DesiredServer) -> Layout:
        """Where the files of a server are, and where its parts listen.

        Each port has displays of its own, so that servers never meet on one.
        """
        place = (wanted.port - self.first_port) % 1001
        return Layout(
            folder=(self.folder / wanted.server).absolute(),
            listen=self.section.listen,
            sesman_port=(wanted.port + self.section.sesman_offset - 1) % 65535 + 1,
            display=self.section.first_display + DISPLAYS * place,
        )

    # -- starting --------------------------------------------------------------------------

    def write_files(self, wanted: DesiredServer) -> str:
        """Render everything that the processes read; what was wrong with the certificate."""
        layout = self.layout(wanted)
        # Users go through to what is public; nobody but root lists or reads anything else.
        make_folder(layout.folder, 0o711)
        make_folder(layout.public, 0o755)
        closed = unreachable(layout.startwm)
        if closed is not None:
            raise FolderUnreachable(
                f"users cannot enter {closed}, and so not read {layout.public}",
                hint="chmod a+x it, or set LUCID_XRDP_FOLDER to a folder elsewhere",
            )
        trouble = ensure_certificate(
            layout.certificate, layout.key, wanted.name, self.section.certificate_days
        )
        write_private(layout.xrdp_ini, rendering.xrdp_ini(wanted, layout).encode())
        # The channel server of a desktop reads it, as the user; without it no device works.
        session_manager = rendering.sesman_ini(wanted, layout).encode()
        write_private(layout.sesman_ini, session_manager, READABLE)
        write_private(layout.reconnect, rendering.reconnect().encode(), SCRIPT)
        self.write_start(wanted, layout)
        for name in ("xrdp.log", "sesman.log"):
            _rotate(layout.folder / name)
        return trouble

    def write_start(self, wanted: DesiredServer, layout: Layout) -> None:
        """What sesman runs on a desktop: the gate, which asks whether it may begin."""
        if self.gate is None:
            write_private(layout.startwm, rendering.startwm(wanted).encode(), SCRIPT)
        else:
            install(
                layout.public, server=wanted.server, socket=self.gate.socket,
                require_recording=self.gate.require_recording,
            )  # fmt: skip

    async def free_ports(self, wanted: DesiredServer, pids: ServerPids) -> None:
        """Make sure that what is to be started can listen; raises PortInUse.

        What an earlier start of this same server left on a port is ended.
        """
        layout = self.layout(wanted)
        if not is_alive(pids.xrdp):
            await self._free(wanted, wanted.port, lambda: not is_free(wanted.port, layout.listen))
        if not is_alive(pids.sesman):
            # It takes the loopback address of either family, so that both have to be free.
            port = layout.sesman_port
            await self._free(wanted, port, lambda: bool(listeners(port)))

    async def _free(self, wanted: DesiredServer, port: int, occupied: Callable[[], bool]) -> None:
        if not occupied():
            return
        left = holders(port, marked(MARK).get(wanted.server, []))
        if left:
            log.warning("ending what is left on a port", server=wanted.server, port=port,
                        pids=[one.pid for one in left])  # fmt: skip
            await end_processes(left, self.section.stop_within)
        if occupied():
            raise PortInUse(
                f"port {port} is occupied by somebody else",
                hint="`ss -ltnp` on that host says by whom",
            )

    def start_sesman(self, wanted: DesiredServer) -> ProcessRef:
        """Start the session manager; raises NotReady when it ended at once."""
        layout = self.layout(wanted)
        program = str(require_tool("xrdp-sesman"))
        return self._spawn(wanted, [program, "-n", "-c", str(layout.sesman_ini)])

    def start_xrdp(self, wanted: DesiredServer) -> ProcessRef:
        """Start xrdp; raises NotReady when it ended at once."""
        layout = self.layout(wanted)
        return self._spawn(wanted, [str(require_tool("xrdp")), "-n", "-c", str(layout.xrdp_ini)])

    def _spawn(self, wanted: DesiredServer, command: list[str]) -> ProcessRef:
        layout = self.layout(wanted)
        mount = self.section.isolation == "mount"
        # One pid from here to the program: each of these replaces itself by the next.
        around = ["unshare", "--mount", "--propagation", "slave"] if mount else []
        shell = ["/bin/sh", "-c", BIND if mount else PLAIN, "sh"]
        words = [*around, *shell, str(layout.sesman_ini), str(SYSTEM_SESMAN), *command]
        log_file = layout.folder / "start.log"
        write_private(log_file, b"")
        with log_file.open("ab") as errors:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                start_new_session=True, cwd="/", env={"PATH": PATH, MARK: wanted.server},
            )  # fmt: skip
        self._children[process.pid] = process
        found = process_ref(process.pid)
        if found is None:
            raise self._ended(wanted, process.pid, command[0])
        return found

    async def wait_ready(self, wanted: DesiredServer, pids: ServerPids) -> None:
        """Return once both work; raises NotReady, NoNamespace."""
        layout, deadline = self.layout(wanted), Deadline(self.section.start_within)
        trouble = ""
        while not deadline.expired:
            for one in (pids.sesman, pids.xrdp):
                if one is not None and not is_alive(one):
                    raise self._ended(wanted, one.pid, "xrdp-sesman or xrdp")
            # A bind would tell, too, and take the port from the one who is about to have it.
            if pids.sesman and not holders(layout.sesman_port, [pids.sesman]):
                trouble = f"the session manager does not listen on port {layout.sesman_port}"
                await asyncio.sleep(POLL_SECONDS)
                continue
            try:
                await self.look(wanted, min(deadline.remaining() + 0.1, self.section.check_timeout))
            except NotAlive as error:
                trouble = str(error)
                await asyncio.sleep(POLL_SECONDS)
            else:
                return
        raise NotReady(
            f"xrdp is not ready after {self.section.start_within:g} s"
            + (f": {trouble}" if trouble else "")
        )

    def _ended(self, wanted: DesiredServer, pid: int, program: str) -> CannotStart:
        """The error that says why a process ended at once."""
        text = ""
        with contextlib.suppress(OSError):
            path = self.layout(wanted).folder / "start.log"
            text = path.read_bytes()[:300].decode(errors="replace").strip().replace("\n", "; ")
        status = self.reap().get(pid)
        if self.section.isolation == "mount" and ("unshare" in text or "mount:" in text):
            return NoNamespace(
                f"no mount namespace can be made for a server ({text})",
                hint="Give the service CAP_SYS_ADMIN, or set LUCID_XRDP_ISOLATION=none for one "
                "server",
            )
        return NotReady(f"{program} ended at once, status {status}" + (f": {text}" if text else ""))

    async def look(self, wanted: DesiredServer, seconds: float | None = None) -> None:
        """Speak the first exchange with xrdp; raises NotAlive."""
        layout = self.layout(wanted)
        try:
            expected = fingerprint(layout.certificate)
        except (OSError, ValueError) as error:
            raise NotAlive(f"the server's certificate cannot be read: {error}") from error
        await look(
            layout.listen, wanted.port, expected,
            self.section.check_timeout if seconds is None else seconds,
        )  # fmt: skip

    # -- ending ----------------------------------------------------------------------------

    async def end(self, *processes: ProcessRef | None) -> None:
        """End single processes."""
        await end_processes([one for one in processes if one], self.section.stop_within)
        self.reap()

    async def end_all(self, server: str, pids: ServerPids) -> int:
        """End everything that belongs to a server; how many had to be killed.

        First xrdp, so that nobody comes any more; then the gates, which end their desktops and
        wait until the recordings are closed; then all that is left.
        """
        killed = await end_processes([pids.xrdp] if pids.xrdp else [], self.section.stop_within)
        gates = [one for one in marked(MARK).get(server, []) if self._is_gate(server, one)]
        killed += await end_processes(gates, self.section.desktops_within)
        deadline = Deadline(self.section.stop_within)
        sesman = [pids.sesman] if pids.sesman else []
        killed += await end_processes(sesman, deadline.remaining())
        # Whoever was started while others were looked for is found by the next look.
        while left := marked(MARK).get(server, []):
            killed += await end_processes(left, deadline.remaining())
            if deadline.expired and left == marked(MARK).get(server, []):
                break
        self.reap()
        return killed

    def _is_gate(self, server: str, process: ProcessRef) -> bool:
        public = str((self.folder / server).absolute() / "public")
        return any(word.startswith(public) for word in command_of(process))

    def tidy(self, wanted: DesiredServer) -> None:
        """Remove what X servers and channel servers that were killed have left in /tmp and /run."""
        first = self.layout(wanted).display
        for display in range(first, first + DISPLAYS):
            lock = Path(f"/tmp/.X{display}-lock")
            with contextlib.suppress(OSError, ValueError):
                if process_ref(int(lock.read_text())) is not None:
                    continue  # somebody's who is none of ours
            left = [lock, Path(f"/tmp/.X11-unix/X{display}")]
            left += [SOCKETS / name.format(display) for name in SOCKET_NAMES]
            for path in left:
                with contextlib.suppress(OSError):
                    path.unlink()

    def reap(self) -> dict[int, int]:
        """Take the status of children that have ended."""
        ended = {}
        for pid, process in list(self._children.items()):
            status = process.poll()
            if status is not None:
                ended[pid] = status
                del self._children[pid]
        return ended

    def left_over(self) -> set[str]:
        """The ids of all servers that have processes or a folder here."""
        folders = {entry.name for entry in _entries(self.folder) if entry.is_dir()}
        own = str(self.folder.absolute())
        running = {
            server
            for server, processes in marked(MARK).items()
            if any(own in word for one in processes for word in command_of(one))
        }
        return folders | running


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError):
        return list(os.scandir(folder))
    return []


def _rotate(path: Path) -> None:
    """Put a log that has grown large aside, in the place of the one before."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
