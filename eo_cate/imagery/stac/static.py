"""Scenes of a static catalogue: files that link to files, on disk or on the web, with no search."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pystac.utils import make_absolute_href
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from eo_cate.errors import ImageryError
from eo_cate.imagery.stac.areas import Cell, cells_area
from eo_cate.imagery.stac.items import Json
from eo_cate.imagery.stac.links import CheckUrl, check_address, check_local, is_web
from eo_cate.imagery.stac.search import licence_text
from eo_cate.imagery.stac.select import FoundScenes, Wanted, select_items
from eo_cate.imagery.stac.session import open_session

MAX_DOCUMENTS = 500_000
_AT_ONCE = 8
_DOWN = ("child", "item", "items")


def walk_cells(
    catalog: str, collection: str, cells: Iterable[Cell], wanted: Wanted, *, check_url: CheckUrl | None = None
) -> FoundScenes:
    """All wanted scenes of a static catalogue that touch whole-degree cells.

    Parameters
    ----------
    catalog : str
        Address or file of a catalogue, a collection, an item collection or an item.
    collection : str
        Id of the collection that the items belong to.
    cells, wanted, check_url
        As in `search.search_cells`.

    Raises
    ------
    ImageryError
        When a document cannot be read or lies outside of a local catalogue's folder, when nothing belongs to the
        collection, when links are refused, or none of the items can be used.
    """
    walked = _Walk(catalog, collection, check_url)
    found = select_items(walked.items(), replace(wanted, area=cells_area(cells)))
    if not walked.count:
        raise ImageryError(f"{catalog}: no item belongs to {collection!r}; found {sorted(walked.collections)[:30]}")
    scenes = tuple(s if s.licence else replace(s, licence=walked.licence) for s in found.scenes)
    if walked.root is not None:
        for asset in (a for s in scenes for a in (*s.assets.values(), s.mask) if a is not None and not is_web(a.href)):
            check_local(asset.href, walked.root)
    return replace(found, scenes=scenes)


class _Walk:
    """One pass over the documents of a catalogue, each read once; remembers the licence and what it met."""

    def __init__(self, catalog: str, collection: str, check_url: CheckUrl | None) -> None:
        self.collection, self.licence, self.count = collection, "", 0
        self.collections: set[str] = set()
        self._start = catalog if is_web(catalog) else str(Path(catalog).resolve())
        self.root = None if is_web(catalog) else Path(self._start).parent
        self._io: StacApiIO = open_session(catalog if is_web(catalog) else "http://localhost", check_url=check_url)

    def items(self) -> Iterator[tuple[Json, str]]:
        """Items of the collection, each with the address that its links hang on."""
        level, seen = [self._start], {self._start}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while level:
                following: list[str] = []
                for address, document in zip(level, pool.map(self._read, level), strict=True):
                    yield from self._items_of(document, address)
                    for link in self._links_of(document, address):
                        if link not in seen:
                            seen.add(link)
                            following.append(link)
                if len(seen) > MAX_DOCUMENTS:
                    raise ImageryError(f"{self._start}: more than {MAX_DOCUMENTS:,} documents; name a smaller part")
                level = following

    def _read(self, address: str) -> Json:
        try:
            if not is_web(address):
                if self.root is None:
                    raise ImageryError(f"{address}: a file, named by a catalogue on the web: refused")
                check_local(address, self.root)
            document = json.loads(self._io.read_text(address))
        except (APIError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ImageryError(f"{address}: cannot be read as part of a catalogue ({reason})") from error
        if not isinstance(document, dict):
            raise ImageryError(f"{address}: not a STAC document")
        return document

    def _items_of(self, document: Json, address: str) -> Iterator[tuple[Json, str]]:
        kind = document.get("type")
        if kind == "FeatureCollection":
            items = [(item, self._base(item, address)) for item in document.get("features") or ()]
        else:
            items = [(document, address)] if kind == "Feature" else []
        for item, base in items:
            self.collections.add(str(item.get("collection")))
            if item.get("collection") == self.collection:
                self.count += 1
                yield item, base

    def _base(self, item: Json, address: str) -> str:
        """An item of a collection file hangs on its own address where it has one on the web that may be read."""
        own = next((str(link.get("href")) for link in item.get("links") or () if link.get("rel") == "self"), "")
        if is_web(own):
            with suppress(ImageryError):
                check_address(own, home=self._start)
                return own
        return address

    def _links_of(self, document: Json, address: str) -> Iterator[str]:
        links = document.get("links") or ()
        if document.get("type") == "Collection":
            self.collections.add(str(document.get("id")))
            if document.get("id") == self.collection:
                self.licence = licence_text(str(document.get("license") or ""), links)
        if document.get("type") in ("Catalog", "Collection"):
            for link in links:
                if link.get("rel") in _DOWN and link.get("href"):
                    yield make_absolute_href(str(link["href"]), address)
