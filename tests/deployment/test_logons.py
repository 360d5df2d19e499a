"""The override for log-ons: root and named capabilities where desktops are, and nowhere else."""

from __future__ import annotations

from agents.deployment import compose, logons
from agents.deployment.services import SERVICES, service
from tests.deployment.test_compose import load_text

MADE = load_text(logons.logons())
WHOLE = load_text(compose.files()["phase3.yml"])
XRDP = service("xrdp").container


def test_three_services_get_what_is_named_and_no_other_anything() -> None:
    assert set(MADE["services"]) == {service(name).container for name in logons.CAPABILITIES}
    assert len(SERVICES) - len(MADE["services"]) == 7
    for name, wanted in logons.CAPABILITIES.items():
        assert MADE["services"][service(name).container]["cap_add"] == wanted
        # cap_drop ALL and no-new-privileges stay, since nothing here takes them away.
        assert not {"cap_drop", "security_opt", "privileged"} & set(
            MADE["services"][service(name).container]
        )


def test_who_looks_at_desktops_is_where_they_are() -> None:
    for name in ("rdp-controller", "recorder"):
        found = MADE["services"][service(name).container]
        assert found["pid"] == found["network_mode"] == f"service:{XRDP}"
        assert found["environment"]["LUCID_HOST"] == XRDP
        assert "read_only" not in found
        assert not any("/etc/shadow" in entry for entry in found["volumes"])
    assert set(MADE["services"][XRDP]["networks"]) > set(WHOLE["services"][XRDP]["networks"])


def test_desktops_are_offered_to_this_host_alone() -> None:
    assert MADE["services"][XRDP]["ports"] == [f"127.0.0.1:{logons.PORTS}:{logons.PORTS}"]
