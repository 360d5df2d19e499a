"""Starts FerretDB with what the official image of MongoDB takes: user and password files.

MONGO_INITDB_ROOT_USERNAME and MONGO_INITDB_ROOT_PASSWORD_FILE turn authentication on.
"""

import os
import sys
from pathlib import Path

PROGRAM = "/opt/ferretdb/ferretdb"
STORE = Path("/var/lib/ferretdb")


def main() -> None:
    try:
        for name in ("data", "state"):
            (STORE / name).mkdir(exist_ok=True)
    except OSError as error:
        sys.exit(f"error: cannot write to {STORE} ({error.strerror}). Mount a volume there")
    arguments = [
        PROGRAM, "--handler=sqlite", f"--sqlite-url=file:{STORE}/data/",
        "--listen-addr=0.0.0.0:27017", "--debug-addr=-", f"--state-dir={STORE}/state",
        "--telemetry=disable", "--log-level=warn",
    ]  # fmt: skip
    environment = {"HOME": "/tmp"}
    place = os.environ.get("MONGO_INITDB_ROOT_PASSWORD_FILE")
    if place:
        try:
            password = Path(place).read_text().strip()
        except OSError as error:
            sys.exit(f"error: cannot read the password file {place} ({error.strerror})")
        # By the environment: arguments can be read by everyone.
        environment |= {
            "FERRETDB_SETUP_USERNAME": os.environ.get("MONGO_INITDB_ROOT_USERNAME", "lucid"),
            "FERRETDB_SETUP_PASSWORD": password,
            "FERRETDB_SETUP_DATABASE": "admin",
        }
        arguments.append("--test-enable-new-auth")
    os.execve(PROGRAM, arguments, environment)


if __name__ == "__main__":
    main()
