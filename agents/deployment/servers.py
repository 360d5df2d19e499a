"""The configuration of the three servers, without and with passwords. Pure."""

from __future__ import annotations

PLAIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
ADMIN = "admin"
MAX_RECORD = 18 * 1024**2

_KAFKA = f"""\
# Written by `lucid init`. One node; a cluster has its own.
process.roles=broker,controller
node.id=1
listeners=CLIENTS://0.0.0.0:9092,LOCAL://127.0.0.1:9094,CONTROLLER://127.0.0.1:9093
advertised.listeners=CLIENTS://lucid-kafka:9092,LOCAL://127.0.0.1:9094,CONTROLLER://127.0.0.1:9093
inter.broker.listener.name=LOCAL
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:9093
log.dirs=/var/lib/kafka/data
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
message.max.bytes={MAX_RECORD}
replica.fetch.max.bytes={MAX_RECORD}
socket.request.max.bytes=104857600
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=16777216
num.io.threads=4
num.network.threads=2
"""


def kafka_plain() -> str:
    """server.properties of a broker that asks nobody who it is."""
    return _KAFKA + (
        "listener.security.protocol.map=CLIENTS:PLAINTEXT,LOCAL:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
    )


def kafka_secure(password: str) -> str:
    """server.properties with TLS, SCRAM for services, PLAIN over TLS for the administrator.

    Who may do what is in the broker (`lucid setup`); nobody may anything by default. LOCAL is
    for the health check, on loopback, and its user, ANONYMOUS, has no rights.
    """
    login = f'{PLAIN_MODULE} username="{ADMIN}" password="{password}" user_{ADMIN}="{password}";'
    lines = (
        "listener.security.protocol.map=CLIENTS:SASL_SSL,LOCAL:PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN",
        "listener.name.controller.sasl.enabled.mechanisms=PLAIN",
        "sasl.mechanism.controller.protocol=PLAIN",
        f"listener.name.controller.plain.sasl.jaas.config={login}",
        f"listener.name.clients.plain.sasl.jaas.config={login}",
        f"listener.name.clients.scram-sha-512.sasl.jaas.config={SCRAM_MODULE}",
        "ssl.keystore.type=PEM",
        "ssl.keystore.location=/mnt/shared/config/server.pem",
        "ssl.truststore.type=PEM",
        "ssl.truststore.location=/mnt/shared/config/ca.pem",
        "ssl.enabled.protocols=TLSv1.3,TLSv1.2",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        f"super.users=User:{ADMIN}",
        "allow.everyone.if.no.acl.found=false",
    )
    return _KAFKA + "\n".join(lines) + "\n"


def redis(password: str = "") -> str:
    """redis.conf: nothing on disk, and a password if there is one."""
    lines = [
        "# Written by `lucid init`.", "bind 0.0.0.0", "port 6379", 'save ""', "appendonly no",
        "maxmemory 256mb", "maxmemory-policy noeviction", "dir /tmp",
        f"requirepass {password}" if password else "protected-mode no",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
