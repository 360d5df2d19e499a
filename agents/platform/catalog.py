"""The catalog: everything of Lucid that is in MongoDB, behind this one module.

    chunks      {_id: "<session>:<index>", session, index, leaf, size, …header fields}  insert only
    manifests   {_id: session, manifest: canonical JSON text, hash, checkpoint}          insert only
    sessions    {_id: session, …SessionState}                           replaced by version
    projections {_id: name, collection, version, …}                     which one a view is in
    conflicts   {_id: "<session>:<what>:<hash>", …}                                      insert only
    findings    {_id: "<session>:<file>", verdict, …, resolved_at: null while open}      by version
    erasures    {_id: "<session>:<stage>", state, ends, …}                               by version
    retention   {_id: "holds:<version>", holds, claims, offset}                          insert only
    node_states, pool_states, payout_states, node_clock                                  by version
    rdp_server_records {_id: server, …ServerRecord}; rdp_port_claims {_id: "<host>:<port>", …}
    rdp_name_claims    {_id: name, server}        the server manager's own: by version, insert only

A projection's name, such as `sessions`, stands for the collection that holds it at present,
`sessions.0` at first; `lucid projections rebuild` changes it (agents/platform/projections.py).

Natural ids make every write idempotent and every read by id an indexed one; nothing here
needs transactions, TTL indexes or pipeline updates. motor's successor
`pymongo.AsyncMongoClient` is a change of this file alone.

LucidError
├── Permanent
│   └── CatalogRefused        a document that no catalog will ever take
└── Transient
    └── CatalogUnreachable    (agents/platform/retry.py)
        └── CatalogHandshakeFailed    it is there, and TLS fails
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from bson.errors import BSONError
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError, WriteError

from agents.platform.retry import CatalogUnreachable, Permanent
from agents.platform.settings import Settings, SettingsError
from agents.platform.tls import handshake_advice, mongo_options
from schemas.chunks import ChunkHeader
from schemas.manifests import manifest_hash

Document = dict[str, Any]
ANSWER_MS = 5000
ALIASES = "projections"
PROJECTED = frozenset(
    {
        "sessions",
        "chunk_pages",
        "statistics",
        "session_events",
        "audit",
        "receipts",
        "nodes",
        "node_figures",
        "node_alerts",
        "pools",
        "node_work",
        "payouts",
        "rdp_server_states",
        "rdp_roster",
        "rdp_processes",
        "rdp_port_states",
        "rdp_sessions",
        "rdp_desktops",
        "rdp_metrics",
        "rdp_history",
        "rdp_alerts",
    }
)
"""Names that stand for another collection."""
PACKED = {"chunk_pages": "chunks", "session_events": "events", "audit": "entries",
          "receipts": "receipts", "payouts": "payouts",
          "node_figures": "nodes", "node_work": "nodes", "rdp_desktops": "desktops",
          "rdp_history": "samples", "rdp_alerts": "alerts", "rdp_roster": "servers",
          "rdp_port_states": "ports"}  # fmt: skip
"""Fields that hold many entries, stored as JSON text: what a catalog does with a document then
depends on its bytes and not on its thousands of fields."""
_DUPLICATE = 11000
# BadValue, InvalidBSON, names with $, empty or with a dot, BSONObjectTooLarge: MongoDB's
# error_codes.yml. Others (a full disk, a lock) pass.
_REFUSED = frozenset({2, 22, 52, 56, 57, 10334})


class CatalogHandshakeFailed(CatalogUnreachable):
    """The catalog is there, but one side does not trust the other."""


class CatalogRefused(Permanent):
    """The catalog does not take a document, now or later."""


def chunk_document(header: ChunkHeader, leaf: bytes, size: int) -> Document:
    """The catalog's entry of a chunk: public fields of its header, leaf in hex."""
    return {
        "_id": f"{header.session}:{header.index}",
        "session": str(header.session),
        "index": header.index,
        "leaf": leaf.hex(),
        "size": size,
        "records": header.records,
        "missing": header.missing,
        "first_seq": header.first_seq,
        "next_seq": header.next_seq,
        "first_time": header.first_time,
        "last_time": header.last_time,
        "raw_size": header.raw_size,
        "last": header.last,
        "level": header.level,
        "window_log": header.window_log,
        "compressor_version": header.compressor_version,
    }


def manifest_document(session: str, manifest: bytes, checkpoint: str) -> Document:
    """The catalog's entry of a manifest (canonical JSON) and its signed note."""
    return {
        "_id": session,
        "hash": manifest_hash(manifest).hex(),
        "manifest": manifest.decode(),
        "checkpoint": checkpoint,
    }


def _packed(collection: str, document: Mapping[str, Any]) -> Document:
    """A document as it is stored."""
    field = PACKED.get(collection.partition(".")[0])
    if field is None or field not in document:
        return dict(document)
    return {**document, field: json.dumps(document[field], separators=(",", ":"))}


def _unpacked(collection: str, document: Document) -> Document:
    field = PACKED.get(collection.partition(".")[0])
    if field is not None and field in document:
        document[field] = json.loads(document[field])
    return document


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except BSONError as error:
        raise CatalogRefused(f"the catalog does not take a document: {error}") from error
    except PyMongoError as error:
        if isinstance(error, WriteError) and error.code in _REFUSED:
            raise CatalogRefused(
                f"the catalog does not take a document: {str(error)[:200]}"
            ) from error
        advice = handshake_advice(str(error), "LUCID_MONGO")
        if advice is not None:
            raise CatalogHandshakeFailed(f"the catalog: {advice[0]}", hint=advice[1]) from error
        # The driver's own text holds the server's address, never its password.
        raise CatalogUnreachable(
            f"the catalog does not answer ({type(error).__name__}: {str(error)[:200]})",
            hint="Start one with `lucid stack up`, or set LUCID_MONGO to yours",
        ) from error


def _client(settings: Settings) -> AsyncIOMotorClient[Document]:
    """The driver's client, not connected yet; raises SettingsError."""
    url = settings.mongo_url()
    try:
        return AsyncIOMotorClient(
            url,
            **mongo_options(settings),
            serverSelectionTimeoutMS=ANSWER_MS,
            connectTimeoutMS=ANSWER_MS,
            socketTimeoutMS=30_000,
            tz_aware=True,
        )
    except (PyMongoError, ValueError) as error:
        # What the driver says may quote a part of the URL, and so of a password.
        raise SettingsError(
            "LUCID_MONGO is not a MongoDB URL",
            hint="Write mongodb://[USER:PASSWORD@]HOST:PORT/, with @ of a password as %40",
        ) from error


class Catalog:
    """A connection to the catalog; every method raises CatalogUnreachable.

    What writes raises CatalogRefused, too.
    """

    def __init__(self, settings: Settings) -> None:
        self._client = _client(settings)
        self._database = self._client[settings.database]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    async def ping(self) -> None:
        """Raise unless the catalog answers."""
        with _typed():
            await self._client.admin.command("ping")

    async def prepare(self) -> None:
        """Make the indexes that readers need, once they do not exist."""
        with _typed():
            await self._database.chunks.create_index([("session", ASCENDING), ("index", ASCENDING)])

    async def where(self, name: str) -> str:
        """The collection that a name stands for at present."""
        if name not in PROJECTED:
            return name
        alias = await self.get(ALIASES, name)
        return str(alias["collection"]) if alias else f"{name}.0"

    async def insert(self, collection: str, document: Document) -> bool:
        """Insert a document; whether its `_id` was new."""
        try:
            with _typed():
                await self._database[collection].insert_one(_packed(collection, document))
        except CatalogUnreachable as error:
            if isinstance(error.__cause__, DuplicateKeyError):
                return False
            raise
        return True

    async def insert_many(self, collection: str, documents: Sequence[Document]) -> set[str]:
        """Insert documents, those whose `_id` is taken left out; the ids that were taken.

        After CatalogRefused all that it takes are there.
        """
        if not documents:
            return set()
        try:
            with _typed():
                await self._database[collection].insert_many(
                    [_packed(collection, document) for document in documents], ordered=False
                )
        except CatalogUnreachable as error:
            cause = error.__cause__
            if not isinstance(cause, BulkWriteError):
                raise
            failures = cause.details["writeErrors"]
            if any(failure["code"] in _REFUSED for failure in failures):
                raise CatalogRefused(
                    f"the catalog does not take a document: {failures[0]['errmsg'][:200]}"
                ) from error
            if any(failure["code"] != _DUPLICATE for failure in failures):
                raise
            return {str(documents[failure["index"]]["_id"]) for failure in failures}
        return set()

    async def get(self, collection: str, key: str) -> Document | None:
        """The document with `_id` key."""
        while True:
            place = await self.where(collection)
            with _typed():
                found = await self._database[place].find_one({"_id": key})
            # A view that was swapped meanwhile may be gone already.
            if found is not None or await self.where(collection) == place:
                return None if found is None else _unpacked(place, found)

    async def ids(self, collection: str) -> list[str]:
        """The `_id` of every document."""
        while True:
            place = await self.where(collection)
            with _typed():
                cursor = self._database[place].find({}, {"_id": 1})
                found = [str(document["_id"]) async for document in cursor]
            if await self.where(collection) == place:
                return found

    async def put_version(self, collection: str, document: Mapping[str, Any]) -> bool:
        """Write a document if the stored one is one version older; whether it was written.

        Version 1 is an insert.
        """
        place = await self.where(collection)
        if document["version"] == 1:
            return await self.insert(place, dict(document))
        with _typed():
            result = await self._database[place].replace_one(
                {"_id": document["_id"], "version": document["version"] - 1},
                _packed(place, document),
            )
        return bool(result.matched_count)

    async def find(
        self,
        collection: str,
        query: Mapping[str, Any] | None = None,
        *,
        sort: str = "_id",
        newest_first: bool = False,
        limit: int = 0,
    ) -> list[Document]:
        """Documents that match, in the order of `sort`; 0 is no limit."""
        order = DESCENDING if newest_first else ASCENDING
        while True:
            place = await self.where(collection)
            with _typed():
                cursor = self._database[place].find(query or {}).sort(sort, order).limit(limit)
                found = [_unpacked(place, document) async for document in cursor]
            if await self.where(collection) == place:
                return found

    async def chunks(self, session: str) -> AsyncIterator[Document]:
        """A session's chunk entries in the order of their index."""
        with _typed():
            cursor = self._database.chunks.find({"session": session}).sort("index", ASCENDING)
            async for document in cursor:
                yield document

    # -- Collections as a whole, for rebuilding projections --------------------------------------

    async def scan(self, collection: str) -> AsyncIterator[Document]:
        """All documents, in no order."""
        place = await self.where(collection)
        with _typed():
            async for document in self._database[place].find({}):
                yield _unpacked(place, document)

    async def put(self, collection: str, document: Document) -> None:
        """Write a document, whatever there was under its `_id`."""
        with _typed():
            await self._database[collection].replace_one(
                {"_id": document["_id"]}, _packed(collection, document), upsert=True
            )

    async def delete(self, collection: str, key: str) -> bool:
        """Delete the document with `_id` key; whether there was one."""
        with _typed():
            return bool((await self._database[collection].delete_one({"_id": key})).deleted_count)

    async def count(self, collection: str) -> int:
        """How many documents there are."""
        place = await self.where(collection)
        with _typed():
            return await self._database[place].count_documents({})

    async def collections(self, prefix: str) -> list[str]:
        """The names of all collections that begin so."""
        with _typed():
            names = await self._database.list_collection_names()
        return sorted(name for name in names if name.startswith(prefix))

    async def drop(self, collection: str) -> None:
        """Drop a collection, by its own name; one that is not there is no error."""
        with _typed():
            await self._database.drop_collection(collection)
