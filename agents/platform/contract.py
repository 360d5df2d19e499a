"""The contract on a real broker: where topics.yaml is, what a broker has, making it so.

ContractError
├── TopicDrift        the broker's topics differ from the contract
└── CannotApply       a difference that no command can mend in place
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from agents.platform.broker import administering
from agents.platform.settings import Settings
from schemas.errors import ContractError
from schemas.topics import BrokerState, Contract, Drift, Topic, TopicState, diff, parse_contract

__all__ = ["CannotApply", "Contract", "TopicDrift", "apply_contract", "ensure_contract",
           "load_contract", "read_broker"]  # fmt: skip

VISIBLE_SECONDS = 15.0  # until a new topic shows in every answer
_SET_ON_TOPIC = 1  # config source DYNAMIC_TOPIC_CONFIG of the Kafka protocol
_TOPIC_EXISTS = 36


class TopicDrift(ContractError):
    """The broker differs from topics.yaml."""


class CannotApply(ContractError):
    """The broker has fewer nodes, or a topic more partitions, than can be changed."""


def load_contract(settings: Settings) -> Contract:
    """The contract in force, with the settings' prefix; raises ContractError."""
    return parse_contract(contract_text(settings), settings.topic_prefix)


def contract_text(settings: Settings) -> str:
    """The contract in force as it is written; raises ContractError."""
    path = settings.topics_file
    if path is None:
        return _built_in()
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(
            f"cannot read {path}: {error}", hint="LUCID_TOPICS_FILE names the contract"
        ) from error


def _built_in() -> str:
    packaged = resources.files("schemas").joinpath("topics.yaml")
    if packaged.is_file():
        return packaged.read_text()
    return (Path(__file__).parents[2] / "topics.yaml").read_text()


async def read_broker(settings: Settings, contract: Contract) -> BrokerState:
    """The broker's nodes, and its topics of the contract; raises BrokerUnreachable."""
    async with administering(settings) as client:
        return await _read(client, contract)


async def _read(client: AIOKafkaAdminClient, contract: Contract) -> BrokerState:
    nodes = len((await client.describe_cluster())["brokers"])
    wanted = {topic.full_name for topic in contract.topics.values()}
    # Asked by name, a broker may create topics; asked for all, it only answers.
    described = {
        entry["topic"]: entry["partitions"]
        for entry in await client.describe_topics()
        if entry["topic"] in wanted
    }
    configs = await _configs(client, sorted(described))
    topics = {
        name: TopicState(
            partitions=len(partitions),
            replication=min(len(partition["replicas"]) for partition in partitions),
            configs={key: value for key, (value, _) in configs[name].items()},
        )
        for name, partitions in described.items()
        if partitions
    }
    return BrokerState(nodes, topics)


async def _configs(
    client: AIOKafkaAdminClient, names: Sequence[str]
) -> dict[str, dict[str, tuple[str, int]]]:
    """Each topic's settings with their source."""
    if not names:
        return {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, dict[str, tuple[str, int]]] = {name: {} for name in names}
    for answer in await client.describe_configs(asked):
        for code, message, _, name, entries in answer.resources:
            if code:
                raise for_code(code)(message)
            found[name] = {entry[0]: (entry[1], entry[3]) for entry in entries}
    return found


async def ensure_contract(settings: Settings) -> Contract:
    """The contract, if the broker keeps it; raises TopicDrift with the whole difference."""
    contract = load_contract(settings)
    drift = diff(contract, await read_broker(settings, contract))
    if drift:
        lines = "\n  ".join(str(one) for one in drift)
        raise TopicDrift(
            f"the broker differs from topics.yaml:\n  {lines}\n",
            hint="See `lucid topics plan`, then run `lucid topics apply`",
        )
    return contract


async def apply_contract(settings: Settings, contract: Contract) -> list[Drift]:
    """Make the broker keep the contract; returns what was changed, nothing the second time.

    Raises CannotApply, before anything is changed, for what cannot be mended in place.
    """
    contract.load_models()
    async with administering(settings) as client:
        drift = diff(contract, await _read(client, contract))
        stuck = [one for one in drift if not one.fixable]
        if stuck:
            raise CannotApply(
                "; ".join(str(one) for one in stuck),
                hint="Partitions and replicas cannot be taken away: move or recreate the topic",
            )
        for topic in contract.topics.values():
            mine = [one for one in drift if one.topic == topic.full_name]
            if mine:
                await _apply_topic(client, topic, mine)
        await _until_kept(client, contract)
    return drift


async def _apply_topic(client: AIOKafkaAdminClient, topic: Topic, drift: Sequence[Drift]) -> None:
    fields = {one.field for one in drift}
    if "topic" in fields:
        nodes = len((await client.describe_cluster())["brokers"])
        replication = min(topic.replication, nodes)
        new = NewTopic(
            topic.full_name, topic.partitions, replication, topic_configs=topic.configs()
        )
        answer = await client.create_topics([new])
        for _, code, *message in answer.topic_errors:
            if code and code != _TOPIC_EXISTS:
                raise for_code(code)(str(message))
        return
    if "partitions" in fields:
        await client.create_partitions({topic.full_name: NewPartitions(topic.partitions)})
    if fields - {"partitions"}:
        await _alter(client, topic)


async def _alter(client: AIOKafkaAdminClient, topic: Topic) -> None:
    """Set the contract's settings; the request replaces all, so the operator's own go along."""
    current = (await _configs(client, [topic.full_name]))[topic.full_name]
    kept = {name: value for name, (value, source) in current.items() if source == _SET_ON_TOPIC}
    wanted = {**kept, **topic.configs()}
    resource = ConfigResource(ConfigResourceType.TOPIC, topic.full_name, wanted)
    for answer in await client.alter_configs([resource]):
        for code, message, *_ in answer.resources:
            if code:
                raise CannotApply(f"{topic.full_name}: the broker refused settings: {message}")


async def _until_kept(client: AIOKafkaAdminClient, contract: Contract) -> None:
    """Metadata of new topics takes a moment to reach every answer."""
    async with asyncio.timeout(VISIBLE_SECONDS):
        while diff(contract, await _read(client, contract)):
            await asyncio.sleep(0.05)
