"""Roles, permissions and scopes: the default is no."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.access import (
    MAX_LIFETIME,
    MAX_SCOPE,
    PERMISSIONS,
    Claims,
    ClaimsRefused,
    Permission,
    Role,
    may,
    read_claims,
    sees,
)

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "token.md"
GOOD: dict[str, Any] = {
    "iss": "lucid",
    "aud": "lucid-api",
    "sub": "ada",
    "client_id": "lucid",
    "iat": 1_700_000_000,
    "nbf": 1_700_000_000,
    "exp": 1_700_000_900,
    "jti": "0b4c1f0e-6c39-4f0e-8b8e-3f4b6c1d2a90",
    "roles": ["session_viewer"],
    "owners": ["ada"],
    "projects": ["north"],
}


def read(**changes: Any) -> Claims:
    return read_claims(json.dumps({**GOOD, **changes}).encode())


def test_claims_are_read_and_written_alike() -> None:
    claims = read()
    assert (claims.subject, claims.expires, claims.roles) == (
        "ada", 1_700_000_900, (Role.SESSION_VIEWER,),
    )  # fmt: skip
    assert claims.payload() == GOOD


@pytest.mark.parametrize("role", list(Role))
def test_every_role_stands_in_the_table_and_on_the_page(role: Role) -> None:
    page = PAGE.read_text().split("## Roles")[1].split("## Scope")[0]
    rows = re.findall(r"^\| `([a-z]+:[a-z]+)` \|(.*)\|$", page, re.M)
    heads = re.search(r"^\| permission \|(.*)\|$", page, re.M)
    assert heads is not None
    column = [head.strip(" `") for head in heads[1].split("|")].index(role)
    marked = {name for name, cells in rows if cells.split("|")[column].strip() == "yes"}
    assert {name for name, _ in rows} == set(Permission)
    assert marked == PERMISSIONS[role]


def test_what_the_roles_are_for() -> None:
    operator, viewer, auditor = (
        read(roles=[role]) for role in ("session_operator", "session_viewer", "auditor")
    )
    assert not may(operator, Permission.CHUNKS_DOWNLOAD)
    assert may(operator, Permission.STREAM_READ)
    assert [one for one in Permission if may(viewer, one)] == ["sessions:list", "sessions:read"]
    assert may(auditor, Permission.AUDIT_READ)
    assert may(auditor, Permission.CHUNKS_DOWNLOAD)
    assert not may(read(roles=["session_manager"]), Permission.AUDIT_READ)
    assert all(may(read(roles=["admin"]), one) for one in Permission)
    both = read(roles=["session_viewer", "auditor"])
    assert may(both, Permission.AUDIT_READ)


def test_a_role_that_the_table_lacks_may_nothing() -> None:
    claims = Claims.model_construct(**{**dict(read()), "roles": ("owner",)})
    assert not any(may(claims, one) for one in Permission)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    ("owners", "projects", "seen"),
    [
        (["ada"], ["north"], True),
        (["*"], ["north"], True),
        (["ada"], ["*"], True),
        (["*"], ["*"], True),
        (["ada"], ["south"], False),
        (["bob"], ["north"], False),
        (["ada"], [], False),
        ([], ["*"], False),
        (["Ada"], ["north"], False),
        (["ad"], ["north"], False),
    ],
)
def test_owner_and_project_must_both_be_in_the_scope_of_any_role(
    role: str, owners: list[str], projects: list[str], seen: bool
) -> None:
    assert sees(read(roles=[role], owners=owners, projects=projects), "ada", "north") is seen


def test_sessions_of_nobody_are_seen_by_everything_only() -> None:
    assert sees(read(owners=["*"], projects=["*"]), "", "")
    assert not sees(read(owners=["ada"], projects=["*"]), "", "")
    assert not sees(read(owners=["*"], projects=["north"]), "ada", "")


def test_a_session_whose_owner_is_called_star_opens_nothing() -> None:
    assert not sees(read(owners=["ada"]), "*", "north")
    assert sees(read(owners=["*"]), "*", "north")


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_claim_is_needed(name: str) -> None:
    without = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(ClaimsRefused, match=name):
        read_claims(json.dumps(without).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aud", ["lucid-api"]),
        ("aud", ""),
        ("sub", "a" * 201),
        ("sub", "a\nb"),
        ("sub", 7),
        ("iat", "1700000000"),
        ("iat", 1_700_000_000.0),
        ("iat", True),
        ("iat", -1),
        ("exp", 10**12),
        ("exp", 1_700_000_000 + MAX_LIFETIME + 1),
        ("exp", 1_700_000_000),
        ("nbf", 1_699_999_999),
        ("nbf", 1_700_000_900),
        ("jti", "0B4C1F0E-6C39-4F0E-8B8E-3F4B6C1D2A90"),
        ("jti", "0b4c1f0e6c394f0e8b8e3f4b6c1d2a90"),
        ("jti", "../../etc/passwd"),
        ("roles", []),
        ("roles", ["root"]),
        ("roles", ["admin", "admin"]),
        ("roles", "admin"),
        ("owners", None),
        ("owners", "*"),
        ("owners", ["*", "ada"]),
        ("owners", [""]),
        ("owners", ["ada", "ada"]),
        ("owners", ["a" * 1001]),
        ("owners", ["a\x00"]),
        ("projects", [str(number) for number in range(MAX_SCOPE + 1)]),
        ("projects", [7]),
        ("scope", "everything"),
        ("cnf", {"jkt": "x"}),
        ("subject", "ada"),
    ],
)
def test_a_wrong_claim_is_refused_by_name_without_its_value(name: str, value: Any) -> None:
    with pytest.raises(ClaimsRefused) as caught:
        read(**{name: value})
    text = str(caught.value)
    assert name in text or "the claims" in text
    assert "passwd" not in text
    assert "everything" not in text


def test_the_longest_lifetime_passes() -> None:
    assert read(exp=1_700_000_000 + MAX_LIFETIME).expires == 1_700_000_000 + MAX_LIFETIME


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{" * 100_000,
        b'{"a":' * 100_000,
        json.dumps(GOOD).encode() + b"x",
        b'{"roles":["auditor"],' + json.dumps(GOOD).encode()[1:],
        json.dumps({**GOOD, "exp": float("nan")}).encode(),
    ],
)
def test_what_is_no_claims_set_is_refused(payload: bytes) -> None:
    with pytest.raises(ClaimsRefused):
        read_claims(payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_claims_or_refused(data: bytes) -> None:
    with pytest.raises(ClaimsRefused):
        read_claims(data)


@given(
    st.lists(st.sampled_from(["ada", "bob", "*"]), max_size=1),
    st.lists(st.sampled_from(["north", "*"]), max_size=1),
    st.text(max_size=5),
    st.text(max_size=5),
)
def test_whoever_sees_names_both_or_everything(
    owners: list[str], projects: list[str], owner: str, project: str
) -> None:
    claims = read(owners=owners, projects=projects)
    wanted = all(
        scope == ["*"] or (name in scope and name != "*")
        for scope, name in ((owners, owner), (projects, project))
    )
    assert sees(claims, owner, project) is wanted
