"""Audit events: read back as they were written, and only when they say who acted."""

from __future__ import annotations

import pytest

from schemas.audit import (
    AUDIT_TYPES,
    AUTH_TYPES,
    MAX_NAME,
    AccessDenied,
    Actor,
    AuditEvent,
    ChainStarted,
    ChunksRepaired,
    ErasureBegun,
    LegalHoldReleased,
    LegalHoldSet,
    LetterDiscarded,
    LetterReplayed,
    NodeOrdered,
    ProjectionRebuilt,
    RdpServerOrdered,
    RdpSessionOrdered,
    ResourceRead,
    SessionExported,
    SessionReplayed,
    SessionVerified,
    TokenIssued,
    TokenRevoked,
    UserType,
    name_of,
)
from schemas.audit_chain import Place
from schemas.canonical import Strict
from schemas.envelope import InvalidEvent
from schemas.events import SessionPaused, event_from_kafka
from schemas.node_commands import NodeCommand
from schemas.rdp_commands import ServerCommand
from schemas.rdp_config import ServerConfig
from schemas.rdp_session_commands import RdpSessionCommand

ORIGIN = "session.frames/3/77"
SESSION = "018bcfe5-6800-7000-8000-000000000001"


NODE_COMMAND = "6f1d3c52-1c1e-4f0a-9d0e-3b6c1c9a7e10"
CHAIN = "api/019b76da-a802-7000-8000-00000000c4a1"
ACTS: list[Strict] = [
        LetterReplayed(origin=ORIGIN, letter=4, session=SESSION, offset=99, tries=2),
        LetterDiscarded(origin=ORIGIN, letter=4, session=None, reason="noise"),
        SessionReplayed(session=SESSION, outcome="identical", chunks=3, differences=0),
        ChunksRepaired(session=SESSION, indexes=[0, 2]),
        ProjectionRebuilt(projection="sessions", events=12),
        ChainStarted(reason="damaged", former=CHAIN),
        ResourceRead(action="chunks.download", resource="/api/v1/x", session=SESSION,
                     request="r1", bytes=17, items=1, outcome="ok"),
        AccessDenied(permission="chunks:read", resource="/api/v1/x", session=None,
                     code="TokenExpired", request=None),
        SessionExported(session=SESSION, form="film", file_type="mp4", size=5),
        SessionVerified(session=SESSION, outcome="failed", findings={"Gap": 2}, unchecked=1),
        TokenIssued(jti=SESSION, subject="ada", roles=["auditor"], expires=1_800_000_000),
        TokenRevoked(jti=SESSION, reason="lost"),
        LegalHoldSet(session=None, project="payroll", reason="case 7"),
        LegalHoldReleased(session=SESSION, project=None, reason="closed"),
        ErasureBegun(session=SESSION, stage="content", scope="default", keep_days=30,
                     record="ab" * 32),
        RdpServerOrdered(command=ServerCommand(
            id=SESSION, action="create", server=SESSION, name="desk", config=ServerConfig()
        )),
        RdpSessionOrdered(command=RdpSessionCommand(
            id=SESSION, host="desk", session=SESSION, action="terminate", reason="end of work"
        )),
        NodeOrdered(command=NodeCommand(id=NODE_COMMAND, action="approve", node="desk7")),
]  # fmt: skip


def test_there_is_an_act_of_every_type() -> None:
    assert {type(act) for act in ACTS} == set(AUDIT_TYPES.values())


@pytest.mark.parametrize("data", ACTS)
def test_every_type_is_read_back_with_who_did_it(data: Strict) -> None:
    event = AuditEvent(data, "lucid/cli/desk", SESSION, user="Zoë")
    key, headers, value = event.to_kafka()
    assert AuditEvent.from_kafka(key, headers, value) == event
    assert dict(headers)["ce_authid"] == "Zoë".encode()
    assert dict(headers)["ce_authtype"] == b"user"


@pytest.mark.parametrize("name", ["ce_authid", "ce_authtype"])
def test_an_event_that_does_not_say_who_acted_is_refused(name: str) -> None:
    data = ProjectionRebuilt(projection="sessions", events=12)
    key, headers, value = AuditEvent(data, "lucid/cli/desk", "sessions", user="ada").to_kafka()
    with pytest.raises(InvalidEvent, match="who acted"):
        AuditEvent.from_kafka(key, [one for one in headers if one[0] != name], value)


def test_the_types_of_one_topic_are_unknown_on_the_other() -> None:
    audit = AuditEvent(
        ProjectionRebuilt(projection="sessions", events=12), "lucid/cli/d", "x", user="ada"
    )
    with pytest.raises(InvalidEvent, match="not known here"):
        event_from_kafka(*audit.to_kafka())
    with pytest.raises(InvalidEvent, match="no type for SessionPaused"):
        _ = AuditEvent(SessionPaused(session=SESSION, reason="r"), "s", "x", user="ada").type


# Who and where ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actor", "headers"),
    [
        (Actor("ada"), {"ce_authtype": b"user", "ce_authid": b"ada"}),
        (
            Actor("ada", "api", "2001:db8::7", ("auditor", "admin")),
            {"ce_authtype": b"app_user", "ce_authid": b"ada", "ce_clientaddress": b"2001:db8::7",
             "ce_authclaims": b'{"roles":["auditor","admin"]}'},
        ),
        (Actor("lucid", "service"), {"ce_authtype": b"service_account", "ce_authid": b"lucid"}),
        (
            Actor("", "anonymous", "203.0.113.9"),
            {"ce_authtype": b"unauthenticated", "ce_clientaddress": b"203.0.113.9"},
        ),
    ],
)  # fmt: skip
def test_who_acted_from_where_and_as_what_is_read_back(
    actor: Actor, headers: dict[str, bytes]
) -> None:
    event = AuditEvent(
        ACTS[4], "lucid/api/desk", "sessions", user=actor.user, user_type=actor.user_type,
        address=actor.address, roles=actor.roles, place=Place(CHAIN, 7, b"\x05" * 32),
    )  # fmt: skip
    key, written, value = event.to_kafka()
    names = {"ce_authtype", "ce_authid", "ce_authclaims", "ce_clientaddress"}
    assert {name: text for name, text in written if name in names} == headers
    read = AuditEvent.from_kafka(key, written, value)
    assert (read, read.actor) == (event, actor)
    assert dict(written)["ce_chainseq"] == b"7"
    assert dict(written)["ce_chainprev"] == b"05" * 32


def test_all_types_of_users_have_a_name_on_the_wire() -> None:
    assert AUTH_TYPES.keys() == set(UserType.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "fields",
    [
        {"user": ""}, {"user": "ada", "user_type": "anonymous"}, {"user": "a\nb"},
        {"user": "a" * (MAX_NAME + 1)}, {"user": "a", "address": "\x1b"},
        {"user": "a", "roles": ("r",) * 51}, {"user": "a", "user_type": "nobody"},
        {"user": "a", "roles": ("\ud800",)},
    ],
)  # fmt: skip
def test_an_actor_that_cannot_travel_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidEvent):
        Actor(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ce_authtype", b"admin"), ("ce_authtype", b"unauthenticated"), ("ce_authid", b""),
        ("ce_authclaims", b'{"roles": []}'), ("ce_authclaims", b"[]"),
        ("ce_authclaims", b'{"roles":[],"x":1}'), ("ce_clientaddress", b"a\x00"),
        ("ce_chainseq", b"1"),
    ],
)  # fmt: skip
def test_headers_that_name_nobody_are_refused(header: str, value: bytes) -> None:
    key, headers, data = AuditEvent(ACTS[4], "s", "x", user="ada", roles=("r",)).to_kafka()
    others = [one for one in headers if one[0] != header]
    with pytest.raises(InvalidEvent):
        AuditEvent.from_kafka(key, [*others, (header, value)], data)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "-"), ("/api/v1/ü", "/api/v1/ü"), ("a\r\nb\x9f", "a\\x0d\\x0ab\\x9f"),
        ("x" * 300, "x" * 300), ("x" * 2**20, "x" * 299 + "…"), ("\ud800", "\\xd800"),
    ],
)  # fmt: skip
def test_any_text_can_be_made_a_name(text: str, name: str) -> None:
    assert name_of(text) == name
    assert len(name_of("\x00" * 300)) == MAX_NAME
