"""The texts of xrdp.ini, sesman.ini and the scripts of a server. Pure.

Written for xrdp 0.9.21 of Debian 12; xrdp.ini(5) and sesman.ini(5) say what the names mean.
Values come from validated models only, so that none can hold a line break.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.rdp_config import TLS_VERSIONS, DesiredServer, ServerConfig

MARK = "LUCID_RDP_SERVER"
"""Environment variable that every process of a server has; its value is the server id."""
XORG = "/usr/lib/xorg/Xorg"
_LEVELS = {"error": "ERROR", "warning": "WARNING", "info": "INFO", "debug": "DEBUG"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a server's files are, and where it listens. display: its first X display."""

    folder: Path
    listen: str
    sesman_port: int
    display: int

    @property
    def public(self) -> Path:
        """What users of the desktop may read."""
        return self.folder / "public"

    @property
    def xrdp_ini(self) -> Path:
        return self.folder / "xrdp.ini"

    @property
    def sesman_ini(self) -> Path:
        return self.folder / "sesman.ini"

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def startwm(self) -> Path:
        return self.public / "startwm.sh"

    @property
    def reconnect(self) -> Path:
        return self.public / "reconnectwm.sh"


def xrdp_ini(wanted: DesiredServer, layout: Layout) -> str:
    """The configuration of xrdp."""
    config, devices = wanted.config, wanted.config.devices
    return _ini(
        {
            "Globals": {
                "ini_version": 1,
                "fork": True,
                "port": f"tcp://{layout.listen}:{wanted.port}",
                "use_vsock": False,
                "tcp_nodelay": True,
                "tcp_keepalive": True,
                # TLS always: the protocol's own encryption is broken (MS-RDPBCGR 5.3).
                "security_layer": "tls",
                "crypt_level": "high",
                "certificate": layout.certificate,
                "key_file": layout.key,
                "ssl_protocols": ", ".join(TLS_VERSIONS[config.security]),
                "autorun": "",
                "allow_channels": True,
                "allow_multimon": False,
                "bitmap_cache": True,
                "bitmap_compression": True,
                "bulk_compression": True,
                "max_bpp": config.colour_depth,
                "new_cursors": True,
                "use_fastpath": "both",
            },
            "Logging": _logging(layout.folder / "xrdp.log", config),
            "Channels": {
                # drdynvc carries the change of a desktop's size, which goes through no device.
                "rdpdr": devices.drive or devices.printer,
                "rdpsnd": devices.audio,
                "drdynvc": True,
                "cliprdr": devices.clipboard,
                "rail": False,
                "xrdpvr": False,
                "tcutils": False,
            },
            "Xorg": {
                "name": wanted.name,
                "lib": "libxup.so",
                "username": "ask",
                "password": "ask",
                "ip": "127.0.0.1",
                "port": -1,
                "code": 20,
                "channel.rdpdr": devices.drive or devices.printer,
                "channel.rdpsnd": devices.audio,
                "channel.cliprdr": devices.clipboard,
            },
        }
    )


def sesman_ini(wanted: DesiredServer, layout: Layout) -> str:
    """The configuration of the session manager, of X and of the channel server."""
    config, devices = wanted.config, wanted.config.devices
    clipboard = "none" if devices.clipboard else "all"
    return _ini(
        {
            "Globals": {
                "ListenAddress": "127.0.0.1",
                "ListenPort": layout.sesman_port,
                # A program of the user's own would be one that runs beside the recording.
                "EnableUserWindowManager": False,
                "UserWindowManager": "none",
                "DefaultWindowManager": layout.startwm,
                "ReconnectScript": layout.reconnect,
            },
            "Security": {
                "AllowRootLogin": False,
                "MaxLoginRetry": 4,
                "AlwaysGroupCheck": False,
                "RestrictOutboundClipboard": clipboard,
                "RestrictInboundClipboard": clipboard,
            },
            "Sessions": {
                "X11DisplayOffset": layout.display,
                "MaxSessions": config.max_sessions,
                "KillDisconnected": False,
                "DisconnectedTimeLimit": 0,
                "IdleTimeLimit": 0,
                "Policy": "Default",
            },
            "Logging": _logging(layout.folder / "sesman.log", config),
        }
    ) + "\n".join(
        [
            "[Xorg]",
            *(f"param={word}" for word in (
                XORG, "-config", "xrdp/xorg.conf", "-noreset", "-nolisten", "tcp",
                "-maxbigreqsize", "127", "-logfile", "/dev/null",
            )),
            "",
            "[Chansrv]",
            "FuseMountName=thinclient_drives",
            "FileUmask=077",
            f"EnableFuseMount={_text(devices.drive)}",
            "",
            "[ChansrvLogging]",
            f"LogLevel={_LEVELS[config.log_level]}",
            "EnableSyslog=false",
            "",
            "[SessionVariables]",
            f"{MARK}={wanted.server}",
            "",
        ]
    )  # fmt: skip


def startwm(wanted: DesiredServer) -> str:
    """What runs on a desktop when nothing is to be asked before: the user's own session."""
    return "\n".join(
        [
            "#!/bin/sh",
            f"export {MARK}={shlex.quote(wanted.server)}",
            'if [ -r "$HOME/.xsession" ]; then exec /bin/sh "$HOME/.xsession"; fi',
            "for program in x-session-manager x-window-manager x-terminal-emulator xterm; do",
            '    if command -v "$program" >/dev/null; then exec "$program"; fi',
            "done",
            'echo "no program to start on this desktop" >&2',
            "exit 1",
            "",
        ]
    )


def reconnect() -> str:
    """What runs when a user comes back to a desktop: nothing."""
    return "#!/bin/sh\nexit 0\n"


def _logging(file: Path, config: ServerConfig) -> Mapping[str, object]:
    return {"LogFile": file, "LogLevel": _LEVELS[config.log_level], "EnableSyslog": False}


def _ini(sections: Mapping[str, Mapping[str, object]]) -> str:
    lines = []
    for name, entries in sections.items():
        lines += [f"[{name}]", *(f"{key}={_text(value)}" for key, value in entries.items()), ""]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
