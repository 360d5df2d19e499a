"""Who may do what on the broker, read off topics.yaml. Pure.

Each service logs in as itself. It may write the topics that name it as a producer, read those
that name it as a consumer, be in the consumer groups that begin with its name, and look at
every topic's settings, which it compares with the contract when it starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from schemas.topics import Contract

WATCHED: dict[str, tuple[str, ...]] = {"api": ("pipeline",)}
"""Groups of others whose progress a service follows: the API reads after the pipeline wrote."""


class Resource(IntEnum):
    """Numbers of the Kafka protocol."""

    TOPIC = 2
    GROUP = 3


class Operation(IntEnum):
    """Numbers of the Kafka protocol."""

    READ = 3
    WRITE = 4
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10


class Pattern(IntEnum):
    """Numbers of the Kafka protocol."""

    LITERAL = 3
    PREFIXED = 4


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One entry of the broker's access control list; it always allows."""

    user: str
    resource: Resource
    name: str
    operation: Operation
    pattern: Pattern = Pattern.LITERAL

    def __str__(self) -> str:
        what = f"{self.resource.name.lower()} {self.name}"
        what += "*" if self.pattern is Pattern.PREFIXED else ""
        return f"{self.user} may {self.operation.name.lower()} {what}"


def rights(contract: Contract, users: Iterable[str], outside: str, prefix: str = "") -> set[Right]:
    """Everything that the users may. outside: who the contract's `outside` is."""
    found: set[Right] = set()
    for user in users:
        role = "outside" if user == outside else user
        for topic in contract.topics.values():
            name = topic.full_name
            if role in topic.producers:
                found.add(Right(user, Resource.TOPIC, name, Operation.WRITE))
            if role in topic.consumers:
                found.add(Right(user, Resource.TOPIC, name, Operation.READ))
            if role == "outside" and role not in (*topic.producers, *topic.consumers):
                continue
            found.add(Right(user, Resource.TOPIC, name, Operation.DESCRIBE))
            found.add(Right(user, Resource.TOPIC, name, Operation.DESCRIBE_CONFIGS))
        group = f"{prefix}{user}"
        found.add(Right(user, Resource.GROUP, group, Operation.READ, Pattern.PREFIXED))
        for other in WATCHED.get(user, ()):
            watched = f"{prefix}{other}"
            found.add(Right(user, Resource.GROUP, watched, Operation.DESCRIBE, Pattern.LITERAL))
    return found
