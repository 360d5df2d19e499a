"""The files that are made from the table of services and committed: `make compose`."""

from __future__ import annotations

from agents.deployment import compose, kubernetes, logons, monitoring
from agents.deployment.services import present
from agents.platform.contract import load_contract
from agents.platform.settings import Settings
from containers import images
from containers.context import version


def files() -> dict[str, str]:
    """Text by path, relative to the checkout."""
    here = present(images.rooms())
    # A pod cannot be where users log on: docs/containers.md, "Desktops in containers".
    pods = [one for one in here if not one.slim]
    contract = load_contract(Settings(topics_file=images.ROOT / "topics.yaml"))
    partitions = contract.topic("session.frames").partitions
    base = kubernetes.files(pods, version(), partitions)
    return {
        **{f"compose/{name}": text for name, text in compose.files().items()},
        "compose/xrdp-logon.yml": compose.HEAD + logons.logons(),
        **{f"compose/k8s/{name}": text for name, text in base.items()},
        "compose/monitoring/prometheus.yml": monitoring.scraping(here),
        "compose/monitoring/rules.yml": monitoring.rules(),
        "compose/monitoring/dashboard.json": monitoring.dashboard(),
    }
