"""The RDP servers of this host, as the xrdp room tells of them."""

from __future__ import annotations

import asyncio

from agents.platform.process_table import is_alive
from agents.rdp.controller.store import Store
from schemas.rdp_processes import ProcessChanged

DOWN = ("stopping", "stopped", "failed")


class Servers:
    """The newest word on each server. changed: set anew with each one."""

    def __init__(self, store: Store, host: str) -> None:
        self._store, self._host = store, host
        self._servers = {one.server: one for one in store.servers()}
        self.changed = asyncio.Event()

    def heard(self, change: ProcessChanged) -> bool:
        """Take an event; whether it is news. An older one than the last changes nothing."""
        known = self._servers.get(change.server)
        if change.host != self._host or (known is not None and known.seq >= change.seq):
            return False
        self._servers[change.server] = change
        self._store.put_servers(self._servers.values())
        self.changed.set()
        self.changed = asyncio.Event()
        return True

    def get(self, server: str) -> ProcessChanged | None:
        return self._servers.get(server)

    def going_down(self, server: str) -> bool:
        """Whether the server is being stopped, or is no more."""
        known = self._servers.get(server)
        return known is not None and known.state in DOWN

    def running(self) -> list[ProcessChanged]:
        """Those whose xrdp lives."""
        return [one for one in self._servers.values() if is_alive(one.pids.xrdp)]
