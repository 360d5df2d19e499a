"""The contract of topics.yaml: reading it, and comparing it with a broker. Pure.

ContractError         topics.yaml breaks a rule; names the topic and the field
└── UnknownTopic      code asks for a topic that the contract does not have
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import ContractError

Service = Literal[
    "recorder", "processor", "storage", "pipeline", "api", "rdp-server-manager", "xrdp",
    "rdp-controller", "rdp-monitor", "node-management", "node-agent", "cli", "outside",
]  # fmt: skip
Placement = Literal["by key", "of the session's open record"]
_UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PREFIX = re.compile(r"[a-zA-Z0-9._-]*")
_NAME = re.compile(r"[a-z]+([._][a-z]+)*\.[a-z]+([._][a-z]+)*")


class UnknownTopic(ContractError):
    """The contract has no such topic."""


class Topic(BaseModel):
    """One topic as topics.yaml has it; the keys are explained at the top of that file."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    prefix: str = ""
    about: Annotated[str, Field(min_length=10, max_length=200)]
    key: Annotated[str, Field(min_length=1)]
    value: Annotated[str, Field(pattern=r"^schemas\.[a-z_]+\.[A-Z][A-Za-z]+$")]
    partitions: Annotated[int, Field(ge=1, le=10_000)]
    replication: Annotated[int, Field(ge=1, le=10)]
    retention: Annotated[str, Field(pattern=r"^([1-9][0-9]*[smhd]|forever)$")]
    cleanup: Literal["delete", "compact"]
    max_record: Annotated[int, Field(ge=1024, le=64 * 1024**2)]
    partition: Placement
    same_partitions_as: str | None = None
    settings: dict[str, str | int] = {}
    producers: list[Service]
    consumers: list[Service]

    @property
    def full_name(self) -> str:
        """The name on the broker, prefix included."""
        return self.prefix + self.name

    @property
    def retention_ms(self) -> int:
        """Milliseconds; -1 is forever."""
        if self.retention == "forever":
            return -1
        return int(self.retention[:-1]) * _UNITS[self.retention[-1]]

    def configs(self) -> dict[str, str]:
        """The broker's topic settings that follow from this entry."""
        return {
            "cleanup.policy": self.cleanup,
            "max.message.bytes": str(self.max_record),
            "retention.ms": str(self.retention_ms),
            **{name: str(value) for name, value in self.settings.items()},
        }

    def model(self) -> type:
        """The class that `value` names; raises ContractError."""
        module, _, name = self.value.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ContractError(f"topic {self.name}: value: there is no {self.value}") from error
        return found  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Contract:
    """All topics, by name without the prefix."""

    topics: Mapping[str, Topic]

    def topic(self, name: str) -> Topic:
        """The topic called `name`; raises UnknownTopic."""
        try:
            return self.topics[name]
        except KeyError:
            raise UnknownTopic(f"topics.yaml has no topic {name}") from None

    def load_models(self) -> None:
        """Import the class of each topic's values; raises ContractError if one is not there.

        For whoever makes or shows topics. A service does without: all models together take
        2.5 MiB and a quarter of a second.
        """
        for topic in self.topics.values():
            topic.model()

    @property
    def limits(self) -> dict[str, int]:
        """Bytes of the largest record of each topic, by full name."""
        return {topic.full_name: topic.max_record for topic in self.topics.values()}


def parse_contract(text: str, prefix: str = "") -> Contract:
    """Read topics.yaml; raises ContractError that names topic and field."""
    if not _PREFIX.fullmatch(prefix):
        raise ContractError(f"the topic prefix {prefix!r} has characters Kafka does not allow")
    try:
        document = yaml.load(text, Loader=_UniqueKeys)  # _UniqueKeys is a SafeLoader
    except yaml.YAMLError as error:
        raise ContractError(f"topics.yaml is not YAML: {error}") from error
    if not isinstance(document, dict) or set(document) != {"version", "topics"}:
        raise ContractError("topics.yaml has the keys `version` and `topics`, and no others")
    if document["version"] != 1:
        raise ContractError(f"topics.yaml has version {document['version']!r}, not 1")
    entries = document["topics"]
    if not isinstance(entries, dict) or not entries:
        raise ContractError("topics.yaml names no topic")
    topics = {str(name): _parse_topic(str(name), entry, prefix) for name, entry in entries.items()}
    for topic in topics.values():
        _check_partner(topic, topics)
    return Contract(topics)


# With libyaml, reading takes 2 ms instead of 100.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeys(_Safe):  # type: ignore[misc]
    """YAML whose mappings name no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name} is there twice", node.start_mark
                )
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _parse_topic(name: str, entry: Any, prefix: str) -> Topic:
    if not _NAME.fullmatch(name):
        raise ContractError(f"topic {name}: names are lower-case words joined by dots")
    if not isinstance(entry, dict) or {"name", "prefix"} & set(entry):
        raise ContractError(f"topic {name}: its entry is not a mapping of the known keys")
    try:
        return Topic.model_validate({**entry, "name": name, "prefix": prefix})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ContractError(f"topic {name}: {place}: {first['msg']}") from error


def _check_partner(topic: Topic, topics: Mapping[str, Topic]) -> None:
    if topic.same_partitions_as is None:
        return
    partner = topics.get(topic.same_partitions_as)
    if partner is None or partner.partitions != topic.partitions:
        raise ContractError(
            f"topic {topic.name}: same_partitions_as: {topic.same_partitions_as} does not have "
            f"{topic.partitions} partitions"
        )


# Comparison with a broker --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as a broker has it; configs holds at least those that the contract names."""

    partitions: int
    replication: int
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BrokerState:
    """What a broker says: its number of nodes, and its topics by full name."""

    nodes: int
    topics: Mapping[str, TopicState]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference: what the contract wants and what the broker has."""

    topic: str
    field: str
    wanted: str
    found: str

    @property
    def fixable(self) -> bool:
        """Whether `lucid topics apply` can change it."""
        if self.field == "partitions":
            return int(self.wanted) > int(self.found)
        return self.field != "replication"

    def __str__(self) -> str:
        return f"{self.topic}: {self.field} is {self.found}, the contract wants {self.wanted}"


def diff(contract: Contract, broker: BrokerState) -> list[Drift]:
    """Every difference, in the order of topics.yaml; empty when the broker keeps the contract."""
    found: list[Drift] = []
    for topic in contract.topics.values():
        state = broker.topics.get(topic.full_name)
        if state is None:
            found.append(Drift(topic.full_name, "topic", "there", "missing"))
            continue
        wanted = {
            "partitions": str(topic.partitions),
            "replication": str(min(topic.replication, broker.nodes)),
            **topic.configs(),
        }
        actual = {
            "partitions": str(state.partitions),
            "replication": str(state.replication),
            **state.configs,
        }
        for name, value in wanted.items():
            if actual.get(name, "unset") != value:
                found.append(Drift(topic.full_name, name, value, actual.get(name, "unset")))
    return found
