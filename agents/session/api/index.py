"""The sessions that can be listed: a copy of the view `sessions`, with indexes, in memory.

The catalog of one machine finds documents by equality of strings alone; a range or a sort reads
the whole collection (docs/decisions.md). So each API process keeps what a list shows of each
session in SQLite, in memory: about 1 KiB a session. It holds nothing of its own: it is
loaded from the catalog at the start and kept up by agents/session/api/follower.py.

    index.put(document)                 a document of `sessions`, new or changed
    index.page(Query(…)) -> Page        in order, with where to go on
    index.get(session) -> Row | None
"""

from __future__ import annotations

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from schemas.access import EVERYTHING, Claims
from schemas.sessions import made_at

MOST_LISTED = 200
"""Answers of lists that are kept, of up to 100 sessions each."""
Sort = Literal["started", "ended", "stored_bytes", "records"]

_TABLE = """
CREATE TABLE sessions (
  session TEXT PRIMARY KEY, state TEXT NOT NULL, owner TEXT NOT NULL, project TEXT NOT NULL,
  host TEXT NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL,
  stored_bytes INTEGER NOT NULL, records INTEGER NOT NULL, chunks INTEGER NOT NULL,
  version INTEGER NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX by_started ON sessions (started, session);
CREATE INDEX by_ended ON sessions (ended, session);
CREATE INDEX by_stored_bytes ON sessions (stored_bytes, session);
CREATE INDEX by_records ON sessions (records, session);
CREATE INDEX by_state ON sessions (state, started, session);
CREATE INDEX by_owner ON sessions (owner, started, session);
CREATE INDEX by_project ON sessions (project, started, session);
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What a list shows of a session. body: the item as JSON; version: of its document."""

    session: str
    owner: str
    project: str
    state: str
    chunks: int
    version: int
    body: bytes

    @property
    def whole(self) -> bool:
        """Whether no erasure of the session has begun."""
        return b'"erased":{}' in self.body  # within a text, quotes would be escaped

    @property
    def erased(self) -> dict[str, str]:
        """How far which erasure of the session is."""
        found: dict[str, str] = json.loads(self.body)["erased"]
        return found


@dataclass(frozen=True, slots=True)
class Query:
    """Which sessions, in which order. Empty texts and None leave all; times in microseconds.

    owners, projects: whom the reader may see; None is everybody. after: the sort value and
    the id of the last session of the page before.
    """

    state: str = ""
    owner: str = ""
    project: str = ""
    host: str = ""
    since: int | None = None
    until: int | None = None
    sort: Sort = "started"
    descending: bool = True
    limit: int = 50
    after: tuple[int, str] | None = None
    owners: Sequence[str] | None = None
    projects: Sequence[str] | None = None

    def seen_by(self, claims: Claims) -> Query:
        """The same, of what the claims' scope has."""
        owners, projects = (
            None if scope == (EVERYTHING,) else scope for scope in (claims.owners, claims.projects)
        )
        return replace(self, owners=owners, projects=projects)


@dataclass(frozen=True, slots=True)
class Page:
    """Items in order as JSON; after: where the next page begins, None on the last one."""

    bodies: list[bytes]
    after: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A page as it is answered. tag: its entity tag; items: how many it has."""

    body: bytes
    tag: str
    items: int


class SessionIndex:
    """Owned by one event loop: no method waits for anything."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._database.executescript(_TABLE)
        self._listed: OrderedDict[Query, Listed] = OrderedDict()

    def listed(self, query: Query, make: Callable[[Page], Listed]) -> Listed:
        """The answer to a query, as `make` makes it of the page, kept until anything changes."""
        found = self._listed.get(query)
        if found is None:
            found = self._listed[query] = make(self.page(query))
            if len(self._listed) > MOST_LISTED:
                self._listed.popitem(last=False)
        return found

    def close(self) -> None:
        self._database.close()

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT count(*) FROM sessions").fetchone()
        return int(count)

    def put(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Take the newest documents of sessions."""
        self._listed.clear()
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT OR REPLACE INTO sessions VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            [_row(item_of(document), document.get("version", 0)) for document in documents],
        )
        self._database.execute("COMMIT")

    def replace(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Hold these sessions and no others."""
        all_of_them = list(documents)
        kept = {str(document["_id"]) for document in all_of_them}
        known = {name for (name,) in self._database.execute("SELECT session FROM sessions")}
        self.drop(known - kept)
        self.put(all_of_them)

    def drop(self, sessions: Iterable[str]) -> None:
        """Forget sessions."""
        self._listed.clear()
        self._database.executemany(
            "DELETE FROM sessions WHERE session = ?", [(session,) for session in sessions]
        )

    def get(self, session: str) -> Row | None:
        """A session's row."""
        found = self._database.execute(
            "SELECT session, owner, project, state, chunks, version, body FROM sessions "
            "WHERE session = ?",
            (session,),
        ).fetchone()
        return None if found is None else Row(*found)

    def page(self, query: Query) -> Page:
        """One page of sessions."""
        where, values = _where(query)
        order = "DESC" if query.descending else "ASC"
        column = query.sort
        if query.after is not None:
            where.append(f"({column}, session) {'<' if query.descending else '>'} (?, ?)")
            values += query.after
        # Only names from this file are put into the text; what a client sent is bound.
        rows = self._database.execute(
            f"SELECT body, {column}, session FROM sessions "
            f"{'WHERE ' + ' AND '.join(where) if where else ''} "
            f"ORDER BY {column} {order}, session {order} LIMIT ?",
            [*values, query.limit + 1],
        ).fetchall()
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        return Page([row[0] for row in rows], (rows[-1][1], rows[-1][2]) if more else None)

    def totals(self, query: Query) -> list[dict[str, Any]]:
        """Sessions, records and stored bytes by state, of what the query leaves."""
        where, values = _where(query)
        rows = self._database.execute(
            "SELECT state, count(*), sum(records), sum(stored_bytes) FROM sessions "
            f"{'WHERE ' + ' AND '.join(where) if where else ''} GROUP BY state ORDER BY state",
            values,
        ).fetchall()
        names = ("state", "sessions", "records", "stored_bytes")
        return [dict(zip(names, row, strict=True)) for row in rows]


def _where(query: Query) -> tuple[list[str], list[Any]]:
    where, values = [], []
    for name in ("state", "owner", "project", "host"):
        if text := getattr(query, name):
            where.append(f"{name} = ?")
            values.append(text)
    if query.since is not None:
        where.append("started >= ?")
        values.append(query.since)
    if query.until is not None:
        where.append("started < ?")
        values.append(query.until)
    for name, allowed in (("owner", query.owners), ("project", query.projects)):
        if allowed is not None:
            where.append(f"{name} IN ({','.join('?' * len(allowed))})")
            values += allowed
    return where, values


def item_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a list shows of a document of `sessions`; the fields of models.SessionItem."""
    opened = document.get("opened") or {}
    session = str(document["_id"])
    state = document.get("state", "recording")
    started = opened.get("started") or made_at(UUID(session))
    ended = document.get("ended_at")
    return {
        "session": session,
        "state": state,
        "complete": {"completed": True, "incomplete": False}.get(state),
        "owner": opened.get("owner", ""),
        "project": opened.get("project", ""),
        "host": opened.get("host", ""),
        "codec": opened.get("codec", ""),
        "started": started,
        "ended": ended,
        "seconds": max((ended or document.get("last_sign") or started) - started, 0) / 1e6,
        "records": document.get("records") or document.get("next_seq", 0),
        "chunks": document.get("next_index", 0) + len(document.get("ahead", [])),
        "captured_bytes": document.get("raw_bytes", 0),
        "stored_bytes": document.get("stored_bytes", 0),
        "conflicts": document.get("conflicts", 0),
        "damaged": len(document.get("damaged", [])),
        "erased": dict(document.get("erasures") or {}),
    }


def _row(item: Mapping[str, Any], version: int) -> tuple[Any, ...]:
    names = ("session", "state", "owner", "project", "host", "started")
    sizes = (item["stored_bytes"], item["records"], item["chunks"])
    body = json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode()
    return (*(item[name] for name in names), item["ended"] or 0, *sizes, version, body)
