"""The configuration of the three servers, without and with passwords. Pure."""

from __future__ import annotations

from agents.platform.stack.kafka_config import one_node

PLAIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
ADMIN = "admin"
_KAFKA = one_node(
    "Written by `lucid init`. One node; a cluster has its own.",
    {"CLIENTS": ("0.0.0.0:9092", "lucid-kafka:9092"), "LOCAL": ("127.0.0.1:9094",) * 2},
    between="LOCAL", controller=9093, data="/var/lib/kafka/data",
)  # fmt: skip


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
