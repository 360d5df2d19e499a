"""What a validation found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "failed", "absent", "skipped"]
COLUMNS = (
    "image", "running", "port", "user", "shell", "read-only", "capabilities", "limits", "health",
    "isolation", "secrets",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one subject: a container, or `stack`. detail: what is wrong, one line."""

    subject: str
    check: str
    verdict: Verdict
    detail: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict == "failed"


def ok(subject: str, check: str, detail: str = "") -> Finding:
    return Finding(subject, check, "ok", detail)


def failed(subject: str, check: str, detail: str) -> Finding:
    return Finding(subject, check, "failed", " ".join(detail.split())[:300])


def skipped(subject: str, check: str, why: str) -> Finding:
    """It was not tried, since what it stands on has failed already."""
    return Finding(subject, check, "skipped", why)


def judged(subject: str, check: str, problems: Sequence[str]) -> Finding:
    """Failed with all problems, ok without any."""
    return failed(subject, check, "; ".join(problems)) if problems else ok(subject, check)


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in the order of containers and checks."""

    findings: tuple[Finding, ...]

    @property
    def failures(self) -> list[Finding]:
        return [one for one in self.findings if one.failed]

    def healthy(self) -> tuple[int, int]:
        """How many of how many containers are healthy."""
        rows = [one for one in self.findings if one.check == "health"]
        return sum(one.verdict == "ok" for one in rows), len(rows)

    def document(self) -> dict[str, object]:
        """What --json prints."""
        healthy, containers = self.healthy()
        return {
            "ok": not self.failures, "healthy": healthy, "containers": containers,
            "checks": len(self.findings), "failed": len(self.failures),
            "findings": [
                {"subject": one.subject, "check": one.check, "verdict": one.verdict,
                 "detail": one.detail}
                for one in self.findings
            ],
        }  # fmt: skip
