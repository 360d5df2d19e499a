"""Who may do what on the broker follows from topics.yaml and from nothing else."""

from __future__ import annotations

import pytest

from agents.deployment.broker_admin import AdminRefused, read_rights, set_passwords, set_rights
from agents.deployment.initialise import OUTSIDE, users
from agents.deployment.rights import Operation, Pattern, Resource, Right, rights
from agents.platform.contract import load_contract
from agents.platform.settings import Settings
from tests.conftest import Stack

CONTRACT = load_contract(Settings())
RIGHTS = rights(CONTRACT, users(), OUTSIDE)


def may(operation: Operation) -> set[tuple[str, str]]:
    return {
        (one.user, one.name) for one in RIGHTS
        if one.operation is operation and one.resource is Resource.TOPIC
    }  # fmt: skip


def test_writers_and_readers_are_those_of_the_contract() -> None:
    names = {OUTSIDE: "outside"}
    for topic in CONTRACT.topics.values():
        for user in users():
            role = names.get(user, user)
            assert ((user, topic.name) in may(Operation.WRITE)) == (role in topic.producers)
            assert ((user, topic.name) in may(Operation.READ)) == (role in topic.consumers)


def test_a_recorder_reads_no_sealed_chunk_and_storage_writes_no_frame() -> None:
    assert ("recorder", "session.chunks") not in may(Operation.READ)
    assert ("storage", "session.frames") not in may(Operation.WRITE)
    assert ("api", "session.chunks") not in may(Operation.READ)


def test_whoever_compares_the_contract_may_look_at_all_topics() -> None:
    for user in ("api", "recorder", "cli"):
        assert {name for who, name in may(Operation.DESCRIBE_CONFIGS) if who == user} == set(
            CONTRACT.topics
        )
    seen = {name for who, name in may(Operation.DESCRIBE) if who == OUTSIDE}
    assert seen == {"session.anchors", "session.anchor_receipts"}


def test_groups_begin_with_the_own_name() -> None:
    groups = {one for one in RIGHTS if one.resource is Resource.GROUP}
    for one in groups:
        if one.operation is Operation.READ:
            assert (one.name, one.pattern) == (one.user, Pattern.PREFIXED)
    watched = {(one.user, one.name) for one in groups if one.operation is Operation.DESCRIBE}
    assert watched == {("api", "pipeline")}


def test_a_prefix_is_on_topics_and_groups() -> None:
    contract = load_contract(Settings(topic_prefix="t."))
    found = rights(contract, ["api"], OUTSIDE, "t.")
    assert all(one.name.startswith("t.") for one in found)


def test_a_right_reads_as_a_sentence() -> None:
    one = Right("api", Resource.GROUP, "api", Operation.READ, Pattern.PREFIXED)
    assert str(one) == "api may read group api*"


async def test_a_broker_takes_users_and_tells_why_it_takes_no_rights(stack: Stack) -> None:
    """The stack's own broker has users, and no authoriser."""
    settings = Settings.load(home=stack.home, kafka=stack.kafka)
    await set_passwords(settings, {"deployment-test": "one"})
    await set_passwords(settings, {"deployment-test": "two"})
    with pytest.raises(AdminRefused, match="the broker refuses"):
        await read_rights(settings)
    with pytest.raises(AdminRefused):
        await set_rights(settings, RIGHTS)
