"""The three servers with TLS listeners, and a broker that asks for passwords."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from agents.platform.stack import processes
from agents.platform.stack.cache import cache_folder, run_build
from agents.platform.stack.ferretdb import FerretDB
from agents.platform.stack.kafka import Kafka
from agents.platform.stack.redis import Redis
from agents.platform.stack.server import Command, Server
from agents.platform.stack.starter import Wish, start
from agents.platform.stack.state import Record, StackFolder
from tests.platform.certificates import Authority, Pair

USER, PASSWORD = "ada", "sesame-open"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class TlsKafka(Kafka):
    """A broker whose listeners are TLS, TLS with a wrong host name, and TLS with SASL.

    Its ports: plain, controller, TLS, ELSEWHERE, MUTUAL, SASL.
    """

    extra_ports = 5
    NAMES = ("TLS", "ELSEWHERE", "MUTUAL", "LOGIN")

    def __init__(self, authority: Authority, here: Pair, elsewhere: Pair) -> None:
        self._authority, self._here, self._elsewhere = authority, here, elsewhere

    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        command = super().prepare(program, folder, ports[:2])
        config = folder / "server.properties"
        text = config.read_text()
        more = "".join(
            f",{name}://127.0.0.1:{port}" for name, port in zip(self.NAMES, ports[2:], strict=True)
        )
        text = re.sub(r"(?m)^((?:advertised\.)?listeners=.*)$", rf"\1{more}", text)
        text = text.replace(
            "protocol.map=", "protocol.map=TLS:SSL,ELSEWHERE:SSL,MUTUAL:SSL,LOGIN:SASL_SSL,"
        )
        config.write_text(text + self._security())
        self._add_user(program, config, command)
        return command

    def _security(self) -> str:
        lines = [
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={self._here.both}",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={self._authority.cert}",
            f"listener.name.elsewhere.ssl.keystore.location={self._elsewhere.both}",
            "listener.name.elsewhere.ssl.keystore.type=PEM",
            "listener.name.mutual.ssl.client.auth=required",
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512",
            f'listener.name.login.plain.sasl.jaas.config={_PLAIN} user_{USER}="{PASSWORD}";',
            f"listener.name.login.scram-sha-512.sasl.jaas.config={_SCRAM}",
        ]
        return "\n".join(lines) + "\n"

    def _add_user(self, program: Path, config: Path, command: Command) -> None:
        """The store is formatted once more, with the user's SCRAM secret in it."""
        folder = config.parent
        shutil.rmtree(folder / "data")
        tool = [*command.argv[: command.argv.index("kafka.Kafka")], "kafka.tools.StorageTool"]
        scram = f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"
        run_build(
            "formatting Kafka's store",
            [*tool, "format", "--standalone", "-t", "LKnMj1dNQ7m8dTqLZ0yq1A", "-c", str(config),
             "--add-scram", scram],
            cwd=folder,
        )  # fmt: skip


class TlsFerretDB(FerretDB):
    """A catalog with a TLS listener on its second port."""

    extra_ports = 1

    def __init__(self, here: Pair) -> None:
        self._here = here

    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        command = super().prepare(program, folder, ports[:1])
        more = [
            f"--listen-tls=127.0.0.1:{ports[1]}",
            f"--listen-tls-cert-file={self._here.cert}",
            f"--listen-tls-key-file={self._here.key}",
        ]
        return Command([*command.argv, *more])


class TlsRedis(Redis):
    """A Redis with a TLS port, its second one, that takes client certificates."""

    extra_ports = 1

    def __init__(self, authority: Authority, here: Pair, clients: str = "optional") -> None:
        self._authority, self._here, self._clients = authority, here, clients

    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        command = super().prepare(program, folder, ports[:1])
        options = {
            "tls-port": ports[1], "tls-cert-file": self._here.cert,
            "tls-key-file": self._here.key, "tls-ca-cert-file": self._authority.cert,
            "tls-auth-clients": self._clients,
        }  # fmt: skip
        more = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return Command([*command.argv, *more])


def started(server: Server, folder: Path) -> tuple[list[int], Callable[[], None]]:
    """Start a server; its ports, and what ends it."""
    records: list[Record] = []
    program = server.install(cache_folder(None), lambda _: None)
    record = start(
        server, program, StackFolder(folder), Wish(), remember=lambda _, one: records.append(one),
        progress=lambda _: None,
    )  # fmt: skip

    def end() -> None:
        for one in records:
            if one.process is not None:
                processes.stop(one.process, seconds=server.stop_seconds)

    return record.ports, end
