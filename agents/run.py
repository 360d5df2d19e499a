"""`lucid run SERVICE`: one service in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import importlib
from enum import StrEnum
from typing import Annotated

import typer


class ServiceName(StrEnum):
    """The services that can be run."""

    RECORDER = "recorder"
    PROCESSOR = "processor"
    STORAGE = "storage"
    PIPELINE = "pipeline"
    API = "api"
    NODE_MANAGEMENT = "node-management"
    NODE_AGENT = "node-agent"
    RDP_CONTROLLER = "rdp-controller"
    RDP_SERVER_MANAGER = "rdp-server-manager"
    XRDP = "xrdp"
    RDP_MONITOR = "rdp-monitor"


ROOMS = {
    ServiceName.RECORDER: "agents.session.recorder",
    ServiceName.PROCESSOR: "agents.session.processor",
    ServiceName.STORAGE: "agents.session.storage",
    ServiceName.PIPELINE: "agents.session.pipeline",
    ServiceName.API: "agents.session.api",
    ServiceName.NODE_MANAGEMENT: "agents.node.management",
    ServiceName.NODE_AGENT: "agents.node.agent",
    ServiceName.RDP_CONTROLLER: "agents.rdp.controller",
    ServiceName.RDP_SERVER_MANAGER: "agents.rdp.server_manager",
    ServiceName.XRDP: "agents.rdp.xrdp",
    ServiceName.RDP_MONITOR: "agents.rdp.monitor",
}


def run(service: Annotated[ServiceName, typer.Argument(help="Which service to run.")]) -> None:
    """Run one service in the foreground; SIGTERM or Ctrl-C stops it cleanly."""
    # Imported here, so that a service loads only what it needs itself.
    agent = importlib.import_module(f"{ROOMS[service]}.agent")
    raise typer.Exit(agent.main())
