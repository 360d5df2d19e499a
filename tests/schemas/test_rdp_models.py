"""What an RDP server may be like, which state may follow which, and what a command has to name."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.canonical import decode, encode
from schemas.errors import FormatError
from schemas.rdp_commands import ServerCommand, read_server_command
from schemas.rdp_config import TLS_VERSIONS, Devices, Limits, Security, ServerConfig
from schemas.rdp_ports import candidates
from schemas.rdp_states import (
    PORT_STEPS,
    PROCESS_STEPS,
    SERVER_STEPS,
    ForbiddenTransition,
    PortState,
    ProcessState,
    ServerState,
    check_step,
)
from schemas.sessions import new_session_id

SERVER, COMMAND = str(new_session_id()), str(new_session_id())


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("width", (320, 7680), (319, 7681, "800", 800.0)),
        ("height", (240, 4320), (239, 4321)),
        ("colour_depth", (16, 24, 32), (8, 15, 33)),
        ("max_sessions", (1, 20), (0, 21)),
        ("security", ("low", "medium", "high", "maximum"), ("none", "")),
    ],
)
def test_a_configuration_keeps_to_its_limits(
    field: str, good: tuple[Any, ...], bad: tuple[Any, ...]
) -> None:
    for value in good:
        assert getattr(ServerConfig.model_validate({field: value}), field) == value
    for value in bad:
        with pytest.raises(ValidationError):
            ServerConfig.model_validate({field: value})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("cpu", (0.1, 8.0), (0.0, 0.09, 8.1, float("nan"), float("inf"))),
        ("memory_mb", (512, 16384), (511, 16385)),
        ("disk_gb", (1, 100), (0, 101)),
    ],
)
def test_limits_keep_to_theirs(field: str, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    for value in good:
        assert getattr(Limits.model_validate({field: value}), field) == value
    for value in bad:
        with pytest.raises(ValidationError):
            Limits.model_validate({field: value})


def test_nothing_passes_between_client_and_desktop_unless_allowed() -> None:
    assert set(Devices().model_dump().values()) == {False}


def test_a_configuration_is_the_same_after_a_journey() -> None:
    config = ServerConfig(limits=Limits(cpu=2.0), security="low")
    assert decode(ServerConfig, encode(config)) == config


def test_levels_of_security_are_tls_versions_and_none_is_older() -> None:
    assert set(TLS_VERSIONS) == set(get_args(Security))
    assert TLS_VERSIONS["maximum"] == ("TLSv1.3",)
    assert TLS_VERSIONS["high"] == ("TLSv1.2", "TLSv1.3")
    assert TLS_VERSIONS["medium"] == ("TLSv1.2",)
    assert not any("SSL" in one for versions in TLS_VERSIONS.values() for one in versions)


@pytest.mark.parametrize(
    ("steps", "states"),
    [(SERVER_STEPS, ServerState), (PROCESS_STEPS, ProcessState), (PORT_STEPS, PortState)],
)
def test_tables_know_all_states_and_only_deleted_is_an_end(steps: Any, states: Any) -> None:
    names = set(get_args(states))
    assert set(steps) == names
    assert {after for follows in steps.values() for after in follows} <= names
    assert [one for one in names if not steps[one]] == (
        ["deleted"] if steps is SERVER_STEPS else []
    )


def test_a_step_that_no_table_has_is_refused() -> None:
    assert check_step(SERVER_STEPS, "running", "running", "x") == "running"
    assert check_step(SERVER_STEPS, "running", "stopping", "x") == "stopping"
    with pytest.raises(ForbiddenTransition, match="x is deleted and cannot become running"):
        check_step(SERVER_STEPS, "deleted", "running", "x")


def command(**fields: Any) -> bytes:
    return encode(ServerCommand.model_validate({"id": COMMAND, **fields}))


def test_a_command_is_read_under_its_key_only() -> None:
    data = command(action="start", server=SERVER)
    assert read_server_command(SERVER.encode(), data).action == "start"
    for key in (None, b"", COMMAND.encode()):
        with pytest.raises(FormatError):
            read_server_command(key, data)
    block = command(action="block_port", port=13400)
    assert read_server_command(b"port/13400", block).port == 13400


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "start"},
        {"action": "start", "server": SERVER, "port": 13400},
        {"action": "start", "server": SERVER, "name": "desk"},
        {"action": "create", "server": SERVER, "name": "desk"},
        {"action": "create", "server": SERVER, "config": {}},
        {"action": "create", "server": SERVER, "name": "Desk 1", "config": {}},
        {"action": "create", "server": SERVER, "name": "-", "config": {}},
        {"action": "block_port", "server": SERVER, "port": 13400},
        {"action": "block_port"},
        {"action": "explode", "server": SERVER},
        {"action": "start", "server": "desk"},
        {"action": "start", "server": SERVER, "reason": "a\nb"},
    ],
)
def test_a_command_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, FormatError)):
        command(**fields)
    raw = json.dumps({"id": COMMAND, "version": 1, **fields}).encode()
    with pytest.raises(FormatError):
        read_server_command(SERVER.encode(), raw)


@given(
    taken=st.dictionaries(st.integers(10, 20), st.sampled_from([-1, 0, 50, 100, 101])),
    now=st.just(100),
)
def test_only_ports_that_may_be_claimed_are_candidates(taken: dict[int, int], now: int) -> None:
    found = list(candidates(10, 20, taken, now))
    assert found == sorted(found)
    for port in range(10, 21):
        until = taken.get(port, 0)
        assert (port in found) == (until != -1 and until <= now)
