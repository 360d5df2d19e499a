"""Runs inside a container, fed to its Python on standard input; prints JSON. Standard library only.

Arguments: a JSON object {reach: [[host, port], …], state: [folders], secrets: folder}.
"""

import json
import os
import socket
import sys

SECONDS = 2.0
SEALED = ("/", "/app", "/opt", "/etc", "/usr/bin", "/run", "/home/nonroot")


def can_write(folder: str) -> bool:
    path = os.path.join(folder, ".lucid-validate")
    try:
        with open(path, "w"):
            pass
        os.unlink(path)
    except OSError:
        return False
    return True


def reaches(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=SECONDS):
            return True
    except OSError:
        return False


def status() -> dict[str, str]:
    with open("/proc/1/status") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def open_secrets(folder: str) -> dict[str, str]:
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if os.stat(path).st_mode & 0o077:
                found[path] = oct(os.stat(path).st_mode & 0o777)
    return found


def main() -> None:
    asked = json.loads(sys.argv[1])
    keys = os.path.join(asked["secrets"], "keys")
    process = status()
    print(json.dumps({
        "uid": os.getuid(),
        "bounding": process["CapBnd"],
        "no_new_privileges": process["NoNewPrivs"],
        "writable": [folder for folder in SEALED if can_write(folder)],
        "unwritable": [folder for folder in asked["state"] if not can_write(folder)],
        "reached": {f"{host}:{port}": reaches(host, port) for host, port in asked["reach"]},
        "keys": sorted(os.listdir(keys)) if os.path.isdir(keys) else [],
        "open_secrets": open_secrets(asked["secrets"]),
        "bill": os.path.isfile("/usr/share/lucid/sbom.cdx.json"),
    }))  # fmt: skip


main()
