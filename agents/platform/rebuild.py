"""Building a projection anew, beside the live one: `lucid projections rebuild NAME`.

    1 fold the topic from its beginning into a collection of its own
    2 keep what only the live view has: documents whose events have expired
    3 freeze the view, fold what came meanwhile, swap, drop the old collection

Until the swap nothing of the live view is touched: a rebuild that is killed leaves a
collection behind, which the next one drops, and at most a freeze that ends by itself.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from agents.platform.catalog import Catalog, CatalogRefused, Document
from agents.platform.clock import wall_clock
from agents.platform.projections import Alias, Projection, SwapLost, change_alias, read_alias
from agents.platform.reader import TopicReader
from schemas.errors import FormatError

log = structlog.get_logger(__name__)

CACHE_BYTES = 64 * 1024**2
OBJECT_FACTOR = 4  # Python objects of a document to its text, measured with tracemalloc
FREEZE_SECONDS = 60
SMALL = 1000  # events that may be left for the time of the freeze
ROUNDS = 5
Step = Callable[[int, int], None]
"""Called with how many events were read, and of how many."""


@dataclass
class Rebuilt:
    """What came of a rebuild.

    refused: records that are no events. equal: documents that say the same as in the live
    view; corrected: that were settled and say something else now; carried: of which events
    have expired, so that the live view's were kept.
    """

    projection: str
    collection: str = ""
    events: int = 0
    refused: int = 0
    documents: int = 0
    equal: int = 0
    corrected: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)


class Building:
    """The documents of a new view: a bounded number in memory, the others in its collection."""

    def __init__(self, catalog: Catalog, collection: str, limit: int = CACHE_BYTES) -> None:
        self._catalog = catalog
        self.collection = collection
        self._limit = limit
        self._held: OrderedDict[str, tuple[Document, int]] = OrderedDict()
        self.refused: list[str] = []
        self._stored: set[str] = set()  # of the held ones, those that the collection has, too
        self._bytes = 0

    async def get(self, key: str) -> Document | None:
        """A document, wherever it is."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][0]
        found = await self._catalog.get(self.collection, key)
        if found is not None:
            self._stored.add(key)
            await self.set(key, found)
        return found

    async def set(self, key: str, document: Document) -> None:
        """Hold a document; the oldest are written out when too much is held."""
        size = OBJECT_FACTOR * len(repr(document))
        self._bytes += size - self._held.get(key, (None, 0))[1]
        self._held[key] = (document, size)
        self._held.move_to_end(key)
        if self._bytes > self._limit:
            await self._write(self._limit // 2, least=1)  # the newest is in somebody's hands

    async def flush(self) -> None:
        """Write out everything."""
        await self._write(0)

    async def _write(self, limit: int, least: int = 0) -> None:
        fresh: list[Document] = []
        while len(self._held) > least and self._bytes > limit:
            key, (document, size) = self._held.popitem(last=False)
            self._bytes -= size
            if key in self._stored:
                self._stored.discard(key)
                await self._catalog.put(self.collection, document)
            else:
                fresh.append(document)
            if len(fresh) == SMALL:
                await self._insert(fresh)
                fresh = []
        await self._insert(fresh)

    async def _insert(self, documents: Sequence[Document]) -> None:
        """Insert documents; those that no catalog takes were refused to the live writer, too."""
        try:
            await self._catalog.insert_many(self.collection, documents)
        except CatalogRefused:
            for document in documents:
                try:
                    await self._catalog.insert(self.collection, document)
                except CatalogRefused as error:
                    log.warning("a document is left out", key=document["_id"], error=error)
                    self.refused.append(str(document["_id"]))


class Rebuild:
    """One rebuild. reader: of the projection's topic."""

    def __init__(
        self, catalog: Catalog, reader: TopicReader, projection: Projection,
        step: Step = lambda *_: None, clock: Callable[[], int] = wall_clock,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._reader = reader
        self._projection = projection
        self._step = step
        self._clock = clock
        self._cache_bytes = cache_bytes
        self._id = secrets.token_hex(8)
        self._next: dict[int, int] = {}
        self._firsts: dict[int, int] = {}
        self.result = Rebuilt(projection.name)
        self.frozen = _nothing
        """Called once the view is frozen; tests look at what happens then."""

    async def run(self) -> Rebuilt:
        """Rebuild and swap; raises SwapLost when somebody else was first."""
        alias = await self._begin()
        building = Building(self._catalog, alias.next_collection(), self._cache_bytes)
        self.result.collection = building.collection
        try:
            await self._fold_until_close(building)
            again = await self._keep_all(building, alias.collection)
            await self._swap(building, again)
        except BaseException:
            await self._give_up(building.collection)
            raise
        await self._catalog.drop(alias.collection)
        return self.result

    async def _begin(self) -> Alias:
        """Claim the rebuild, and drop what one that was killed has left."""
        alias = await read_alias(self._catalog, self._projection.name)
        claimed = await change_alias(
            self._catalog, alias, rebuild=self._id, frozen_until=alias.frozen_until
        )
        if claimed is None:
            raise self._lost()
        for name in await self._catalog.collections(f"{alias.name}."):
            if name != alias.collection:
                log.info("dropped what an unfinished rebuild left", collection=name)
                await self._catalog.drop(name)
        self._firsts = {partition: first for partition, (first, _) in self._reader.bounds.items()}
        self._next = dict(self._firsts)
        return claimed

    def _lost(self) -> SwapLost:
        return SwapLost(
            f"the projection {self._projection.name} was changed by somebody else meanwhile",
            hint="Run it again; the live view is as it was",
        )

    async def _give_up(self, collection: str) -> None:
        """Leave nothing behind, if the catalog still answers; never hides the first error."""
        try:
            alias = await read_alias(self._catalog, self._projection.name)
            if alias.collection == collection:
                return  # swapped all the same: the answer was lost on its way
            if alias.rebuild == self._id:
                await change_alias(self._catalog, alias)
            await self._catalog.drop(collection)
        except Exception as error:  # noqa: BLE001 - the next rebuild does it
            log.warning("an unfinished rebuild stays until the next", error=str(error))

    async def _fold_until_close(self, building: Building) -> None:
        """Fold until few enough events are left for the time of the freeze."""
        for _ in range(ROUNDS):
            await self._fold(building)
            await self._reader.look()
            if self._behind() <= SMALL:
                return

    def _behind(self) -> int:
        bounds = self._reader.bounds
        return sum(max(0, end - self._next.get(part, 0)) for part, (_, end) in bounds.items())

    async def _fold(self, building: Building) -> set[str]:
        """Fold everything up to the ends that the reader found; the keys that were touched."""
        touched: set[str] = set()
        total, done = self._behind(), 0
        async for record in self._reader.records(self._next):
            self._next[record.partition] = record.offset + 1
            try:
                key = self._projection.key(record)
                if key is None:
                    continue
                before = await building.get(key)
                after = await self._projection.fold(self._catalog, before, record)
            except FormatError:
                self.result.refused += 1  # a dead letter of the live writer's
                continue
            touched.add(key)
            if after is not None:
                await building.set(key, after)
            self.result.events += 1
            done += 1
            if not done % 100:
                self._step(done, total)
        self._next = {part: end for part, (_, end) in self._reader.bounds.items()}
        return touched

    async def _keep_all(self, building: Building, old: str) -> set[str]:
        """Compare with the live view and keep what only it has.

        Returns the keys that may still change in it: those not settled, and those carried
        over of which events are left that the live writer may not have handled.
        """
        again: set[str] = set()
        async for live in self._catalog.scan(old):
            key = str(live["_id"])
            rebuilt = await building.get(key)
            kept = await self._keep(building, key, rebuilt, live)
            if not self._projection.settled(live) or (kept and rebuilt is not None):
                again.add(key)
            if kept is live:
                self.result.carried.append(key)
                continue
            standing = kept or rebuilt
            if standing is not None and self._projection.same(standing, live):
                self.result.equal += 1
            elif self._projection.settled(live):
                self.result.corrected.append(key)
        return again

    async def _keep(
        self, building: Building, key: str, rebuilt: Document | None, live: Document
    ) -> Document | None:
        kept = self._projection.keep(rebuilt, live, self._firsts)
        if kept is not None:
            await building.set(key, kept)
        return kept

    async def _swap(self, building: Building, again: Iterable[str]) -> None:
        """Freeze, fold the rest, keep once more what may have changed, swap."""
        alias = await read_alias(self._catalog, self._projection.name)
        if alias.rebuild != self._id:
            raise self._lost()
        until = self._clock() + FREEZE_SECONDS * 1_000_000
        frozen = await change_alias(self._catalog, alias, rebuild=self._id, frozen_until=until)
        if frozen is None:
            raise self._lost()
        await self._reader.look()  # after the freeze: what was acked before it is in there
        await self.frozen()
        touched = await self._fold(building)
        for key in {*again, *touched}:
            live = await self._catalog.get(alias.collection, key)
            if live is not None:
                await self._keep(building, key, await building.get(key), live)
        await building.flush()
        self.result.refused += len(building.refused)
        self.result.documents = await self._catalog.count(building.collection)
        if not await change_alias(self._catalog, frozen, collection=building.collection):
            raise self._lost()


async def _nothing() -> None:
    """See Rebuild.frozen."""
