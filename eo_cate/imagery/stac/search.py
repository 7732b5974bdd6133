"""Scenes through a STAC API. What is sent: whole-degree rectangles, dates, a collection; never a site's place."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from eo_cate.errors import ImageryError
from eo_cate.imagery.stac.areas import Cell, cells_area, degree_cells, keep_touching, merge_cells
from eo_cate.imagery.stac.items import Json
from eo_cate.imagery.stac.links import CheckUrl, check_address, is_web
from eo_cate.imagery.stac.presets import api_address
from eo_cate.imagery.stac.select import FoundScenes, Wanted, select_items
from eo_cate.imagery.stac.session import open_session
from eo_cate.types import FloatArray

MAX_ITEMS = 200_000
"""Most items of one search: an API whose pages never end is given up."""


def search_cells(
    api: str,
    collection: str,
    cells: Iterable[Cell],
    wanted: Wanted,
    *,
    page_size: int = 200,
    check_url: CheckUrl | None = None,
    stac_io: StacApiIO | None = None,
) -> FoundScenes:
    """All wanted scenes that touch whole-degree cells.

    Parameters
    ----------
    api, collection : str
        Short name or address of an API; id of a collection.
    cells : iterable of (longitude, latitude)
        South-west corners; adjacent cells are asked for as one rectangle.
    wanted : Wanted
        Bands, dates, platforms, cloud cover: checked here, whatever the API filtered. Its area is the cells'.
    page_size : int
        Items per answer.
    check_url : callable, optional
        Raises ImageryError for addresses, other than the API's own host, that must not be asked.
    stac_io : StacApiIO, optional
        Another reader than `session.open_session`.

    Raises
    ------
    ImageryError
        When the API does not answer, has no such collection, names refused links, or none of its items can be used.
    """
    address, cells = api_address(api), list(cells)
    io = stac_io or open_session(address, check_url=check_url)
    try:
        client = Client.open(address, stac_io=io)
        licence = _find_licence(client, collection)
        items = _search(client, collection, cells, wanted, page_size)
        return select_items(items, replace(wanted, area=cells_area(cells)), licence=licence)
    except (APIError, NotImplementedError, KeyError, TypeError, ValueError) as error:
        raise ImageryError(f"{address}: the search in {collection!r} failed ({_say(error)})") from error


def find_scenes(
    address: str,
    collection: str,
    points: FloatArray,
    *,
    size_m: float,
    start: dt.date,
    end: dt.date,
    bands: Sequence[str],
    platforms: Sequence[str] = (),
    max_cloud_cover: float | None = None,
    look: Callable[..., FoundScenes] = search_cells,
    **options: Any,
) -> FoundScenes:
    """Scenes of an API, or of a static catalogue, whose footprint touches a chip.

    Parameters
    ----------
    address, collection : str
        As in `search_cells`.
    points : (site, 2)
        Longitude and latitude of the chips' centres; they stay here.
    size_m : float
        Side of the largest chip, in metres.
    start, end : date
        First and last day, both included.
    bands, platforms, max_cloud_cover
        As in `Wanted`.
    look : callable
        `search_cells`, or `static.walk_cells` for a static catalogue; it also explains the options.
    """
    wanted = Wanted(tuple(bands), start, end, tuple(platforms), max_cloud_cover)
    found = look(address, collection, degree_cells(points, size_m), wanted, **options)
    return replace(found, scenes=keep_touching(found.scenes, points, size_m))


def _search(
    client: Client, collection: str, cells: list[Cell], wanted: Wanted, page_size: int
) -> Iterator[tuple[Json, str]]:
    home = client.get_self_href() or ""
    until = wanted.end + dt.timedelta(days=1)  # exclusive in effect: `select` drops what is of the next day
    count = 0
    for rectangle in merge_cells(cells):
        search = client.search(
            collections=[collection],
            bbox=list(rectangle),
            datetime=f"{wanted.start}T00:00:00Z/{until}T00:00:00Z",
            limit=page_size,
        )
        for page in search.pages_as_dicts():
            count += len(page["features"])
            if count > MAX_ITEMS:
                raise ImageryError(
                    f"{home}: more than {MAX_ITEMS:,} items of {collection!r} for {wanted.start} to {wanted.end}; "
                    "shorten the period"
                )
            for item in page["features"]:
                yield item, item_address(item, home)


def item_address(item: Json, home: str) -> str:
    """Where an item says that it lies, when that is an address which may be read; else where its API would have it."""
    links = item.get("links") or ()
    own = next((str(link["href"]) for link in links if link.get("rel") == "self" and link.get("href")), "")
    if is_web(own):
        with suppress(ImageryError):  # an API behind a proxy may name its inner address
            check_address(own, home=home)
            return own
    return f"{home.rstrip('/')}/collections/{item.get('collection')}/items/{item.get('id')}"


def _find_licence(client: Client, collection: str) -> str:
    try:
        found = client.get_collection(collection)
    except APIError as error:
        if error.status_code != 404:
            raise
        found = None
    if found is None:
        known = sorted(c.id for c in client.get_collections())
        raise ImageryError(f"{client.get_self_href()}: has no collection {collection!r}; it has {known[:30]}")
    return licence_text(str(found.license or ""), [link.to_dict(transform_href=False) for link in found.links])


def licence_text(name: str, links: Iterable[Json]) -> str:
    """The licence's name and, where there is one, its address."""
    where = next((str(link["href"]) for link in links if link.get("rel") == "license"), "")
    return f"{name} ({where})" if where and name else name or where


def _say(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
