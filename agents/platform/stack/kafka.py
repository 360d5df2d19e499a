"""Apache Kafka from its published Maven artefacts: one node, KRaft, loopback only."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import socket
import struct
import subprocess
import uuid
from functools import cache as memoised
from pathlib import Path
from typing import ClassVar

from agents.platform.stack.cache import RECIPES, Progress, cached, run_build
from agents.platform.stack.errors import BuildFailed
from agents.platform.stack.kafka_config import one_node
from agents.platform.stack.server import Command, NotReady, Server
from agents.platform.tools import MissingTool, install_hint, require_tool

VERSION = "4.3.1"
HEAP = "512m"
MIN_JAVA = 17
_RECIPE = RECIPES / "kafka"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

_MORE = """\
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
log.segment.bytes=268435456
log.retention.hours=168
"""


class Kafka(Server):
    name: ClassVar = "kafka"
    title: ClassVar = "Apache Kafka"
    data: ClassVar = "kafka"
    stop_seconds: ClassVar = 30.0
    extra_ports: ClassVar = 1

    def install(self, cache: Path, progress: Progress) -> Path:
        _java()

        def build(folder: Path) -> None:
            progress(f"downloading version {VERSION} with Maven")
            shutil.copy(_RECIPE / "pom.xml", folder)
            maven = [str(require_tool("mvn")), "-B", "-q", "-f", str(folder / "pom.xml")]
            options = ["-DincludeScope=runtime", f"-DoutputDirectory={folder / 'libs'}"]
            run_build("Maven's download of Kafka", [*maven, _COPY, *options], cwd=folder)
            _check_jars(folder / "libs")

        return cached(
            cache, f"kafka-{VERSION}", build=build, complete=_is_complete, progress=progress
        )

    def version(self, program: Path) -> str:
        return VERSION

    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        port, controller = ports
        data, scratch = folder / "data", folder / "tmp"
        for each in (data, scratch):
            each.mkdir(parents=True, exist_ok=True)
        config = folder / "server.properties"
        address = f"127.0.0.1:{port}"
        lines = one_node(
            "Written by `lucid stack up` at every start.", {"BROKER": (address, address)},
            between="BROKER", controller=controller, data=str(data),
        )  # fmt: skip
        config.write_text(lines + _MORE)
        java = [
            str(_java()),
            "-Xms128m",
            f"-Xmx{HEAP}",
            "-XX:+ExitOnOutOfMemoryError",
            # zstd and snappy unpack a library there; /tmp may be mounted noexec.
            f"-Djava.io.tmpdir={scratch}",
            f"-Dlog4j2.configurationFile={_RECIPE / 'log4j2.properties'}",
            "-cp",
            f"{program / 'libs'}/*",
        ]
        if not (data / "meta.properties").exists():
            tool = [*java, "kafka.tools.StorageTool", "format", "--standalone"]
            run_build(
                "formatting Kafka's store",
                [*tool, "-t", _new_cluster_id(), "-c", str(config)],
                cwd=folder,
            )
        return Command([*java, "kafka.Kafka", str(config)])

    def probe(self, port: int, *, seconds: float) -> None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=seconds) as peer:
                peer.settimeout(seconds)
                peer.sendall(_METADATA_REQUEST)
                (size,) = struct.unpack(">i", _read(peer, 4))
                if not 0 < size < 1 << 16:
                    raise NotReady("something else than Kafka answers")
                brokers = read_brokers(_read(peer, size))
        except OSError as error:
            raise NotReady(f"no answer from a broker: {error}") from error
        if ("127.0.0.1", port) not in brokers:
            raise NotReady(f"the cluster does not list 127.0.0.1:{port} yet")

    def url(self, port: int) -> str:
        return f"127.0.0.1:{port}"


def _request(api_key: int, version: int, body: bytes) -> bytes:
    client = b"lucid"
    head = struct.pack(">hhih", api_key, version, 1, len(client)) + client
    return struct.pack(">i", len(head) + len(body)) + head + body


# Kafka protocol, Metadata (3) version 1 with an empty array of topics: brokers only.
_METADATA_REQUEST = _request(3, 1, struct.pack(">i", 0))


def read_brokers(answer: bytes) -> list[tuple[str, int]]:
    """Host and port of each broker in a Metadata response, version 1; raises NotReady."""
    try:
        _correlation, count = struct.unpack_from(">ii", answer)
        place, brokers = 8, []
        for _ in range(count):
            _node, length = struct.unpack_from(">ih", answer, place)
            if length < 0:
                raise NotReady("something else than Kafka answers")
            host = answer[place + 6 : place + 6 + length].decode()
            place += 6 + length
            port, rack = struct.unpack_from(">ih", answer, place)
            place += 6 + max(rack, 0)
            brokers.append((host, port))
    except (struct.error, UnicodeDecodeError) as error:
        raise NotReady("something else than Kafka answers") from error
    return brokers


def _read(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            raise NotReady("the broker closed the connection")
        data += part
    return data


def _jar_sums() -> dict[str, str]:
    lines = (_RECIPE / "jars.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _is_complete(folder: Path) -> bool:
    return all((folder / "libs" / name).is_file() for name in _jar_sums())


def _check_jars(libs: Path) -> None:
    """Compare what Maven brought with the recipe; raises BuildFailed."""
    wanted = _jar_sums()
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in libs.glob("*.jar")}
    differing = sorted(n for n in wanted | found if wanted.get(n) != found.get(n))
    if differing:
        raise BuildFailed(
            f"Maven brought other files than the recipe names: {', '.join(differing)}",
            hint="Check which repository Maven is set to use, then run it again",
        )


def _new_cluster_id() -> str:
    # The storage tool takes a leading dash for an option.
    return "L" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


@memoised
def _java() -> Path:
    """The Java to run Kafka with; raises MissingTool if it is older than MIN_JAVA."""
    java = require_tool("java")
    printed = subprocess.run(
        [str(java), "-version"], capture_output=True, text=True, check=False
    ).stderr
    major = java_version(printed)
    if major is not None and major < MIN_JAVA:
        raise MissingTool(
            f"{java} is Java {major}, Kafka needs {MIN_JAVA} or later", hint=install_hint("java")
        )
    return java


def java_version(printed: str) -> int | None:
    """The feature release in what `java -version` prints: 8 for 1.8.0, 17 for 17.0.15."""
    match = re.search(r'version "(?:1\.)?(\d+)', printed)
    return int(match.group(1)) if match else None
