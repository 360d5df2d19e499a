"""An override of compose for log-ons through `lucid-xrdp`: root, and named capabilities. Pure.

The three services that know a desktop by its process share the process and network namespaces
of xrdp, its X sockets and its homes; everything else stays as it is. Accounts are files of
the operator's: LUCID_ACCOUNTS names a folder with passwd, group and shadow.
"""

from __future__ import annotations

from typing import Any

from agents.deployment.compose import Reset, ResetNull, Script, to_yaml
from agents.deployment.services import EDGE, service

Document = dict[str, Any]
PORTS = "13389-13399"
"""Of the servers that clients reach, on this host alone; the first of the manager's range."""
CAPABILITIES = {
    # Becoming a user, their terminal and folders, ending them, a mount namespace of each server.
    "xrdp": ["CHOWN", "DAC_OVERRIDE", "KILL", "SETGID", "SETUID", "SYS_ADMIN"],
    # Reading which server a process of a user belongs to, and ending it.
    "rdp-controller": ["DAC_OVERRIDE", "KILL", "SYS_PTRACE"],
    # Reading the user's key to the display.
    "recorder": ["DAC_OVERRIDE"],
}
_SOCKET = "/run/desktops/controller.sock"
_ACCOUNTS = "${LUCID_ACCOUNTS:?a folder with passwd, group and shadow}"
_SHARED = ["desktops-gate:/run/desktops", "desktops-x11:/tmp/.X11-unix", "desktops-home:/home"]
_START = """\
test -f /etc/xrdp/rsakeys.ini || xrdp-keygen xrdp /etc/xrdp/rsakeys.ini >/dev/null
mkdir -p /run/xrdp/sockdir && chmod 3777 /run/xrdp/sockdir
chmod 1777 /tmp/.X11-unix
while IFS=: read -r _ _ uid gid _ home _; do
  if [ "$$uid" -ge 1000 ] && [ "$$uid" -lt 60000 ] && [ ! -d "$$home" ]; then
    mkdir -p "$$home" && chmod 700 "$$home" && chown "$$uid:$$gid" "$$home"
  fi
done </etc/passwd
exec /usr/bin/python3.11 /app/launch.py
"""


def logons() -> str:
    """The text of xrdp-logon.yml."""
    services = {service(name).container: _beside(name) for name in CAPABILITIES if name != "xrdp"}
    volumes = [entry.partition(":")[0] for entry in _SHARED]
    return to_yaml({
        "name": "lucid",
        "services": {service("xrdp").container: _xrdp(), **services},
        "volumes": {name: {"name": f"lucid-{name}"} for name in volumes},
    })  # fmt: skip


def _root(name: str, files: list[str]) -> Document:
    return {
        "user": "0:0",
        "cap_add": CAPABILITIES[name],
        "environment": {"LUCID_HOST": service("xrdp").container, "LUCID_RDP_SOCKET": _SOCKET},
        "volumes": [*_SHARED, *(f"{_ACCOUNTS}/{file}:/etc/{file}:ro" for file in files)],
    }


def _xrdp() -> Document:
    """The desktops themselves. Their root is writable: xrdp writes below /run and /etc."""
    document = _root("xrdp", ["passwd", "group", "shadow"])
    document["environment"]["LUCID_XRDP_LISTEN"] = "0.0.0.0"
    return {
        **document,
        "read_only": False,
        "entrypoint": ["/bin/sh", "-ec", Script(_START)],
        "networks": Reset([*service("xrdp").networks, EDGE]),
        "ports": [f"127.0.0.1:{PORTS}:{PORTS}"],
    }


def _beside(name: str) -> Document:
    """A service that looks at the desktops; users are known by their names to both."""
    place = f"service:{service('xrdp').container}"
    return {
        **_root(name, ["passwd"]),
        "pid": place,
        "network_mode": place,
        "networks": ResetNull(),
        "hostname": ResetNull(),
    }
