"""server.properties of a broker that is its own controller, for `lucid stack` and containers.

Pure; who may log in, and over what, is appended by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping

# A sealed chunk is at most 16 MiB of frames and its header; 17 MiB records must pass.
MAX_RECORD_BYTES = 18 * 1024**2


def one_node(
    by: str, clients: Mapping[str, tuple[str, str]], *, between: str, controller: int, data: str
) -> str:
    """All but the listeners' protocols.

    by: what goes into the first line. clients: listeners by name, each with the address it
    binds to and the one it tells clients. between: the listener brokers use among themselves.
    controller: port on loopback. data: folder.
    """
    quorum = f"CONTROLLER://127.0.0.1:{controller}"
    bound = [f"{name}://{address}" for name, (address, _) in clients.items()]
    told = [f"{name}://{address}" for name, (_, address) in clients.items()]
    return f"""\
# {by}
process.roles=broker,controller
node.id=1
listeners={",".join([*bound, quorum])}
advertised.listeners={",".join([*told, quorum])}
inter.broker.listener.name={between}
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={data}
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
message.max.bytes={MAX_RECORD_BYTES}
replica.fetch.max.bytes={MAX_RECORD_BYTES}
socket.request.max.bytes=104857600
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=16777216
num.io.threads=4
num.network.threads=2
"""
