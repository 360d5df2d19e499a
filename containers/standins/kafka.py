"""Starts Kafka as the official image does: formats the store once, then becomes the broker.

The configuration is /mnt/shared/config/server.properties, the path the official image takes.
"""

import base64
import os
import subprocess
import sys
import uuid
from pathlib import Path

CONFIG = "/mnt/shared/config/server.properties"
STORE = Path("/var/lib/kafka/data")
JAVA = [
    "/opt/java/bin/java", "-Xms128m", f"-Xmx{os.environ.get('KAFKA_HEAP', '512m')}",
    "-XX:+ExitOnOutOfMemoryError",
    # zstd and snappy unpack a library there, and Docker's tmpfs is noexec: the volume is not.
    "-Djava.io.tmpdir=/var/lib/kafka/tmp",
    "-Dlog4j2.configurationFile=/opt/kafka/log4j2.properties", "-cp", "/opt/kafka/libs/*",
]  # fmt: skip


def main() -> None:
    if not os.access(CONFIG, os.R_OK):
        sys.exit(f"error: cannot read {CONFIG}. Mount the broker's configuration there")
    try:
        for folder in (STORE, Path("/var/lib/kafka/tmp")):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"error: cannot write to /var/lib/kafka ({error.strerror}). Mount a volume there")
    if not (STORE / "meta.properties").exists():
        cluster = "L" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        tool = [*JAVA, "kafka.tools.StorageTool", "format", "--standalone"]
        done = subprocess.run([*tool, "-t", cluster, "-c", CONFIG], check=False)
        if done.returncode:
            sys.exit("error: Kafka's store cannot be formatted; see the lines above")
    os.execv(JAVA[0], [*JAVA, "kafka.Kafka", CONFIG])


if __name__ == "__main__":
    main()
