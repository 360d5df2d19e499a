"""Settings of the RDP monitor: LUCID_MONITOR_… and table [monitor]."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from agents.platform.settings import Section
from schemas.rdp_metrics import Metric, Rule, Severity


class MonitorSettings(Section):
    """How often RDP servers are measured, and when that alerts. Percents are of their limits."""

    section: ClassVar[str] = "monitor"
    model_config = SettingsConfigDict(env_prefix="LUCID_MONITOR_", extra="forbid", frozen=True)

    port: int = Field(8093, ge=0, le=65535, description="Health and metrics; 0 picks a free one")
    every: float = Field(
        30.0, ge=0.1, le=3600, description="Seconds from one round of measuring to the next"
    )
    cpu_over: float = Field(80.0, gt=0, le=1000, description="Percent of processors that warn")
    memory_over: float = Field(80.0, gt=0, le=1000, description="Percent of memory that warns")
    disk_over: float = Field(90.0, gt=0, le=1000, description="Percent of disk that is critical")
    hysteresis: float = Field(
        10.0, ge=0, le=100, description="Percent below its threshold at which an alert may end"
    )
    raise_after: float = Field(
        60.0, ge=0, le=86_400, description="Seconds over the threshold, then an alert is raised"
    )
    resolve_after: float = Field(
        60.0, ge=0, le=86_400, description="Seconds below it, then the alert is resolved"
    )
    disk_every: float = Field(
        300.0, ge=0.1, le=86_400, description="Seconds until a folder's size is found out again"
    )
    disk_entries: int = Field(
        10_000, ge=1, le=1_000_000, description="Files that are looked at in one round"
    )
    disk_most: int = Field(
        1_000_000, ge=1, le=100_000_000,
        description="Files of a folder after which its size is a lower bound",
    )  # fmt: skip

    def rules(self) -> list[Rule]:
        """When what is measured alerts."""
        wanted: list[tuple[Metric, Severity, float]] = [
            ("cpu", "warning", self.cpu_over), ("memory", "warning", self.memory_over),
            ("disk", "critical", self.disk_over),
        ]  # fmt: skip
        return [
            Rule(metric, severity, over, self.hysteresis, self.raise_after, self.resolve_after,
                 patience=3 * self.every)
            for metric, severity, over in wanted
        ]  # fmt: skip
