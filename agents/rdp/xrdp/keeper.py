"""Keeps the processes of one server as they shall be, step by step, whatever happens to them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from agents.platform.clock import wall_clock
from agents.platform.process_table import end_processes, is_alive
from agents.rdp.xrdp.clients import silent_clients
from agents.rdp.xrdp.files import make_folder, write_private
from agents.rdp.xrdp.launcher import CannotStart, Launcher
from agents.rdp.xrdp.life import (
    SECOND,
    Life,
    LifeLimits,
    Seen,
    Step,
    Trouble,
    after_trouble,
    backoff,
    change_of,
    moved,
    next_step,
    same_processes,
)
from agents.rdp.xrdp.probe import NotAlive
from agents.rdp.xrdp.settings import XrdpSettings
from schemas.canonical import decode, encode
from schemas.errors import FormatError, LucidError
from schemas.rdp_config import DesiredServer
from schemas.rdp_processes import ProcessChanged, ServerPids
from schemas.rdp_states import ProcessState

log = structlog.get_logger(__name__)

STATE_FILE = "state.json"
TICK_SECONDS = 0.5
Report = Callable[[ProcessChanged], None]


def boot_id() -> str:
    """Which boot of this machine it is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def load_life(folder: Path, server: str) -> Life:
    """What the state file has; a new life if it has nothing that can be read."""
    path = folder / STATE_FILE
    try:
        life = decode(Life, path.read_bytes())
        if life.server == server:
            # The pids of another boot are those of strangers.
            return life if life.boot == boot_id() else life.model_copy(update={"pids": NONE})
    except FileNotFoundError:
        pass
    except (OSError, FormatError) as error:
        log.error("state file cannot be read", path=str(path), error=str(error))
    return Life(server=server)


NONE = ServerPids()


@dataclass
class ServerKeeper:
    """One server on this host. report: takes each change of its state."""

    server: str
    launcher: Launcher
    section: XrdpSettings
    host: str
    report: Report
    wanted: DesiredServer | None = None
    life: Life = field(init=False)
    gone: bool = False
    """Whether nothing is left of the server."""
    failures: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _checked: float = 0.0
    _last_failure: str = ""

    def __post_init__(self) -> None:
        self.life = load_life(self.folder, self.server)
        self.limits = LifeLimits(
            restarts=self.section.restarts, failures=self.section.check_failures,
            steady=round(self.section.steady_after * SECOND),
        )  # fmt: skip

    @property
    def folder(self) -> Path:
        return self.launcher.folder / self.server

    def want(self, wanted: DesiredServer | None) -> None:
        """What the server shall be; an older record than the last one changes nothing."""
        before = self.wanted
        if wanted is not None and before is not None and wanted.version <= before.version:
            return
        self.wanted = wanted
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, or nothing is left of the server."""
        if self.life.seq:
            self.tell()
        while not stop.is_set() and not self.gone:
            self._changed.clear()
            try:
                await self.step()
            except (LucidError, OSError) as error:
                log.error("a step failed, again later", server=self.server, error=str(error))
                await asyncio.sleep(TICK_SECONDS)
            waiting = [asyncio.create_task(event.wait()) for event in (stop, self._changed)]
            await asyncio.wait(waiting, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()

    async def step(self) -> Step:
        """See what is the case, and do what is to be done next."""
        await self._check()
        wanted = self.wanted
        step = next_step(self.life, wanted, self.seen(), self.limits)
        if step == "remove":
            await self._remove()
        elif wanted is None or step == "nothing":
            pass
        elif step == "report":
            self._save(self._heard(wanted))
            self._move(self.life.state, reason=self.life.reason, code=self.life.code)
        elif step == "stop":
            await self._stop(wanted)
        elif step == "restart":
            await self._restart()
        else:
            await self._start(wanted)
        return step

    def seen(self) -> Seen:
        """What is the case now."""
        pids = self.life.pids
        return Seen(
            xrdp=is_alive(pids.xrdp), sesman=is_alive(pids.sesman), failures=self.failures,
            now=wall_clock(),
        )  # fmt: skip

    # -- watching ----------------------------------------------------------------------------

    async def _check(self) -> None:
        """Look at xrdp when it is time to, and send away clients that say nothing."""
        now = asyncio.get_running_loop().time()
        applied, xrdp = self.life.applied, self.life.pids.xrdp
        if self.life.state != "running" or applied is None or xrdp is None or not is_alive(xrdp):
            self.failures, self._checked = 0, now
            return
        if now - self._checked < self.section.check_every:
            return
        try:
            await self.launcher.look(applied)
            self.failures = 0
        except NotAlive as error:
            self.failures += 1
            self._last_failure = str(error)
            log.warning("xrdp does not answer", server=self.server, failures=self.failures,
                        error=str(error))  # fmt: skip
        self._checked = asyncio.get_running_loop().time()
        silent = silent_clients(xrdp, self.section.logon_within)
        if silent:
            log.info("clients sent away that did not log on", server=self.server, count=len(silent))
            await end_processes(silent, 1.0)

    # -- steps -------------------------------------------------------------------------------

    async def _start(self, wanted: DesiredServer) -> None:
        """Start what does not run; what runs with other settings is ended before."""
        before = self.life.applied
        if self.life.state in ("running", "restarting") and not same_processes(before, wanted):
            self._move("stopping", reason="its configuration has changed, or it is restarted")
            await self._end()
            self._move("stopped")
        life = self._heard(wanted)
        if wanted.version > self.life.heard:
            life = life.model_copy(update={"attempt": 0})
        self._save(life)
        if self.life.state != "starting":
            self._move("starting")
        try:
            await self._start_missing(wanted)
        except CannotStart as error:
            await self._failed(wanted, error)
        except (LucidError, OSError) as error:
            await self._failed(wanted, CannotStart(str(error)))
        else:
            self.failures = 0
            self._checked = asyncio.get_running_loop().time()
            self._move("running")

    async def _start_missing(self, wanted: DesiredServer) -> None:
        pids, seen = self.life.pids, self.seen()
        if (seen.xrdp or seen.sesman) and not same_processes(self.life.applied, wanted):
            await self._end()
            pids, seen = NONE, Seen(False, False, 0, seen.now)
        await self.launcher.free_ports(wanted, pids)
        if not (seen.xrdp and seen.sesman):
            # A key takes a tenth of a second, and others are not to wait for it.
            made = await asyncio.to_thread(self.launcher.write_files, wanted)
            if made:
                log.info("certificate made", server=self.server, reason=made)
        self._save(self.life.model_copy(update={"applied": wanted, "boot": boot_id()}))
        if not seen.sesman:
            self._save_pids(sesman=self.launcher.start_sesman(wanted))
        if not seen.xrdp:
            self._save_pids(xrdp=self.launcher.start_xrdp(wanted))
        await self.launcher.wait_ready(wanted, self.life.pids)

    async def _failed(self, wanted: DesiredServer, error: CannotStart) -> None:
        """Restarting later, or failed; a failed server leaves no process behind."""
        log.warning("cannot start", server=self.server, code=error.code, error=str(error))
        trouble = Trouble(error.code, str(error), error.final)
        life = self._after(trouble)
        if life.state == "failed":
            await self._end()
            life = life.model_copy(update={"pids": NONE})
        else:
            await self.launcher.end(self.life.pids.xrdp)
        self._save(life)
        self.tell()

    async def _restart(self) -> None:
        """A process is gone, or xrdp does not answer: what still works is left alone."""
        self.launcher.reap()
        seen, gone = self.seen(), []
        if not seen.sesman:
            gone.append("xrdp-sesman")
        if not seen.xrdp:
            gone.append("xrdp")
        reason = f"{' and '.join(gone)} ended unasked"
        code = "ProcessGone"
        if not gone:
            code, reason = "NotAlive", self._last_failure
            await self.launcher.end(self.life.pids.xrdp)
        log.warning("restarting", server=self.server, reason=reason)
        life = self._after(Trouble(code, reason))
        if life.state == "failed":
            await self._end()
            life = life.model_copy(update={"pids": NONE})
        self.failures = 0
        self._save(life)
        self.tell()

    def _after(self, trouble: Trouble) -> Life:
        now = wall_clock()
        pause = backoff(
            self.life.attempt, round(self.section.restart_first * SECOND),
            round(self.section.restart_most * SECOND),
        )  # fmt: skip
        return after_trouble(self.life, now, self.limits, pause, trouble)

    async def _stop(self, wanted: DesiredServer) -> None:
        self._save(self._heard(wanted))
        seen = self.seen()
        if self.life.state not in ("stopped", "failed") or seen.xrdp or seen.sesman:
            if self.life.state == "stopped":  # something runs that nobody knew of
                self._move("starting", reason="found running")
            if self.life.state != "stopping":
                self._move("stopping")
        await self._end()
        self._save(self.life.model_copy(update={"attempt": 0, "pids": NONE}))
        self._move("stopped")

    async def _end(self) -> None:
        killed = await self.launcher.end_all(self.server, self.life.pids)
        if killed:
            log.warning("processes had to be killed", server=self.server, count=killed)
        if self.life.applied is not None:
            self.launcher.tidy(self.life.applied)
        self._save(self.life.model_copy(update={"pids": NONE}))

    async def _remove(self) -> None:
        """End everything and delete the folder, then say that nothing is left."""
        if self.wanted is not None:
            self._save(self._heard(self.wanted))
        if self.life.state not in ("stopped", "failed", "stopping"):
            self._move("stopping")
        await self._end()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        # Told once nothing is left; a room that is killed before finds nothing, and tells it.
        self.life = moved(self.life, "stopped", wall_clock())
        self.tell()
        self.gone = True

    # -- state -------------------------------------------------------------------------------

    def _heard(self, wanted: DesiredServer) -> Life:
        return self.life.model_copy(update={"heard": wanted.version})

    def _move(
        self,
        state: ProcessState,
        *,
        code: str = "",
        reason: str = "",
    ) -> None:
        self._save(moved(self.life, state, wall_clock(), code=code, reason=reason))
        log.info("server is " + state, server=self.server, reason=reason)
        self.tell()

    def _save_pids(self, **pids: object) -> None:
        self._save(self.life.model_copy(update={"pids": self.life.pids.model_copy(update=pids)}))

    def _save(self, life: Life) -> None:
        """Keep the life, on disk first: whoever comes after this process goes on from there."""
        make_folder(self.folder, 0o711)
        write_private(self.folder / STATE_FILE, encode(life))
        self.life = life

    def tell(self) -> None:
        """Report the state as it is; a report that comes twice changes nothing."""
        shown = self.life.applied or self.wanted
        if self.wanted is not None and (shown is None or self.life.heard == self.wanted.version):
            shown = self.wanted
        if shown is not None:
            self.report(change_of(self.life, self.host, shown.port, str(self.folder.absolute())))
