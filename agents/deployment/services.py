"""The ten containers, once: names, ports, what each may reach, read and write. Pure.

The images, the compose files, the Kubernetes base, the broker's rights and the validation
are made from this table. What a service reaches and which keys it holds is the least that
it needs; a test compares `catalog` and `redis` with what its code imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.errors import LucidError

Group = Literal["sessions", "rdp", "node"]
GROUPS: tuple[Group, ...] = ("sessions", "rdp", "node")
USER = 65532
"""User and group of every container: `nonroot` of the distroless images."""
STATE = "/var/lib/lucid"
"""LUCID_HOME in a container: a volume, the only folder beside /tmp that can be written to."""
SECRETS = "/run/lucid"
"""Where a service's own secrets are, read-only."""
BLOBS = "/var/lib/lucid-blobs"
DEV, CATALOG, CACHE, EDGE = "lucid-dev", "lucid-catalog", "lucid-cache", "lucid-edge"
"""Networks: the broker and all services; the catalog's; Redis's; the one with a way out."""
SUBNETS = {
    DEV: "172.20.0.0/16", CATALOG: "172.21.0.0/24", CACHE: "172.21.1.0/24", EDGE: "172.21.2.0/24",
}  # fmt: skip


class UnknownService(LucidError):
    """There is no service of that name."""

    exit_status = 64


@dataclass(frozen=True, slots=True)
class Service:
    """One service and its container.

    name: as in `lucid run`. keys: files and folders of the keys folder that it may have.
    memory: the container's limit in MiB. cpus: its limit in cores. blobs: how it has the
    sealed chunks. packages: Debian packages whose libraries are added to its image.
    """

    name: str
    container: str
    port: int
    group: Group
    room: str
    keys: tuple[str, ...] = ()
    memory: int = 256
    cpus: float = 1.0
    catalog: bool = False
    redis: bool = False
    blobs: Literal["", "ro", "rw"] = ""
    published: bool = False
    packages: tuple[str, ...] = ()
    slim: bool = False

    @property
    def image(self) -> str:
        """The repository of its image, without a tag."""
        return f"lucid/{self.container.removeprefix('lucid-')}"

    @property
    def networks(self) -> list[str]:
        """The networks that it is on."""
        on = {CATALOG: self.catalog, CACHE: self.redis, EDGE: self.published}
        return [DEV, *(name for name, wanted in on.items() if wanted)]

    @property
    def principal(self) -> str:
        """Its user on the broker; the same name as in topics.yaml."""
        return self.name


_X11 = ("libxcb1", "libxau6", "libxdmcp6", "libbsd0", "libmd0")

SERVICES: tuple[Service, ...] = (
    Service(
        "pipeline", "lucid-session-pipeline", 8083, "sessions", "agents.session.pipeline",
        keys=("trusted.txt",), catalog=True, redis=True,
    ),
    Service(
        "recorder", "lucid-session-recorder", 8084, "sessions", "agents.session.recorder",
        keys=("recorder.key", "recorder.vkey", "recipients.txt"), memory=512, packages=_X11,
    ),
    Service(
        "processor", "lucid-session-processor", 8085, "sessions", "agents.session.processor",
        keys=("processor.key", "processor.vkey", "processor.age"), memory=1024, cpus=2.0,
    ),
    Service(
        "storage", "lucid-session-storage", 8086, "sessions", "agents.session.storage",
        memory=512, catalog=True, blobs="rw",
    ),
    Service(
        "api", "lucid-session-api", 8087, "sessions", "agents.session.api",
        keys=("trusted.txt", "tokens"), memory=512, catalog=True, redis=True, blobs="ro",
        published=True,
    ),
    Service(
        "rdp-server-manager", "lucid-rdp-server-manager", 8090, "rdp",
        "agents.rdp.server_manager", catalog=True,
    ),
    Service(
        "xrdp", "lucid-xrdp", 8091, "rdp", "agents.rdp.xrdp", memory=2048, cpus=2.0,
        slim=True,
    ),
    Service("rdp-controller", "lucid-rdp-controller", 8092, "rdp", "agents.rdp.controller"),
    Service("rdp-monitor", "lucid-rdp-monitor", 8093, "rdp", "agents.rdp.monitor"),
    Service(
        "node-management", "lucid-node-management", 8095, "node", "agents.node.management",
        keys=("node-management.secret",), catalog=True,
    ),
)  # fmt: skip


def service(name: str) -> Service:
    """The service called `name`, by its own or its container's name; raises UnknownService."""
    for one in SERVICES:
        if name in (one.name, one.container):
            return one
    known = ", ".join(one.name for one in SERVICES)
    raise UnknownService(f"there is no service {name}", hint=f"There are {known}")


def present(rooms: Sequence[str]) -> list[Service]:
    """The services whose room is among those that `lucid run` knows."""
    return [one for one in SERVICES if one.name in rooms]
